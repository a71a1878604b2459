"""What is measured on: models with the fixtures' weights, images, and what every step says of them.

    python bench/fixtures.py [--configs NAME ...] [--images N ...]

Weights and images follow from numbers, the images to the bit on any device, and are made where they are used.
The confidences of all steps (float32, on a CPU) take five minutes of a processor; they are kept in build/gpu,
named by what they are of, and travel from there: a run finds them or makes them again.
"""

import argparse
import hashlib
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gfnet_fast.checkpoints import official_checkpoint  # noqa: E402
from gfnet_fast.config import GFNetConfig, released  # noqa: E402
from gfnet_fast.model.gfnet import GFNet  # noqa: E402

CONFORMANCE = ROOT / "tests" / "data" / "conformance"
KEPT = ROOT / "build" / "gpu"
CONFIGS = ("resnet50_96_T5", "mobilenetv3_large_100_96_T3")
DISTINCT = 512  # images that differ; more are these again
FEW = 16  # what a first look takes
CHUNK = 32
# An official checkpoint's parts, by the names that the recipe has for them.
PARTS = {"model_state_dict": "model", "model_prime_state_dict": "model_prime", "fc": "fc", "policy": "policy"}


class Steps(NamedTuple):
    """What every step says of N images: ``[T, N]`` largest probabilities, float32, and classes, int64."""

    confidence: Tensor
    label: Tensor


def config_of(name: str) -> GFNetConfig:
    spec = json.loads((CONFORMANCE / f"{name}.json").read_text())
    return released(spec["model_name"], spec["patch_size"])


@cache
def model_of(name: str, device: torch.device) -> GFNet:
    """The network of a fixture with its weights, in evaluation mode; made once a process."""
    gains = json.loads((CONFORMANCE / f"{name}.json").read_text())["gains"]
    statistics, draw = np.load(CONFORMANCE / f"{name}.npz"), recipe()
    model = GFNet(config_of(name)).eval()
    tensors = {
        f"{component}/{key.removeprefix('module.')}": tensor
        for part, component in PARTS.items()
        for key, tensor in official_checkpoint(model)[part].items()
    }

    def fill(key: str) -> None:
        component, _, parameter = key.partition("/")
        if parameter.rsplit(".", 1)[-1] in ("running_mean", "running_var"):
            values = statistics[f"bn/{key}"]
        else:
            values = draw.tensor(component, parameter, tuple(tensors[key].shape), gains.get(key, 1.0))
        tensors[key].copy_(torch.from_numpy(values))  # the model's own memory

    drawn = [key for key in tensors if not key.endswith("num_batches_tracked")]
    drawn.sort(key=lambda key: -tensors[key].numel())  # the largest is begun first
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy lets go of the interpreter while it draws
        list(pool.map(fill, drawn))
    return model.to(device)


def recipe() -> Any:
    spec = importlib.util.spec_from_file_location("recipe", CONFORMANCE / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def images_of(canvas: tuple[int, int], count: int, device: torch.device) -> Tensor:
    """uint8 ``[count, *canvas, 3]`` with structure at several scales, the same to the bit on any device.

    Sums of products of whole numbers below 2^26, in float64: no order of adding them changes anything.
    """
    draw = np.random.RandomState(0)
    distinct = min(count, DISTINCT)
    scales = {scale: draw.randint(0, 256, (distinct, 3, scale, scale)) for scale in (3, 7, 19)}
    lines = {
        scale: [torch.from_numpy(weights(side, scale)).to(device) for side in canvas] for scale in scales
    }
    parts = []
    for begin in range(0, distinct, CHUNK):
        total = torch.zeros((), dtype=torch.float64, device=device)
        for scale, noise in scales.items():
            part = torch.from_numpy(noise[begin : begin + CHUNK].astype(np.float64)).to(device)
            down, across = lines[scale]
            total = total + down @ part @ across.T
        parts.append((total / (3 * 256 * 256)).to(torch.uint8).permute(0, 2, 3, 1).contiguous())
    return torch.cat(parts).repeat(-(-count // distinct), 1, 1, 1)[:count]


def weights(size: int, scale: int) -> np.ndarray:
    """float64 ``[size, scale]``: whole numbers of 256ths that interpolate `scale` points to `size`."""
    place = np.clip((np.arange(size) + 0.5) * scale / size - 0.5, 0, scale - 1)
    before = np.floor(place).astype(int)
    share = np.round((place - before) * 256)
    matrix = np.zeros((size, scale))
    rows = np.arange(size)
    matrix[rows, before] += 256 - share
    matrix[rows, np.minimum(before + 1, scale - 1)] += share
    return matrix


@cache
def steps_of(name: str, count: int) -> Steps:
    """Every step of the images that :func:`images_of` gives for this model, in plain torch on the CPU."""
    distinct = min(count, DISTINCT)
    path = KEPT / f"{name}-{distinct}-{fingerprint(name)}.npz"
    if not path.exists():
        keep_steps(name, distinct, path)
    with np.load(path) as file:
        steps = Steps(torch.from_numpy(file["confidence"]), torch.from_numpy(file["label"]))
    return Steps(*(values.repeat(1, -(-count // distinct))[:, :count] for values in steps))


def keep_steps(name: str, count: int, path: Path) -> None:
    model = model_of(name, torch.device("cpu"))
    images = images_of(model.config.canvas, count, torch.device("cpu"))
    found = [model.trace(model.normalise(part)).logits.softmax(-1).max(-1) for part in images.split(CHUNK)]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.{os.getpid()}.npz")
    np.savez(
        part,
        confidence=torch.cat([each.values for each in found], 1).numpy(),
        label=torch.cat([each.indices for each in found], 1).numpy(),
    )
    part.replace(path)


def fingerprint(name: str) -> str:
    """Of all that the steps depend on: the network's code and the fixture."""
    files = [Path(__file__), *sorted((ROOT / "gfnet_fast" / "model").glob("*.py")), CONFORMANCE / "recipe.py"]
    files += [CONFORMANCE / f"{name}.json", CONFORMANCE / f"{name}.npz"]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", nargs="+", default=CONFIGS, help="names of conformance fixtures")
    parser.add_argument("--images", type=int, nargs="+", default=(DISTINCT, FEW), help="how many")
    options = parser.parse_args(arguments)
    for name, count in itertools.product(options.configs, options.images):
        steps = steps_of(name, count)
        print(f"{name}: {steps.label.shape[1]} images, {steps.label.shape[0]} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
