"""A path of thresholds, from everybody exits at the glance to nobody exits before the last step.

A path is *nested* when no threshold ever falls along it: then every image exits at the same step or
later as the path goes on, and the mean of any cost that rises with the step rises too. One number, the
position on the path, is then all that a running predictor has to move.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfnet_fast.errors import BudgetError
from gfnet_fast.exits.rule import ALWAYS, NEVER, Floats, _steps, as_array, check_thresholds

ABOVE_ONE = float(np.nextafter(np.float32(1), np.float32(2)))
"""The least float32 that no confidence reaches: where interpolation puts ``NEVER``."""


def check_path(rows: Any, steps: int) -> Floats:
    """A table of thresholds, checked row by row: ``[R >= 1, T]`` -> float32 ``[R, T]``; else BudgetError."""
    table = as_array(rows)
    if table.ndim != 2 or not len(table):
        raise BudgetError(f"thresholds: expected a table [R >= 1, {steps}], got shape {list(table.shape)}")
    return np.stack([check_thresholds(row, steps) for row in table])


def ends(steps: int) -> Floats:
    """The two ends of every path, float32 ``[2, T]``: all exit at the glance; all run to the end."""
    table = np.full((2, steps), NEVER, np.float32)
    table[0] = 0
    table[:, -1] = ALWAYS
    return table


def is_nested(rows: Floats) -> bool:
    """Whether no threshold falls along ``[R, T]`` rows."""
    return bool((np.diff(np.clip(rows[:, :-1], 0, ABOVE_ONE), axis=0) >= 0).all())


def between(low: Floats, high: Floats, weight: float) -> Floats:
    """The thresholds at `weight` (0..1) of the way from one row to another: float32 ``[T]``."""
    a, b = (np.clip(row.astype(np.float64), 0, ABOVE_ONE) for row in (low, high))
    row = (a + weight * (b - a)).astype(np.float32)
    row[row > 1] = NEVER
    row[-1] = ALWAYS
    return row


def exit_shares(confidences: Floats, rows: Floats) -> NDArray[np.float64]:
    """Share of N images that exit at each step: ``[T, N]``, ``[R, T]`` -> float64 ``[R, T]``."""
    steps, count = confidences.shape
    counts = [np.bincount(_steps(confidences, row), minlength=steps + 1)[1:] for row in rows]
    return np.stack(counts) / count


def capped_shares(shares: NDArray[np.float64], max_steps: int | None) -> NDArray[np.float64]:
    """Shares by exit step where nobody takes more than `max_steps` steps: ``[R, T]`` -> ``[R, T]``."""
    if max_steps is None:
        return shares
    capped = shares.copy()
    capped[:, max_steps - 1] = shares[:, max_steps - 1 :].sum(axis=1)
    capped[:, max_steps:] = 0
    return capped
