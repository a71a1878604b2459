"""Time the engine against what it replaces: python bench/engine.py [--config NAME] [--images N] [--write].

One process, one set of images, one model (random weights of the conformance fixtures). The gate comes first:
in float32 the engine's class and exit step equal those of the trace. Then all contenders are timed in turn,
round after round, so that a busy moment hits them alike.

    engine       this engine, throughput mode          eager      per-batch boolean indexing, plain torch
    official     crops one by one, two host reads a    always-T   this engine without an exit
                 crop, all T steps, plain torch        static     one prepared backbone at full size

A row carries the milliseconds an image (quartiles), how many times as fast as `official` it is, the mean
passes, `ideal` (the mean passes at the time of one prepared pass of the network's own arithmetic in a full
batch, as a share of the time taken) and `agreement`: the share of images with the class and the exit step of
the float32 trace.
"""

import argparse
import csv
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gfnet_fast.checkpoints import load  # noqa: E402
from gfnet_fast.engine.eager import EagerEngine  # noqa: E402
from gfnet_fast.engine.engine import Engine  # noqa: E402
from gfnet_fast.engine.prepare import Prepared, compiled, compiling  # noqa: E402
from gfnet_fast.model.gfnet import GFNet, Trace  # noqa: E402
from tests.conftest import conformance_fixture, random_images  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "engine.csv"
KEY = ("config", "share", "batch", "dtype", "prepared", "way", "machine")
FIELDS = (
    *KEY, "p25_ms", "p50_ms", "p75_ms", "times", "passes", "ideal", "agreement", "images", "load",
    "torch", "commit",
)  # fmt: skip
SHARES = (0.25, 0.5, 1.0)
Way = Callable[[Tensor], Any]


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


def official(model: GFNet) -> Way:
    """Evaluation as in the official code: every step, crops cut one by one at numbers read from the host."""
    size, room = model.config.patch_size, model.config.image_size - model.config.patch_size

    @torch.no_grad()
    def run(images: Tensor) -> list[Tensor]:
        images = model.normalise(images)
        logits, state = model.glance(images)
        found = [logits]
        for step in range(2, model.config.steps + 1):
            action, state = model.look(state)
            crops = []
            for image, (row, column) in zip(images, action, strict=True):
                top, left = int(row.item() * room), int(column.item() * room)
                crops.append(image[:, top : top + size, left : left + size])
            logits, state = model.next_step(torch.stack(crops), state, step)
            found.append(logits)
        return found

    return run


def static(model: GFNet, batch: int, dtype: torch.dtype, compile: bool) -> Way:
    """The backbone alone on whole images: folded, in its faster layout."""
    encoder: Any = Prepared(model.local_encoder, model.config.image_size, batch, dtype)
    encoder = compiled(encoder) if compile else encoder

    @torch.no_grad()
    def run(images: Tensor) -> None:
        images = model.normalise(images).to(dtype, memory_format=torch.channels_last)
        for chunk in images.split(batch):
            encoder(chunk)

    return run


def arithmetic(engine: Engine) -> Callable[[], object]:
    """One focus pass in a full batch: policy, encoder and classifier, and nothing else."""
    stages, rows, arena = engine.stages, engine.buckets[-1], engine.arena
    patches = torch.randn(rows, 3, arena.patch, arena.patch).to(stages.dtype)
    patches = patches.contiguous(memory_format=torch.channels_last)
    maps, policy, memory = (t[:rows].contiguous() for t in (arena.feature_map, arena.policy, arena.memory))
    room, steps = arena.room[:rows].contiguous(), torch.full((rows,), 2, dtype=torch.int32)

    @torch.no_grad()
    def run() -> None:
        stages.look(maps, policy, room)
        stages.classify(stages.encode_focus(patches)[1], memory, steps)

    return run


