"""The official choice of thresholds and its budgeted evaluation, exactly and vectorised.

Source: Wang et al., "Glance and Focus", NeurIPS 2020 (arXiv 2010.05300), section 3.4, and the
behaviour of the released evaluation, down to its float32 rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gfnet_fast.errors import BudgetError, shown
from gfnet_fast.exits.rule import (
    ALWAYS,
    NEVER,
    Floats,
    _steps,
    as_array,
    as_numbers,
    check_confidences,
    check_path,
)

BUDGETS = 39


def official_shares(steps: int) -> Floats:
    """The 39 official budgets as shares of images by exit step: -> float32 ``[39, T]``.

    Row i (from 1) is proportional to ``(i / 20) ** k``, k = 1..T, computed as exp(k log(i / 20)) and
    normalised in float32: the first row lets almost all exit at the glance, the last few.
    """
    ratio = (torch.arange(1, BUDGETS + 1, dtype=torch.float64, device="cpu") / 20).float()
    step = torch.arange(1, steps + 1, device="cpu").float()
    shares = torch.stack([torch.exp(torch.log(r) * step) for r in ratio[:, None]])
    return torch.stack([row / row.sum() for row in shares]).numpy()


def check_shares(values: Any, steps: int) -> Floats:
    """Shares of images by exit step, checked: ``[T]`` numbers -> float32 ``[T]``.

    Raises BudgetError on another length, NaN, a negative share, or a sum that is not 1 within 1e-3.
    """
    array = as_numbers("shares", values).astype(np.float32)
    if array.shape != (steps,):
        raise BudgetError(f"shares: expected {steps} numbers, one a step, got shape {list(array.shape)}")
    if not (np.isfinite(array).all() and (array >= 0).all() and abs(float(array.sum()) - 1) <= 1e-3):
        raise BudgetError(
            f"shares: expected numbers of at least 0 that sum to 1, got {shown(array.tolist())}"
        )
    return array


def wanted_counts(shares: Any, steps: int, count: int) -> NDArray[np.int64]:
    """How many of `count` images should exit at each step, rounded down in float32: -> int64 ``[T]``."""
    return np.floor(np.float32(count) * check_shares(shares, steps)).astype(np.int64)


def thresholds_for_shares(confidences: Any, shares: Any) -> Floats:
    """:func:`find_thresholds` on confidences: float ``[T, N]``, float ``[T]`` -> float32 ``[T]``."""
    levels = check_confidences(confidences)
    steps, count = levels.shape
    wanted = wanted_counts(shares, steps, count)
    thresholds = np.full(steps, NEVER, np.float32)
    staying = np.arange(count)
    for k in range(steps - 1):
        here = levels[k, staying]
        if 1 <= wanted[k] <= len(here):
            place = len(here) - wanted[k]
            thresholds[k] = np.partition(here, place)[place]
            staying = staying[here < thresholds[k]]
    thresholds[-1] = ALWAYS
    return thresholds


def find_thresholds(probabilities: Any, shares: Any) -> Any:
    """The official threshold search: about ``N * shares[k]`` images exit at step k.

    At each step but the last, of the images that have not left, the ``floor(N * shares[k])``-th most
    confident sets the threshold. Images that tie with it leave as well. Where the floor is 0, or too few
    images are left, nobody exits at that step and its threshold is ``1e8``: a share that rounds to zero
    turns its exit off.

    Parameters
    ----------
    probabilities : float ``[T, N, K]``, array or tensor
        Softmax outputs of all steps for all images.
    shares : float ``[T]``
        Share of the images that should exit at each step, as a row of :func:`official_shares`.

    Returns
    -------
    float32 ``[T]``, a tensor if `probabilities` is one, else an array. The last is ``-1e8``.

    Raises
    ------
    BudgetError
        On another shape, NaN, probabilities outside 0..1, or shares that do not sum to 1.
    """
    thresholds = thresholds_for_shares(_confidences(probabilities), shares)
    return torch.from_numpy(thresholds) if isinstance(probabilities, torch.Tensor) else thresholds


class BudgetCurve(NamedTuple):
    """What R rows of thresholds do on one set of N labelled images.

    exit_steps : int64 ``[R, N]``, 1..T
    accuracy : float64 ``[R]``, percent
    mean_cost : float64 ``[R]``, in the unit of the costs; added up in float32 as the official code does
    shares : float64 ``[R, T]``, share of the images that exit at each step
    """

    exit_steps: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    mean_cost: NDArray[np.float64]
    shares: NDArray[np.float64]


def evaluate_budgets(probabilities: Any, labels: Any, thresholds: Any, costs: Any) -> BudgetCurve:
    """The official budgeted evaluation of every row of a table of thresholds.

    Parameters
    ----------
    probabilities : float ``[T, N, K]``
    labels : int ``[N]``, 0..K-1
    thresholds : float ``[R, T]``, one row a budget (39 in the official table)
    costs : float ``[T]``
        Cost of an image that exits at step 1..T, such as cumulative multiply-adds.

    Raises
    ------
    BudgetError
        As :func:`find_thresholds`, and on labels or costs that do not fit.
    """
    levels = check_confidences(_confidences(probabilities))
    right = correct_by_step(probabilities, labels)
    return evaluate_rows(levels, right, thresholds, costs)


def evaluate_rows(confidences: Any, correct: Any, thresholds: Any, costs: Any) -> BudgetCurve:
    """:func:`evaluate_budgets` on confidences and correctness, float and bool ``[T, N]``."""
    levels = check_confidences(confidences)
    steps, count = levels.shape
    right = check_correct(correct, levels.shape)
    price = check_costs(costs, steps)
    rows = check_path(thresholds, steps)
    exits = np.stack([_steps(levels, row) for row in rows])
    hits = [int(np.count_nonzero(np.take_along_axis(right, row[None] - 1, axis=0))) for row in exits]
    counts = np.stack([np.bincount(row, minlength=steps + 1)[1:] for row in exits])
    mean = np.zeros(len(rows), np.float32)
    for k in range(steps):
        mean += counts[:, k].astype(np.float32) / np.float32(count) * np.float32(price[k])
    accuracy = np.array(hits) * 100.0 / count
    return BudgetCurve(exits.astype(np.int64), accuracy, mean.astype(np.float64), counts / count)


def correct_by_step(probabilities: Any, labels: Any) -> NDArray[np.bool_]:
    """Whether the prediction of each step is the label: ``[T, N, K]``, int ``[N]`` -> bool ``[T, N]``."""
    array = as_array(probabilities)
    return array.argmax(axis=2) == check_labels(labels, *array.shape[1:])


def check_labels(labels: Any, count: int, classes: int) -> NDArray[np.int64]:
    """Labels of `count` images, checked: 0..`classes` - 1 -> int64 ``[N]``; else BudgetError."""
    truth = as_array(labels)
    if truth.shape != (count,) or truth.dtype.kind not in "iu":
        raise BudgetError(f"labels: expected {count} whole numbers, got {truth.dtype} {list(truth.shape)}")
    if truth.min() < 0 or truth.max() >= classes:
        raise BudgetError(f"labels: expected 0..{classes - 1}, got {truth.min()}..{truth.max()}")
    return truth.astype(np.int64)


def check_correct(values: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Correctness by step and image, checked: bool or 0/1 ``[T, N]`` -> bool; else BudgetError."""
    array = as_array(values)
    if array.shape != shape or not (array.dtype == bool or np.isin(array, (0, 1)).all()):
        raise BudgetError(
            f"correct: expected 0 or 1 {list(shape)}, as the confidences, got {list(array.shape)}"
        )
    return array.astype(bool, copy=False)


def check_costs(values: Any, steps: int) -> NDArray[np.float64]:
    """Costs of exiting at step 1..T, checked: increasing numbers ``[T]`` above 0; else BudgetError."""
    array = as_numbers("costs", values)
    if array.shape != (steps,) or not (
        np.isfinite(array).all() and array[0] > 0 and (np.diff(array) > 0).all()
    ):
        raise BudgetError(f"costs: expected {steps} increasing numbers above 0, got {shown(array.tolist())}")
    return array


def _confidences(probabilities: Any) -> Any:
    shape = tuple(getattr(probabilities, "shape", ()))
    if len(shape) != 3 or 0 in shape:
        raise BudgetError(f"probabilities: expected shape [T, N, K], all at least 1, got {list(shape)}")
    if isinstance(probabilities, torch.Tensor):
        return probabilities.detach().amax(dim=2)
    return np.max(as_array(probabilities), axis=2)
