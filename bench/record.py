"""What the engine is made of and what each piece gives: python bench/record.py [PART ...] --out TABLE.

    ceilings   copy bandwidth and matrix rate, on random data
    ladder     from the official way to this engine, one technique after another, at one share of exits
    latency    batch 1, by exit step: percentiles, beside the sum of the launches' own times
    control    what a launch has beside the networks, the host's time a launch, how busy the device is

Each part times its contenders in turn, round after round, and writes its rows as it goes, so that one that
runs out of time leaves what it has. `agreement` is the share of images with the class and the exit step of
the float32 trace (TF32 off); `ideal` is the time of the networks' own arithmetic as a share of the time
taken, in `latency` that of the launches alone. Timed with torch's own defaults: the float32 ways may use
TF32. Without a GPU nothing is captured, and `--tiny` makes every path quick: rows then say nothing else.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import gfnet_kernels as gk
import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from measuring import (  # noqa: E402
    Table,
    agreement,
    graphed,
    images_for,
    kind,
    model_of,
    parser,
    run_parts,
    shared_thresholds,
    static_graphed,
    trace_of,
)

from gfnet_fast._scheduler import Stage  # noqa: E402
from gfnet_fast.benchmark import arithmetic, official, predict, times_over  # noqa: E402
from gfnet_fast.engine.eager import EagerEngine  # noqa: E402
from gfnet_fast.engine.engine import Engine  # noqa: E402
from gfnet_fast.engine.graphs import Graphs  # noqa: E402
from gfnet_fast.engine.transfer import Arrival  # noqa: E402
from gfnet_fast.evaluation import time_in_turn  # noqa: E402
from gfnet_fast.exits import ALWAYS, NEVER  # noqa: E402
from gfnet_fast.model.gfnet import GFNet, Trace, crop_origins  # noqa: E402

Run = Callable[[], Any]


def ceilings(options: argparse.Namespace, table: Table) -> None:
    """What no kernel here can beat, on random data."""
    device = torch.device(options.device)
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


def ladder(options: argparse.Namespace, table: Table) -> None:
    """From the official way to this engine, each rung beside the others in the same rounds."""
    for config in options.configs:
        model = model_of(config, torch.device(options.device))
        images = images_for(model, options.images)
        trace = trace_of(model, images)
        for compile in (False, True) if options.compile else (False,):
            climb(options, table, config, model, images, trace, compile)


def climb(
    options: argparse.Namespace,
    table: Table,
    config: str,
    model: GFNet,
    images: Tensor,
    trace: Trace,
    compile: bool,
) -> None:
    """The rungs of one model; those that compile only with `compile`, since that takes minutes."""
    batch, dtype, device = options.batch, getattr(torch, options.dtype), torch.device(options.device)
    few = images[: min(len(images), options.baselines) // batch * batch]
    row = shared_thresholds(trace, options.share)
    all_steps = never(model)
    form = "compiled" if compile else "folded"
    engine = Engine(model, dtype=dtype, buckets=(batch,), compile=compile)
    eager = EagerEngine(model, batch)
    prepared = every_step(engine, few, engine.stages.run)
    merged, by_index = partial(predict, engine, images, row), partial(predict, eager, few, row)
    whole = static_graphed(model, few, batch, compile, dtype)
    # way -> what runs, for how many images, at which thresholds (None: one pass, no exits), in which type
    ways: dict[str, tuple[Run, int, Tensor | None, str]] = {
        "1 official": (official(model, few, batch), len(few), all_steps, "float32"),
        "2 no host reads": (plain_steps(model, few, batch, cut), len(few), all_steps, "float32"),
        "3 fused kernels": (plain_steps(model, few, batch, fused), len(few), all_steps, "float32"),
        "5 compiled" if compile else "4 half precision": (prepared, len(few), all_steps, options.dtype),
        "7 exits, steps merged": (merged, len(images), row, options.dtype),
        "eager, exits by boolean indexing": (by_index, len(few), row, "float32"),
        "static": (whole, len(few), None, options.dtype),
    }
    if device.type == "cuda":
        replayed = every_step(engine, few, Graphs(engine.stages, engine.buckets).run)
        ways["6 graphs"] = replayed, len(few), all_steps, options.dtype
    found = {}
    for way, (run, _, thresholds, _) in ways.items():
        if thresholds is not None:
            found[way] = agreement(trace, thresholds, *run())
    parts = [graphed(arithmetic(engine, step), device) for step in (1, 2)]
    seconds = time_in_turn([*(run for run, *_ in ways.values()), *parts], options.rounds, device)
    glance, focus = np.median(seconds[:, -2:], axis=0) / batch
    baseline = float(np.median(seconds[:, 0])) / ways["1 official"][1]
    for (way, (_, count, _, type)), taken in zip(ways.items(), seconds.T, strict=False):
        each = taken / count
        same, passes = found.get(way, (None, None))
        about: dict[str, object] = {
            "part": "ladder", "config": config, "way": way, "batch": batch, "dtype": type, "prepared": form,
            "share": options.share, "images": count, "times": f"{baseline / np.median(each):.2f}",
        }  # fmt: skip
        if passes is not None:
            about |= {"agreement": f"{same:.4f}", "passes": f"{passes:.4f}"}
        if passes is not None and way[0] in "4567":
            about["ideal"] = f"{(glance + (passes - 1) * focus) / np.median(each):.3f}"
        table.add(1 / each, "images/s", **about)
    for part, taken in zip(("glance", "focus"), seconds.T[-2:], strict=True):
        about = {"part": "ladder", "config": config, "way": f"arithmetic of a {part}", "prepared": form}
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
                origins = crop_origins(action, config.image_size, config.patch_size)
                logits, state = model.next_step(look_at(model, part, origins), state, step)
            classes.append(logits.argmax(1))
        found = torch.cat(classes)
        return found, torch.full_like(found, config.steps)

    return run


def every_step(engine: Engine, images: Tensor, run: Callable[[Stage, Tensor, Tensor], Tensor]) -> Run:
    """Every step of every image through an engine's prepared stages, batch by batch."""
    arena, batch, last = engine.arena, engine.buckets[-1], engine.config.steps
    places, ends = np.arange(batch, dtype=np.int32), np.full(batch, last, np.int32)
    slots = torch.arange(batch, dtype=torch.int32, device=images.device)
    steps = [torch.full_like(slots, step) for step in range(1, last + 1)]

    @torch.no_grad()
    def job() -> tuple[Tensor, Tensor]:
        classes = []
        for part in images.split(batch):
            arena.put(places, part)
            run(Stage.GLANCE, slots, steps[0])
            for step in steps[1:]:
                run(Stage.FOCUS, slots, step)
            classes.append(arena.read(places, ends).class_id)
            arena.release(places)
        found = torch.cat(classes)
        return found, torch.full_like(found, last)

    return job


