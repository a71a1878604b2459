"""What the measurements on a GPU share: captured baselines, a model and its images.

Everything here runs on a CPU as well, where nothing is captured and the clock is the host's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gfnet_kernels as gk
import torch
from rows import processor
from torch import Tensor

from gfnet_fast.checkpoints import load
from gfnet_fast.engine.prepare import Prepared, best_time, compiled, compiling
from gfnet_fast.model.gfnet import GFNet, Trace
from tests.conftest import conformance_fixture, random_images

DISTINCT = 512  # images that differ; more are these again, since making one takes a CPU milliseconds


def graphed(run: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """`run` as one replay; it may neither wait nor move its inputs. On a CPU `run` itself."""
    if device.type != "cuda":
        return run
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=aside):
        result = run()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def static_graphed(
    model: GFNet, images: Tensor, batch: int, compile: bool, dtype: torch.dtype
) -> Callable[[], Tensor]:
    """The local backbone and its own head on whole images, at its best: one graph for all of them.

    Folded, in its faster layout, its input normalised by one kernel; in batches of `batch` or a quarter of
    it, whichever is faster. Gives the classes.
    """
    config, head, device = model.config, model.local_encoder.head, images.device
    encoder: Any = Prepared(model.local_encoder, config.image_size, min(batch, len(images)), dtype)
    encoder = compiled(encoder) if compile else encoder
    corner = torch.zeros(len(images), 2, dtype=torch.int32, device=device)
    rows = torch.arange(len(images), dtype=torch.int32, device=device)

    def job(size: int) -> Callable[[], Tensor]:
        @torch.no_grad()
        def run() -> Tensor:
            found = []
            for part in rows.split(size):
                whole = corner[: len(part)]
                view = gk.crop(images, part, whole, config.image_size, config.mean, config.std, dtype)
                found.append(head(encoder(view)[1].float()))
            return torch.cat(found).argmax(1)

        return graphed(run, device)

    with compiling():
        jobs = [job(size) for size in sorted({min(batch, len(images)), max(1, batch // 4)})]
    return min(jobs, key=lambda run: best_time(run, device, 0))


def model_of(name: str, device: torch.device) -> GFNet:
    """The random weights of a conformance fixture."""
    with TemporaryDirectory() as folder:
        return load(conformance_fixture(name, Path(folder)).path).to(device)


def images_for(model: GFNet, count: int) -> Tensor:
    """uint8 ``[count, S, S, 3]`` on the model's device."""
    images = random_images(min(count, DISTINCT), model.config.image_size).to(model.device)
    return images.repeat(-(-count // len(images)), 1, 1, 1)[:count]


def trace_of(model: GFNet, images: Tensor) -> Trace:
    """Every step of every image in plain torch, float32, on the CPU."""
    distinct = images[:DISTINCT]
    with exact_float32():
        parts = [model.trace(model.normalise(part)) for part in distinct.split(32)]
    trace = (torch.cat(found, 1).cpu() for found in zip(*parts, strict=True))
    times = -(-len(images) // len(distinct))
    repeated = (values.repeat(1, times, *[1] * (values.ndim - 2)) for values in trace)
    return Trace(*(values[:, : len(images)] for values in repeated))


def shared_thresholds(trace: Trace, share: float) -> Tensor:
    """Thresholds at which these images leave in shares p, p^2, ..., p^T, scaled to sum to one."""
    confidence = trace.logits.softmax(-1).amax(-1)
    steps, count = confidence.shape
    weights = torch.tensor([share ** (k + 1) for k in range(steps)], dtype=torch.float64)
    leave = (weights / weights.sum() * count).round().long()
    row, here = torch.full((steps,), -1e8), torch.ones(count, dtype=torch.bool)
    for step in range(steps - 1):
        order = confidence[step].masked_fill(~here, -1).sort(descending=True)
        last = int(min(leave[step], here.sum())) - 1
        row[step] = (
            (order.values[max(last, 0)] + order.values[min(last + 1, count - 1)]) / 2 if last >= 0 else 2.0
        )
        here &= confidence[step] < row[step]
    return row


def agreement(trace: Trace, row: Tensor, classes: Tensor, exits: Tensor) -> tuple[float, float]:
    """Share of the first images with the trace's class and exit step at these thresholds; mean passes."""
    confidence, label = trace.logits[:, : len(classes)].softmax(-1).max(-1)
    reached = confidence >= row[:, None]
    reached[-1] = True
    step = reached.float().argmax(0) + 1
    same = (exits.cpu() == step) & (classes.cpu() == label[step - 1, torch.arange(len(classes))])
    return float(same.float().mean()), float(exits.float().mean())


def machine(device: torch.device) -> str:
    """A GPU's name, or the processor's and its threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


@contextmanager
def exact_float32() -> Iterator[None]:
    """TF32 off: float32 means float32. torch's default lets a GPU's convolutions round to 10 bits."""
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = flags
