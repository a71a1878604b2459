"""The recipe of the model that comes with the package: cluttered digits, on two cores in minutes.

``python -m gfnet_fast.training.digits --output FOLDER`` trains it anew, ``--evaluate FOLDER`` measures it.
What a backbone pretrained on photographs is to a GFNet for photographs, windows that hold the digit are
here: stage 0 first teaches one encoder to read them, and both encoders start from it. In stage 1 half of
the crops are drawn evenly and half hold the digit: an even one holds a small digit once in a hundred
times, from which a classifier learns that crops are not worth looking at. The policy never sees a box.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gfnet_fast.config import GFNetConfig
from gfnet_fast.data.digits import ClutteredDigits, DigitsTask
from gfnet_fast.exits import ModelIdentity, calibrate, exit_steps
from gfnet_fast.intervals import wilson
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training.config import TrainConfig
from gfnet_fast.training.evaluate import (
    fixed_crops,
    oracle_crops,
    random_crops,
    saliency_crops,
    step_logits,
)
from gfnet_fast.training.stages import Report, train_classifier, train_encoder, train_policy, uniform_crops
from gfnet_fast.training.unroll import Chooser, Views

# Pieces of half these sizes: a thumbnail shows that a small digit is there, but not which.
TASK = DigitsTask(canvas=192, sizes=(14.0, 72.0), fragment_sizes=(10.0, 22.0))

CONFIG = GFNetConfig(
    name="digits",
    backbone="timm/resnet18",
    backbone_args={"channels": [16, 32, 64, 96], "layers": [1, 1, 1, 1], "output_stride": 8},
    patch_size=32,
    steps=4,
    image_size=192,
    crop_ratio=1.0,
    policy="linear",
    policy_hidden=256,
    policy_width=128,
    classifier_width=128,
    classes=10,
)

RECIPE = TrainConfig(
    epochs=(8, 3, 16, 5),
    batch=128,
    backbone_lr=0.02,
    classifier_lr=(0.1, 0.05),
    thumbnail_lr=0.05,
    policy_lr=1e-3,
    ppo_epochs=4,
    amp=True,
)
CANVASES = 16_384
WINDOW_EPOCHS, WINDOW_LR, WINDOW_JITTER = 10, 0.1, 10
BATCH = 250


class Pool:
    """Canvases drawn once and kept, one grey byte a pixel; `batches` shuffles them."""

    def __init__(self, data: ClutteredDigits) -> None:
        chunks = [range(at, min(at + 256, len(data))) for at in range(0, len(data), 256)]
        self.grey = torch.cat([data.images(chunk)[..., 0].contiguous() for chunk in chunks])
        self.labels, self.boxes = data.labels, data.boxes
        self.latest = torch.empty(0, dtype=torch.long)

    def images(self, rows: Tensor | slice) -> Tensor:
        """uint8 ``[B, S, S, 3]``, three equal channels."""
        return self.grey[rows][..., None].expand(-1, -1, -1, 3)

    def rows(self, batch: int) -> Iterator[Tensor]:
        """Shuffled rows, in whole batches."""
        order = torch.randperm(len(self.labels))
        yield from order[: len(order) // batch * batch].split(batch)

    def batches(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self.rows(batch):
            self.latest = rows
            yield self.images(rows), self.labels[rows]


def train(recipe: TrainConfig, report: Report, canvases: int = CANVASES) -> GFNet:
    """The three stages, after the windows; deterministic for a seed and a number of threads."""
    torch.manual_seed(recipe.seed)
    model = GFNet(CONFIG)
    pool = Pool(ClutteredDigits("train", canvases, seed=1 + recipe.seed, task=TASK))

    def at_the_digit(rows: Tensor) -> Tensor:
        """Actions whose crops hold the digit, or part of a large one, a few pixels off its centre."""
        box = pool.boxes[rows]
        centre = (box[:, :2] + box[:, 2:]) / 2 + WINDOW_JITTER * (2 * torch.rand(len(rows), 2) - 1)
        return ((centre - CONFIG.patch_size / 2) / (TASK.canvas - CONFIG.patch_size)).clamp(0, 1)

    def windows(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in pool.batches(recipe.batch):
            yield Views(model, images).patch(at_the_digit(pool.latest)), labels

    def half_at_the_digit() -> Chooser:
        def choose(feature_map: Tensor, step: int) -> Tensor:
            there = at_the_digit(pool.latest)
            return torch.where(torch.rand(len(there), 1) < 0.5, there, uniform_crops(feature_map, step))

        return choose

    def thumbnails(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in pool.batches(recipe.batch):
            yield Views(model, images).thumbnail(), labels

    train_encoder(model.local_encoder, windows, WINDOW_EPOCHS, WINDOW_LR, recipe, report, "windows")
    model.global_encoder.load_state_dict(model.local_encoder.state_dict())
    train_encoder(model.global_encoder, thumbnails, recipe.epochs[0], recipe.thumbnail_lr, recipe, report)
    canvases_of = lambda epoch: pool.batches(recipe.batch)  # noqa: E731
    train_classifier(model, canvases_of, 1, recipe, report, half_at_the_digit)
    train_policy(model, canvases_of, recipe, report)
    train_classifier(model, canvases_of, 3, recipe, report)
    return model


def scores(
    model: GFNet, pool: Pool, chooser: Callable[[int], Chooser] | None = None
) -> tuple[Tensor, Tensor]:
    """Confidences and whether right, both ``[T, N]``, on a pool."""
    count = len(pool.labels)
    batches = (pool.images(slice(at, at + BATCH)) for at in range(0, count, BATCH))
    logits = step_logits(model, batches, chooser)
    confidence, label = logits.softmax(-1).max(-1)
    return confidence, label == pool.labels


def find_exits(model: GFNet, count: int = 8000, seed: int = 100) -> None:
    """Give `model` its calibration, found on canvases of the validation digits."""
    pool = Pool(ClutteredDigits("validation", count, seed=seed, task=TASK))
    confidence, right = scores(model, pool)
    digest = hashlib.sha256(pool.grey.numpy().tobytes() + pool.labels.numpy().tobytes()).hexdigest()
    identity = ModelIdentity.of(model.config)
    found = calibrate(identity, confidence.numpy(), right.numpy(), data_hash=digest)
    model.calibration = found
    model.thresholds = torch.from_numpy(found.thresholds.copy())
    model.default_row = found.default_row
    model.labels = ClutteredDigits.classes


def evaluate(model: GFNet, count: int = 4000, seed: int = 200) -> dict[str, Any]:
    """Accuracy at each step with this policy and others, and what the default thresholds do; test digits."""
    pool = Pool(ClutteredDigits("test", count, seed=seed, task=TASK))
    choosers: dict[str, Callable[[int], Chooser] | None] = {
        "learned": None,
        "random": random_crops,
        "centre": lambda at: fixed_crops(centre_only=True),
        "centre, then corners": lambda at: fixed_crops(),
        "saliency": lambda at: saliency_crops(model),
        "oracle": lambda at: oracle_crops(pool.boxes[at : at + BATCH], model),
    }
    out: dict[str, Any] = {"count": count, "seed": seed, "policies": {}}
    for name, chooser in choosers.items():
        confidence, right = scores(model, pool, chooser)
        totals = right.sum(1).tolist()
        out["policies"][name] = [
            {"accuracy": total / count, "interval": wilson(total, count)} for total in totals
        ]
        if name == "learned":
            steps = torch.from_numpy(exit_steps(confidence, model.default_thresholds()))
            hits = right[steps - 1, torch.arange(count)]
            assert model.config.macs is not None
            out["exits"] = {
                "thresholds": model.default_thresholds().tolist(),
                "accuracy": hits.float().mean().item(),
                "interval": wilson(int(hits.sum()), count),
                "all_steps": right[-1].float().mean().item(),
                "shares": [(steps == k).float().mean().item() for k in range(1, model.config.steps + 1)],
                "accuracies": [
                    hits[steps == k].float().mean().item() if (steps == k).any() else None
                    for k in range(1, model.config.steps + 1)
                ],
                "mean_steps": steps.float().mean().item(),
                "mean_macs": sum(model.config.macs[k - 1] for k in steps.tolist()) / count,
            }
    return out


def main() -> None:
    """Train and evaluate, or evaluate only; metrics on stderr, the evaluation on stdout as JSON."""
    from gfnet_fast.checkpoints import load

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", type=Path, help="train, and write the model and its metrics here")
    target.add_argument("--evaluate", type=Path, help="measure the model in this folder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.evaluate:
        print(json.dumps(evaluate(load(args.evaluate)), indent=1))
        return
    started, recipe = time.monotonic(), replace(RECIPE, seed=args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    with (args.output / "metrics.jsonl").open("w") as log:

        def report(row: dict[str, Any]) -> None:
            line = json.dumps({"seconds": round(time.monotonic() - started, 1), **row})
            print(line, file=sys.stderr, flush=True)
            print(line, file=log, flush=True)

        model = train(recipe, report)
    find_exits(model)
    model.save_pretrained(args.output)
    found = {"seconds": round(time.monotonic() - started), "recipe": asdict(recipe), **evaluate(model)}
    (args.output / "evaluation.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
