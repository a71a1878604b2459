"""What the recipes on composed canvases share: windows first, then the three stages, thresholds, figures.

What a backbone pretrained on photographs is to a GFNet for photographs, windows that hold the object are
here: stage 0 first teaches one encoder to read them, and both encoders start from it. In stage 1 half of
the crops are drawn evenly and half hold the object: an even one holds a small object once in a hundred
times, from which a classifier learns that crops are not worth looking at. The policy never sees a box.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gfnet_fast.config import GFNetConfig
from gfnet_fast.files import write_json, write_text
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training.config import TrainConfig
from gfnet_fast.training.evaluate import (
    Scores,
    actions_at,
    find_exits,
    fixed_crops,
    oracle_crops,
    random_crops,
    saliency_crops,
    step_scores,
    summary,
)
from gfnet_fast.training.stages import Report, train_classifier, train_encoder, train_policy
from gfnet_fast.training.state import EVALUATION, METRICS
from gfnet_fast.training.unroll import Chooser, UniformCrops, Views

BATCH = 250


class Canvases(Protocol):
    """Composed canvases of one split: int64 labels ``[N]``, float32 boxes ``[N, 4]``, and their images."""

    classes: tuple[str, ...]
    labels: Tensor
    boxes: Tensor

    def __len__(self) -> int: ...

    def images(self, rows: Sequence[int]) -> Tensor:
        """uint8 ``[len(rows), S, S, 3]``, three equal channels."""


@dataclass(frozen=True)
class Recipe:
    """A model on composed canvases, and how it is trained.

    Attributes
    ----------
    model : GFNetConfig
    training : TrainConfig
    data : called with a split ("train", "validation", "test"), a number of canvases and a seed
    canvases : int
        To train on.
    window_epochs, window_lr : int, float
        Of the windows.
    jitter : float
        Pixels that a window's centre is off the object's at most.
    """

    model: GFNetConfig
    training: TrainConfig
    data: Callable[[str, int, int], Canvases]
    canvases: int
    window_epochs: int
    window_lr: float
    jitter: float


class Pool:
    """Canvases drawn once and kept, one grey byte a pixel; `batches` shuffles them."""

    def __init__(self, data: Canvases) -> None:
        chunks = [range(at, min(at + 256, len(data))) for at in range(0, len(data), 256)]
        self.grey = torch.cat([data.images(chunk)[..., 0].contiguous() for chunk in chunks])
        self.labels, self.boxes, self.classes = data.labels, data.boxes, data.classes
        self.latest = torch.empty(0, dtype=torch.long)

    def images(self, rows: Tensor | slice) -> Tensor:
        """uint8 ``[B, S, S, 3]``, three equal channels."""
        return self.grey[rows][..., None].expand(-1, -1, -1, 3)

    def batches(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, in whole batches; `latest` are the rows of the last one."""
        order = torch.randperm(len(self.labels))
        for rows in order[: len(order) // batch * batch].split(batch):
            self.latest = rows
            yield self.images(rows), self.labels[rows]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.grey.numpy().tobytes() + self.labels.numpy().tobytes()).hexdigest()


def train(recipe: Recipe, report: Report) -> GFNet:
    """The windows, then the stages; deterministic for a seed and a number of threads."""
    config = recipe.training
    torch.manual_seed(config.seed)
    model = GFNet(recipe.model)
    pool = Pool(recipe.data("train", recipe.canvases, 1 + config.seed))

    def at_the_object(rows: Tensor) -> Tensor:
        """Actions whose crops hold the object, or part of a large one, a few pixels off its centre."""
        box = pool.boxes[rows]
        centre = (box[:, :2] + box[:, 2:]) / 2 + recipe.jitter * (2 * torch.rand(len(rows), 2) - 1)
        return actions_at(centre, recipe.model)

    def windows(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in pool.batches(config.batch):
            yield Views(model, images).patch(at_the_object(pool.latest)), labels

    def thumbnails(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in pool.batches(config.batch):
            yield Views(model, images).thumbnail(), labels

    def canvases(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return pool.batches(config.batch)

    def half_at_the_object() -> Chooser:
        evenly = UniformCrops()

        def choose(feature_map: Tensor, step: int) -> Tensor:
            there = at_the_object(pool.latest)
            return torch.where(torch.rand(len(there), 1) < 0.5, there, evenly(feature_map, step))

        return choose

    train_encoder(
        model.local_encoder, windows, recipe.window_epochs, recipe.window_lr, config, report, "windows"
    )
    model.global_encoder.load_state_dict(model.local_encoder.state_dict())
    train_encoder(model.global_encoder, thumbnails, config.epochs[0], config.thumbnail_lr, config, report)
    train_classifier(model, canvases, 1, config, report, half_at_the_object)
    train_policy(model, canvases, config, report)
    train_classifier(model, canvases, 3, config, report)
    return model


def scores(model: GFNet, pool: Pool, chooser: Callable[[int], Chooser] | None = None) -> Scores:
    """How sure and how right every step is on a pool."""
    parts = (slice(at, at + BATCH) for at in range(0, len(pool.labels), BATCH))
    return step_scores(model, ((pool.images(part), pool.labels[part]) for part in parts), chooser)


def calibrate(recipe: Recipe, model: GFNet, count: int = 8000, seed: int = 100) -> None:
    """Give `model` its thresholds, found on validation canvases, and the names of its classes."""
    pool = Pool(recipe.data("validation", count, seed))
    find_exits(model, scores(model, pool), pool.digest)
    model.labels = pool.classes


def evaluate(recipe: Recipe, model: GFNet, count: int = 4000, seed: int = 200) -> dict[str, Any]:
    """Accuracy by step with this policy and others, and what the default thresholds do; on test canvases."""
    pool = Pool(recipe.data("test", count, seed))
    choosers: dict[str, Callable[[int], Chooser] | None] = {
        "learned": None,
        "random": random_crops,
        "centre": lambda at: fixed_crops(centre_only=True),
        "centre, then corners": lambda at: fixed_crops(),
        "saliency": lambda at: saliency_crops(model),
        "oracle": lambda at: oracle_crops(pool.boxes[at : at + BATCH], model),
    }
    found = summary(model, {name: scores(model, pool, chooser) for name, chooser in choosers.items()})
    return {"count": count, "seed": seed, **found}


def main(recipe: Recipe, description: str | None) -> None:
    """Train and evaluate, or evaluate only; metrics on stderr, the evaluation on stdout as JSON."""
    from gfnet_fast.checkpoints import load

    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", type=Path, help="train, and write the model and its metrics here")
    target.add_argument("--evaluate", type=Path, help="measure the model in this folder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.evaluate:
        print(json.dumps(evaluate(recipe, load(args.evaluate)), indent=1))
        return
    started = time.monotonic()
    recipe = replace(recipe, training=replace(recipe.training, seed=args.seed))
    args.output.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []

    def report(row: dict[str, Any]) -> None:
        lines.append(json.dumps({"seconds": round(time.monotonic() - started, 1), **row}) + "\n")
        print(lines[-1], end="", file=sys.stderr, flush=True)
        write_text(args.output / METRICS, "".join(lines))

    model = train(recipe, report)
    calibrate(recipe, model)
    model.save_pretrained(args.output)
    seconds = round(time.monotonic() - started)
    found = {"seconds": seconds, "recipe": asdict(recipe.training), **evaluate(recipe, model)}
    write_json(args.output / EVALUATION, found)
    print(json.dumps(found, indent=1))
