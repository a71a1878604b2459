r"""Loads that no machine here can make, on the real scheduler with an imagined device.

    python -m gfnet_fast.engine.simulation --images 1e8 --devices 8
    python -m gfnet_fast.engine.simulation --images 1e6 --arrivals poisson --load 0.8 --mode latency
    python -m gfnet_fast.engine.simulation --images 1e5 --arrivals bursts --burst 4096 --load 0.5 \
        --mode deadline --allowed-ms 20
    python -m gfnet_fast.engine.simulation --costs costs.json

The scheduler takes images at different steps into one batch ("merged"). The comparison takes a batch at a
time through all its steps, compacts it after each and waits for the outcome before the next ("per batch").
Both draw the same exits at the same costs. ``costs.json`` holds ``{"glance": [[rows, seconds], ...], "focus":
[...]}``; without it a launch costs ``fixed + rows x per-image``: an assumption to play with, no measurement.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gfnet_fast._scheduler import (
    Arrivals,
    CostTable,
    Load,
    Machine,
    Mode,
    Report,
    capacity_without_waits,
    simulate,
    simulate_per_batch,
)
from gfnet_fast.files import read_json


def affine_costs(buckets: Sequence[int], fixed: float, per_image: float) -> CostTable:
    """A cost table where a launch of ``b`` rows takes ``fixed + b * per_image`` seconds in either stage."""
    costs = [(bucket, fixed + bucket * per_image) for bucket in buckets]
    return CostTable(costs, costs)


def read_costs(path: Path) -> CostTable:
    """A measured table: ``{"glance": [[rows, seconds], ...], "focus": [[rows, seconds], ...]}``."""
    table = read_json(path)
    return CostTable(
        *([(int(rows), float(cost)) for rows, cost in table[stage]] for stage in ("glance", "focus"))
    )


def geometric_exits(steps: int, passes: float) -> list[float]:
    """Shares of the images that leave at each step, [steps], geometric, such that the mean is ``passes``."""
    if not 1 <= passes <= steps:
        raise ValueError(f"mean passes: expected 1 to {steps}, the number of steps, got {passes}")
    low, high = -60.0, 60.0  # of log(ratio); the mean rises with it
    position = np.arange(steps)
    for _ in range(200):
        middle = (low + high) / 2
        weights = np.exp(position * middle - max(0.0, middle * (steps - 1)))
        shares = weights / weights.sum()
        low, high = (middle, high) if shares @ (position + 1) < passes else (low, middle)
    return shares.tolist()


def saturated_rate(costs: CostTable, exits: Sequence[float], devices: int) -> float:
    """Images a second if every pass cost its stage's best time per row: what all shares are shares of."""
    glance, focus = (min(cost / rows for rows, cost in stage) for stage in (costs.glance, costs.focus))
    passes = float(np.dot(exits, np.arange(1, len(exits) + 1)))
    return devices / (glance + (passes - 1) * focus)


def row(name: str, report: Report, took: float) -> dict[str, float | int | str]:
    """One line of the result: rates in images a second, shares from 0 to 1, times in milliseconds."""
    return {
        "way": name,
        "images/s": round(report.throughput, 1),
        "ideal": round(report.share_of_ideal, 4),
        "occupancy": round(report.occupancy, 4),
        "padding": round(report.padding, 4),
        "passes": round(report.passes / max(1, report.images), 3),
        "waits": report.waits,
        "p50 ms": round(report.p50 * 1e3, 3),
        "p99 ms": round(report.p99 * 1e3, 3),
        "p99.9 ms": round(report.p999 * 1e3, 3),
        "unanswered": report.unanswered,
        "took s": round(took, 2),
    }


def run(arguments: argparse.Namespace) -> list[dict[str, float | int | str]]:
    """Simulate the merged way and the per-batch way; one row each, the latter per batch size."""
    if arguments.costs:
        costs = read_costs(arguments.costs)
    else:
        costs = affine_costs(arguments.buckets, arguments.fixed_us * 1e-6, arguments.per_image_us * 1e-6)
    exits = arguments.exits or geometric_exits(arguments.steps, arguments.passes)
    rate = arguments.rate or arguments.load * saturated_rate(costs, exits, arguments.devices)
    load = Load(
        int(arguments.images),
        exits,
        arrivals=Arrivals.__members__[arguments.arrivals.upper()],
        rate=rate,
        burst=arguments.burst,
        allowed=arguments.allowed_ms * 1e-3,
        seed=arguments.seed,
    )
    machine = Machine(
        devices=arguments.devices, sync=arguments.sync_us * 1e-6, issue=arguments.issue_us * 1e-6
    )
    linger = arguments.linger_ms * 1e-3
    mode = Mode.__members__[arguments.mode.upper()]
    capacity = arguments.capacity or capacity_without_waits(costs, arguments.in_flight)
    begin = time.perf_counter()
    report = simulate(
        load, machine, costs, capacity=capacity, mode=mode, in_flight=arguments.in_flight, linger=linger
    )
    rows = [row(f"merged, {arguments.mode}", report, time.perf_counter() - begin)]
    for batch in arguments.batches:
        begin = time.perf_counter()
        report = simulate_per_batch(
            load, machine, costs, batch=batch, overlap=arguments.overlap, linger=linger
        )
        rows.append(row(f"per batch of {batch}", report, time.perf_counter() - begin))
    return rows


def table(rows: list[dict[str, float | int | str]]) -> str:
    """The rows as aligned text."""
    cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gfnet_fast.engine.simulation", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--images", type=float, default=1e6)
    add("--devices", type=int, default=1)
    add("--mode", choices=["throughput", "latency", "deadline"], default="throughput")
    add("--arrivals", choices=["at_once", "poisson", "bursts"], default="at_once")
    add("--load", type=float, default=0.8, help="arrival rate as a share of the saturated rate")
    add("--rate", type=float, help="arrival rate in images a second, instead of --load")
    add("--burst", type=int, default=256, help="images per burst")
    add("--allowed-ms", type=float, default=20.0, help="from arrival to deadline")
    add("--steps", type=int, default=5)
    add("--passes", type=float, default=1.84, help="mean steps per image, geometric exits")
    add(
        "--exits",
        type=float,
        nargs="+",
        help="share that leaves at each step, instead of --steps and --passes",
    )
    add("--costs", type=Path, help="measured costs, JSON")
    add("--fixed-us", type=float, default=20.0, help="cost of a launch without --costs: fixed part")
    add("--per-image-us", type=float, default=1.9, help="and part per row")
    add("--buckets", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512])
    add("--batches", type=int, nargs="*", default=[32, 128, 512], help="batch sizes of the per-batch way")
    add("--overlap", type=int, default=1, help="batches that share a device in the per-batch way")
    add("--sync-us", type=float, default=60.0, help="from the end of a launch until its outcome is acted on")
    add("--issue-us", type=float, default=5.0, help="host time per launch")
    add("--in-flight", type=int, default=2)
    add("--capacity", type=int, help="slots per device; default: the least that never waits")
    add("--linger-ms", type=float, default=5.0, help="how long an idle device waits for a batch to fill")
    add("--seed", type=int, default=1)
    add("--json", action="store_true", help="one JSON object per row")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    arguments = parser().parse_args(argv)
    try:
        rows = run(arguments)
    except (ValueError, OSError, KeyError) as error:
        print(f"simulation: {error}", file=sys.stderr)
        return 2
    print("\n".join(map(json.dumps, rows)) if arguments.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
