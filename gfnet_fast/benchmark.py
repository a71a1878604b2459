"""Budgeted batch classification as a throughput benchmark: what each budget gives, and what it costs in time.

Contenders, all on the same model and in turn, round after round:

    engine      this engine at each budget, and "engine, all steps" at none
    eager       per-batch boolean indexing at each budget (:class:`EagerEngine`), and "eager, all steps"
    official    as in the official code: crops cut one by one at numbers read from the host, all T steps
    static      the local backbone alone on whole images

Engine and static backbone run on each of the runtimes, in every precision that it computes in: a
static network on the best of them is what somebody would take instead.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gfnet_fast import __version__
from gfnet_fast.engine.eager import EagerEngine
from gfnet_fast.engine.engine import Engine
from gfnet_fast.engine.prepare import exact_float32
from gfnet_fast.engine.runtimes import runtime_of, runtimes
from gfnet_fast.errors import BudgetError, GFNetError, InputError, shown
from gfnet_fast.evaluation import CHUNK, Array, time_in_turn
from gfnet_fast.exits import ALWAYS, NEVER, Calibration, device_name, exit_steps
from gfnet_fast.exits.path import position_of
from gfnet_fast.exits.rule import Floats
from gfnet_fast.intervals import wilson
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.macs import static_macs
from gfnet_fast.pool import SHORT
from gfnet_fast.tables import check_table, merge_rows
from gfnet_fast.ways import Answers, arithmetic, official, predict, static, times_over, whole_in_int8

RUN = ("model", "machine", "batch", "data")
"""What rows of one run have in common; a later run takes their place."""
FIELDS = (
    "model", "way", "budget_macs", "dtype", "runtime", "batch", "images", "machine", "data", "default",
    "accuracy", "accuracy_low", "accuracy_high", "agreement", "mean_macs", "mean_steps", "shares",
    "images_per_second", "p25_ms", "p50_ms", "p75_ms", "ideal", "rounds", "load", "torch", "version",
    "commit",
)  # fmt: skip
GATE = 0.999
"""Share of the images whose class and exit step have to be those of the trace, in float32."""


class BenchmarkError(GFNetError, RuntimeError):
    """A contender does not answer as the trace does: its speed is not worth reporting."""


@dataclass(frozen=True, eq=False)
class Contender:
    """One way to classify the first `count` images; `thresholds` None for what has no exits and no steps.

    `budget` is in mean multiply-adds, None for all steps; `default` says that it is the model's own.
    """

    way: str
    run: Callable[[], Answers]
    count: int
    dtype: str
    runtime: str
    budget: float | None = None
    default: bool = False
    thresholds: Floats | None = None

    def __str__(self) -> str:
        at = "" if self.budget is None else f" at {self.budget / 1e6:.2f} M"
        return f"{self.way}{at} ({self.dtype}, {self.runtime})"


class Options(NamedTuple):
    """How a benchmark runs.

    budgets : evenly spaced in mean multiply-adds, from the glance alone on; the model's default is one more
    batch : the largest of every contender
    rounds : in each of which every contender has its turn
    baseline_images : for the ways that take the same time for every image (official and static)
    runtimes : names of those that are compared
    """

    budgets: int = 8
    batch: int = 64
    rounds: int = 5
    baseline_images: int = 128
    runtimes: tuple[str, ...] = ("torch",)


@exact_float32()
def run_benchmark(
    model: GFNet,
    images: Tensor,
    labels: Tensor,
    options: Options | None = None,
    *,
    say: Callable[[str], object] = lambda text: None,
) -> list[dict[str, Any]]:
    """Rows of :data:`FIELDS`, one a contender.

    The gate comes first: in float32, with TF32 off for all of it, the engines' classes and exit steps are
    those of the trace. Every
    contender then runs once to warm up and for its answers, and once in each round.

    Parameters
    ----------
    model : GFNet
        With a calibration whose curve is known, on the device to run on.
    images : uint8 ``[N, H, W, 3]``, in random order, on that device
    labels : int64 ``[N]``
    options : Options
    say : is told what is going on

    Raises
    ------
    BudgetError
        On a model without a calibrated curve.
    BenchmarkError
        Where a contender fails the gate.
    """
    options = options or Options()
    calibration = model.calibration
    if calibration is None or calibration.mean_macs is None:
        what = f"{model.config.name}: expected thresholds and their mean costs, got none"
        raise BudgetError(f"{what}; make some with `gfnet-fast calibrate`")
    say("tracing, for the gate")
    trace = _traced(model, images)
    say("preparing the contenders")
    contenders, engine = _contenders(model, images, calibration, options)
    answers, agreements = [], []
    for contender in contenders:
        say(f"checking {contender}")
        answers.append(contender.run())
        agreements.append(_agreement(trace, contender, answers[-1]))
        _gate(contender, agreements[-1])
        if contender.way == "official":  # it gives the trace's classes, and is timed on a part of the images
            answers[-1] = trace[1][-1], torch.full((len(images),), model.config.steps)
    say(f"timing {options.rounds} rounds, {len(contenders)} contenders in turn")
    largest = engine.buckets[-1]
    passes = max(1, len(images) // largest)  # as many as the engine's glances: a moment is not a measure
    pure = [times_over(arithmetic(engine, step), passes) for step in (1, 2)]
    runs = [*(contender.run for contender in contenders), *pure]
    times = time_in_turn(runs, options.rounds, model.device)
    glance, focus = np.median(times[:, -2:], axis=0) / (passes * largest)
    about = {
        "model": model.config.name, "batch": options.batch, "machine": device_name(model.device),
        "data": hashlib.sha256(images.cpu().contiguous().numpy().tobytes()).hexdigest()[:12],
        "rounds": options.rounds, "load": _load(), "torch": torch.__version__, "version": __version__,
        "commit": _commit(),
    }  # fmt: skip
    rows = []
    for contender, answer, same, seconds in zip(contenders, answers, agreements, times.T, strict=False):
        row = {**about, **_accuracy(model, contender, answer, labels), **_speed(seconds / contender.count)}
        if contender.thresholds is not None:
            row["agreement"] = f"{same:.4f}"
        own = contender.dtype == "float32" and contender.runtime in ("plain", options.runtimes[0])
        if contender.thresholds is not None and own:
            ideal = glance + (float(row["mean_steps"]) - 1) * focus
            row["ideal"] = f"{1e3 * ideal / float(row['p50_ms']):.3f}"
        rows.append(dict.fromkeys(FIELDS, "") | row)
    return rows


def _contenders(
    model: GFNet, images: Tensor, calibration: Calibration, options: Options
) -> tuple[list[Contender], Engine]:
    """All contenders, and the engine whose arithmetic is the ideal: float32, on the first runtime."""
    assert calibration.mean_macs is not None
    macs, rows = calibration.mean_macs, np.arange(len(calibration.thresholds))
    wanted = np.linspace(macs[0], macs[-1], options.budgets + 1)[:-1]
    places = np.append([position_of(macs, value) for value in wanted], calibration.default_row)
    budgets: dict[float | None, Floats] = {
        float(np.interp(place, rows, macs)): calibration.at(place) for place in np.unique(places)
    }
    own = float(macs[calibration.default_row])
    buckets = sorted({1, max(1, options.batch // 8), options.batch})
    few = images[: options.baseline_images]
    contenders: list[Contender] = []
    never = np.append(np.full(model.config.steps - 1, NEVER, np.float32), ALWAYS)

    def add(
        way: str, engine: Engine | EagerEngine, at: Mapping[float | None, Floats], dtype: str, runtime: str
    ) -> None:
        for budget, row in at.items():
            run = partial(predict, engine, images, torch.from_numpy(row).to(model.device))
            contenders.append(Contender(way, run, len(images), dtype, runtime, budget, budget == own, row))

    engines = {}
    for runtime, dtype in computed(model, options.runtimes):
        name = str(dtype).removeprefix("torch.")
        engine = Engine(model, dtype=dtype, buckets=buckets, runtime=runtime)
        if dtype == torch.float32:
            engines[runtime] = engine
            add("engine", engine, budgets, name, runtime)
            add("engine, all steps", engine, {None: never}, name, runtime)
        else:
            add("engine", engine, {own: _row_at(model, name, own)}, name, runtime)
        graph = whole_in_int8(model, few) if dtype == torch.int8 else None
        if dtype != torch.int8 or graph is not None:
            whole = static(model, few, options.batch, runtime, dtype, graph)
            contenders.append(Contender("static", whole, len(few), name, runtime))
    eager = EagerEngine(model, options.batch)
    add("eager", eager, budgets, "float32", "plain")
    add("eager, all steps", eager, {None: never}, "float32", "plain")
    crop_by_crop = official(model, few, options.batch)
    contenders.append(Contender("official", crop_by_crop, len(few), "float32", "plain", thresholds=never))
    return contenders, next(iter(engines.values()))


def computed(model: GFNet, names: Iterable[str]) -> list[tuple[str, torch.dtype]]:
    """Runtimes, each with the precisions that it computes in here; int8 of a model that has such a form.

    Raises DeviceError for one that does not compute in float32 here.
    """
    found = []
    for name in names:
        runtime = runtime_of(name, model.device, torch.float32)
        for dtype in (torch.float32, torch.bfloat16, torch.int8):
            known = dtype != torch.int8 or model.quantised is not None
            if known and runtime.missing(model.device, dtype) is None:
                found.append((name, dtype))
    return found


def quick_runtimes(device: torch.device) -> tuple[str, ...]:
    """Those that are here and prepared in seconds."""
    here = runtimes().items()
    return tuple(name for name, it in here if it.trial <= SHORT and it.missing(device, torch.float32) is None)


def _row_at(model: GFNet, dtype: str, cost: float) -> Floats:
    """Thresholds of a mean cost, found in this precision where there are some."""
    calibration = model.calibration_in(dtype) or model.calibration
    row: Floats = calibration.at(position_of(calibration.mean_macs, cost))
    return row


def _accuracy(model: GFNet, contender: Contender, answer: Answers, labels: Tensor) -> dict[str, Any]:
    """What a contender is, how good it is, and what its mean image costs."""
    classes, exits = (part.cpu() for part in answer)
    config, count = model.config, len(classes)
    right = int((classes == labels[:count].cpu()).sum())
    low, high = wilson(right, count)
    row: dict[str, Any] = {
        "way": contender.way, "dtype": contender.dtype, "runtime": contender.runtime,
        "images": contender.count,
        "budget_macs": "" if contender.budget is None else f"{contender.budget:.0f}",
        "default": "yes" if contender.default else "",
        "accuracy": f"{100 * right / count:.3f}", "accuracy_low": f"{100 * low:.3f}",
        "accuracy_high": f"{100 * high:.3f}",
    }  # fmt: skip
    if contender.thresholds is None:
        return row | {"mean_macs": static_macs(model)}
    shares = np.bincount(exits, minlength=config.steps + 1)[1:] / count
    assert config.macs is not None
    return row | {
        "mean_macs": f"{shares @ np.array(config.macs):.0f}",
        "mean_steps": f"{shares @ np.arange(1, config.steps + 1):.4f}",
        "shares": "/".join(f"{share:.4f}" for share in shares),
    }


def _speed(seconds: Array) -> dict[str, str]:
    """Quartiles over the rounds of seconds an image, and what the median makes a second."""
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    numbers = {
        "p25_ms": 1e3 * low,
        "p50_ms": 1e3 * middle,
        "p75_ms": 1e3 * high,
        "images_per_second": 1 / middle,
    }
    return {name: f"{number:.6g}" for name, number in numbers.items()}


@torch.no_grad()
def _traced(model: GFNet, images: Tensor) -> tuple[Tensor, Tensor]:
    """Confidences and classes of all steps, ``[T, N]`` each, on the CPU."""
    parts = [
        model.trace(model.normalise(part)).logits.softmax(-1).cpu().max(-1) for part in images.split(CHUNK)
    ]
    return torch.cat([p.values for p in parts], 1), torch.cat([p.indices for p in parts], 1)


def _agreement(trace: tuple[Tensor, Tensor], contender: Contender, answer: Answers) -> float:
    """The share of the images with the class and the exit step that the trace has at these thresholds."""
    if contender.thresholds is None:
        return 1.0
    confidence, label = (part[:, : contender.count] for part in trace)
    steps = torch.from_numpy(exit_steps(confidence, contender.thresholds))
    classes, exits = (part.cpu() for part in answer)
    same = (classes == label[steps - 1, torch.arange(contender.count)]) & (exits == steps)
    return float(same.float().mean())


def _gate(contender: Contender, same: float) -> None:
    if contender.dtype == "float32" and same < GATE:
        wanted = f"class and exit step of the trace for {100 * GATE:g} % of the images"
        raise BenchmarkError(f"{contender}: expected {wanted}, got {100 * same:.2f} %")


def _load() -> str:
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""


def _commit() -> str:
    """The checkout's commit, where the package runs from one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def check_csv(path: Path) -> None:
    """Raise InputError where rows cannot be written into a table by :func:`merge_csv`."""
    for number, row in enumerate(check_table(path, FIELDS), 1):
        try:
            _order(row)
        except ValueError:
            got = shown(row["budget_macs"])
            raise InputError(f"{path}: row {number}: budget_macs: expected a number, got {got}") from None


def merge_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a run's rows into a table in :data:`FIELDS`, in place of an earlier run's on the same data."""
    merge_rows(path, RUN, FIELDS, rows, _order)


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    budget = float(row["budget_macs"] or "inf")
    return *(str(row[name]) for name in (*RUN, "way", "dtype", "runtime")), budget
