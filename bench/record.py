"""What the engine is made of and what each piece gives: python bench/record.py [PART ...] --out TABLE.

    ceilings   copy bandwidth and matrix rate, on random data
    ladder     from the official way to this engine, one technique after another, at one share of exits
    latency    batch 1, by exit step: percentiles, beside the sum of the launches' own times
    tuning     layout and compiler per backbone, graphs against none, sets of buckets, the policy's share
    blocks     tile sizes of the kernels that read pixels

Each part times its contenders in turn, round after round, and writes its rows as it goes, so that one that
runs out of time leaves what it has. `agreement` is the share of images with the class and the exit step of
the float32 trace (TF32 off); `ideal` is the time of the networks' own arithmetic as a share of the time
taken, in `latency` that of the launches alone. Timed with torch's own defaults: the float32 ways may use
TF32. Without a GPU nothing is captured, and `--tiny` makes every path quick: rows then say nothing else.
"""

import argparse
import importlib
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gfnet_kernels as gk
import numpy as np
import torch
import triton
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from measuring import (  # noqa: E402
    agreement,
    graphed,
    images_for,
    machine,
    model_of,
    shared_thresholds,
    static_graphed,
    trace_of,
)
from rows import commit, driver  # noqa: E402

from gfnet_fast._scheduler import Stage  # noqa: E402
from gfnet_fast.benchmark import arithmetic, official, times_over  # noqa: E402
from gfnet_fast.engine.eager import EagerEngine  # noqa: E402
from gfnet_fast.engine.engine import Engine  # noqa: E402
from gfnet_fast.engine.graphs import Graphs  # noqa: E402
from gfnet_fast.engine.prepare import Prepared, compiled, compiling  # noqa: E402
from gfnet_fast.evaluation import time_in_turn  # noqa: E402
from gfnet_fast.exits import ALWAYS, NEVER  # noqa: E402
from gfnet_fast.model.gfnet import GFNet, Trace, crop_origins  # noqa: E402
from gfnet_fast.tables import merge_rows  # noqa: E402

KEY = ("part", "config", "way", "prepared", "batch", "dtype", "share", "machine")
FIELDS = (
    *KEY, "unit", "p25", "p50", "p75", "times", "ideal", "agreement", "passes", "images", "rounds",
    "driver", "torch", "triton", "python", "commit",
)  # fmt: skip
CONFIGS = ("resnet50_96_T5", "mobilenetv3_large_100_96_T3")
BACKBONES = (*CONFIGS, "regnety_600m_96_T5", "efficientnet_b2_128_T4", "densenet121_96_T5")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
Run = Callable[[], Any]


class Table:
    """The rows of a run, written as they come."""

    def __init__(self, options: argparse.Namespace) -> None:
        device = torch.device(options.device)
        self.path: Path = options.out
        self.about = {
            "machine": machine(device), "driver": driver() if device.type == "cuda" else "",
            "torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version(),
            "commit": commit(), "rounds": options.rounds,
        }  # fmt: skip

    def add(self, samples: np.ndarray, unit: str, **row: object) -> float:
        """A row of the quartiles of `samples`; its median."""
        low, middle, high = np.quantile(samples, [0.25, 0.5, 0.75])
        numbers = {"p25": f"{low:.6g}", "p50": f"{middle:.6g}", "p75": f"{high:.6g}", "unit": unit}
        full = dict.fromkeys(FIELDS, "") | self.about | row | numbers
        merge_rows(self.path, KEY, FIELDS, [full])
        shown = (str(full[name]) for name in KEY[:-1])
        notes = (f"{name} {full[name]}" for name in ("times", "ideal", "agreement", "passes") if full[name])
        print(" ".join(filter(None, shown)), f"{middle:.6g} {unit}", *notes, flush=True)
        return float(middle)


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


def kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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


