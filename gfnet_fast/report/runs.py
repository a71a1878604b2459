"""A training run's folder, finished or under way: what was trained, how it went, how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gfnet_fast.errors import InputError, reason, shown
from gfnet_fast.files import read_json
from gfnet_fast.report.rows import Row, check_numbers, is_bench, read_rows

METRICS, EVALUATION, SETTINGS, CONFIG = "metrics.jsonl", "evaluation.json", "training.json", "config.json"
MOST_POLICIES = 20
ROUNDING = 1e-6


class Run(NamedTuple):
    """What is known of a training run.

    rows : of its metrics, in their order
    evaluation : what `evaluation.json` says, checked; empty while the run lasts
    settings : what `training.json` says: model, training, classes, images; as far as it is there
    """

    name: str
    rows: Sequence[Row]
    evaluation: Mapping[str, Any] = {}
    settings: Mapping[str, Any] = {}


def read_run(folder: Path) -> Run:
    """Read a folder of `gfnet-fast train`, or of a recipe on composed canvases.

    Raises InputError where it holds no metrics, and on files that hold something else.
    """
    if not (folder / METRICS).exists():
        expected = f"the folder of a training run, which has a {METRICS}"
        raise InputError(f"{folder}: expected {expected}, got one without")
    rows = read_rows(folder / METRICS)
    if any(is_bench(row) for row in rows):
        raise InputError(f"{folder / METRICS}: expected rows of training, got those of a benchmark")
    evaluation = _table(folder / EVALUATION)
    _check_evaluation(evaluation, f"{folder / EVALUATION}")
    settings = _table(folder / SETTINGS)
    model = _table(folder / CONFIG)
    recipe = {
        "model": model.get("config"),
        "classes": model.get("labels"),
        "training": evaluation.get("recipe"),
        **settings,
    }
    return Run(folder.resolve().name, rows, evaluation, recipe)


def _table(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no file."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a JSON object, got {reason(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {shown(content)}")
    return content


def _check_evaluation(content: Mapping[str, Any], where: str) -> None:
    """Raise InputError on accuracies and shares that cannot be drawn."""
    policies = content.get("policies", {})
    if not isinstance(policies, dict) or len(policies) > MOST_POLICIES:
        raise InputError(
            f"{where}: policies: expected at most {MOST_POLICIES} by name, got {shown(policies)}"
        )
    for name, steps in policies.items():
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise InputError(f"{where}: {shown(name)}: expected a table a step, got {shown(steps)}")
        _numbers([step.get("accuracy") for step in steps], f"{where}: accuracy")
        for step in steps:
            _check_interval(step, where)
    exits = content.get("exits")
    if exits is None:
        return
    if not isinstance(exits, dict):
        raise InputError(f"{where}: exits: expected a table, got {shown(exits)}")
    _numbers([exits.get(name) for name in ("accuracy", "mean_steps", "mean_macs")], f"{where}: exits")
    _check_interval(exits, where)
    shares = _numbers(exits.get("shares"), f"{where}: shares")
    right = exits.get("accuracies")
    if not isinstance(right, list) or len(right) != len(shares):
        raise InputError(f"{where}: accuracies: expected {len(shares)}, as the shares, got {shown(right)}")
    if known := [value for value in right if value is not None]:
        _numbers(known, f"{where}: accuracies")


def _check_interval(table: Mapping[str, Any], where: str) -> None:
    ends = _numbers(table.get("interval"), f"{where}: interval")
    if len(ends) != 2 or not ends[0] - ROUNDING <= table["accuracy"] <= ends[1] + ROUNDING:
        raise InputError(f"{where}: interval: expected two ends around {table['accuracy']}, got {ends}")


def _numbers(values: Any, where: str) -> list[float]:
    """As :func:`check_numbers`, but of JSON, where a text is no number."""
    if isinstance(values, list) and any(isinstance(value, str) for value in values):
        raise InputError(f"{where}: expected numbers, got {shown(values)}")
    return check_numbers(values, where)
