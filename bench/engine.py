"""Time the engine against what it replaces: python bench/engine.py [--config NAME] [--images N] [--write].

One process, one set of images, one model (random weights of the conformance fixtures). The gate comes first:
in float32 the engine's class and exit step equal those of the trace; of 99 % of the images where it is
compiled, for thresholds lie midway between two images' confidences, as near as these happen to be. Then all
contenders are timed in turn, round after round, so that a busy moment hits them alike.

    engine       this engine, throughput mode          eager      per-batch boolean indexing, plain torch
    official     crops one by one, two host reads a    always-T   this engine without an exit
                 crop, all T steps, plain torch        static     one backbone at full size, prepared as well

A row carries the milliseconds an image (quartiles), how many times as fast as `official` it is, the mean
passes, `ideal` (the mean passes at the time of one prepared pass of the network's own arithmetic, policy,
encoder and classifier, in a full batch, as a share of the time taken) and `agreement`: the share of images
with the class and the exit step of the float32 trace. The policy is part of every pass of the ideal; the
engine runs it only for images that go on, so that a little more than 100 % is possible.
"""

import argparse
import csv
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gfnet_fast.benchmark import arithmetic, official, static  # noqa: E402
from gfnet_fast.checkpoints import load  # noqa: E402
from gfnet_fast.engine.eager import EagerEngine  # noqa: E402
from gfnet_fast.engine.engine import Engine  # noqa: E402
from gfnet_fast.evaluation import time_in_turn  # noqa: E402
from gfnet_fast.model.gfnet import Trace  # noqa: E402
from tests.conftest import conformance_fixture, random_images  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "engine.csv"
KEY = ("config", "share", "batch", "dtype", "prepared", "way", "machine")
FIELDS = (
    *KEY, "p25_ms", "p50_ms", "p75_ms", "times", "passes", "ideal", "agreement", "images", "load",
    "torch", "commit",
)  # fmt: skip
SHARES = (0.25, 0.5, 1.0)


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


def agreement(trace: Trace, images: Tensor, row: Tensor, engine: Any) -> tuple[float, float]:
    """Share of the images with the trace's class and exit step, and the mean passes."""
    confidence, label = trace.logits[:, : len(images)].softmax(-1).max(-1)
    reached = confidence >= row[:, None]
    reached[-1] = True
    step = reached.float().argmax(0) + 1
    out = engine.predict(images, row)
    same = (out.exit_step == step) & (out.class_id == label[step - 1, torch.arange(len(images))])
    return float(same.float().mean()), float(out.exit_step.float().mean())


def machine() -> str:
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "")
    return f"{name or platform.machine()}, {torch.get_num_threads()} thread(s)"


def record(rows: list[dict[str, object]]) -> None:
    """Merge rows into the table: a row with the same key is replaced."""
    table: dict[tuple[str, ...], dict[str, object]] = {}
    for row in [*(csv.DictReader(RESULTS.open()) if RESULTS.exists() else []), *rows]:
        table[tuple(str(row[key]) for key in KEY)] = dict(row)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table[key] for key in sorted(table))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="resnet50_96_T5", help="name of a conformance fixture")
    parser.add_argument("--images", type=int, default=256, help="for the engine")
    parser.add_argument("--batch", type=int, default=64, help="largest bucket, and the other ways' batch")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="compile the prepared ways")
    parser.add_argument("--baselines", type=int, default=64, help="images for the others")
    parser.add_argument("--write", action="store_true", help=f"merge the rows into {RESULTS.name}")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    with TemporaryDirectory() as folder:
        model = load(conformance_fixture(options.config, Path(folder)).path)
    images = random_images(options.images, model.config.image_size)
    few = images[: options.baselines]
    parts = [model.trace(model.normalise(part)) for part in images.split(32)]
    trace = Trace(*(torch.cat(found, 1) for found in zip(*parts, strict=True)))
    buckets = sorted({1, max(1, options.batch // 8), options.batch})
    engine = Engine(model, dtype=dtype, buckets=buckets, compile=options.compile)
    eager, steps = EagerEngine(model, options.batch), model.config.steps
    # way, share of images that exit -> what runs, for how many images, and its mean passes
    ways: dict[tuple[str, float], tuple[Callable[[], Any], int, float]] = {
        ("arithmetic", 0): (arithmetic(engine, 2), options.batch, 1),
        ("official", 0): (official(model, few, options.batch), len(few), steps),
        ("always-T", 0): (partial(engine.predict, few, torch.full((steps,), 1e8)), len(few), steps),
        ("static", 0): (static(model, few, options.batch, options.compile, dtype), len(few), 1),
    }
    agreed: dict[float, float] = {}
    for share in options.shares:
        row = shared_thresholds(trace, share)
        agreed[share], passes = agreement(trace, images, row, engine)
        if dtype == torch.float32 and agreed[share] < (0.99 if options.compile else 1):
            raise SystemExit(
                f"gate: expected the trace's class and exit step, got {agreed[share]:.4f} of them"
            )
        ways["engine", share] = partial(engine.predict, images, row), len(images), passes
        ways["eager", share] = (
            partial(eager.predict, few, row),
            len(few),
            agreement(trace, few, row, eager)[1],
        )
    times = time_in_turn([run for run, _, _ in ways.values()], options.rounds, model.device)
    quartiles = {
        key: np.quantile(taken, [0.25, 0.5, 0.75]) / count * 1e3
        for (key, (_, count, _)), taken in zip(ways.items(), times.T, strict=True)
    }
    one_pass, baseline = quartiles["arithmetic", 0][1], quartiles["official", 0][1]
    commit = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    about = {
        "config": options.config, "batch": options.batch, "dtype": options.dtype,
        "prepared": "compiled" if options.compile else "folded", "images": options.images,
        "machine": machine(), "torch": torch.__version__,
        "load": Path("/proc/loadavg").read_text().split()[0],
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
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
    if options.write:
        record(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