def latency(options: argparse.Namespace, table: Table) -> None:
    """One image at a time, the answer read on the host, by the step at which it leaves."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    count, form = 8 if options.tiny else 400, "compiled" if options.compile else "folded"
    for config in options.configs:
        model = model_of(config, device)
        images = images_for(model, count)
        engine = Engine(model, dtype=dtype, mode="latency", buckets=(1,), compile=options.compile)
        engine.thresholds = shared_thresholds(trace_of(model, images), options.share)
        engine.predict(images[:4])
        taken, steps = [], []
        for image in images.split(1):
            begin = time.perf_counter()
            steps.append(int(engine.predict(image).exit_step))
            taken.append(time.perf_counter() - begin)
        glance, focus = launch_times(engine, images[:1], options.rounds)
        about = {"part": "latency", "config": config, "batch": 1, "dtype": options.dtype, "prepared": form}
        for step in sorted(set(steps)):
            here = np.array([t for t, at in zip(taken, steps, strict=True) if at == step])
            row = about | {"share": options.share, "images": len(here)}
            ideal, way = (glance + (step - 1) * focus) / np.median(here), f"leaves at step {step}"
            table.add(here * 1e6, "us", way=way, ideal=f"{ideal:.3f}", **row)
            tail = np.quantile(here, [0.99])
            table.add(tail * 1e6, "us", way=f"{way}, p99", times=f"{tail[0] / np.median(here):.3f}", **row)
        whole = static_graphed(model, images[:1], 1, options.compile, dtype)
        runs = [official(model, images[:1], 1), whole]
        seconds = time_in_turn(runs, 4 * options.rounds, device)
        table.add(seconds[:, 0] * 1e6, "us", way="official", **(about | {"dtype": "float32"}))
        table.add(seconds[:, 1] * 1e6, "us", way="static", **about)


def launch_times(engine: Engine, images: Tensor, rounds: int) -> list[float]:
    """Seconds of a glance and of a focus launch of a bucket of images, back to back: the device's own."""
    device = engine.arena.device
    run = Graphs(engine.stages, engine.buckets).run if device.type == "cuda" else engine.stages.run
    many = 50 if device.type == "cuda" else 1
    slots = torch.arange(len(images), dtype=torch.int32, device=device)
    engine.arena.put(slots.cpu().numpy(), images)
    calls = [
        times_over(partial(run, stage, slots, torch.full_like(slots, step)), many)
        for stage, step in ((Stage.GLANCE, 1), (Stage.FOCUS, 2))
    ]
    with torch.no_grad():
        seconds = time_in_turn(calls, rounds, device)
    engine.arena.release_all()
    return [float(taken) / many for taken in np.median(seconds, axis=0)]