def agreement(model: GFNet, trace: Trace, images: Tensor, row: Tensor, engine: Any) -> tuple[float, float]:
    """Share of the images with the trace's class and exit step, and the mean passes."""
    confidence, label = trace.logits.softmax(-1).max(-1)
    reached = confidence >= row[:, None]
    reached[-1] = True
    step = reached.float().argmax(0) + 1
    out = engine.predict(images, row)
    same = (out.exit_step == step) & (out.class_id == label[step - 1, torch.arange(len(images))])
    return float(same.float().mean()), float(out.exit_step.float().mean())


def time_in_turn(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each round of each way; the first round warms up and does not count.

    On one thread these are the processor's seconds, so that neighbours take nothing from them but caches.
    """
    samples: dict[str, list[float]] = {name: [] for name in ways}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for turn in range(rounds + 1):
        for name, run in ways.items():
            begin = clock()
            run()
            if turn:
                samples[name].append(clock() - begin)
    return samples


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
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32, help="largest bucket, and the other ways' batch")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="compile the prepared ways; takes minutes")
    parser.add_argument("--baselines", type=int, default=32, help="images for the others, a full batch")
    parser.add_argument("--write", action="store_true", help=f"merge the rows into {RESULTS.name}")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    with TemporaryDirectory() as folder:
        model = load(conformance_fixture(options.config, Path(folder)).path)
    images = random_images(options.images, model.config.image_size)
    trace = Trace(
        *(
            torch.cat(t, 1)
            for t in zip(*(model.trace(model.normalise(i)) for i in images.split(32)), strict=True)
        )
    )
    engine = Engine(model, dtype=dtype, buckets=(options.batch,), compile=options.compile)
    eager, few = EagerEngine(model, options.batch), images[: options.baselines]
    with torch.no_grad(), compiling():
        whole = static(model, min(options.batch, options.baselines), dtype, options.compile)
        whole(few)
    never = torch.full((model.config.steps,), 1e8)
    plain, one_pass = official(model), arithmetic(engine)
    commit = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    about = {
        "config": options.config, "batch": options.batch, "dtype": options.dtype,
        "prepared": "compiled" if options.compile else "folded", "images": options.images,
        "machine": machine(), "torch": torch.__version__,
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
    }  # fmt: skip
    rows: list[dict[str, object]] = []
    for share in options.shares:
        row = shared_thresholds(trace, share)
        same, passes = agreement(model, trace, images, row, engine)
        if dtype == torch.float32 and same < 1:
            raise SystemExit(f"gate: expected the trace's class and exit step for all images, got {same:.4f}")
        ways: dict[str, Callable[[], object]] = {
            "engine": partial(engine.predict, images, row),
            "arithmetic": one_pass,
            "eager": partial(eager.predict, images, row),
            "official": lambda: plain(few),
            "always-T": lambda: engine.predict(few, never),
            "static": lambda: whole(few),
        }
        per = {"engine": len(images), "eager": len(images), "arithmetic": engine.buckets[-1]}
        timed = time_in_turn(ways, options.rounds)
        middle = {name: quantiles(t, n=4)[1] / per.get(name, len(few)) * 1e3 for name, t in timed.items()}
        for name, samples in timed.items():
            low, mid, high = (q / per.get(name, len(few)) * 1e3 for q in quantiles(samples, n=4))
            mean = {"engine": passes, "eager": passes, "arithmetic": 1.0, "static": 1.0}
            value: dict[str, object] = {
                "share": share, "way": name, "p25_ms": f"{low:.3f}", "p50_ms": f"{mid:.3f}",
                "p75_ms": f"{high:.3f}", "times": f"{middle['official'] / mid:.2f}",
                "passes": f"{mean.get(name, model.config.steps):.3f}",
                "ideal": f"{passes * middle['arithmetic'] / mid:.3f}" if name == "engine" else "",
                "agreement": f"{same:.4f}" if name == "engine" else "",
                "load": Path("/proc/loadavg").read_text().split()[0],
            }  # fmt: skip
            print(
                "{share} {way:10} {p50_ms:>9} ms  x {times}  passes {passes}  ideal {ideal}".format(**value)
            )
            rows.append(value | about)
        if options.write:
            record(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
