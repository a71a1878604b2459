"""The exit rule: an image leaves at the first step whose confidence reaches the step's threshold.

Source: Wang et al., "Glance and Focus", NeurIPS 2020 (arXiv 2010.05300), section 3.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfnet_fast.errors import BudgetError, reason, shown

NEVER = 1e8
"""The threshold of a step at which nobody exits."""

ALWAYS = -1e8
"""The threshold of the last step: whoever gets there exits."""


class BudgetWarning(UserWarning):
    """A budget is met less exactly than was asked for, or an audit or a controller has news.

    Also where thresholds do not say which weights they belong to, or belong to others and are left out.
    """


Floats = NDArray[np.float32]


def as_array(values: Any) -> NDArray[Any]:
    """A numpy view of an array, a sequence, or a tensor on any device; of bfloat16, a float32 copy.

    Raises BudgetError on what is none of them.
    """
    try:
        if hasattr(values, "detach"):
            values = values.detach().resolve_conj().resolve_neg().cpu()
            values = (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
        return np.asarray(values)
    except Exception as error:  # tensors of other kinds, ragged lists, lists in themselves
        raise BudgetError(f"expected numbers, got {type(values).__name__} ({reason(error)})") from None


def as_numbers(name: str, values: Any) -> NDArray[np.float64]:
    """:func:`as_array` in float64; BudgetError, with `name`, on what is not real numbers."""
    array = as_array(values)
    try:
        if array.dtype.kind not in "biufO":  # texts that look like numbers are none
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise BudgetError(f"{name}: expected numbers, got {type(values).__name__}") from None


def check_fraction(name: str, value: Any) -> None:
    """Raise BudgetError unless a value is a number between 0 and 1."""
    if not (isinstance(value, (int, float, np.number)) and 0 < value < 1):
        raise BudgetError(f"{name}: expected a number between 0 and 1, got {shown(value)}")


def check_thresholds(values: Any, steps: int) -> Floats:
    """Thresholds for a model of `steps` steps, checked: ``[T]`` numbers -> float32 ``[T]``.

    The last threshold may be any number up to 0, which every confidence reaches; it comes back as
    ``-1e8``, its agreed form. ``1e8`` says that nobody exits at a step.

    Raises
    ------
    BudgetError
        On another length, NaN or infinity, or a last threshold above 0.
    """
    array = as_numbers("thresholds", values)
    if array.shape != (steps,) or steps < 2:
        got = str(array.size) if array.ndim == 1 else f"shape {list(array.shape)}"
        expected = f"{max(steps, 2)} numbers, one for each step of the model and -1e8 for the last"
        raise BudgetError(f"thresholds: expected {expected}, got {got}")
    return check_path(array[None], steps)[0]


def check_path(rows: Any, steps: int) -> Floats:
    """A table of thresholds, checked row by row: ``[R >= 1, T]`` -> float32 ``[R, T]``; else BudgetError."""
    numbers = as_numbers("thresholds", rows)
    if numbers.ndim != 2 or not len(numbers):
        raise BudgetError(f"thresholds: expected a table [R >= 1, {steps}], got shape {list(numbers.shape)}")
    if numbers.shape[1] != steps:
        raise BudgetError(f"thresholds: expected {steps} numbers, got shape {list(numbers.shape[1:])}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused
        table = numbers.astype(np.float32)
    if len(odd := table[~np.isfinite(table).all(axis=1)]):
        raise BudgetError(f"thresholds: expected finite numbers (1e8: nobody exits), got {odd[0].tolist()}")
    if len(odd := table[table[:, -1] > 0]):
        got = f"{odd[0, -1]:g}"
        raise BudgetError(f"thresholds: expected -1e8 for the last step, which always exits, got {got}")
    table[:, -1] = ALWAYS
    return table


def check_confidences(values: Any, steps: int | None = None) -> Floats:
    """Confidences (largest softmax probability by step and image), checked: -> float32 ``[T, N]``.

    Raises BudgetError on another shape, no image, NaN, or a value outside 0..1.
    """
    array = as_array(values)
    if array.dtype.kind not in "biuf":
        raise BudgetError(f"confidences: expected numbers, got {array.dtype}")
    wanted = "T >= 2" if steps is None else str(steps)
    if array.ndim != 2 or array.shape[0] < 2 or array.shape[1] < 1 or steps not in (None, array.shape[0]):
        raise BudgetError(f"confidences: expected shape [{wanted}, N >= 1], got {list(array.shape)}")
    array = array.astype(np.float32, copy=False)
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1 + 1e-5):
        bad = int((~((array >= 0) & (array <= 1 + 1e-5))).sum())
        raise BudgetError(
            f"confidences: expected numbers in 0..1, got {bad} of {array.size} that are NaN or outside"
        )
    return array


def exit_steps(confidences: Any, thresholds: Any) -> NDArray[np.int64]:
    """The step (1..T) at which each image exits; the last step always exits.

    Parameters
    ----------
    confidences : float ``[T, N]``
    thresholds : float ``[T]``, or ``[R, T]`` for R rows at once

    Returns
    -------
    int64 ``[N]``, or ``[R, N]``. With ``confidences = [[.9, .2], [.1, .8], [.3, .4]]`` and
    ``thresholds = [.5, .9, -1e8]`` it is ``[1, 3]``.
    """
    levels = check_confidences(confidences)
    rows = as_numbers("thresholds", thresholds)
    if rows.ndim == 2:
        return np.stack([_steps(levels, row) for row in check_path(rows, len(levels))]).astype(np.int64)
    return _steps(levels, check_thresholds(rows, len(levels))).astype(np.int64)


def _steps(confidences: Floats, thresholds: Floats) -> NDArray[np.uint8]:
    """:func:`exit_steps` for checked arguments and one row, one byte a step."""
    last = len(confidences)
    steps = np.full(confidences.shape[1], last, np.uint8)
    for k in range(last - 2, -1, -1):
        steps[confidences[k] >= thresholds[k]] = k + 1
    return steps


def cap_steps(thresholds: Any, max_steps: int | None) -> Floats:
    """Thresholds with which nobody takes more than `max_steps` steps: ``[T]`` -> float32 ``[T]``."""
    array = np.array(as_numbers("thresholds", thresholds), np.float32)
    if max_steps is None:
        return array
    if not isinstance(max_steps, (int, np.integer)) or not 1 <= max_steps <= len(array):
        raise BudgetError(
            f"max_steps: expected 1 to {len(array)}, the steps of this model, got {shown(max_steps)}"
        )
    array[max_steps - 1 :] = ALWAYS
    return array
