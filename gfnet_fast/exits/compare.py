"""Two ways of choosing thresholds, compared over the whole curve on images that neither has seen."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfnet_fast.errors import BudgetError
from gfnet_fast.exits.official import check_correct, check_costs
from gfnet_fast.exits.rule import Floats, _steps, as_array, check_confidences, check_path

Array = NDArray[np.float64]
BLOCK = 50


class PathComparison(NamedTuple):
    """Accuracy of one path less another's at equal realised mean cost, in percent points.

    cost : float64 ``[G]``, mean costs
    accuracy, baseline : float64 ``[G]``, percent
    difference : float64 ``[G]``
    low, high : float64 ``[G]``, bootstrap interval of each difference by itself
    band_low, band_high : float64 ``[G]``, band that holds all the differences at once
    mean, mean_low, mean_high : float, the mean difference over the costs and its interval
    """

    cost: Array
    accuracy: Array
    baseline: Array
    difference: Array
    low: Array
    high: Array
    band_low: Array
    band_high: Array
    mean: float
    mean_low: float
    mean_high: float


def compare_paths(
    path: Any,
    baseline: Any,
    confidences: Any,
    correct: Any,
    costs: Any,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PathComparison:
    """Compare two tables of thresholds at equal cost, with paired bootstrap intervals.

    The costs compared at are the baseline's, as far as both reach. In every bootstrap draw of images both
    curves are realised anew, and read off, by linear interpolation, at the same costs.

    Parameters
    ----------
    path, baseline : float ``[R, T]``
        Such as a calibration's thresholds and the 39 official rows.
    confidences, correct : float and bool ``[T, N]``
        Of images that chose neither.
    costs : float ``[T]``
        Rising, in any unit.
    draws : int
        Bootstrap draws, at least 20.
    level : float
        Of the intervals and of the band.

    Raises
    ------
    BudgetError
        On shapes that do not fit, NaN, or two curves with no cost in common.
    """
    levels = check_confidences(confidences)
    steps, count = levels.shape
    right = check_correct(correct, levels.shape)
    price = check_costs(costs, steps)
    if draws < 20 or not 0 < level < 1:
        raise BudgetError(f"draws, level: expected at least 20 and 0..1, got {draws} and {level}")
    tables = [check_path(table, steps) for table in (path, baseline)]
    if len(tables[0]) > 129:
        tables[0] = tables[0][np.unique(np.linspace(0, len(tables[0]) - 1, 129).round().astype(int))]
    sizes = np.cumsum([2 * len(table) for table in tables])[:-1]
    by_image = np.concatenate([_by_image(levels, right, price, table) for table in tables], axis=1)

    own, base = (_curve(part) for part in np.split(by_image.mean(axis=0, dtype=np.float64), sizes))
    grid = base[0][(base[0] >= own[0][0]) & (base[0] <= own[0][-1])]
    if not len(grid):
        raise BudgetError("compare: expected two curves with costs in common, got none")

    def at(sums: NDArray[Any]) -> tuple[Array, Array]:
        first, second = (_curve(part) for part in np.split(np.asarray(sums, np.float64), sizes))
        return 100 * np.interp(grid, *first), 100 * np.interp(grid, *second)

    accuracy, other = at(by_image.mean(axis=0, dtype=np.float64))
    difference = accuracy - other
    drawn = np.empty((draws, len(grid)))
    rng = np.random.default_rng(seed)
    for start in range(0, draws, BLOCK):
        size = min(BLOCK, draws - start)
        picks = rng.integers(0, count, (size, count))
        weights = np.stack([np.bincount(pick, minlength=count) for pick in picks]) / count
        for i, sums in enumerate(weights @ by_image):
            drawn[start + i] = np.subtract(*at(sums))
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(drawn, tails, axis=0)
    spread = np.maximum(drawn.std(axis=0), 1e-12)
    width = np.quantile((np.abs(drawn - drawn.mean(axis=0)) / spread).max(axis=1), level) * spread
    mean_low, mean_high = np.quantile(drawn.mean(axis=1), tails)
    return PathComparison(
        grid, accuracy, other, difference, low, high, difference - width, difference + width,
        float(difference.mean()), float(mean_low), float(mean_high),
    )  # fmt: skip


def anytime_curve(correct: Any) -> Array:
    """Accuracy if all images stop at step k: bool ``[T, N]`` -> float64 ``[T]``, percent.

    Source: "Glance and Focus" (arXiv 2010.05300), section 4, anytime prediction.
    """
    array = as_array(correct)
    if array.ndim != 2 or 0 in array.shape:
        raise BudgetError(f"correct: expected shape [T, N], got {list(array.shape)}")
    return 100 * check_correct(array, array.shape).mean(axis=1)


def _by_image(levels: Floats, right: NDArray[np.bool_], price: Array, rows: Floats) -> Array:
    """Each image's cost, of the dearest, and correctness at each row: -> float64 ``[N, 2 R]``."""
    exits = np.stack([_steps(levels, row) for row in rows]).astype(np.intp) - 1
    hits = right[exits, np.arange(levels.shape[1])]
    return np.concatenate([price[exits], hits]).T


def _curve(sums: Array) -> tuple[Array, Array]:
    """Mean costs and accuracies ``[2 R]`` as a curve in order of cost: -> ``[R]``, ``[R]``."""
    costs, hits = np.split(sums, 2)
    order = np.argsort(costs, kind="stable")
    return costs[order], hits[order]
