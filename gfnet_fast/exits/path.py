"""A path of thresholds, from everybody exits at the glance to nobody exits before the last step.

A path is *nested* when no threshold ever falls along it: then every image exits at the same step or
later as the path goes on, and the mean of any cost that rises with the step rises too. One number, the
position on the path, is then all that a running predictor has to move.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfnet_fast.exits.rule import ALWAYS, NEVER, Floats, _steps

ABOVE_ONE = float(np.nextafter(np.float32(1), np.float32(2)))
"""The least float32 that no confidence reaches: where interpolation puts ``NEVER``."""


SAMPLE = 4096
"""Images whose confidences are kept with a calibration, to meet budgets in shares."""


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


def position_of(costs: NDArray[np.float64], wanted: float) -> float:
    """The first place where costs ``[R]`` reach a value, linear between rows; they need not always rise."""
    high = int(np.searchsorted(np.maximum.accumulate(costs), wanted))
    if high == 0:
        return 0.0
    if high == len(costs):
        return float(np.argmax(costs))
    low = high - 1
    return low + float((wanted - costs[low]) / (costs[high] - costs[low]))


def leaving_rows(confidences: Floats, rows: Floats) -> NDArray[np.intp]:
    """Up to which row of a nested path each image has left by each step.

    Parameters
    ----------
    confidences : float32 ``[T, N]``
    rows : float32 ``[R, T]``, nested

    Returns
    -------
    int ``[T + 1, N]``, rising from 0 to R along the steps: image i exits at step k (1..T) on the rows
    ``out[k - 1, i] <= r < out[k, i]``. One sorted search a step gives all R rows at once.
    """
    last = len(confidences)
    out = np.zeros((last + 1, confidences.shape[1]), np.intp)
    for k in range(last - 1):
        reached = np.searchsorted(np.ascontiguousarray(rows[:, k]), confidences[k], side="right")
        np.maximum(out[k], reached, out=out[k + 1])
    out[last] = len(rows)
    return out


def sums_by_step(leaving: NDArray[np.intp], weights: NDArray[Any] | None, rows: int) -> NDArray[np.float64]:
    """Sum over the images that exit at each step, of 1 or of a weight.

    ``[T + 1, N]`` of :func:`leaving_rows`, ``[T, N]`` or None -> float64 ``[R, T]``.
    """
    out = np.empty((rows, len(leaving) - 1))
    for k in range(len(leaving) - 1):
        weight = None if weights is None else weights[k]
        enter = np.bincount(leaving[k], weight, rows + 1)
        out[:, k] = np.cumsum(enter - np.bincount(leaving[k + 1], weight, rows + 1))[:rows]
    return out


def curve(
    confidences: Floats, rows: Floats, weights: NDArray[Any] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Shares by exit step ``[R, T]`` and, with `weights` ``[T, N]``, their mean at the exits ``[R]``.

    The weights are correctness, for the accuracy of each row, or a loss.
    """
    steps, count = confidences.shape
    if is_nested(rows):
        leaving = leaving_rows(confidences, rows)
        shares = sums_by_step(leaving, None, len(rows)) / count
        means = None if weights is None else sums_by_step(leaving, weights, len(rows)).sum(axis=1) / count
        return shares, means
    exits = [_steps(confidences, row) for row in rows]
    shares = np.stack([np.bincount(row, minlength=steps + 1)[1:] for row in exits]) / count
    if weights is None:
        return shares, None
    return shares, np.array([np.take_along_axis(weights, row[None] - 1, axis=0).mean() for row in exits])


def levels_of(rows: Floats, ordered: Floats) -> NDArray[np.float64]:
    """Thresholds as shares of images below them: ``[R, T]``, steps sorted ``[T, N]`` -> ``[R, T - 1]``."""
    count = ordered.shape[1]
    return np.stack(
        [np.searchsorted(ordered[k], rows[:, k]) / count for k in range(rows.shape[1] - 1)], axis=1
    )


def rows_of(levels: NDArray[np.float64], ordered: Floats) -> Floats:
    """The thresholds below which a share of the images is: the inverse of :func:`levels_of`.

    A level of 0 gives the threshold 0, a level of 1 the threshold ``NEVER``.
    """
    count = ordered.shape[1]
    rows = np.full((len(levels), len(ordered)), ALWAYS, np.float32)
    for k in range(len(ordered) - 1):
        place = np.floor(levels[:, k] * count + 1e-6).astype(np.intp)
        rows[:, k] = ordered[k][np.minimum(place, count - 1)]
        rows[place <= 0, k] = 0
        rows[place >= count, k] = NEVER
    return rows


def refine(rows: Floats, confidences: Floats, costs: NDArray[np.float64], points: int) -> Floats:
    """A path with the same ends and way, and `points` rows evenly spaced in mean cost.

    Between two rows it goes straight in levels, that is in shares of images, not in confidence. Equal
    rows, where ties leave nothing between, are dropped. The second row has the least confidences as its
    thresholds, so that the way from 0 up to them, where nothing changes, takes no room.

    float32 ``[R, T]``, ``[T, N]``, ``[T]`` -> float32 ``[Q <= points + 1, T]``.
    """
    ordered = np.sort(confidences, axis=1)
    levels = levels_of(rows, ordered)
    places = np.linspace(0, len(rows) - 1, 4 * max(points, len(rows)) + 1)
    for _ in range(2):
        means = np.maximum.accumulate(curve(confidences, _along(levels, places, ordered))[0] @ costs)
        places = np.interp(np.linspace(means[0], means[-1], points), means, places)
        places[0] = 0  # of equal means interp takes the last, which is past the first row
    refined = _along(levels, places, ordered)
    least = np.append(ordered[:-1, 0], ALWAYS)
    refined = np.concatenate([refined[:1], np.maximum(np.concatenate([least[None], refined[1:]]), least)])
    keep = np.append(True, (np.diff(refined, axis=0) != 0).any(axis=1))
    return refined[keep]


def _along(levels: NDArray[np.float64], places: NDArray[np.float64], ordered: Floats) -> Floats:
    ticks = np.arange(len(levels))
    return rows_of(np.stack([np.interp(places, ticks, column) for column in levels.T], axis=1), ordered)


def capped_shares(shares: NDArray[np.float64], max_steps: int | None) -> NDArray[np.float64]:
    """Shares by exit step where nobody takes more than `max_steps` steps: ``[R, T]`` -> ``[R, T]``."""
    if max_steps is None:
        return shares
    capped = shares.copy()
    capped[:, max_steps - 1] = shares[:, max_steps - 1 :].sum(axis=1)
    capped[:, max_steps:] = 0
    return capped


def in_order(costs: NDArray[np.float64], rows: Floats) -> NDArray[np.intp]:
    """The order of rows by cost, then by their thresholds, cheapest first."""
    return np.lexsort((*np.clip(rows, 0, 2).T[::-1], costs))


def thinned(confidences: Floats) -> Floats:
    """Up to `SAMPLE` images, evenly spaced in the glance's confidence: ``[T, N]`` -> ``[T, M]``."""
    count = confidences.shape[1]
    if count <= SAMPLE:
        return confidences
    places = np.floor((np.arange(SAMPLE) + 0.5) * count / SAMPLE).astype(np.int64)
    return confidences[:, np.argsort(confidences[0], kind="stable")[places]]
