"""What a launch has beside the networks, and what runs between launches.

`networks`, `pixels`, `state` and `kernels` are the device's own time: MANY calls in one captured graph. What
goes between graphs (slots and steps down, flags up, images in, answers out) cannot be captured; it is queued
behind a kernel that spins, so that the host's time is not in it. The rest is the host's: a launch as the
engine makes it, its own time a launch, and how busy the device is.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import expected
import gfnet_kernels as gk
import numpy as np
import torch
from fixtures import config_of, images_of, model_of, steps_of
from measuring import Table, graphed, shared_thresholds, sized
from tasks import Task
from torch import Tensor

from gfnet_fast._scheduler import Plan, Stage
from gfnet_fast.benchmark import arithmetic, times_over
from gfnet_fast.engine.engine import Engine
from gfnet_fast.engine.graphs import Graphs
from gfnet_fast.engine.transfer import Arrival, Transfer
from gfnet_fast.evaluation import time_in_turn

Run = Callable[[], Any]
MANY = 50
ROUNDS = 3
STAGES = ((Stage.GLANCE, 1), (Stage.FOCUS, 2))
SPIN = 40_000_000  # cycles of the device, some twenty milliseconds


def tasks(options: argparse.Namespace) -> list[Task]:
    counts = options.images, options.batch, ROUNDS, options.share, MANY
    return [
        Task(
            f"control {config}",
            partial(control, sized(options), config),
            expected.control(config_of(config), *counts) + options.compile * expected.COMPILING["control"],
        )
        for config in options.configs
    ]


@torch.no_grad()
def control(options: argparse.Namespace, config: str) -> None:
    """Throughput mode, launches of one size: all that is not the networks' own arithmetic."""
    device, dtype, table = torch.device(options.device), getattr(torch, options.dtype), Table(options)
    model, batch = model_of(config, device), options.batch
    images = images_of(model.config.image_size, options.images, device)
    row = shared_thresholds(steps_of(config, options.images), options.share)
    engine = Engine(model, dtype=dtype, buckets=(batch,), compile=options.compile)
    rounds = min(options.rounds, ROUNDS)
    about = {
        "part": "control", "config": config, "dtype": options.dtype, "batch": batch, "rounds": rounds,
        "prepared": "compiled" if options.compile else "folded",
    }  # fmt: skip
    median = dict[str, float]()

    def add(way: str, seconds: Any) -> None:
        median[way] = table.add(np.asarray(seconds) * 1e6, "us", way=way, **about) / 1e6

    kept = captured_pieces(engine, images[:batch])
    many = MANY if device.type == "cuda" else 1
    captured = [graphed(piece, device, many) for piece in kept.values()]
    for way, seconds in zip(kept, time_in_turn(captured, rounds, device).T, strict=True):
        add(way, seconds / many)
    for way, piece in between(engine, images[:batch]).items():
        add(way, [queued(piece, device, many) for _ in range(rounds + 1)][1:])
    whole = launch_times(engine, images[:batch], rounds)
    for way, taken in zip(("glance launch", "focus launch"), whole, strict=True):
        add(way, [taken])
    engine.predict(images[:batch], row)
    passes = float(engine.predict(images, row).exit_step.float().mean())
    about |= {"share": options.share, "images": len(images), "passes": f"{passes:.4f}"}
    share = 1 - batch_time(median, "networks", passes) / batch_time(median, "all", passes)
    table.add(np.array([100 * share]), "%", way="not the networks', of the device's time", **about)
    found = np.array([host_times(engine, images, row, whole) for _ in range(rounds)]).T
    table.add(found[0] * 1e6, "us", way="host, a launch, waits left out", **about)
    table.add(100 * found[1], "%", way="device busy: launches' own time of the wall's", **about)


def batch_time(median: dict[str, float], kind: str, passes: float) -> float:
    """Seconds of the device for a batch with so many mean passes: its networks, or all that it does."""
    word = "networks" if kind == "networks" else "kernels"
    stages = median[f"{word} of a glance"] + (passes - 1) * median[f"{word} of a focus"]
    if kind == "networks":
        return stages
    once = median["images in"] + median["answers out"]
    return stages + once + passes * median["between launches"]


def captured_pieces(engine: Engine, images: Tensor) -> dict[str, Run]:
    """What a launch is made of, and all of it, for a batch that lies in the arena."""
    stages, arena, rows, c = engine.stages, engine.arena, len(images), engine.config
    arena.put(np.arange(rows, dtype=np.int32), images)
    slots = torch.arange(rows, dtype=torch.int32, device=arena.device)
    stages.run(Stage.GLANCE, slots, torch.ones_like(slots))
    origins = torch.randint(
        0, c.image_size - c.patch_size + 1, (rows, 2), dtype=torch.int32, device=arena.device
    )
    pieces: dict[str, Run] = {
        "networks of a glance": arithmetic(engine, 1),
        "networks of a focus": arithmetic(engine, 2),
        "pixels of a glance": partial(
            gk.glance, arena.table, slots, c.patch_size, c.glance_filter, c.mean, c.std, stages.dtype
        ),
        "pixels of a focus": partial(
            gk.crop, arena.table, slots, origins, c.patch_size, c.mean, c.std, stages.dtype
        ),
        "state read, exits, state written": bookkeeping(engine),
    }
    for (stage, step), name in zip(STAGES, ("glance", "focus"), strict=True):
        pieces[f"kernels of a {name}"] = partial(stages.run, stage, slots, torch.full_like(slots, step))
    return pieces


