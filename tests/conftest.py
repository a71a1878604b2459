"""Models and fixtures that tests of several packages share."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from gfnet_fast.checkpoints import load
from gfnet_fast.config import GFNetConfig
from gfnet_fast.model.gfnet import GFNet

needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="needs a CPU that computes in bfloat16"
)

CONFORMANCE = Path(__file__).parent / "data" / "conformance"
CONFIGS = (
    "resnet50_96_T5",
    "densenet121_96_T5",
    "regnety_600m_96_T5",
    "mobilenetv3_large_100_96_T3",
    "efficientnet_b2_128_T4",
)


@pytest.fixture(scope="session", autouse=True)
def torch_home(tmp_path_factory):
    """Where torch keeps what it fetches, and predictors how fast runtimes are: not the user's home.

    In processes that tests start too.
    """
    folder = tmp_path_factory.mktemp("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder))
        yield folder


_number = itertools.count()


@pytest.fixture(autouse=True)
def nothing_known(torch_home, monkeypatch):
    """Each test finds out for itself how fast runtimes are."""
    monkeypatch.setenv("TORCH_HOME", str(torch_home / str(next(_number))))


def make_checkpoint(config: str) -> dict:
    """A checkpoint in the released form whose weights follow the recipe beside the fixtures."""
    sys.path.insert(0, str(CONFORMANCE))
    try:
        spec = importlib.util.spec_from_file_location("make_checkpoint", CONFORMANCE / "make_checkpoint.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.checkpoint(config)
    finally:
        sys.path.remove(str(CONFORMANCE))


class Fixture(NamedTuple):
    """One configuration: its file as released, what the official code computed, and the images."""

    name: str
    path: Path
    spec: dict
    arrays: dict[str, np.ndarray]
    images: torch.Tensor  # uint8 [8, S, S, 3]


@pytest.fixture(scope="session", params=CONFIGS)
def fixture(request, tmp_path_factory) -> Fixture:
    return conformance_fixture(request.param, tmp_path_factory.mktemp("official"))


def conformance_fixture(name: str, folder: Path) -> Fixture:
    path = folder / f"{name}.pth.tar"
    torch.save(make_checkpoint(name), path)
    spec = json.loads((CONFORMANCE / f"{name}.json").read_text())
    arrays = dict(np.load(CONFORMANCE / f"{name}.npz"))
    images = torch.from_numpy(np.load(CONFORMANCE / spec["images"])["u8"])
    return Fixture(name, path, spec, arrays, images)


@pytest.fixture(scope="session")
def official_model(fixture) -> GFNet:
    return load(fixture.path)


def tiny_config(classifier: str = "recurrent", **changes) -> GFNetConfig:
    """A GFNet on a stock ResNet-18 with 16 to 32 channels: milliseconds an image.

    Not fewer: on channels-last memory and several threads, oneDNN's gradient of a strided 1 x 1 convolution
    writes out of bounds below 16 input channels (oneDNN issue 6035).
    """
    values = {
        "name": f"tiny-{classifier}",
        "backbone": "timm/resnet18",
        "backbone_args": {"channels": [16, 16, 16, 32]},
        "patch_size": 32,
        "steps": 4,
        "image_size": 80,
        "classes": 7,
        "classifier": classifier,
        "classifier_width": 24,
        "policy_width": 16,
        **changes,
    }
    return GFNetConfig(**values)


def tiny_model(classifier: str = "recurrent", seed: int = 0, **changes) -> GFNet:
    """A tiny GFNet with random weights, peaked logits, and a policy that looks all over the image."""
    torch.manual_seed(seed)
    model = GFNet(tiny_config(classifier, **changes)).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.startswith("classifier.fc") and tensor.ndim == 2:
                tensor.mul_(12)
            if name.startswith("policy.actor") or name.endswith("fc.weight"):
                tensor.mul_(6)
    return model


@pytest.fixture(scope="session", params=["recurrent", "cascaded"])
def tiny(request) -> GFNet:
    return tiny_model(request.param)


def random_images(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """uint8 [count, size, size, 3] with structure at several scales."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, size, size)
    for scale in (3, 7, 19):
        noise = torch.rand(count, 3, scale, scale, generator=generator)
        total += torch.nn.functional.interpolate(noise, size=size, mode="bilinear")
    return (total / 3 * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def expected_exits(model: GFNet, images: torch.Tensor, thresholds: torch.Tensor):
    """What `trace` and the thresholds say: class ids, exit steps, origins [B, T-1, 2] (-1: not taken)."""
    trace = model.trace(model.normalise(images))
    confidence, label = trace.logits.softmax(-1).max(-1)
    reached = confidence >= thresholds[:, None]
    reached[-1] = True
    step = reached.float().argmax(0) + 1
    rows = torch.arange(len(images))
    origins = trace.origins.permute(1, 0, 2).clone()
    origins[torch.arange(model.config.steps - 1)[None, :] >= step[:, None] - 1] = -1
    return label[step - 1, rows], step, origins
