"""The demo: what early exit saves and costs, on canvases composed of digits held out from training."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gfnet_fast.checkpoints import load
from gfnet_fast.errors import InputError
from gfnet_fast.exits import Budget
from gfnet_fast.figure import draw_exits
from gfnet_fast.files import replacing
from gfnet_fast.hub.names import ASSETS
from gfnet_fast.intervals import wilson
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.macs import static_macs
from gfnet_fast.predictor import Predictor
from gfnet_fast.results import Prediction
from gfnet_fast.text import say

if TYPE_CHECKING:
    from rich.console import Console

    from gfnet_fast.data.digits import DigitsTask

REPEATS = 5
FULL_IMAGES = 128  # the full image costs ten times a whole GFNet
FULL_BATCH = 16  # the fastest of 8, 16, 32 and 64 for 192 px on a CPU
COMPOSED_AT_ONCE = 250


def run_demo(
    output: str | os.PathLike[str],
    *,
    count: int = 1000,
    seed: int = 0,
    model: GFNet | str | os.PathLike[str] | None = None,
    task: DigitsTask | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Classify test canvases with early exit, print what that gains, and draw where images left.

    Parameters
    ----------
    output : path
        The picture, a PNG.
    count, seed : int
        How many canvases, and which.
    model : GFNet or path, optional
        By default ``digits``, which comes with the package.
    task : DigitsTask, optional
        How canvases are composed; by default as the embedded model was trained.
    console : rich Console, optional
        Where the table goes, by default stdout. Progress goes to stderr.

    Returns
    -------
    dict
        Every number that is printed: the conditions, ``rows`` (one for each contender) and ``exits`` (one for
        each step).

    Raises
    ------
    InputError
        On an output that cannot be a PNG, a count below 1, or a task whose canvas is not the model's image.
    """
    from rich.console import Console

    output = Path(output)
    if output.suffix.lower() != ".png" or not output.parent.is_dir() or output.is_dir():
        raise InputError(f"output: expected a .png file in a folder that exists, got {output}")
    if count < 1:
        raise InputError(f"count: expected at least 1, got {count}")
    task = _task() if task is None else task
    model = model if isinstance(model, GFNet) else load(ASSETS / "digits" if model is None else model)
    config = model.config
    if config.image_size != task.canvas or config.classes != 10:
        expected = f"a model of {task.canvas} px images and 10 classes"
        raise InputError(f"model: expected {expected}, got {config.image_size} px and {config.classes}")
    early, whole = Predictor(model), Predictor(model, budget=Budget(max_steps=config.steps))
    first = Predictor(model, budget=Budget(max_steps=1))

    say(f"composing {count} canvases of {task.canvas} px from held-out digits")
    images, labels = _compose(task, count, seed)
    images, labels = images.to(early.device), labels.to(early.device)
    some = images[:FULL_IMAGES]

    say("classifying them (once for the answers, and to warm up)")
    prediction = early.predict_batch(images)
    answers = [
        prediction.class_id,
        first.predict_batch(images).class_id,
        whole.predict_batch(images).class_id,
        full_image(model, some),
    ]
    say(f"timing {REPEATS} rounds, the contenders in turn")
    seconds = _time_in_turn(
        [
            lambda: early.predict_batch(images),
            lambda: first.predict_batch(images),
            lambda: whole.predict_batch(images),
            lambda: full_image(model, some),
        ],
        early.device,
    )

    assert config.macs is not None
    exit_macs = torch.tensor(config.macs, dtype=torch.float64)[prediction.exit_step.cpu() - 1]
    steps = [float(prediction.exit_step.double().mean()), 1.0, float(config.steps), None]
    macs = [float(exit_macs.mean()), float(config.macs[0]), float(config.macs[-1]), float(static_macs(model))]
    names = ["early exit", "glance only", f"all {config.steps} steps", "full image"]
    rows = [
        {
            "name": name,
            "mean_steps": step,
            "mean_macs": cost,
            **_score(answer, labels),
            **_speed(times, len(answer)),
        }
        for name, step, cost, answer, times in zip(names, steps, macs, answers, seconds, strict=True)
    ]
    for row in rows:
        row["ratio"] = row["images_per_second"] / rows[0]["images_per_second"]
    facts = {
        "count": count,
        "seed": seed,
        "canvas": task.canvas,
        "patch_size": config.patch_size,
        "steps": config.steps,
        "device": str(early.device),
        "threads": torch.get_num_threads(),
        "batch": early.batch,
        "full_batch": FULL_BATCH,
        "repeats": REPEATS,
        "rows": rows,
        "exits": _exits(prediction, labels, early.thresholds, config.macs),
        "output": str(output),
    }
    _print(facts, console or Console(highlight=False, markup=False, emoji=False))

    cpu = Prediction(*(t.cpu() for t in prediction))
    picture = draw_exits(
        images.cpu(),
        cpu,
        early.thresholds.cpu(),
        labels.cpu(),
        model.labels,
        patch_size=config.patch_size,
        macs=config.macs,
    )
    with replacing(output) as file:
        picture.save(file, "PNG")
    say(f"wrote {output}: the first images to leave at each step, not chosen")
    return facts