def between(engine: Engine, images: Tensor) -> dict[str, Run]:
    """What the loop does on the device around graphs, as the loop does it."""
    arena, rows, transfer = engine.arena, len(images), Transfer(engine.arena.device)
    places, ends = np.arange(rows, dtype=np.int32), np.full(rows, 2, np.int32)
    plan = cast(Plan, SimpleNamespace(slots=places, steps=ends))
    buffers = [torch.zeros(rows, dtype=torch.int32, device=arena.device) for _ in range(2)]
    exited = torch.zeros(rows, dtype=torch.bool, device=arena.device)
    at = torch.arange(rows, device=arena.device)
    out = [torch.empty_like(values) for values in arena.read(places, ends)]

    def launch() -> None:
        for buffer, values in zip(buffers, transfer.down(plan), strict=True):
            buffer.copy_(values, non_blocking=True)
        transfer.up(exited)

    def taken_in() -> None:
        arena.put(places, images)
        arena.release(places)

    def read_out() -> None:
        for column, values in zip(out, arena.read(places, ends), strict=True):
            column.index_copy_(0, at, values)

    return {"between launches": launch, "images in": taken_in, "answers out": read_out}


def bookkeeping(engine: Engine) -> Run:
    """What a focus launch does to the arena, without networks and pixels."""
    stages, arena, rows = engine.stages, engine.arena, engine.buckets[-1]
    slots = torch.arange(rows, dtype=torch.int32, device=arena.device)
    steps, origins = torch.full_like(slots, 2), arena.origins[:rows, 1].clone()
    logits = torch.zeros(rows, engine.config.classes, device=arena.device)
    kept = stages.classifier.kept(arena.memory)
    memory = kept[:rows].flatten(1)[:, : kept.shape[-1]].clone()

    def run() -> None:
        seen, policy, _, _ = stages.read(slots)
        stages.keep(slots, steps, logits, seen, policy, memory, origins)

    return run


def queued(call: Run, device: torch.device, many: int) -> float:
    """Seconds of the device a call, of many queued behind a kernel that spins until the host is done."""
    if device.type != "cuda":
        begin = time.perf_counter()
        times_over(call, many)()
        return (time.perf_counter() - begin) / many
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for spin in (SPIN, 4 * SPIN, 16 * SPIN):
        torch.cuda._sleep(spin)
        first.record()
        times_over(call, many)()
        last.record()
        late = first.query()  # the device did not wait for the host only where it still spins
        torch.cuda.synchronize(device)
        if not late:
            return first.elapsed_time(last) / 1e3 / many
    raise RuntimeError(f"expected {many} calls queued within {16 * SPIN} cycles of the device, got fewer")


def launch_times(engine: Engine, images: Tensor, rounds: int) -> list[float]:
    """Seconds of a glance and of a focus launch of a bucket, as the engine launches them, back to back."""
    device = engine.arena.device
    run = Graphs(engine.stages, engine.buckets).run if device.type == "cuda" else engine.stages.run
    many = MANY if device.type == "cuda" else 1
    slots = torch.arange(len(images), dtype=torch.int32, device=device)
    engine.arena.put(slots.cpu().numpy(), images)
    calls = [
        times_over(partial(run, stage, slots, torch.full_like(slots, step)), many) for stage, step in STAGES
    ]
    seconds = time_in_turn(calls, rounds, device)
    engine.arena.release_all()
    return [float(taken) / many for taken in np.median(seconds, axis=0)]


def host_times(engine: Engine, images: Tensor, row: Tensor, whole: Sequence[float]) -> tuple[float, float]:
    """Seconds of the host a launch, waits left out; the launches' own time as a share of the wall's.

    On a CPU the host is the device, and the first says nothing.
    """
    engine.reset()
    waited, complete = 0.0, Arrival.wait

    def wait(arrival: Arrival) -> tuple[Tensor, ...]:
        nonlocal waited
        begin = time.perf_counter()
        tensors = complete(arrival)
        waited += time.perf_counter() - begin
        return tensors

    with mock.patch.object(Arrival, "wait", wait):
        begin = time.perf_counter()
        engine.predict(images, row)
        host = time.perf_counter() - begin
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        wall = time.perf_counter() - begin
    found = engine.scheduler.statistics()
    device = sum(found.glance_launches) * whole[0] + sum(found.focus_launches) * whole[1]
    return (host - waited) / found.launches, device / wall
