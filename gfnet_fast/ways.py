"""What is compared with the engine: the official way, a static backbone, the networks' arithmetic alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gfnet_fast.engine.eager import EagerEngine
from gfnet_fast.engine.engine import Engine
from gfnet_fast.engine.prepare import best_time
from gfnet_fast.engine.runtimes import runtime_of
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.quantised import Graph

Answers = tuple[Tensor, Tensor]
"""Classes and exit steps, int64 ``[n]`` each."""


def predict(engine: Engine | EagerEngine, images: Tensor, row: Tensor) -> Answers:
    """Classes and exit steps at these thresholds, float32 ``[T]``."""
    out = engine.predict(images, row)
    return out.class_id, out.exit_step


def official(model: GFNet, images: Tensor, batch: int) -> Callable[[], Answers]:
    """Evaluation as in the official code: every step, crops cut one by one at numbers read from the host."""
    size = model.config.patch_size
    down, across = (side - size for side in model.config.canvas)

    @torch.no_grad()
    def run() -> Answers:
        classes = []
        for chunk in images.split(batch):
            chunk = model.normalise(chunk)
            logits, state = model.glance(chunk)
            for step in range(2, model.config.steps + 1):
                action, state = model.look(state)
                crops = []
                for image, (row, column) in zip(chunk, action, strict=True):
                    top, left = int(row.item() * down), int(column.item() * across)
                    crops.append(image[:, top : top + size, left : left + size])
                logits, state = model.next_step(torch.stack(crops), state, step)
            classes.append(logits.argmax(1))
        labels = torch.cat(classes)
        return labels, torch.full_like(labels, model.config.steps)

    return run


def static(
    model: GFNet,
    images: Tensor,
    batch: int,
    runtime: str = "torch",
    dtype: torch.dtype = torch.float32,
    encoder: Any = None,
) -> Callable[[], Answers]:
    """The local backbone and its own head on whole images, on a runtime.

    Its batch is `batch` or a quarter of it, whichever is faster: an image is many times a patch. `encoder`:
    the backbone where it is not the model's own but a graph of it in int8.
    """
    config, head = model.config, model.local_encoder.head
    size, prepares = min(batch, len(images)), runtime_of(runtime, model.device, dtype)
    kept = prepares.kept(dtype)

    @torch.no_grad()
    def run(size: int) -> Answers:
        parts = (model.normalise(part) for part in images.split(size))
        views = (part.to(kept, memory_format=torch.channels_last) for part in parts)
        found = [head(whole(view)[1].float()) for view in views]
        classes = torch.cat(found).argmax(1)
        return classes, torch.ones_like(classes)

    with torch.no_grad(), prepares.preparing():
        prepared = prepares.encoder(encoder or model.local_encoder, config.canvas, size, dtype, None)
        whole = prepares.whole(prepared)
        times = {n: best_time(partial(run, n), model.device, 0) for n in (size, max(1, size // 4))}
    return partial(run, min(times, key=lambda n: times[n]))


def times_over(run: Callable[[], Any], count: int) -> Callable[[], None]:
    """`count` calls as one, for what is too short to be timed alone."""

    def repeated() -> None:
        for _ in range(count):
            run()

    return repeated


def arithmetic(engine: Engine, step: int) -> Callable[[], object]:
    """The networks of a full batch of glances (step 1) or focus passes (2), and nothing else."""
    stages, rows, arena = engine.stages, engine.buckets[-1], engine.arena
    patches = torch.randn(rows, 3, arena.patch, arena.patch, device=arena.device).to(stages.kept)
    patches = patches.contiguous(memory_format=torch.channels_last)
    maps, policy, memory = (t[:rows].contiguous() for t in (arena.feature_map, arena.policy, arena.memory))
    room = arena.room[:rows].contiguous()
    steps = torch.full((rows,), step, dtype=torch.int32, device=arena.device)

    @torch.no_grad()
    def run() -> None:
        if step == 1:
            stages.classifier.first(stages.encode_glance(patches)[1])
        else:
            stages.look(maps, policy, room)
            stages.classify(stages.encode_focus(patches)[1], memory, steps)

    return run


def whole_in_int8(model: GFNet, images: Tensor) -> Graph | None:
    """The local backbone on whole images in int8; None where NNCF is not here."""
    from gfnet_fast.quantisation.model import whole

    if importlib.util.find_spec("nncf") is None:
        return None
    return whole(model, images)
