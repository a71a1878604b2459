"""Passes the scheduler plans a second: python bench/scheduler.py [--repeats N] [--write].

One pass is one image in one launch: admitted, planned, completed and collected, half of the images leaving
at every step, two launches in flight. "c++" drives the library itself and counts processor time, that of an
imagined device included. "python" times the calls through the binding alone; the median round of each stage
counts, because other programs may run meanwhile. The gate comes first: a fuzz run of the same build, every
answer held against a model.
"""

import argparse
import csv
import platform
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from gfnet_fast._scheduler import CostTable, Mode, Plan, Scheduler, Stage, Verdict, capacity_without_waits

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "scheduler.csv"
KEY = ("way", "mode", "bucket", "machine")
FIELDS = (*KEY, "p25_passes_s", "p50_passes_s", "p75_passes_s", "compiler", "python", "numpy", "commit")
BUCKETS = (1, 8, 32, 128, 512)
ROUNDS = 2_000
STEPS = 5


def build(folder: Path) -> None:
    """Configure and build the benchmark and the fuzz run, as a release."""
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-DGFNET_BENCHMARKS=ON", "-DGFNET_TESTS=ON"]
    subprocess.run(configure, check=True, stdout=sys.stderr)
    subprocess.run(
        ["cmake", "--build", str(folder), "--target", "plan_benchmark", "fuzz"], check=True, stdout=sys.stderr
    )


def through_binding(mode: Mode, bucket: int) -> float:
    """Passes a second in a loop in Python, of the scheduler's calls alone and in median rounds."""
    costs = CostTable([(bucket, 1e-3)], [(bucket, 1e-3)])
    capacity = capacity_without_waits(costs)
    scheduler = Scheduler(costs, capacity=capacity, steps=STEPS, mode=mode)
    exits = np.random.default_rng(1).random(4096 + bucket) < 0.5
    deadlines = np.full(capacity, 1e6) if mode == Mode.DEADLINE else None
    flight: deque[Plan] = deque()
    ready = np.zeros((2, 0), np.int32)  # the device's ring: slots, steps taken
    passes = 0
    rounds: dict[Stage, list[float]] = {stage: [] for stage in Stage}
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        scheduler.admit(capacity, 0.0, deadlines)
        while (plan := scheduler.plan(0.0)).verdict is Verdict.LAUNCH:
            flight.append(plan)
        oldest = flight.popleft()
        launch, stage, count = oldest.id, oldest.stage, oldest.count
        slots, steps = oldest.slots, oldest.steps
        planned = time.perf_counter()
        if len(slots):
            rows = np.stack([slots[:count], steps[:count]])
        else:
            rows, ready = ready[:, :count] + ((0,), (1,)), ready[:, count:]
        leaves = exits[launch % 4096 :][:count] | (rows[1] == STEPS)
        left = np.zeros((np.count_nonzero(leaves), 3), np.int32)
        left[:, :2] = rows[:, leaves].T
        if mode is Mode.THROUGHPUT:
            ready = np.concatenate([ready, rows[:, ~leaves]], axis=1)
        ended = time.perf_counter()
        scheduler.complete(launch, left, 0.0)
        scheduler.collect()
        rounds[stage].append(time.perf_counter() - ended + planned - begin)
        passes += count
    return passes / sum(len(times) * median(times) for times in rounds.values() if times)


def measure(folder: Path, repeats: int) -> Iterator[tuple[str, str, int, list[float]]]:
    """Way, mode, bucket, passes a second of each repeat."""
    for mode in Mode:
        for bucket in BUCKETS:
            name = mode.name.lower()
            command = [str(folder / "csrc/bench/plan_benchmark"), name, str(bucket), str(repeats)]
            figures = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            yield "c++", name, bucket, [float(figure) for figure in figures]
            yield "python", name, bucket, [through_binding(mode, bucket) for _ in range(repeats)]


def machine() -> str:
    """Processor, one core of which is used."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def first_line(*command: str) -> str:
    """The first line that a command prints."""
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.partition("\n")[0]


def compiler(folder: Path) -> str:
    """The compiler that CMake chose, and its version."""
    cache = (folder / "CMakeCache.txt").read_text().splitlines()
    path = next(line.partition("=")[2] for line in cache if line.startswith("CMAKE_CXX_COMPILER:"))
    return first_line(path, "--version")


def record(rows: list[dict[str, object]], path: Path) -> None:
    """Merge rows into the table: a row with the same key is replaced."""
    old: list[dict[str, object]] = []
    if path.exists():
        with path.open(newline="") as file:
            old = [dict(row) for row in csv.DictReader(file)]
    table = {tuple(str(row[key]) for key in KEY): row for row in (*old, *rows)}
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--write", action="store_true", help=f"record the rows in {RESULTS.relative_to(ROOT)}"
    )
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build(folder)
        subprocess.run([str(folder / "csrc/tests/fuzz"), "500000"], check=True, stdout=sys.stderr)
        same: dict[str, object] = {
            "machine": machine(),
            "compiler": compiler(folder),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "commit": first_line("git", "rev-parse", "--short", "HEAD"),
        }
        for way, mode, bucket, figures in measure(folder, arguments.repeats):
            p25, p50, p75 = quantiles(figures, n=4) if len(figures) > 1 else figures * 3
            spread = f"({p25 / 1e6:.2f} .. {p75 / 1e6:.2f})"
            print(f"{way:7}{mode:11}{bucket:4}  {p50 / 1e6:6.2f} M passes/s  {spread}", flush=True)
            figures_row = {f"p{p}_passes_s": round(v) for p, v in ((25, p25), (50, p50), (75, p75))}
            rows.append({"way": way, "mode": mode, "bucket": bucket, **same, **figures_row})
    if arguments.write:
        record(rows, RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
