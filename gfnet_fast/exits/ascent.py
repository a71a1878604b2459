"""Thresholds for a range of mean costs on one set of images: by joint ascent, and by the official shares.

Thresholds appear as levels: the share of the images whose confidence at a step is below them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gfnet_fast.exits.official import official_shares, thresholds_for_shares
from gfnet_fast.exits.path import curve, ends, levels_of, rows_of
from gfnet_fast.exits.rule import Floats

BINS = 128
"""Thresholds that are tried at each step: as many quantiles of its confidences."""

TARGETS = np.linspace(0, 1, 43)[1:-1]
"""Mean costs the search aims at, 0 (the glance's) to 1 (the last step's)."""

STIFF = 10.0
"""Accuracy that a missed mean cost takes away, by its square."""

Array = NDArray[np.float64]


def joint_levels(confidences: Floats, correct: NDArray[np.bool_], price: Array, grid: Array) -> Array:
    """The best levels found at given mean costs, on one set of images.

    float32 ``[T, n]``, bool ``[T, n]``, costs ``[T]`` from 0 to 1, mean costs ``[G]`` -> ``[G, T - 1]``.
    """
    last = len(confidences) - 1
    edges = [np.unique(np.quantile(row, np.arange(BINS) / BINS, method="lower")) for row in confidences[:-1]]
    codes = [np.searchsorted(edge, row, side="right") for edge, row in zip(edges, confidences, strict=False)]
    low, high = ends(last + 1)[:, 0]
    scale = [np.concatenate([[low], edge[1:], [high]]) for edge in edges]
    official = rows_of(official_levels(confidences, price, TARGETS), np.sort(confidences, axis=1))
    starts = [[int(np.searchsorted(scale[k], row[k])) for k in range(last)] for row in official]
    ascent = _Ascent([code - 1 for code in codes], correct, price)
    best: list[tuple[float, list[int]]] = [(-np.inf, []) for _ in TARGETS]
    for order in (range(len(TARGETS)), range(len(TARGETS) - 1, -1, -1)):
        cuts: list[int] = []
        for t in order:
            for start in (cuts, starts[t]):
                if start and (start is cuts or order.step > 0):
                    best[t] = max(best[t], ascent(start, TARGETS[t]))
            cuts = best[t][1]
    rows = np.full((len(TARGETS), last + 1), ends(last + 1)[0, -1])
    for row, (_, cuts) in zip(rows, best, strict=True):
        row[:-1] = [scale[k][cut] for k, cut in enumerate(cuts)]
    return _at_costs(np.concatenate([ends(last + 1), rows]), confidences, price, grid)


class _Ascent:
    """Coordinate ascent of accuracy - STIFF * (mean cost - target)^2 over the steps' cuts.

    An image exits at step k if its code ``codes[k]`` (int, 0 up) is at least ``cuts[k]``. With the other
    cuts held, two sums by code give accuracy and cost for every cut of one step at once. The square lets
    the search go where the curve of accuracy against cost is not concave, which a price alone jumps over.
    """

    def __init__(self, codes: list[NDArray[np.intp]], correct: NDArray[np.bool_], price: Array) -> None:
        self.codes, self.worth, self.price = codes, correct.astype(np.float64), price
        self.count = correct.shape[1]

    def __call__(self, cuts: list[int], target: float, sweeps: int = 5) -> tuple[float, list[int]]:
        """From some cuts to the best that single moves reach: -> its value and the cuts."""
        cuts, value = list(cuts), -np.inf
        for _ in range(sweeps):
            before = list(cuts)
            value = self._sweep(cuts, target)
            if cuts == before:
                break
        return value, cuts

    def _sweep(self, cuts: list[int], target: float) -> float:
        here, gone = np.arange(self.count), [(0.0, 0.0)]
        reached = []
        for k, cut in enumerate(cuts):
            reached.append(here)
            leaves = self.codes[k][here] >= cut
            out = here[leaves]
            right, cost = gone[-1]
            gone.append((right + self.worth[k, out].sum(), cost + self.price[k] * len(out)))
            here = here[~leaves]
        later_right, later_cost = self.worth[-1].copy(), np.full(self.count, self.price[-1])
        value = -np.inf
        for k in range(len(cuts) - 1, -1, -1):
            here, code = reached[k], self.codes[k][reached[k]]
            now = self.worth[k, here]
            more_right = np.cumsum(np.bincount(code, later_right[here] - now))
            more_cost = np.cumsum(np.bincount(code, later_cost[here] - self.price[k]))
            right = gone[k][0] + now.sum() + np.append(0, more_right)
            cost = gone[k][1] + self.price[k] * len(here) + np.append(0, more_cost)
            values = right / self.count - STIFF * (cost / self.count - target) ** 2
            cuts[k] = int(values.argmax())
            value = float(values[cuts[k]])
            out = here[code >= cuts[k]]
            later_right[out], later_cost[out] = self.worth[k, out], self.price[k]
        return value


def official_levels(confidences: Floats, price: Array, grid: Array) -> Array:
    """The 39 official rows as levels at given costs: ``[T, n]``, ``[T]``, ``[G]`` -> ``[G, T - 1]``.

    Where a share rounds to no image, the rows beside it give the level.
    """
    steps = len(confidences)
    rows = [thresholds_for_shares(confidences, shares) for shares in official_shares(steps)]
    return _at_costs(np.concatenate([ends(steps), rows]), confidences, price, grid)


def _at_costs(rows: Floats, confidences: Floats, price: Array, grid: Array) -> Array:
    """Levels of the path through both ends and some rows at given mean costs: -> ``[G, T - 1]``."""
    means = curve(confidences, rows)[0] @ price
    levels = levels_of(rows, np.sort(confidences, axis=1))
    known = levels < 1
    known[1] = True
    order = np.lexsort((levels.sum(axis=1), means))
    out = np.empty((len(grid), levels.shape[1]))
    for k, column in enumerate(levels.T):
        use = order[known[order, k]]
        out[:, k] = np.interp(grid, means[use], column[use])
    return out
