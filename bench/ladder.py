"""From the official way to this engine, one technique after another; the ceilings; one image at a time.

Each part times its contenders in turn, round after round. `agreement` is the share of images with the class
and the exit step of the float32 trace (TF32 off); `ideal` is the time of the networks' own arithmetic as a
share of the time taken, in `latency` that of the launches alone. Timed with torch's own defaults: the float32
ways may use TF32.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, product
from typing import Any

import expected
import gfnet_kernels as gk
import numpy as np
import torch
from control import launch_times
from fixtures import images_of, model_of, steps_of
from measuring import (
    STAGES,
    Table,
    agreement,
    each_config,
    kind,
    shared_thresholds,
    sized,
    static_graphed,
    steady,
    told_of,
)
from tasks import Task
from torch import Tensor

from gfnet_fast._scheduler import Stage
from gfnet_fast.engine.answers import room_for
from gfnet_fast.engine.blocks import Block
from gfnet_fast.engine.capture import captured
from gfnet_fast.engine.eager import EagerEngine
from gfnet_fast.engine.engine import Engine
from gfnet_fast.engine.launches import Graphs, Launches
from gfnet_fast.engine.stages import Stages
from gfnet_fast.evaluation import time_in_turn
from gfnet_fast.exits import ALWAYS, NEVER
from gfnet_fast.model.gfnet import GFNet, crop_origins
from gfnet_fast.ways import arithmetic, official, predict, times_over

Run = Callable[[], Any]
SINGLE = 400  # images of the latency


def ladder_tasks(options: argparse.Namespace) -> list[Task]:
    counts = options.images, options.baselines, options.batch, options.rounds, options.share
    return each_config(options, "ladder", climb, lambda config: expected.ladder(config, *counts))


def latency_tasks(options: argparse.Namespace) -> list[Task]:
    return each_config(
        options, "latency", latency, lambda config: expected.latency(config, SINGLE, options.rounds)
    )


def ceiling_tasks(options: argparse.Namespace) -> list[Task]:
    return [Task("ceilings", partial(ceilings, sized(options)), 5.0)]


def ceilings(options: argparse.Namespace) -> None:
    """What no kernel here can beat, on random data."""
    device, table = torch.device(options.device), Table(options)
    size, side = (1 << 22, 256) if options.tiny else (1 << 32, 8192)
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = time_in_turn([partial(target.copy_, source)], 4 * options.rounds, device)[:, 0]
    table.add(2 * size / seconds / 1e9, "GB/s", part="ceilings", way="copy, read and written")
    del source, target
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        run = times_over(partial(torch.mm, left, right), 4)
        seconds = time_in_turn([run], 2 * options.rounds, device)[:, 0]
        rate = 4 * 2 * side**3 / seconds / 1e12
        table.add(rate, "TFLOP/s", part="ceilings", way=f"matrix product of side {side}", dtype=kind(dtype))


def climb(options: argparse.Namespace, config: str) -> None:
    """The rungs of one model; compiled with the runtime `inductor`, which takes minutes."""
    device, table, runtime = torch.device(options.device), Table(options), options.runtime
    model = model_of(config, device)
    images = images_of(model.config.canvas, options.images, device)
    trace = steps_of(config, options.images)
    batch, dtype = options.batch, getattr(torch, options.dtype)
    few = images[: min(len(images), options.baselines) // batch * batch]
    row = shared_thresholds(trace, options.share)
    all_steps = never(model)
    engine = Engine(model, dtype=dtype, buckets=(batch,), runtime=runtime)
    eager = EagerEngine(model, batch)
    own = "4 half precision" if runtime == "torch" else f"5 {runtime}"
    prepared = every_step(engine, few, plain_launches(engine.stages))
    merged, by_index = partial(predict, engine, images, row), partial(predict, eager, few, row)
    whole = static_graphed(model, few, batch, runtime, dtype)
    # way -> what runs, for how many images, at which thresholds (None: one pass, no exits), in which type
    ways: dict[str, tuple[Run, int, Tensor | None, str]] = {
        "1 official": (official(model, few, batch), len(few), all_steps, "float32"),
        "2 no host reads": (plain_steps(model, few, batch, cut), len(few), all_steps, "float32"),
        "3 fused kernels": (plain_steps(model, few, batch, fused), len(few), all_steps, "float32"),
        own: (prepared, len(few), all_steps, options.dtype),
        "7 exits, steps merged": (merged, len(images), row, options.dtype),
        "eager, exits by boolean indexing": (by_index, len(few), row, "float32"),
        "static": (whole, len(few), None, options.dtype),
    }
    if device.type == "cuda":
        ways["6 graphs"] = every_step(engine, few, engine._launches), len(few), all_steps, options.dtype
    found = {}
    for way, (run, _, thresholds, _) in ways.items():
        if thresholds is not None:
            found[way] = agreement(trace, thresholds, *run())
    parts = [captured(arithmetic(engine, step), device) for step in (1, 2)]
    seconds = time_in_turn([*(run for run, *_ in ways.values()), *parts], options.rounds, device)
    glance, focus = np.median(seconds[:, -2:], axis=0) / batch
    baseline = float(np.median(seconds[:, 0])) / ways["1 official"][1]
    for (way, (_, count, _, type)), taken in zip(ways.items(), seconds.T, strict=False):
        each = taken / count
        same, passes = found.get(way, (None, None))
        about: dict[str, object] = {
            "part": "ladder", "config": config, "way": way, "batch": batch, "dtype": type, "runtime": runtime,
            "share": options.share, "images": count, "times": f"{baseline / np.median(each):.2f}",
        }  # fmt: skip
        if passes is not None:
            about |= {"agreement": f"{same:.4f}", "passes": f"{passes:.4f}"}
        if passes is not None and way[0] in "4567":
            about["ideal"] = f"{(glance + (passes - 1) * focus) / np.median(each):.3f}"
        table.add(1 / each, "images/s", **about)
    for part, taken in zip(("glance", "focus"), seconds.T[-2:], strict=True):
        about = {"part": "ladder", "config": config, "way": f"arithmetic of a {part}", "runtime": runtime}
        table.add(taken / batch * 1e6, "us/image", batch=batch, dtype=options.dtype, **about)


def never(model: GFNet) -> Tensor:
    return torch.tensor([NEVER] * (model.config.steps - 1) + [ALWAYS])


Cut = Callable[[GFNet, Tensor, Tensor | None], Tensor]


def cut(model: GFNet, images: Tensor, origins: Tensor | None) -> Tensor:
    """Thumbnails, or crops at `origins`, in plain torch without a host read."""
    config = model.config
    normal = model.normalise(images)
    if origins is None:
        return model.thumbnail(normal)
    line = torch.arange(config.patch_size, device=images.device)
    rows, columns = origins[:, :1] + line, origins[:, 1:] + line
    at = torch.arange(len(images), device=images.device)[:, None, None]
    return normal[at, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def fused(model: GFNet, images: Tensor, origins: Tensor | None) -> Tensor:
    """The same by the kernels."""
    c, rows = model.config, torch.arange(len(images), dtype=torch.int32, device=images.device)
    if origins is None:
        return gk.glance(images, rows, c.patch_size, c.glance_filter, c.mean, c.std, torch.float32)
    return gk.crop(images, rows, origins.int(), c.patch_size, c.mean, c.std, torch.float32)


def plain_steps(model: GFNet, images: Tensor, batch: int, look_at: Cut) -> Run:
    """Every step of every image in the model's own float32 networks."""
    config = model.config

    @torch.no_grad()
    def run() -> tuple[Tensor, Tensor]:
        classes = []
        for part in images.split(batch):
            logits, state = model.first_step(look_at(model, part, None))
            for step in range(2, config.steps + 1):
                action, state = model.look(state)
                origins = crop_origins(action, config.canvas, config.patch_size)
                logits, state = model.next_step(look_at(model, part, origins), state, step)
            classes.append(logits.argmax(1))
        found = torch.cat(classes)
        return found, torch.full_like(found, config.steps)

    return run


