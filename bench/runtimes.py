"""Runtimes and precisions beside each other: python bench/runtimes.py [--config NAME] [--batch N] [--write].

For one model (random weights of the conformance fixtures) and one set of images, in turn, round after round:

    official   crops one by one, two host reads a crop, all T steps, plain torch
    static     the local backbone alone at full size, on each runtime in each precision
    pass       that backbone on patches alone, likewise, in the engine's large or middle batches: the faster
    engine     this engine, likewise, at thresholds at which the images leave in shares p, p^2, ...

`possible`: the engine's mean passes at the time of such a pass, as a share of the time that it takes.
Policy, thumbnails, crops, classifier and queue are what is missing to 1. `times`: how many times as fast as
the static network on the same runtime in the same precision. `agreement`: of class and exit step with the
trace in that precision, float32's for bfloat16. int8 is with all layers in it: random weights have no
accuracy to lose.

With `--latency` an engine in latency mode, one image at a time, and what its stages take.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import gfnet_kernels as gk  # noqa: E402
from fixtures import Steps, config_of, images_of, model_of, steps_of  # noqa: E402
from measuring import agreement, kind, machine, shared_thresholds  # noqa: E402
from rows import commit  # noqa: E402

from gfnet_fast.benchmark import computed  # noqa: E402
from gfnet_fast.engine.engine import Engine  # noqa: E402
from gfnet_fast.engine.int8 import in_int8  # noqa: E402
from gfnet_fast.engine.prepare import best_time, exact_float32  # noqa: E402
from gfnet_fast.engine.runtimes import runtime_of  # noqa: E402
from gfnet_fast.engine.stages import parts_of  # noqa: E402
from gfnet_fast.evaluation import time_in_turn  # noqa: E402
from gfnet_fast.quantisation.model import quantised_model, whole  # noqa: E402
from gfnet_fast.tables import merge_rows  # noqa: E402
from gfnet_fast.ways import official, static, times_over  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "runtimes.csv"
KEY = ("config", "batch", "way", "runtime", "dtype", "machine")
FIELDS = (
    *KEY, "p25_ms", "p50_ms", "p75_ms", "passes", "possible", "times", "agreement", "images", "rounds",
    "load", "torch", "openvino", "commit",
)  # fmt: skip
Ways = dict[tuple[str, str, str], tuple[Callable[[], Any], int]]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="resnet50_96_T5", help="name of a conformance fixture")
    parser.add_argument("--runtimes", nargs="+", default=["torch", "openvino"])
    parser.add_argument("--images", type=int, default=256, help="for the engines")
    parser.add_argument("--baselines", type=int, default=64, help="images for the others")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--write", action="store_true", help="merge the rows into the results")
    options = parser.parse_args()
    with exact_float32():
        rows = latency(options) if options.latency else throughput(options)
    if options.write:
        merge_rows(RESULTS, KEY, FIELDS, rows)
    return 0


def prepared(options: argparse.Namespace) -> tuple[Any, torch.Tensor, list[tuple[str, torch.dtype]]]:
    """The model with an int8 form, where one can be made, the images, and what computes in what."""
    model = model_of(options.config, torch.device("cpu"))
    images = images_of(config_of(options.config).canvas, options.images, torch.device("cpu"))
    if "openvino" in options.runtimes:
        halves = images[::2][:64].split(16), images[1::2][:64].split(16)
        model.quantised = quantised_model(model, *halves, tolerance=float("inf"))
    return model, images, computed(model, options.runtimes)


def traced(model: Any, options: argparse.Namespace, images: torch.Tensor, dtype: torch.dtype) -> Steps:
    if dtype != torch.int8:
        return steps_of(options.config, options.images)
    parts = [
        in_int8(model).trace(model.normalise(part)).logits.softmax(-1).max(-1) for part in images.split(64)
    ]
    return Steps(*(torch.cat([part[i] for part in parts], 1) for i in range(2)))


def throughput(options: argparse.Namespace) -> list[dict[str, object]]:
    """A row a contender."""
    model, images, kinds = prepared(options)
    few, batch, steps = images[: options.baselines], options.batch, model.config.steps
    patch = model.config.patch_size
    ways: Ways = {("official", "plain", "float32"): (official(model, few, batch), len(few))}
    found: dict[tuple[str, str], tuple[float, float]] = {}
    passes = max(1, options.images // batch)
    for runtime, dtype in kinds:
        own, parts = runtime_of(runtime, model.device, dtype), parts_of(model, dtype)
        graph = whole(model, few) if dtype == torch.int8 else None
        job = static(model, few, batch, runtime, dtype, graph)
        ways["static", runtime, kind(dtype)] = job, len(few)
        with torch.no_grad(), own.preparing():
            encoder = own.whole(own.encoder(parts["local_encoder"], (patch, patch), batch, dtype, None))
            one = bare(encoder, batch, patch, own.kept(dtype), passes)
        ways["pass", runtime, kind(dtype)] = one, passes * batch
        buckets = sizes_of(batch)
        engine = Engine(model, dtype=dtype, buckets=buckets, runtime=runtime)
        trace = traced(model, options, images, dtype)
        row = shared_thresholds(trace, options.share)
        out = engine.predict(images, row)
        found[runtime, kind(dtype)] = agreement(trace, row, out.class_id, out.exit_step)
        ways["engine", runtime, kind(dtype)] = partial(engine.predict, images, row), len(images)
    return timed(options, ways, found, steps)


def sizes_of(batch: int) -> list[int]:
    """The engine's batches."""
    return sorted({1, max(1, batch // 8), batch})


def bare(encoder: Any, batch: int, patch: int, dtype: torch.dtype, passes: int) -> Callable[[], None]:
    """An encoder on so many batches of patches; a row may cost less where a batch fits into the caches."""

    @torch.no_grad()
    def run(size: int) -> None:
        for part in patches.split(size):
            encoder(part)

    patches = torch.randn(batch, 3, patch, patch).to(dtype, memory_format=torch.channels_last)
    taken = {size: best_time(partial(run, size), torch.device("cpu"), 1.0) for size in sizes_of(batch)[-2:]}
    return times_over(partial(run, min(taken, key=taken.__getitem__)), passes)


def latency(options: argparse.Namespace) -> list[dict[str, object]]:
    """One image after another, and one launch of each stage, with the parts of a glance that are ours."""
    model, images, kinds = prepared(options)
    ways: Ways = {}
    found: dict[tuple[str, str], tuple[float, float]] = {}
    few, c = images[: options.baselines], model.config
    slot = torch.zeros(1, dtype=torch.int32)
    view = partial(gk.glance, images, slot, c.patch_size, c.glance_filter, c.mean, c.std, torch.float32)
    ways["thumbnail", "plain", "float32"] = times_over(view, 64), 64
    for runtime, dtype in kinds:
        engine = Engine(model, dtype=dtype, mode="latency", buckets=(1,), runtime=runtime)
        trace = traced(model, options, images, dtype)
        row = shared_thresholds(trace, options.share)
        out = engine.predict(few, row)
        found[runtime, kind(dtype)] = agreement(trace, row, out.class_id, out.exit_step)

        def one_by_one(engine: Engine = engine, row: torch.Tensor = row) -> None:
            engine.thresholds = row
            for image in few.split(1):
                engine.predict(image)

        ways["engine", runtime, kind(dtype)] = one_by_one, len(few)
        graph = whole(model, few) if dtype == torch.int8 else None
        ways["static", runtime, kind(dtype)] = static(model, few, 1, runtime, dtype, graph), len(few)
        for name, table in (("glance", engine.costs.glance), ("focus", engine.costs.focus)):
            print(f"{name} launch {runtime} {kind(dtype)} {1e3 * table[0][1]:.3f} ms")
    return timed(
        argparse.Namespace(**vars(options) | {"batch": 1}), ways, found, model.config.steps, "latency "
    )


def timed(
    options: argparse.Namespace,
    ways: Ways,
    found: dict[tuple[str, str], tuple[float, float]],
    steps: int,
    prefix: str = "",
) -> list[dict[str, object]]:
    """Rows of contenders, in turn; `found`: agreement and mean passes of each engine."""
    seconds = time_in_turn([run for run, _ in ways.values()], options.rounds, torch.device("cpu"))
    counts = np.array([count for _, count in ways.values()])
    quartiles = dict(zip(ways, np.quantile(seconds / counts * 1e3, [0.25, 0.5, 0.75], axis=0).T, strict=True))
    import openvino

    about = {
        "config": options.config, "batch": options.batch, "rounds": options.rounds,
        "machine": machine(torch.device("cpu")), "torch": torch.__version__, "openvino": openvino.__version__,
        "load": Path("/proc/loadavg").read_text().split()[0], "commit": commit(),
    }  # fmt: skip
    rows = []
    for (way, runtime, dtype), (low, middle, high) in quartiles.items():
        row: dict[str, object] = dict.fromkeys(FIELDS, "") | about
        row |= {
            "way": prefix + way,
            "runtime": runtime,
            "dtype": dtype,
            "images": ways[way, runtime, dtype][1],
        }
        row |= {"p25_ms": f"{low:.3f}", "p50_ms": f"{middle:.3f}", "p75_ms": f"{high:.3f}"}
        if way == "engine":
            same, passes = found[runtime, dtype]
            row |= {"passes": f"{passes:.3f}", "agreement": f"{same:.4f}"}
            row["times"] = f"{quartiles['static', runtime, dtype][1] / middle:.3f}"
            if ("pass", runtime, dtype) in quartiles:
                row["possible"] = f"{passes * quartiles['pass', runtime, dtype][1] / middle:.3f}"
        elif way == "official":
            row["passes"] = steps
        rows.append(row)
        shown = (f"{name} {row[name]}" for name in ("passes", "possible", "times", "agreement") if row[name])
        print(f"{way:9} {runtime:9} {dtype:9} {middle:8.3f} ms ({low:.3f} to {high:.3f})", *shown, flush=True)
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
