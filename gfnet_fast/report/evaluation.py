"""An evaluation on a page: accuracy by step and budget, exits, classes, confusions, wrong images."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from gfnet_fast.data.labelled import Labelled
from gfnet_fast.errors import InputError
from gfnet_fast.outcome import ClassFigures, Outcome, by_class, confusions, matrix, mistakes, worst
from gfnet_fast.report.charts import ENGINE, INK, Bar, add_legend, new_figure, step_colour, svg, variable
from gfnet_fast.text import plain

MOST_CLASSES, MOST_PICTURES = 30, 36
MOST_CONFUSIONS, BESIDE_A_MATRIX = 30, 12
MATRIX, PART_OF_MATRIX = 20, 12
"""Up to so many classes have one matrix; of more, those of the largest confusions do."""
SHORT_NAME, LONGEST_UPRIGHT = 3, 14
"""Letters of a name that heads a column as it is, and of one that does on end; longer ones have numbers."""
NARROW_NAME = 6
"""Letters of the longest name with which the table of classes fits a telephone."""
LONGEST_SIDE, QUALITY = 208, 80


class Evaluation(NamedTuple):
    """What the page is of.

    model, data : what they are called
    facts : as `gfnet-fast eval --format json` has them
    found : Outcome of N images, `names` of the classes, `patch_size` of the crops
    images : the whole data set; `picked` ``[N]`` says which of it were seen, `paths` its files, if any
    """

    model: str
    data: str
    facts: Mapping[str, Any]
    found: Outcome
    names: Sequence[str]
    patch_size: int
    images: Labelled
    picked: Sequence[int]
    paths: Sequence[Path] | None


def section(of: Evaluation) -> dict[str, Any]:
    """What the page says."""
    figures = of.facts["default"]
    by_label = by_class(of.found)
    pairs = confusions(of.found)
    many = len(by_label) > MOST_CLASSES
    shown = worst(by_label, MOST_CLASSES) if many else by_label
    table = _matrix(of.found, by_label, pairs, of.names)
    listed = pairs[: BESIDE_A_MATRIX if table["whole"] else MOST_CONFUSIONS]
    often = {pair.label: pair for pair in reversed(pairs)}
    return {
        "model": plain(of.model),
        "data": plain(of.data),
        "facts": of.facts,
        "figures": figures,
        "all_macs": of.facts["anytime"][-1]["macs"],
        "chart": _curve(of.facts),
        "leaving": _leaving(figures),
        "classes": [_class(one, often, of.names) for one in shown],
        "long_names": max(len(of.names[one.label]) for one in shown) > NARROW_NAME,
        "class_count": len(by_label),
        "matrix": table,
        "confusions": [
            (_name(of.names, pair.label), _name(of.names, pair.prediction), pair.images) for pair in listed
        ],
        "confusion_count": len(pairs),
        "steps": of.found.steps,
        "pictures": [_picture(of, row) for row in mistakes(of.found)[:MOST_PICTURES]],
    }


def _name(names: Sequence[str], label: int) -> str:
    return plain(names[label])


def _curve(facts: Mapping[str, Any]) -> str:
    """Accuracy against cost: all images at one step, and each where its confidence lets it leave."""
    figure, axes = new_figure()
    if budgeted := sorted(facts["budgeted"], key=lambda row: row["macs"]):
        x, y = [row["macs"] / 1e6 for row in budgeted], [row["accuracy"] for row in budgeted]
        axes.plot(x, y, color=ENGINE, linewidth=1.6, label="early exit, by budget")
    steps, default = facts["anytime"], facts["default"]
    _points(axes, steps, fmt="s:", color=INK, markersize=4, label="all images, by step")
    _points(axes, [default], fmt="o", color=ENGINE, markersize=7, label="early exit, default budget")
    axes.set_xlabel("mean multiply-adds an image, millions")
    axes.set_ylabel("accuracy, %")
    add_legend(figure, axes)
    return svg(figure, "evaluation", "Accuracy against multiply-adds")


def _points(axes: Any, rows: Sequence[Mapping[str, Any]], **looks: Any) -> None:
    accuracy = np.array([row["accuracy"] for row in rows])
    low, high = np.array([row["interval"] for row in rows]).T
    cost = [row["macs"] / 1e6 for row in rows]
    axes.errorbar(cost, accuracy, (accuracy - low, high - accuracy), elinewidth=1, capsize=2, **looks)


def _leaving(figures: Mapping[str, Any]) -> list[Bar]:
    bars = []
    for step, (share, right) in enumerate(zip(figures["shares"], figures["accuracies"], strict=True), 1):
        value = f"{100 * share:.1f} %" + ("" if right is None else f", of them {right:.1f} % right")
        bars.append(Bar(f"step {step}", [(100 * share, variable(step_colour(step)))], value))
    return bars


def _class(one: ClassFigures, often: Mapping[int, Any], names: Sequence[str]) -> dict[str, Any]:
    """A line of the table of classes; `often` is the commonest confusion of each class."""
    low, high = one.interval
    pair = often.get(one.label)
    return {
        "name": _name(names, one.label),
        "images": one.images,
        "right": one.right,
        "recall": None if one.recall is None else 100 * one.recall,
        "low": 100 * low,
        "high": 100 * high,
        "precision": None if one.precision is None else 100 * one.precision,
        "taken": "-" if pair is None else f"{_name(names, pair.prediction)} ({pair.images})",
    }


def _matrix(
    found: Outcome, by_label: Sequence[ClassFigures], pairs: Sequence[Any], names: Sequence[str]
) -> dict[str, Any]:
    """The confusion matrix; of many classes, of those that are confused most."""
    labels = [one.label for one in by_label]
    if whole := len(labels) <= MATRIX:
        picked = labels
    else:
        picked = []
        for pair in pairs:
            both = [label for label in (pair.label, pair.prediction) if label not in picked]
            if len(picked) + len(both) > PART_OF_MATRIX:
                break
            picked += both
        picked.sort()
    if not picked:
        return {"rows": [], "whole": False, "columns": 0, "heads": ""}
    counts = matrix(found, picked)
    if not counts[:, -1].any() and whole:
        counts = counts[:, :-1]
    rows = [
        (
            _name(names, label),
            [(n, _strength(n / max(sum(row), 1)), column == place) for column, n in enumerate(row)],
        )
        for place, (label, row) in enumerate(zip(picked, counts.tolist(), strict=True))
    ]
    longest = max(len(name) for name, _ in rows)
    heads = "names" if longest <= SHORT_NAME else "upright" if longest <= LONGEST_UPRIGHT else "numbers"
    return {"rows": rows, "whole": whole, "columns": counts.shape[1], "heads": heads}


def _strength(share: float) -> float:
    """How opaque the colour of a cell is that has a share of its row; a small one can still be seen."""
    return 0.12 + 0.68 * share**0.6


def _picture(of: Evaluation, row: int) -> dict[str, Any]:
    """A wrong image, read again: as the network saw it, and where it looked."""
    found, number = of.found, of.picked[row]
    step = int(found.exit_steps[row])
    file = None if of.paths is None else plain(os.path.relpath(of.paths[number], of.data))
    try:
        pixels = of.images.images([number])[0].numpy()
        data, height, width = _jpeg(pixels), *pixels.shape[:2]
    except InputError:  # it has gone, or is another one now
        data, height, width = None, 3, 4
    return {
        "data": data,
        "height": height,
        "width": width,
        "patch": of.patch_size,
        "boxes": [(int(y), int(x)) for y, x in found.origins[: step - 1, row]],
        "truth": _name(of.names, int(found.labels[row])),
        "answer": _name(of.names, int(found.predictions[row])),
        "confidence": float(found.confidences[row]),
        "step": step,
        "file": file or f"image {number}",
    }


def _jpeg(pixels: Any) -> str:
    """A small JPEG of uint8 ``[H, W, 3]``, as a data URI."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