def _task() -> DigitsTask:
    from gfnet_fast.training.digits import TASK

    return TASK


def _compose(task: DigitsTask, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """uint8 ``[count, S, S, 3]`` and labels; grey channels share their memory."""
    from gfnet_fast.data.digits import ClutteredDigits

    data = ClutteredDigits("test", count, seed, task)
    parts = [
        data.images(rows)[..., :1]
        for rows in np.split(np.arange(count), range(COMPOSED_AT_ONCE, count, COMPOSED_AT_ONCE))
    ]
    return torch.cat(parts).expand(-1, -1, -1, 3), data.labels


@torch.no_grad()
def full_image(model: GFNet, images: Tensor) -> Tensor:
    """Classes ``[B]`` that the local backbone's own head gives full uint8 ``[B, S, S, 3]`` images."""
    encoder = model.local_encoder
    return torch.cat(
        [encoder.head(encoder(model.normalise(part))[1]).argmax(1) for part in images.split(FULL_BATCH)]
    )


def _time_in_turn(contenders: list[Callable[[], object]], device: torch.device) -> list[list[float]]:
    """Seconds of every contender in each of REPEATS rounds; all have run before."""
    seconds: list[list[float]] = [[] for _ in contenders]
    for _ in range(REPEATS):
        for run, times in zip(contenders, seconds, strict=True):
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    return seconds


def _score(answer: Tensor, labels: Tensor) -> dict[str, Any]:
    right, count = int((answer == labels[: len(answer)]).sum()), len(answer)
    return {"images": count, "right": right, "accuracy": right / count, "interval": wilson(right, count)}


def _speed(seconds: list[float], count: int) -> dict[str, Any]:
    slow, median, fast = (count / float(np.quantile(seconds, q)) for q in (0.75, 0.5, 0.25))
    return {"images_per_second": median, "quartiles": (slow, fast)}


def _exits(
    prediction: Prediction, labels: Tensor, thresholds: Tensor, macs: tuple[int, ...]
) -> list[dict[str, Any]]:
    right = prediction.class_id == labels
    exits = []
    for step, cost in enumerate(macs, 1):
        here = prediction.exit_step == step
        count, correct = int(here.sum()), int(right[here].sum())
        accuracy = correct / count if count else None
        threshold = float(thresholds[step - 1])
        exits.append(
            {"step": step, "images": count, "accuracy": accuracy, "macs": cost, "threshold": threshold}
        )
    return exits


def _print(facts: dict[str, Any], console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def two(first: str, second: str) -> Text:
        return Text.assemble(first, "\n", (second, "dim"))

    seconds = {"early exit": "default thresholds", "full image": "local backbone [1]"}
    title = (
        f"{facts['count']} cluttered digits, {facts['canvas']} px; glance and crops {facts['patch_size']} px"
    )
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="", pad_edge=False)
    table.add_column("")
    for name in (
        "accuracy, %\n95 % interval",
        "mean\nsteps",
        "mean M\nmult-adds",
        "images/s\nquartiles",
        "speed",
    ):
        table.add_column(name, justify="right")
    for row in facts["rows"]:
        low, high = row["interval"]
        slow, fast = row["quartiles"]
        table.add_row(
            two(row["name"], seconds.get(row["name"], "the same model")),
            two(f"{100 * row['accuracy']:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"),
            "-" if row["mean_steps"] is None else f"{row['mean_steps']:.2f}",
            f"{row['mean_macs'] / 1e6:.1f}",
            two(f"{row['images_per_second']:.0f}", f"{slow:.0f} to {fast:.0f}"),
            f"{row['ratio']:.2f}x",
        )
    console.print(table)
    for exit in facts["exits"]:
        right = "" if exit["accuracy"] is None else f", {100 * exit['accuracy']:.1f} % of them right"
        share = 100 * exit["images"] / facts["count"]
        console.print(f"exit at step {exit['step']}: {exit['images']} images ({share:.1f} %){right}")
    full = facts["rows"][-1]["images"]
    console.print(
        f"\n[1] The local backbone and its own linear head on {full} of the canvases at full size. That "
        "head was trained on patches, not on full images: its accuracy is no fair baseline, its cost is.\n"
        f"Times: {facts['device']}, float32, {facts['threads']} threads, batches of {facts['batch']} "
        f"({facts['full_batch']} for the full image, where it is faster); uint8 canvases in, classes out; "
        f"median of {facts['repeats']} interleaved rounds after one to warm up."
    )
