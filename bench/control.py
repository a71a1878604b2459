"""What a launch has beside the networks.

All that a launch does on the device is in its graph: its block comes down, rows are admitted or taken from
the queue, state is read, pixels, the networks, exits, state written, answers, the queue and the record, which
goes up. Each of these is captured MANY times in one graph, for a full batch: the device's own time, without
launches. All rows leave in the glance, and none in the focus launch, so that a batch's answers count once.
The rest is the host's: a launch as the engine makes it, its own time a launch, and how busy the device is.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import expected
import gfnet_kernels as gk
import numpy as np
import torch
from fixtures import images_of, model_of, steps_of
from measuring import STAGES, Steady, Table, each_config, shared_thresholds, steady
from tasks import Task
from torch import Tensor

from gfnet_fast._scheduler import Stage
from gfnet_fast.engine.blocks import Block
from gfnet_fast.engine.capture import captured
from gfnet_fast.engine.engine import Engine
from gfnet_fast.evaluation import time_in_turn
from gfnet_fast.ways import arithmetic, times_over

Run = Callable[[], Any]
MANY = 50
ROUNDS = 3
# What each stage's kernels are for, in the order in which they are launched.
KERNELS = {
    Stage.GLANCE: ("admission", "pixels", "exits", "state written", "answers", "queue and record"),
    Stage.FOCUS: (
        "rows taken", "state read", "pixels", "exits", "state written", "no answers", "queue and record",
    ),
}  # fmt: skip
OPS = ("scatter_all", "take", "gather_all", "glance", "crop", "exits", "deliver", "compact")


def tasks(options: argparse.Namespace) -> list[Task]:
    counts = options.images, options.batch, ROUNDS, options.share, MANY
    return each_config(options, "control", control, lambda config: expected.control(config, *counts))


@torch.no_grad()
def control(options: argparse.Namespace, config: str) -> None:
    """Throughput mode, launches of one size: all that is not the networks' own arithmetic."""
    device, dtype, table = torch.device(options.device), getattr(torch, options.dtype), Table(options)
    model, batch = model_of(config, device), options.batch
    images = images_of(model.config.canvas, options.images, device)
    row = shared_thresholds(steps_of(config, options.images), options.share)
    engine = Engine(model, dtype=dtype, buckets=(batch,), runtime=options.runtime)
    rounds = min(options.rounds, ROUNDS)
    about = {
        "part": "control", "config": config, "dtype": options.dtype, "batch": batch, "rounds": rounds,
        "runtime": options.runtime,
    }  # fmt: skip
    median = dict[str, float]()

    def add(way: str, seconds: Any) -> None:
        median[way] = table.add(np.asarray(seconds) * 1e6, "us", way=way, **about) / 1e6

    many = MANY if device.type == "cuda" else 1
    with steady(engine, images[:batch]) as at:
        pieces = {way: captured(run, device, many) for way, run in pieces_of(engine, at).items()}
        for way, seconds in zip(pieces, time_in_turn(list(pieces.values()), rounds, device).T, strict=True):
            add(way, seconds / many)
        for stage, seconds in zip(STAGES, launch_times(at, rounds, device), strict=True):
            add(f"{word_of(stage)} launch", seconds)
    engine.predict(images[:batch], row)
    passes = float(engine.predict(images, row).exit_step.float().mean())
    about |= {"share": options.share, "images": len(images), "passes": f"{passes:.4f}"}
    share = 1 - batch_time(median, "networks", passes) / batch_time(median, "all", passes)
    table.add(np.array([100 * share]), "%", way="not the networks', of the device's time", **about)
    whole = [median[f"all of a {word_of(stage)}"] for stage in STAGES]
    found = np.array([host_times(engine, images, row, whole) for _ in range(rounds)]).T
    table.add(found[0] * 1e6, "us", way="host, a launch, waits left out", **about)
    table.add(100 * found[1], "%", way="device busy: launches' own time of the wall's", **about)


def word_of(stage: Stage) -> str:
    return stage.name.lower()


def batch_time(median: Mapping[str, float], kind: str, passes: float) -> float:
    """Seconds of the device for a batch with so many mean passes: its networks, or all that it does."""
    return median[f"{kind} of a glance"] + (passes - 1) * median[f"{kind} of a focus"]


def pieces_of(engine: Engine, at: Steady) -> dict[str, Run]:
    """What a launch's graph holds, and all of it."""
    pieces: dict[str, Run] = {}
    for step, stage in enumerate(STAGES, 1):
        block, calls = at.blocks[stage], kernel_calls(at, stage)
        parts: dict[str, Run] = {
            "all": partial(at.call, stage),
            "networks": arithmetic(engine, step),
            "block down": partial(block.down, stage, at.rows),
            **dict(zip(KERNELS[stage], calls, strict=True)),
            "record up": partial(block.up, at.rows),
        }
        pieces |= {f"{name} of a {word_of(stage)}": run for name, run in parts.items()}
    return pieces


def kernel_calls(at: Steady, stage: Stage) -> list[Run]:
    """The calls of kernels that a launch makes, with what it gives them."""
    calls: list[Run] = []

    def noted(op: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            calls.append(partial(op, *given, **named))
            return calls[-1]()

        return call

    with ExitStack() as stack:
        for name in OPS:
            stack.enter_context(mock.patch.object(gk, name, noted(getattr(gk, name))))
        at.call(stage)
    return calls


def launch_times(at: Steady, rounds: int, device: torch.device) -> np.ndarray:
    """Seconds of a glance and of a focus launch as an engine makes them, back to back, ``[2, rounds]``."""
    many = MANY if device.type == "cuda" else 1
    calls = [times_over(partial(at.start, stage), many) for stage in STAGES]
    return time_in_turn(calls, rounds, device).T / many


def host_times(engine: Engine, images: Tensor, row: Tensor, whole: Sequence[float]) -> tuple[float, float]:
    """Seconds of the host a launch, waits left out; the launches' own time as a share of the wall's.

    On a CPU the host is the device, and the first says nothing.
    """
    engine.reset()
    waited, inner = 0.0, engine._launches.wait

    def wait(block: Block) -> None:
        nonlocal waited
        begin = time.perf_counter()
        inner(block)
        waited += time.perf_counter() - begin

    with mock.patch.object(engine._launches, "wait", wait):
        begin = time.perf_counter()
        engine.predict(images, row)
        host = time.perf_counter() - begin
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        wall = time.perf_counter() - begin
    found = engine.scheduler.statistics()
    device = sum(found.glance_launches) * whole[0] + sum(found.focus_launches) * whole[1]
    return (host - waited) / found.launches, device / wall
