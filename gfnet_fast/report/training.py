"""A training run on a page: what was trained, its curves on one time axis, what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from gfnet_fast.errors import shown
from gfnet_fast.report.charts import FAINT, INK, RULE, Bar, add_legend, new_figure, step_colour, svg, variable
from gfnet_fast.report.rows import Row
from gfnet_fast.report.runs import Run
from gfnet_fast.text import plain

STAGES: dict[float, str] = {
    0: "encoders alone",
    1: "classifier, random crops",
    2: "policy",
    3: "classifier, drawn crops",
}
CURVES = {"loss": "loss", "accuracy": "accuracy, %", "reward": "reward"}
POLICIES = {"learned": ("o", "-"), "random": ("s", "--")}
MOST_CLASSES, MOST_MARKERS, MOST_SETTINGS = 40, 60, 100


def section(run: Run, number: int) -> dict[str, Any]:
    """What the page says of one run."""
    parts = stages(run.rows)
    unit, scale = _unit(run.rows)
    charts = [
        (name.capitalize(), _curve(run.rows, parts, name, unit, scale, number))
        for name in CURVES
        if any(_told(row, name) for row in run.rows)
    ]
    policies = run.evaluation.get("policies", {})
    exits = run.evaluation.get("exits")
    return {
        "name": plain(run.name),
        "facts": facts(run.settings),
        "recipe": recipe(run.settings.get("training")),
        "classes": _classes(run.settings.get("classes")),
        "stages": [(f"{stage:g}", what or STAGES.get(stage, "")) for stage, what, _ in parts],
        "charts": charts,
        "heldout": any(_told(row, "heldout") for row in run.rows),
        "finished": bool(run.evaluation),
        "count": plain(str(run.evaluation.get("count", "an unknown number of"))),
        "steps": max((len(steps) for steps in policies.values()), default=0),
        "policies": [(plain(name), [_per_cent(step) for step in steps]) for name, steps in policies.items()],
        "policy_chart": _policies(policies, number) if policies else "",
        "exits": exits,
        "leaving": _leaving(exits) if exits else [],
    }


def stages(rows: Sequence[Row]) -> list[tuple[float, str, list[int]]]:
    """Parts of a run that follow each other: number of the stage, what it trains, its rows."""

    def key(at: int) -> tuple[float, str]:
        return float(rows[at]["stage"]), plain(str(rows[at].get("what") or ""))

    return [(stage, what, list(part)) for (stage, what), part in groupby(range(len(rows)), key)]


def facts(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was trained, on what: pairs of a name and a text, as far as the run says it."""
    model = settings.get("model")
    model = model if isinstance(model, dict) else {}

    def size(value: Any) -> str:
        return f"{value[0]} x {value[1]}" if isinstance(value, list) and len(value) == 2 else str(value)

    found: list[tuple[str, Any]] = [("backbone", model.get("backbone"))]
    if model.get("patch_size") is not None:
        steps, patch, canvas = (model.get(name) for name in ("steps", "patch_size", "image_size"))
        found.append(("looks", f"{steps} of {patch} x {patch} px, on {size(canvas)} px"))
    for name, text in (("train", "training"), ("heldout", "held out"), ("validation", "validation")):
        part = settings.get(name)
        found.append((f"{text} images", part.get("images") if isinstance(part, dict) else None))
    begun = settings.get("pretrained") or settings.get("init")
    found.append(("weights begun from", begun))
    return [(name, plain(str(value))) for name, value in found if value is not None]


def recipe(training: Any) -> list[tuple[str, str]]:
    """The hyper-parameters by name."""
    if not isinstance(training, dict):
        return []
    return [(plain(str(name)), _setting(value)) for name, value in list(training.items())[:MOST_SETTINGS]]


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_setting, value[:MOST_SETTINGS]))
    if isinstance(value, float):
        return f"{value:g}"
    return plain(value) or "none" if isinstance(value, str) else plain(shown(value)).lower()


def _classes(names: Any) -> str:
    if not isinstance(names, list):
        return ""
    more = f" and {len(names) - MOST_CLASSES} more" if len(names) > MOST_CLASSES else ""
    return f"{len(names)}: " + ", ".join(plain(str(name)) for name in names[:MOST_CLASSES]) + more


def _told(row: Row, name: str) -> list[float]:
    """A row's numbers of that name; none where it has none."""
    value = row.get(name)
    if value in (None, ""):
        return []
    return [float(one) for one in (value if isinstance(value, list) else [value])]


def _unit(rows: Sequence[Row]) -> tuple[str, float]:
    """The time axis: in seconds, minutes or hours, or in epochs where a row does not know its time."""
    if not all(_told(row, "seconds") for row in rows):
        return "epochs", 0
    last = max(_told(row, "seconds")[0] for row in rows)
    return ("seconds", 1) if last < 180 else ("minutes", 60) if last < 3 * 3600 else ("hours", 3600)