def predict(engine: Engine | EagerEngine, images: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    out = engine.predict(images, row)
    return out.class_id, out.exit_step


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


def launch_times(engine: Engine, image: Tensor, rounds: int) -> list[float]:
    """Seconds of a glance and of a focus launch of one image, back to back: the device's own time."""
    device = engine.arena.device
    run = Graphs(engine.stages, engine.buckets).run if device.type == "cuda" else engine.stages.run
    many = 50 if device.type == "cuda" else 1
    slots = torch.zeros(1, dtype=torch.int32, device=device)
    engine.arena.put(np.zeros(1, np.int32), image)
    calls = [
        times_over(partial(run, stage, slots, torch.full_like(slots, step)), many)
        for stage, step in ((Stage.GLANCE, 1), (Stage.FOCUS, 2))
    ]
    with torch.no_grad():
        seconds = time_in_turn(calls, rounds, device)
    engine.arena.release_all()
    return [float(taken) / many for taken in np.median(seconds, axis=0)]


def tuning(options: argparse.Namespace, table: Table) -> None:
    """Choices that a CPU cannot make; with --compile only those that it concerns."""
    for config in () if options.compile else options.configs:
        tune_engine(options, table, config)
    for config in options.backbones:
        tune_backbone(options, table, config)


def tune_backbone(options: argparse.Namespace, table: Table, config: str) -> None:
    """Layout and compiler of one encoder on its patches, captured."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    model = model_of(config, device)
    size, batch = model.config.patch_size, options.batch
    patches = torch.randn(batch, 3, size, size, device=device).to(dtype, memory_format=torch.channels_last)
    ways: dict[str, Run] = {}
    with torch.no_grad(), compiling():
        for name, layout in LAYOUTS.items():
            encoder: Any = Prepared(model.local_encoder, size, batch, dtype, layout)
            ways[f"folded, {name}"] = graphed(partial(encoder, patches), device)
            if options.compile:
                ways[f"compiled, {name}"] = graphed(partial(compiled(encoder), patches), device)
        seconds = time_in_turn(list(ways.values()), options.rounds, device)
    for way, column in zip(ways, seconds.T, strict=True):
        about = {"part": "tuning", "config": config, "way": way, "batch": batch, "dtype": options.dtype}
        table.add(column / batch * 1e6, "us/image", **about)


def tune_engine(options: argparse.Namespace, table: Table, config: str) -> None:
    """Sets of buckets, at several numbers of images; then what a focus launch takes, and the policy of it."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    model, batch = model_of(config, device), options.batch
    images = images_for(model, options.images)
    row = shared_thresholds(trace_of(model, images), options.share)
    about = {"part": "tuning", "config": config, "dtype": options.dtype, "prepared": "folded"}
    parts = [{1}, {1, 4}, {1, 8, batch}, {1, 2, 4, 8, 16, batch}]  # of the batch
    sets = dict.fromkeys(tuple(sorted({batch, *(max(1, batch // n) for n in part)})) for part in parts)
    engines = {rows: Engine(model, dtype=dtype, buckets=rows) for rows in sets}
    for count in dict.fromkeys((max(1, len(images) // 64), max(1, len(images) // 8), len(images))):
        runs = [partial(predict, engine, images[:count], row) for engine in engines.values()]
        seconds = time_in_turn(runs, options.rounds, device)
        for rows, column in zip(engines, seconds.T, strict=True):
            way = f"buckets {' '.join(map(str, rows))}, {count} images"
            extra = {"batch": batch, "share": options.share, "images": count}
            table.add(count / column, "images/s", way=way, **extra, **about)
    engine = list(engines.values())[-1]
    for bucket in engine.buckets:
        for way, samples in focus_times(engine, images[:bucket], options.rounds).items():
            table.add(samples * 1e6, "us", way=way, batch=bucket, **about)


@torch.no_grad()
def focus_times(engine: Engine, images: Tensor, rounds: int, many: int = 10) -> dict[str, np.ndarray]:
    """Seconds of a focus launch of these images, captured and not, and of its policy alone."""
    stages, arena, rows, device = engine.stages, engine.arena, len(images), images.device
    arena.put(np.arange(rows, dtype=np.int32), images)
    slots = torch.arange(rows, dtype=torch.int32, device=device)
    steps = torch.full_like(slots, 2)
    inputs = [values[:rows].contiguous() for values in (arena.feature_map, arena.policy, arena.room)]
    calls: dict[str, Run] = {
        "focus, no graph": partial(stages.run, Stage.FOCUS, slots, steps),
        "policy alone": graphed(partial(stages.look, *inputs), device),
    }
    if device.type == "cuda":
        calls["focus, graph"] = partial(Graphs(stages, [rows]).run, Stage.FOCUS, slots, steps)
    seconds = time_in_turn([times_over(call, many) for call in calls.values()], rounds, device) / many
    arena.release_all()
    return dict(zip(calls, seconds.T, strict=True))


def blocks(options: argparse.Namespace, table: Table) -> None:
    """Tiles of the kernels that read pixels; what is in the file is one of them."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    count, side, size = (4, 64, 32) if options.tiny else (1024, 224, 96)
    images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, device=device)
    slots = torch.arange(count, dtype=torch.int32, device=device)
    origins = torch.randint(0, side - size + 1, (count, 2), dtype=torch.int32, device=device)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    calls: dict[str, Run] = {
        "crop": partial(gk.crop, images, slots, origins, size, mean, std, dtype),
        "glance": partial(gk.glance, images, slots, size, "bicubic", mean, std, dtype),
    }
    for op, call in calls.items():
        file: Any = importlib.import_module(f"gfnet_kernels.{op}")
        own = file.ROWS, file.COLUMNS, file.WARPS
        captured = {}
        for tile in tiles(own, options.tiny):
            file.ROWS, file.COLUMNS, file.WARPS = tile
            captured[tile] = graphed(times_over(call, 10), device)
        file.ROWS, file.COLUMNS, file.WARPS = own
        seconds = time_in_turn(list(captured.values()), options.rounds, device)
        for tile, column in zip(captured, seconds.T, strict=True):
            way = "{} rows {} columns {} warps {}".format(op, *tile) + " (in the file)" * (tile == own)
            table.add(column / 10 * 1e6, "us", part="blocks", way=way, batch=count, dtype=options.dtype)


def tiles(own: tuple[int, int, int], tiny: bool) -> Sequence[tuple[int, int, int]]:
    others = {(rows, 128, warps) for rows in (4, 8, 16, 32) for warps in (4, 8)}
    return sorted({own} if tiny else {own} | others)


PARTS = {
    "ceilings": ceilings, "ladder": ladder, "latency": latency, "tuning": tuning, "blocks": blocks,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="all without any")
    parser.add_argument("--out", type=Path, required=True, help="the table of rows")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--configs", nargs="+", default=CONFIGS, help="names of conformance fixtures")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, help="the same, for tuning")
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--baselines", type=int, default=512, help="images for what runs all steps")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that the paths run")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"parts: expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    torch.manual_seed(0)
    table = Table(options)
    for name in options.parts or PARTS:
        PARTS[name](options, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
