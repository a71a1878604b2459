"""Time the engine against what it replaces: python bench/engine.py [--config NAME] [--images N] [--write].

One process, one set of images, one model (random weights of the conformance fixtures). The gate comes first:
in float32 the engine's class and exit step equal those of the trace for 98 % of the images. (A crop's place
that lies within rounding of a whole pixel falls on the next one, and on random images one pixel's shift is
another image.) Then all contenders are timed in turn, round after round, so that a busy moment hits them
alike.

    engine       this engine, throughput mode          eager      per-batch boolean indexing, plain torch
    official     crops one by one, two host reads a    always-T   this engine without an exit
                 crop, all T steps, plain torch        static     one backbone at full size, prepared as well

On a GPU `static` and the arithmetic of `ideal` are captured graphs, the images lie on the device, and every
turn ends with a wait for it. TF32 is off for the gate and, with --dtype float32, for all contenders.

A row carries the milliseconds an image (quartiles), how many times as fast as `official` it is, the mean
passes, `ideal` (the mean passes at the time of one prepared pass of the network's own arithmetic, policy,
encoder and classifier, in a full batch, as a share of the time taken) and `agreement`: the share of images
with the class and the exit step of the float32 trace. The policy is part of every pass of the ideal; the
engine runs it only for images that go on, so that a little more than 100 % is possible.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import expected  # noqa: E402
from fixtures import config_of, images_of, model_of, steps_of  # noqa: E402
from measuring import (  # noqa: E402
    agreement,
    machine,
    shared_thresholds,
    sized,
    static_graphed,
)
from rows import commit  # noqa: E402
from tasks import Task  # noqa: E402

from gfnet_fast.engine.capture import captured  # noqa: E402
from gfnet_fast.engine.eager import EagerEngine  # noqa: E402
from gfnet_fast.engine.engine import Engine  # noqa: E402
from gfnet_fast.engine.prepare import exact_float32  # noqa: E402
from gfnet_fast.evaluation import time_in_turn  # noqa: E402
from gfnet_fast.tables import merge_rows  # noqa: E402
from gfnet_fast.ways import arithmetic, official, static, times_over  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "engine.csv"
KEY = ("config", "share", "batch", "dtype", "runtime", "way", "machine")
FIELDS = (
    *KEY, "p25_ms", "p50_ms", "p75_ms", "times", "passes", "ideal", "agreement", "images", "load",
    "torch", "commit",
)  # fmt: skip
SHARES = (0.25, 0.5, 1.0)
BATCHES = (128, 32, 512)
ROUNDS = 5


def tasks(options: argparse.Namespace) -> list[Task]:
    """Rows of each model at each batch; compiled ones only at the first, since that takes minutes."""
    batches = BATCHES if options.runtime == "torch" else BATCHES[:1]
    own = argparse.Namespace(**vars(options) | {"shares": SHARES, "rounds": min(options.rounds, ROUNDS)})
    counts = options.images, options.baselines
    return [
        Task(
            f"engine {config}, batch {batch}",
            partial(record, own, config, batch),
            expected.engine_rows(config_of(config), *counts, batch, ROUNDS, len(SHARES))
            + (options.runtime == "inductor") * expected.COMPILING["engine"],
        )
        for batch in batches
        for config in options.configs
    ]


def record(options: argparse.Namespace, config: str, batch: int) -> None:
    """Merge the rows of one model and batch into the folder's table."""
    given = sized(argparse.Namespace(**vars(options) | {"batch": batch, "config": config}))
    with exact_float32() if given.dtype == "float32" else nullcontext():
        merge_rows(given.out / "engine.csv", KEY, FIELDS, measure(given))


def agreed_with(trace: Any, row: Any, engine: Any, images: Any) -> tuple[float, float]:
    out = engine.predict(images, row)
    return agreement(trace, row, out.class_id, out.exit_step)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="resnet50_96_T5", help="name of a conformance fixture")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=256, help="for the engine")
    parser.add_argument("--batch", type=int, default=64, help="largest bucket, and the other ways' batch")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument(
        "--runtime", default="torch", help="of the prepared ways: torch, inductor or openvino"
    )
    parser.add_argument("--baselines", type=int, default=64, help="images for the others")
    parser.add_argument("--write", action="store_true", help="merge the rows into the results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the table that --write merges into")
    options = parser.parse_args()
    with exact_float32() if options.dtype == "float32" else nullcontext():
        rows = measure(options)
    if options.write:
        merge_rows(options.results, KEY, FIELDS, rows)
    return 0