def _curve(
    rows: Sequence[Row],
    parts: Sequence[tuple[float, str, list[int]]],
    name: str,
    unit: str,
    scale: float,
    number: int,
) -> str:
    times = [_told(row, "seconds")[0] / scale if scale else at + 1.0 for at, row in enumerate(rows)]
    figure, axes = new_figure()
    span = max(times) or 1.0
    begin = 0.0
    for place, (stage, _, part) in enumerate(parts):
        end = times[part[-1]]
        if place % 2:
            axes.axvspan(begin, end, facecolor=RULE, alpha=0.3, linewidth=0)
        if end - begin > 0.03 * span:
            top: Any = axes.get_xaxis_transform()
            axes.text((begin + end) / 2, 1.02, f"{stage:g}", transform=top, ha="center", color=FAINT)
        begin = end
        _lines(axes, rows, times, part, name)
    axes.set_xlim(0, span * 1.01)
    axes.set_xlabel(f"{unit} of training; above, the stage")
    axes.set_ylabel(CURVES[name])
    add_legend(figure, axes)
    return svg(figure, f"run-{number}-{name}", f"{name} by time")


def _lines(axes: Any, rows: Sequence[Row], times: Sequence[float], part: Sequence[int], name: str) -> None:
    """The curves of one stage: one, or one a step; held-out accuracies as dashes."""
    if name == "accuracy" and any(_told(row, "heldout") for row in rows):
        axes.plot([], [], "--", color=FAINT, label="held out")
    marker = {"marker": "o", "markersize": 2.5} if len(rows) <= MOST_MARKERS else {}
    for key, dashes in ((name, "-"), ("heldout", "--")):
        if key == "heldout" and name != "accuracy":
            continue
        known = [at for at in part if _told(rows[at], key)]
        width = max((len(_told(rows[at], key)) for at in known), default=0)
        for place in range(width):
            points = [at for at in known if len(_told(rows[at], key)) > place]
            values = [_told(rows[at], key)[place] * (100 if name == "accuracy" else 1) for at in points]
            step = place + (2 if name == "reward" else 1)
            single = isinstance(rows[points[0]][key], (int, float, str))
            colour = INK if single else step_colour(step)
            named = f"step {step}" if not single else "encoder alone" if name == "accuracy" else None
            label = named if key == name else None
            axes.plot(
                [times[at] for at in points],
                values,
                dashes,
                color=colour,
                label=label,
                linewidth=1.4,
                **marker,
            )


def _policies(policies: Mapping[str, Sequence[Mapping[str, Any]]], number: int) -> str:
    """Accuracy by step with the learned crops and with others, with 95 % intervals."""
    figure, axes = new_figure()
    most = max(len(steps) for steps in policies.values())
    for place, (name, steps) in enumerate(policies.items()):
        x = [step + 0.06 * (place - (len(policies) - 1) / 2) for step in range(1, len(steps) + 1)]
        y = [100 * float(step["accuracy"]) for step in steps]
        ends = [[100 * float(end) for end in step["interval"]] for step in steps]
        errors = [[max(a - low, 0) for a, (low, _) in zip(y, ends, strict=True)],
                  [max(high - a, 0) for a, (_, high) in zip(y, ends, strict=True)]]  # fmt: skip
        marker, dashes = POLICIES.get(name, ("^", ":"))
        colour = INK if name == "random" else step_colour(place + 1)
        looks: Any = {"color": colour, "markersize": 4, "elinewidth": 1, "capsize": 2, "linewidth": 1.4}
        axes.errorbar(x, y, errors, marker=marker, linestyle=dashes, label=plain(name), **looks)
    axes.set_xticks(range(1, most + 1))
    axes.set_xlabel("step at which all images stop")
    axes.set_ylabel("accuracy, %")
    add_legend(figure, axes)
    return svg(figure, f"policies-{number}", "Accuracy by step and choice of crops")


def _per_cent(step: Mapping[str, Any]) -> str:
    low, high = (100 * float(end) for end in step["interval"])
    return f"{100 * float(step['accuracy']):.1f} ({low:.1f} to {high:.1f})"


def _leaving(exits: Mapping[str, Any]) -> list[Bar]:
    bars = []
    for step, (share, right) in enumerate(zip(exits["shares"], exits["accuracies"], strict=True), 1):
        value = f"{100 * float(share):.1f} %"
        value += "" if right is None else f", of them {100 * float(right):.1f} % right"
        bars.append(Bar(f"step {step}", [(100 * float(share), variable(step_colour(step)))], value))
    return bars
