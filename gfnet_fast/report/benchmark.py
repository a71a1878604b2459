"""Rows of a benchmark on a page: accuracy against cost and speed, exits, a ladder, a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gfnet_fast.report.charts import (
    EAGER,
    ENGINE,
    INK,
    OFFICIAL,
    PAPER,
    STATIC,
    Bar,
    add_legend,
    new_figure,
    plain_numbers,
    step_colour,
    svg,
    variable,
)
from gfnet_fast.report.rows import Row, told
from gfnet_fast.text import plain

SECTION = ("model", "machine", "batch", "data")
COLOURS = {"engine": ENGINE, "eager": EAGER, "official": OFFICIAL, "static": STATIC}
LADDER = (
    ("official", "the official way: all steps, crop by crop"),
    ("eager, all steps", "crops cut from uint8, a batch at once"),
    ("eager", "images leave, batch by batch"),
    ("engine", "steps share full batches, batch norms folded"),
)
COLUMNS = (
    "contender", "budget, M", "mean M multiply-adds", "mean steps", "accuracy, % (95 %)", "images/s",
    "ms an image, quartiles", "of the ideal", "as the trace", "images",
)  # fmt: skip


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each model, machine, batch and data set."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(told(row, SECTION).values()), []).append(row)
    return list(found.values())


def section(rows: Sequence[Row], number: int) -> dict[str, Any]:
    """What the page says of one group."""
    return {
        "facts": told(rows[0], (*SECTION, "torch", "version", "commit")),
        "charts": [
            ("Accuracy against multiply-adds", _curve(rows, "mean_macs", 1e6, number)),
            ("Accuracy against throughput", _curve(rows, "images_per_second", 1, number)),
        ],
        "exits": _exits(rows),
        "ladder": _ladder(rows),
        "columns": COLUMNS,
        "table": [_cells(row) for row in rows],
    }


WIDE = 8
AXES = {"mean_macs": "mean multiply-adds an image, millions", "images_per_second": "images a second"}


def _curve(rows: Sequence[Row], key: str, unit: float, number: int) -> str:
    series: dict[str, list[Row]] = {}
    for row in rows:
        series.setdefault(_name(row), []).append(row)
    figure, axes = new_figure()
    for name, points in series.items():
        points = sorted(points, key=lambda row: float(row["mean_macs"]))
        x = [float(row[key]) / unit for row in points]
        y = [float(row["accuracy"]) for row in points]
        colour = _colour(points[0])
        if points[0]["way"] == "static":  # its head was not trained for full images: only its cost counts
            axes.axvline(x[0], color=colour, linestyle=":", label=f"{name}: cost only")
            continue
        line = len(points) > 1
        marker = "o" if str(points[0].get("dtype")) == "float32" else "D"
        looks: Any = {"color": colour, "markersize": 4, "markerfacecolor": colour if line else PAPER}
        axes.plot(x, y, marker=marker, linewidth=1.5 if line else 0, label=name, **looks)
    costs = [float(row["mean_macs"]) for row in rows]
    if key == "mean_macs" and 0 < WIDE * min(costs) < max(costs):  # a full image is far from the rest
        axes.set_xscale("log")
        plain_numbers(axes)
    axes.set_xlabel(AXES[key])
    axes.set_ylabel("accuracy, %")
    add_legend(figure, axes)
    return svg(figure, f"{key}-{number}", f"Accuracy against {AXES[key]}")


def _exits(rows: Sequence[Row]) -> list[Bar]:
    """Where images leave at each budget of the engine, from the cheapest."""
    engine = [row for row in rows if row["way"] == "engine" and row.get("dtype") == "float32"]
    engine.sort(key=lambda row: float(row["mean_macs"]))
    bars = []
    for row in engine:
        shares = [100 * float(share) for share in str(row["shares"]).split("/")]
        parts = [(share, variable(step_colour(step))) for step, share in enumerate(shares, 1)]
        name = f"{float(row['mean_macs']) / 1e6:.2f}{' *' if row.get('default') else ''}"
        bars.append(Bar(name, parts, " / ".join(f"{share:.0f}" for share in shares)))
    return bars


def _ladder(rows: Sequence[Row]) -> list[Bar]:
    """What each technique adds to the one before."""
    rungs = [(text, row) for way, text in LADDER for row in rows if _rung(row, way)]
    seen = {id(row) for _, row in rungs}
    own = [row for row in rows if row["way"] == "engine" and row.get("default") and id(row) not in seen]
    rungs += [("in {dtype}, {runtime}".format(**told(row, ("dtype", "runtime"))), row) for row in own]
    rungs += [("static: the backbone on the full image", row) for row in rows if row["way"] == "static"]
    speeds = [float(row["images_per_second"]) for _, row in rungs]
    base = next((float(row["images_per_second"]) for _, row in rungs if row["way"] == "official"), None)
    bars = []
    for (text, row), speed in zip(rungs, speeds, strict=True):
        times = "" if base is None else f", {speed / base:.2f} x"
        accuracy = "" if row["way"] == "static" else f", {float(row['accuracy']):.1f} %"
        width = 100 * speed / max(*speeds, 1e-9)
        bars.append(Bar(text, [(width, variable(_colour(row)))], f"{speed:.0f}{times}{accuracy}"))
    return bars


def _rung(row: Row, way: str) -> bool:
    """Whether a row is this rung: without a budget, or at the model's own, in float32, in torch."""
    simple = row.get("dtype") == "float32" and row.get("runtime") in ("plain", "torch")
    return row["way"] == way and simple and bool(row.get("default") or not row.get("budget_macs"))


def _name(row: Row) -> str:
    """What a curve or a point is called; what goes without saying is left out."""
    way, runtime, dtype = told(row, ("way", "runtime", "dtype")).values()
    return f"{way} ({', '.join(part for part in (runtime, dtype.replace('float32', '')) if part)})"


def _colour(row: Row) -> str:
    return COLOURS.get(str(row["way"]).split(",")[0], INK)


def _cells(row: Row) -> list[str]:
    """One line of the table."""

    def shown(key: str, form: str, scale: float = 1) -> str:
        return format(float(row[key]) * scale, form) if row.get(key) not in (None, "") else ""

    spread = f"{shown('p25_ms', '.3f')} / {shown('p50_ms', '.3f')} / {shown('p75_ms', '.3f')}"
    star = " *" if row.get("default") else ""
    return [
        _name(row), shown("budget_macs", ".2f", 1e-6) + star, shown("mean_macs", ".2f", 1e-6),
        shown("mean_steps", ".2f"),
        f"{shown('accuracy', '.2f')} ({shown('accuracy_low', '.1f')} to {shown('accuracy_high', '.1f')})",
        shown("images_per_second", ".0f"), spread, shown("ideal", ".0%"), shown("agreement", ".2%"),
        plain(str(row.get("images", ""))),
    ]  # fmt: skip