def control(options: argparse.Namespace, table: Table) -> None:
    """Throughput mode, launches of one size: what is not the networks' own arithmetic."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    form = "compiled" if options.compile else "folded"
    for config in options.configs:
        model, batch = model_of(config, device), options.batch
        images = images_for(model, options.images)
        row = shared_thresholds(trace_of(model, images), options.share)
        engine = Engine(model, dtype=dtype, buckets=(batch,), compile=options.compile)
        rounds = min(options.rounds, 3)
        about = {
            "part": "control", "config": config, "dtype": options.dtype, "prepared": form, "batch": batch,
            "rounds": rounds,
        }  # fmt: skip
        whole = launch_times(engine, images[:batch], rounds)
        many = 50 if device.type == "cuda" else 1
        pieces = {
            "networks of a glance": arithmetic(engine, 1),
            "networks of a focus": arithmetic(engine, 2),
            "state read, exits, state written": bookkeeping(engine),
        }
        calls = [times_over(graphed(piece, device), many) for piece in pieces.values()]
        seconds = time_in_turn(calls, rounds, device) / many
        for way, taken in zip(pieces, seconds.T, strict=True):
            table.add(taken * 1e6, "us", way=way, **about)
        for way, taken in zip(("glance launch", "focus launch"), whole, strict=True):
            table.add(np.array([taken]) * 1e6, "us", way=way, **about)
        hosts, busy = np.array([host_times(engine, images, row, whole) for _ in range(rounds)]).T
        about |= {"share": options.share, "images": len(images)}
        table.add(hosts * 1e6, "us", way="host, a launch, waits left out", **about)
        table.add(100 * busy, "%", way="device busy: launches' own time of the wall's", **about)


def bookkeeping(engine: Engine) -> Run:
    """What a focus launch does to the arena, without networks and pixels."""
    stages, arena, rows = engine.stages, engine.arena, engine.buckets[-1]
    slots = torch.arange(rows, dtype=torch.int32, device=arena.device)
    steps, origins = torch.full_like(slots, 2), arena.origins[:rows, 1].clone()
    logits = torch.zeros(rows, engine.config.classes, device=arena.device)
    kept = stages.classifier.kept(arena.memory)
    memory = kept[:rows].flatten(1)[:, : kept.shape[-1]].clone()

    @torch.no_grad()
    def run() -> None:
        seen, policy, _, _ = stages.read(slots)
        stages.keep(slots, steps, logits, seen, policy, memory, origins)

    return run


def host_times(engine: Engine, images: Tensor, row: Tensor, whole: Sequence[float]) -> tuple[float, float]:
    """Seconds of the host a launch, waits left out; the launches' own time as a share of the wall's.

    On a CPU the host is the device, and the first says nothing.
    """
    engine.predict(images[: engine.buckets[-1]], row)
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


if __name__ == "__main__":
    own = parser(__doc__)
    own.add_argument("--baselines", type=int, default=512, help="images for what runs all steps")
    parts = {"ceilings": ceilings, "ladder": ladder, "latency": latency, "control": control}
    sys.exit(run_parts(own, parts, sys.argv[1:]))