class Calls(Graphs):
    """Launches as plain calls on a GPU."""

    def prepare(self, stage: Stage, bucket: int, block: Block) -> None: ...

    def start(self, stage: Stage, bucket: int, block: Block) -> None:
        self.stages.run(stage, bucket, block)


def plain_launches(stages: Stages) -> Launches:
    return (Calls if stages.arena.device.type == "cuda" else Launches)(stages)


def every_step(engine: Engine, images: Tensor, launches: Launches) -> Run:
    """Every step of every image through an engine's prepared stages, batch by batch."""
    rows, last, blocks = engine.buckets[-1], engine.config.steps, cycle(engine._blocks)
    slots = np.arange(rows, dtype=np.int32)
    for stage, block in product(STAGES, engine._blocks):
        launches.prepare(stage, rows, block)

    @torch.no_grad()
    def job() -> tuple[Tensor, Tensor]:
        output = room_for(len(images), engine.config, images.device)
        told = told_of(engine, images, output)
        for begin, block in zip(range(0, len(images), rows), blocks, strict=False):
            launches.wait(block)
            block.fill(Stage.GLANCE, rows, rows, 0.0, slots, np.ones_like(slots), told[begin : begin + rows])
            launches.start(Stage.GLANCE, rows, block)
            for _ in range(1, last):
                launches.start(Stage.FOCUS, rows, block)
            launches.mark(block)
        return output.class_id, output.exit_step

    return job


@torch.no_grad()
def latency(options: argparse.Namespace, config: str) -> None:
    """One image at a time, the answer read on the host, by the step at which it leaves."""
    device, dtype, table = torch.device(options.device), getattr(torch, options.dtype), Table(options)
    count, runtime = 8 if options.tiny else SINGLE, options.runtime
    model = model_of(config, device)
    images = images_of(model.config.canvas, count, device)
    engine = Engine(model, dtype=dtype, mode="latency", buckets=(1,), runtime=runtime)
    engine.thresholds = shared_thresholds(steps_of(config, count), options.share)
    engine.predict(images[:4])
    taken, steps = [], []
    for image in images.split(1):
        begin = time.perf_counter()
        steps.append(int(engine.predict(image).exit_step))
        taken.append(time.perf_counter() - begin)
    with steady(engine, images[:1]) as at:
        glance, focus = np.median(launch_times(at, options.rounds, device), axis=1)
    about = {"part": "latency", "config": config, "batch": 1, "dtype": options.dtype, "runtime": runtime}
    for step in sorted(set(steps)):
        here = np.array([t for t, at in zip(taken, steps, strict=True) if at == step])
        row = about | {"share": options.share, "images": len(here)}
        ideal, way = (glance + (step - 1) * focus) / np.median(here), f"leaves at step {step}"
        table.add(here * 1e6, "us", way=way, ideal=f"{ideal:.3f}", **row)
        tail = np.quantile(here, [0.99])
        table.add(tail * 1e6, "us", way=f"{way}, p99", times=f"{tail[0] / np.median(here):.3f}", **row)
    whole = static_graphed(model, images[:1], 1, runtime, dtype)
    runs = [official(model, images[:1], 1), whole]
    seconds = time_in_turn(runs, 4 * options.rounds, device)
    table.add(seconds[:, 0] * 1e6, "us", way="official", **(about | {"dtype": "float32"}))
    table.add(seconds[:, 1] * 1e6, "us", way="static", **about)
