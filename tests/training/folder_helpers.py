"""A folder of pictures and a network small enough to train in a second."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from gfnet_fast.training.config import family_config
from gfnet_fast.training.folder import train_folder
from gfnet_fast.training.job import Job, Manner
from tests.conftest import random_images

QUIET = Manner(device="cpu", checkpoint_every=2, quiet=True)
TINY = {"policy_hidden": 16, "policy_width": 16, "classifier_width": 16}
RESNET = ("timm/resnet18", {**TINY, "backbone_args": {"channels": [16, 16, 16, 16], "layers": [1, 1, 1, 1]}})
# Without batch norm: its batches do not depend on how they are divided.
CONVNEXT = (
    "timm/convnext_atto",
    {**TINY, "backbone_args": {"depths": [1, 1, 1, 1], "dims": [16, 16, 16, 16]}},
)


def write_pictures(folder: Path, count: int = 10, classes: str = "abc") -> Path:
    pixels = iter(random_images(len(classes) * count, 60).numpy())
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(next(pixels)).save(folder / name / f"{index:02}.png")
    return folder


def make_job(data: Path, output: Path, network=RESNET, **training) -> Job:
    values = {"epochs": (1, 2, 1, 2), "batch": 8, "backbone_lr": 0.05, "ppo_epochs": 2, **training}
    backbone, model = network
    sizes = {"patch_size": 32, "steps": 3, "image_size": 48}
    return Job(data, output, backbone, **sizes, training=family_config(backbone, **values), model=model)


def weights(output: Path) -> dict[str, torch.Tensor]:
    return torch.load(output / "checkpoint.pt", weights_only=True)["model"]


def assert_bit_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def train(data: Path, output: Path, stages=None, manner: Manner = QUIET, network=RESNET, **training):
    return train_folder(make_job(data, output, network, **training), stages, manner)
