"""Budgeted batch classification as a throughput benchmark: what each budget gives, and what it costs in time.

Contenders, all on the same model and in turn, round after round:

    engine      this engine at each budget, and "engine, all steps" at none
    eager       per-batch boolean indexing at each budget (:class:`EagerEngine`), and "eager, all steps"
    official    as in the official code: crops cut one by one at numbers read from the host, all T steps
    static      the local backbone alone on whole images, folded and in its faster layout
"""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gfnet_fast import __version__
from gfnet_fast.engine.eager import EagerEngine
from gfnet_fast.engine.engine import Engine
from gfnet_fast.engine.prepare import Prepared, compiled, compiling
from gfnet_fast.errors import BudgetError, GFNetError
from gfnet_fast.evaluation import CHUNK, Progress, chunks, time_in_turn
from gfnet_fast.exits import device_name
from gfnet_fast.intervals import wilson
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.macs import static_macs

KEY = ("model", "way", "budget_macs", "dtype", "prepared", "batch", "images", "machine")
FIELDS = (
    *KEY, "default", "accuracy", "accuracy_low", "accuracy_high", "agreement", "mean_macs", "mean_steps",
    "shares", "images_per_second", "p25_ms", "p50_ms", "p75_ms", "ideal", "rounds", "load", "torch",
    "version", "commit",
)  # fmt: skip
GATE = 0.999
"""Share of the images whose class and exit step have to be those of the trace, in float32."""

Answers = tuple[Tensor, Tensor]
"""Classes and exit steps, int64 ``[n]`` each."""


class BenchmarkError(GFNetError, RuntimeError):
    """A contender does not answer as the trace does: its speed is not worth reporting."""


@dataclass(frozen=True)
class Contender:
    """One way to classify `count` images, the first of all; `budget` in mean multiply-adds, None without."""

    way: str
    run: Callable[[], Answers]
    count: int
    budget: float | None = None
    dtype: str = "float32"
    prepared: str = "folded"
    expected: Answers | None = None


class Options(NamedTuple):
    """How a benchmark runs; see :func:`run_benchmark`."""

    budgets: int = 8
    batch: int = 16
    rounds: int = 5
    baseline_images: int = 128
    compile: bool = False


