"""Small models in int8, made once: NNCF takes a second for each network, however small."""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from torch import Tensor, nn

from gfnet_fast.exits import ModelIdentity, calibrate
from gfnet_fast.model.backbones import register_backbone
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.quantised import Quantised
from gfnet_fast.quantisation.model import quantised_model, with_calibration
from tests.conftest import random_images, tiny_model

KINDS = {"recurrent": "linear", "cascaded": "conv"}
"""A classifier, and the policy that it is tested with."""


class Small(nn.Module):
    """A convolution, a sum with a depthwise one, another convolution, a mean and a linear layer."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last = nn.Conv2d(16, 24, 1)
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = x + self.deep(x).relu()
        return self.fc(self.last(x).relu().mean((2, 3)))


register_backbone("int8-small", Small)


def small_model(classifier: str = "recurrent", seed: int = 0) -> GFNet:
    return tiny_model(
        classifier, seed, backbone="int8-small", backbone_args={}, policy=KINDS[classifier], patch_size=16,
        steps=3, image_size=40, classes=5,
    )  # fmt: skip


def pictures(count: int, seed: int = 0) -> Tensor:
    return random_images(count, 40, seed)


@lru_cache
def _made(classifier: str) -> Quantised:
    model = small_model(classifier)
    return quantised_model(model, [pictures(20)], [pictures(20, 1)], tolerance=0.1)


def found_exits(model: GFNet, precision: str, seed: int = 0):
    """A calibration on made-up confidences: other ones for another seed."""
    drawn = torch.rand(2, model.config.steps, 60, generator=torch.Generator().manual_seed(seed))
    return calibrate(ModelIdentity.of(model, precision), drawn[0] / 2 + 0.3, drawn[1] < drawn[0])


def int8_model(classifier: str = "recurrent", *, calibrated: bool = True) -> GFNet:
    """A new model with an int8 form, and thresholds in both precisions."""
    model, quantised = small_model(classifier), copy.deepcopy(_made(classifier))
    if calibrated:
        model.calibration = found = found_exits(model, "float32")
        model.thresholds = torch.from_numpy(found.thresholds.copy())
        model.default_row = found.default_row
        quantised = with_calibration(quantised, found_exits(model, "int8", 1))
    model.quantised = quantised
    return model