def measure(options: argparse.Namespace) -> list[dict[str, object]]:
    """The gate, then a row a contender."""
    dtype, device = getattr(torch, options.dtype), torch.device(options.device)
    model = model_of(options.config, device)
    images = images_of(model.config.canvas, options.images, device)
    few = images[: options.baselines]
    trace = steps_of(options.config, options.images)
    # To compile a bucket on a GPU takes minutes.
    small = (
        set[int]()
        if options.runtime == "inductor" and device.type == "cuda"
        else {1, max(1, options.batch // 8)}
    )
    buckets = sorted({*small, options.batch})
    engine = Engine(model, dtype=dtype, buckets=buckets, runtime=options.runtime)
    eager, steps = EagerEngine(model, options.batch), model.config.steps
    whole = static if device.type == "cpu" else static_graphed
    passes = max(1, len(images) // options.batch)  # for as long as the engine: a moment is not a measure
    pure = times_over(captured(arithmetic(engine, 2), device), passes)
    # way, share of images that exit -> what runs, for how many images, and its mean passes
    ways: dict[tuple[str, float], tuple[Callable[[], Any], int, float]] = {
        ("arithmetic", 0): (pure, passes * options.batch, 1),
        ("official", 0): (official(model, few, options.batch), len(few), steps),
        ("always-T", 0): (partial(engine.predict, few, torch.full((steps,), 1e8)), len(few), steps),
        ("static", 0): (whole(model, few, options.batch, options.runtime, dtype), len(few), 1),
    }
    agreed: dict[float, float] = {}
    for share in options.shares:
        row = shared_thresholds(trace, share)
        agreed[share], passes = agreed_with(trace, row, engine, images)
        if dtype == torch.float32 and agreed[share] < 0.98:
            raise SystemExit(
                f"gate: expected the trace's class and exit step, got {agreed[share]:.4f} of them"
            )
        ways["engine", share] = partial(engine.predict, images, row), len(images), passes
        ways["eager", share] = (
            partial(eager.predict, few, row),
            len(few),
            agreed_with(trace, row, eager, few)[1],
        )
    times = time_in_turn([run for run, _, _ in ways.values()], options.rounds, model.device)
    quartiles = {
        key: np.quantile(taken, [0.25, 0.5, 0.75]) / count * 1e3
        for (key, (_, count, _)), taken in zip(ways.items(), times.T, strict=True)
    }
    one_pass, baseline = quartiles["arithmetic", 0][1], quartiles["official", 0][1]
    about = {
        "config": options.config, "batch": options.batch, "dtype": options.dtype,
        "runtime": options.runtime, "images": options.images,
        "machine": machine(device), "torch": torch.__version__,
        "load": Path("/proc/loadavg").read_text().split()[0],
        "commit": commit(),
    }  # fmt: skip
    rows: list[dict[str, object]] = []
    for (way, share), (_, _, passes) in ways.items():
        low, middle, high = quartiles[way, share]
        mine = way == "engine"
        value: dict[str, object] = {
            "share": share or "", "way": way, "p25_ms": f"{low:.3f}", "p50_ms": f"{middle:.3f}",
            "p75_ms": f"{high:.3f}", "times": f"{baseline / middle:.2f}", "passes": f"{passes:.3f}",
            "ideal": f"{passes * one_pass / middle:.3f}" if mine else "",
            "agreement": f"{agreed[share]:.4f}" if mine else "",
        }  # fmt: skip
        line = (
            "{share!s:5} {way:10} {p50_ms:>9} ms  x {times:>5}  passes {passes}  ideal {ideal}  {agreement}"
        )
        print(line.format(**value))
        rows.append(value | about)
    return rows


if __name__ == "__main__":
    sys.exit(main())