def run_benchmark(
    model: GFNet,
    images: Tensor,
    labels: Tensor,
    options: Options | None = None,
    *,
    say: Callable[[str], object] = lambda text: None,
    progress: Progress = lambda done: None,
) -> list[dict[str, Any]]:
    """Rows of :data:`FIELDS`, one a contender.

    The gate comes first: in float32 the engine's and the eager engine's classes and exit steps are those of
    the trace. Every contender then runs once to warm up and for its answers, and once in each round.

    Parameters
    ----------
    model : GFNet
        With a calibration whose curve is known, on the device to run on.
    images : uint8 ``[N, S, S, 3]``, in random order, on that device
    labels : int64 ``[N]``
    options : Options
        `budgets` evenly spaced in mean multiply-adds, from the glance alone on, and the model's default;
        `batch`, the largest of the engine and that of the others; `rounds`; `baseline_images`, for the two
        ways whose time a budget does not change (official and static); `compile`, which takes minutes.

    Raises
    ------
    BudgetError
        On a model without a calibrated curve.
    BenchmarkError
        Where a contender fails the gate.
    """
    options = options or Options()
    config, calibration = model.config, model.calibration
    if calibration is None or calibration.mean_macs is None:
        what = f"{config.name}: expected thresholds and their mean costs, got none"
        raise BudgetError(f"{what}; make some with `gfnet-fast calibrate`")
    assert config.macs is not None
    last = len(calibration.thresholds) - 1
    places = np.linspace(0, last, options.budgets + 1)[:-1]
    places = np.unique(np.append(places, calibration.default_row))
    budgets = {
        float(np.interp(place, np.arange(last + 1), calibration.mean_macs)): torch.from_numpy(
            calibration.at(place)
        ).to(model.device)
        for place in places
    }
    own = float(calibration.mean_macs[calibration.default_row])
    default = torch.from_numpy(calibration.thresholds[calibration.default_row].copy()).to(model.device)
    never = torch.full((config.steps,), 1e8, device=model.device)
    say("tracing, for the gate")
    trace = _traced(model, images, progress)

    def expected(row: Tensor, count: int) -> Answers:
        confidence, label = (part[:, :count] for part in trace)
        reached = confidence >= row.cpu()[:, None]
        reached[-1] = True
        step = reached.float().argmax(0)
        return label[step, torch.arange(count)], step + 1

    say("preparing the engines")
    buckets = sorted({max(1, options.batch // 16), max(1, options.batch // 4), options.batch})
    prepared = "compiled" if options.compile else "folded"
    engine = Engine(model, buckets=buckets, compile=options.compile)
    eager = EagerEngine(model, options.batch)
    few = images[: options.baseline_images]
    contenders = []
    for budget, row in budgets.items():
        answers = expected(row, len(images))
        for name, runner, form in (("engine", engine, prepared), ("eager", eager, "plain")):
            run = _predict(runner, images, row)
            contenders.append(Contender(name, run, len(images), budget, prepared=form, expected=answers))
    for name, runner, form in (("engine, all steps", engine, prepared), ("eager, all steps", eager, "plain")):
        answers = expected(never, len(images))
        run = _predict(runner, images, never)
        contenders.append(Contender(name, run, len(images), prepared=form, expected=answers))
    if _has_bfloat16(model.device):
        half = Engine(model, dtype=torch.bfloat16, buckets=buckets, compile=options.compile)
        run = _predict(half, images, default)
        answers = expected(default, len(images))
        contenders.append(Contender("engine", run, len(images), own, "bfloat16", prepared, answers))
    contenders.append(
        Contender("official", official(model, few, options.batch), len(few), prepared="plain",
                  expected=expected(never, len(few)))
    )  # fmt: skip
    contenders.append(
        Contender("static", static(model, few, options.batch, options.compile), len(few), prepared=prepared)
    )

    answers_of = []
    for contender in contenders:
        say(f"checking {contender.way}" + (f" at {contender.budget / 1e6:.2f} M" if contender.budget else ""))
        answers_of.append(contender.run())
        _gate(contender, answers_of[-1])
        progress(contender.count)
    passes = [arithmetic(engine, step) for step in (1, 2)]
    say(f"timing {options.rounds} rounds, {len(contenders)} contenders in turn")

    def timed(contender: Contender) -> Callable[[], object]:
        return lambda: (contender.run(), progress(contender.count))

    times = time_in_turn([*map(timed, contenders), *passes], options.rounds, model.device)
    glance, focus = np.median(times[:, -2:], axis=0) / engine.buckets[-1]
    about = {
        "model": config.name, "batch": options.batch, "machine": device_name(model.device),
        "rounds": options.rounds, "load": _load(), "torch": torch.__version__, "version": __version__,
        "commit": _commit(),
    }  # fmt: skip
    rows = []
    for contender, (classes, exits), seconds in zip(contenders, answers_of, times.T, strict=False):
        count = contender.count
        right = int((classes.cpu() == labels[:count].cpu()).sum())
        low, high = wilson(right, count)
        slow, middle, fast = np.quantile(seconds / count, [0.75, 0.5, 0.25])
        is_static = contender.way == "static"
        steps = exits.cpu().numpy()
        shares = np.bincount(steps, minlength=config.steps + 1)[1:] / count
        macs = float(static_macs(model)) if is_static else float(shares @ np.array(config.macs))
        ideal = glance + (steps.mean() - 1) * focus
        comparable = not is_static and contender.dtype == "float32"
        rows.append({
            **about, "way": contender.way, "dtype": contender.dtype, "prepared": contender.prepared,
            "images": count,
            "budget_macs": "" if contender.budget is None else f"{contender.budget:.0f}",
            "default": "yes" if contender.budget == own else "",
            "accuracy": f"{100 * right / count:.3f}",
            "accuracy_low": f"{100 * low:.3f}", "accuracy_high": f"{100 * high:.3f}",
            "agreement": "" if contender.expected is None
            else f"{_agreement(contender.expected, (classes, exits)):.4f}",
            "mean_macs": f"{macs:.0f}", "mean_steps": "" if is_static else f"{steps.mean():.4f}",
            "shares": "" if is_static else "/".join(f"{share:.4f}" for share in shares),
            "images_per_second": f"{1 / middle:.2f}",
            "p25_ms": f"{1e3 * fast:.4f}", "p50_ms": f"{1e3 * middle:.4f}", "p75_ms": f"{1e3 * slow:.4f}",
            "ideal": f"{ideal / middle:.3f}" if comparable else "",
        })  # fmt: skip
    return rows


def _predict(engine: Engine | EagerEngine, images: Tensor, row: Tensor) -> Callable[[], Answers]:
    def run() -> Answers:
        out = engine.predict(images, row)
        return out.class_id, out.exit_step

    return run


def official(model: GFNet, images: Tensor, batch: int) -> Callable[[], Answers]:
    """Evaluation as in the official code: every step, crops cut one by one at numbers read from the host."""
    size, room = model.config.patch_size, model.config.image_size - model.config.patch_size

    @torch.no_grad()
    def run() -> Answers:
        classes = []
        for chunk in images.split(batch):
            chunk = model.normalise(chunk)
            logits, state = model.glance(chunk)
            for step in range(2, model.config.steps + 1):
                action, state = model.look(state)
                crops = []
                for image, (row, column) in zip(chunk, action, strict=True):
                    top, left = int(row.item() * room), int(column.item() * room)
                    crops.append(image[:, top : top + size, left : left + size])
                logits, state = model.next_step(torch.stack(crops), state, step)
            classes.append(logits.argmax(1))
        labels = torch.cat(classes)
        return labels, torch.full_like(labels, model.config.steps)

    return run


def static(model: GFNet, images: Tensor, batch: int, compile: bool = False) -> Callable[[], Answers]:
    """The local backbone and its own head on whole images: folded, in its faster layout."""
    encoder: Any = Prepared(
        model.local_encoder, model.config.image_size, min(batch, len(images)), torch.float32
    )
    encoder = compiled(encoder) if compile else encoder

    @torch.no_grad()
    def run() -> Answers:
        parts = (model.normalise(chunk) for chunk in images.split(batch))
        classes = [
            model.local_encoder.head(encoder(part.contiguous(memory_format=torch.channels_last))[1]).argmax(1)
            for part in parts
        ]
        labels = torch.cat(classes)
        return labels, torch.ones_like(labels)

    with compiling():
        run()
    return run


def arithmetic(engine: Engine, step: int) -> Callable[[], object]:
    """The networks of a full batch of glances (step 1) or focus passes (2), and nothing else."""
    stages, rows, arena = engine.stages, engine.buckets[-1], engine.arena
    patches = torch.randn(rows, 3, arena.patch, arena.patch, device=arena.device).to(stages.dtype)
    patches = patches.contiguous(memory_format=torch.channels_last)
    maps, policy, memory = (t[:rows].contiguous() for t in (arena.feature_map, arena.policy, arena.memory))
    room = arena.room[:rows].contiguous()
    steps = torch.full((rows,), step, dtype=torch.int32, device=arena.device)

    @torch.no_grad()
    def run() -> None:
        if step == 1:
            stages.classifier.first(stages.encode_glance(patches)[1])
        else:
            stages.look(maps, policy, room)
            stages.classify(stages.encode_focus(patches)[1], memory, steps)

    return run


@torch.no_grad()
def _traced(model: GFNet, images: Tensor, progress: Progress) -> tuple[Tensor, Tensor]:
    """Confidences and classes of all steps, ``[T, N]`` each, on the CPU."""
    parts = []
    for rows in chunks(range(len(images)), CHUNK):
        chunk = images[rows[0] : rows[-1] + 1]
        parts.append(model.trace(model.normalise(chunk)).logits.softmax(-1).max(-1))
        progress(len(chunk))
    return torch.cat([p.values for p in parts], 1).cpu(), torch.cat([p.indices for p in parts], 1).cpu()


def _agreement(expected: Answers, answers: Answers) -> float:
    same = [mine.cpu() == theirs.cpu() for mine, theirs in zip(answers, expected, strict=True)]
    return float((same[0] & same[1]).float().mean())


def _gate(contender: Contender, answers: Answers) -> None:
    if contender.expected is None or contender.dtype != "float32":
        return
    if (same := _agreement(contender.expected, answers)) < GATE:
        wanted = f"class and exit step of the trace for {100 * GATE:g} % of the images"
        raise BenchmarkError(f"{contender.way}: expected {wanted}, got {100 * same:.2f} %")


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _load() -> str:
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""


def _commit() -> str:
    """The checkout's commit, where the package runs from one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def merge_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows into a table in :data:`FIELDS`; those with the same :data:`KEY` are replaced."""
    table: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for row in [*read_csv(path), *rows]:
        table[tuple(str(row[key]) for key in KEY)] = row
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table[key] for key in sorted(table, key=_order))
    part.replace(path)


def read_csv(path: Path) -> Sequence[dict[str, Any]]:
    """The rows of a table that :func:`merge_csv` wrote; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _order(key: tuple[str, ...]) -> tuple[Any, ...]:
    model, way, budget, *rest = key
    return model, way, float(budget or "inf"), *rest
