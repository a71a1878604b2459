"""Choices that only a GPU can settle: python bench/tuning.py [PART ...] --out FOLDER.

    tuning     layout and compiler per backbone, graphs against none, sets of buckets, the policy's share
    blocks     tile sizes of the kernels that read pixels

Rows as in `proof.py`. With `--runtime inductor` only what the compiler concerns.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gfnet_kernels as gk
import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fixtures import CONFIGS, images_of, model_of, steps_of  # noqa: E402
from measuring import Table, parser, run_parts, shared_thresholds, sized, steady  # noqa: E402
from tasks import Task  # noqa: E402

from gfnet_fast._scheduler import Stage  # noqa: E402
from gfnet_fast.engine.capture import captured  # noqa: E402
from gfnet_fast.engine.engine import Engine  # noqa: E402
from gfnet_fast.engine.runtimes import runtime_of  # noqa: E402
from gfnet_fast.evaluation import time_in_turn  # noqa: E402
from gfnet_fast.ways import predict, times_over  # noqa: E402

BACKBONES = (*CONFIGS, "regnety_600m_96_T5", "efficientnet_b2_128_T4", "densenet121_96_T5")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
Run = Callable[[], Any]


BACKBONE, ENGINE, TILES = 15.0, 40.0, 30.0  # seconds that one is expected to take at most, all guesses
COMPILED = 60.0  # a layout's encoder more


def tuning(options: argparse.Namespace) -> list[Task]:
    """Choices that a CPU cannot make; with another runtime than torch only those that it concerns."""
    given = sized(options)
    engines = [
        Task(f"buckets {config}", partial(tune_engine, given, config), ENGINE)
        for config in (options.configs if options.runtime == "torch" else ())
    ]
    seconds = BACKBONE + 2 * COMPILED * (options.runtime != "torch")
    layouts = [
        Task(f"layouts {config}", partial(tune_backbone, given, config), seconds)
        for config in options.backbones
    ]
    return engines + layouts


def blocks(options: argparse.Namespace) -> list[Task]:
    return [] if options.runtime != "torch" else [Task("tiles", partial(time_tiles, sized(options)), TILES)]


def tune_backbone(options: argparse.Namespace, config: str) -> None:
    """Layout and compiler of one encoder on its patches, captured."""
    device, dtype, table = torch.device(options.device), getattr(torch, options.dtype), Table(options)
    model = model_of(config, device)
    size, batch = model.config.patch_size, options.batch
    patches = torch.randn(batch, 3, size, size, device=device).to(dtype, memory_format=torch.channels_last)
    ways: dict[str, Run] = {}
    runtime = runtime_of(options.runtime, device, dtype)
    with torch.no_grad(), runtime.preparing():
        for name, layout in LAYOUTS.items():
            encoder = runtime.encoder(model.local_encoder, (size, size), batch, dtype, layout)
            ways[f"torch, {name}"] = captured(partial(encoder, patches), device)
            if runtime.name != "torch":
                ways[f"{runtime.name}, {name}"] = captured(partial(runtime.whole(encoder), patches), device)
        seconds = time_in_turn(list(ways.values()), options.rounds, device)
    for way, column in zip(ways, seconds.T, strict=True):
        about = {"part": "tuning", "config": config, "way": way, "batch": batch, "dtype": options.dtype}
        table.add(column / batch * 1e6, "us/image", **about)


def tune_engine(options: argparse.Namespace, config: str) -> None:
    """Sets of buckets, at several numbers of images; then what a focus launch takes, and the policy of it."""
    device, dtype, table = torch.device(options.device), getattr(torch, options.dtype), Table(options)
    model, batch = model_of(config, device), options.batch
    images = images_of(model.config.canvas, options.images, device)
    row = shared_thresholds(steps_of(config, options.images), options.share)
    about = {"part": "tuning", "config": config, "dtype": options.dtype, "runtime": "torch"}
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
    arena, rows, device = engine.arena, len(images), images.device
    inputs = [values[:rows].contiguous() for values in (arena.feature_map, arena.policy, arena.room)]
    with steady(engine, images) as at:
        calls: dict[str, Run] = {
            "focus, no graph": partial(at.call, Stage.FOCUS),
            "policy alone": captured(partial(engine.stages.look, *inputs), device),
        }
        if device.type == "cuda":
            calls["focus, graph"] = partial(at.start, Stage.FOCUS)
        seconds = time_in_turn([times_over(call, many) for call in calls.values()], rounds, device) / many
    return dict(zip(calls, seconds.T, strict=True))


def time_tiles(options: argparse.Namespace) -> None:
    """Tiles of the kernels that read pixels; what is in the file is one of them."""
    device, dtype, table = torch.device(options.device), getattr(torch, options.dtype), Table(options)
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
        replayed = {}
        for tile in tiles(own, options.tiny):
            file.ROWS, file.COLUMNS, file.WARPS = tile
            replayed[tile] = captured(call, device, 10)
        file.ROWS, file.COLUMNS, file.WARPS = own
        seconds = time_in_turn(list(replayed.values()), options.rounds, device)
        for tile, column in zip(replayed, seconds.T, strict=True):
            way = "{} rows {} columns {} warps {}".format(op, *tile) + " (in the file)" * (tile == own)
            table.add(column / 10 * 1e6, "us", part="blocks", way=way, batch=count, dtype=options.dtype)


def tiles(own: tuple[int, int, int], tiny: bool) -> Sequence[tuple[int, int, int]]:
    others = {(rows, 128, warps) for rows in (4, 8, 16, 32) for warps in (4, 8)}
    return sorted({own} if tiny else {own} | others)


if __name__ == "__main__":
    own = parser(__doc__)
    own.add_argument("--backbones", nargs="+", default=BACKBONES, help="as --configs, for layouts")
    sys.exit(run_parts(own.parse_args(), own, {"tuning": tuning, "blocks": blocks}))
