"""What the snippets of the documentation name, small: pictures, folders by class, models."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from pages import ROOT
from PIL import Image

from gfnet_fast.checkpoints import official_checkpoint
from gfnet_fast.config import released
from gfnet_fast.exits import CostTable, ModelIdentity, calibrate, device_name
from gfnet_fast.hub.names import ASSETS
from gfnet_fast.model.gfnet import GFNet
from tests.conftest import random_images, tiny_model

LABELS = ("cat", "dog", "owl")
PICTURES = ("photo.jpg", "a.jpg", "b.jpg", "photos/1.jpg", "photos/more/2.jpg", "more/3.png")
PICTURES += ("more-photos/4.jpg",)
BY_CLASS = {"by-class": 8, "held-out": 3, "test": 3, "val": 2}


def make(folder: Path) -> None:
    """Fill `folder` with PICTURES, the folders BY_CLASS, models, training runs and rows of a benchmark."""
    names = [
        *PICTURES,
        *(
            f"{data}/{label}/{n}.jpg"
            for data, each in BY_CLASS.items()
            for label in LABELS
            for n in range(each)
        ),
    ]
    for name, image in zip(names, random_images(len(names), 96), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).resize((128, 96)).save(folder / name)
    _native().save_pretrained(folder / "folder")
    for run in ("run", "other-run"):
        shutil.copytree(ASSETS / "digits", folder / run)
    shutil.copy(ROOT / "bench" / "results" / "budgets.csv", folder / "rows.csv")
    torch.save(_official(), folder / "gfnet.pth.tar")


def _native() -> GFNet:
    """A small network of five steps that states the costs of a large one, multiply-adds and milliseconds."""
    model = tiny_model(steps=5, classes=len(LABELS))
    model.config = model.config.replace(macs=[400_000_000 * step for step in range(1, 6)])
    model.labels = LABELS
    drawn = torch.rand(2, model.config.steps, 150, generator=torch.Generator().manual_seed(0))
    found = calibrate(ModelIdentity.of(model), drawn[0], drawn[1] < drawn[0])
    model.calibration = found.with_cost(CostTable(device_name("cpu"), (1.0, 1.9, 2.8, 3.7, 4.6)))
    return model


def _official() -> dict:
    """As a file is released: 39 rows of thresholds with their costs and accuracies, all made up."""
    torch.manual_seed(0)
    config = released("mobilenetv3_large_100", 96).replace(classes=len(LABELS), macs=None)
    model = GFNet(config).eval()
    costs = model.config.macs
    thresholds = torch.linspace(0.3, 0.95, 39)[:, None].repeat(1, config.steps)
    thresholds[:, -1] = -1e8
    curve = [torch.linspace(costs[0], costs[-1], 39).tolist(), torch.linspace(50, 60, 39).tolist()]
    return {
        **official_checkpoint(model, "released"),
        "dynamic_threshold": thresholds,
        "anytime_classification": [50.0, 55.0, 60.0],
        "budgeted_batch_classification": curve,
    }
