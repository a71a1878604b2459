"""The joint search: all thresholds together, for the best accuracy on labelled held-out data.

The official search fixes the shares of images by exit step in advance, one family for every model. Here
they are found: for each of some mean costs, the thresholds that maximise accuracy less a penalty for
missing that cost, by exact coordinate ascent (with the other steps' thresholds held, one sum by
confidence gives the best threshold of a step), from the official ones and from the neighbours' best.

Thresholds chosen on n images follow those images' noise. Three things hold it down. The search runs on
random halves, and the halves' thresholds, matched at equal cost, are averaged. Each half's thresholds
are judged on the other half. And the official thresholds give way, cost by cost, only as far as those
judgements say, by two standard errors, that the joint ones are better.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfnet_fast.errors import BudgetError
from gfnet_fast.exits.ascent import joint_levels, official_levels
from gfnet_fast.exits.calibration import Calibration
from gfnet_fast.exits.identity import ModelIdentity
from gfnet_fast.exits.official import check_correct, check_costs, official_shares, thresholds_for_shares
from gfnet_fast.exits.path import leaving_rows, rows_of, sums_by_step
from gfnet_fast.exits.rule import Floats, check_confidences

MIN_IMAGES = 200
"""With fewer images the official shares are used without a search."""

MAX_HALF = 10_000
"""A half of more images than this is thinned to so many."""

GRID = 129
KNOTS = 33
MIXES = (0.0, 0.5, 1.0)

CAUTION = 2.0
"""Standard errors by which the joint thresholds have to beat the official ones to replace them."""
Array = NDArray[np.float64]


class JointPath(NamedTuple):
    """What the joint search found.

    thresholds : float32 ``[R, T]``, a nested path from everybody exits at the glance to nobody exits early
    place : float64 ``[R]``, mean costs evenly spaced from 0 (the glance's) to 1 (the last step's)
    accuracy : float64 ``[R]``, percent at those costs, each half's thresholds on the other half; NaN
        without a search
    mix : float64 ``[R]``, how much of the joint search is in a row, 0 (the official shares) to 1
    gain, gain_error : accuracy over the official shares', percent points, mean over the costs, on the
        other halves, and its standard error over images; NaN without a search
    notes : what was remarkable: ties, empty shares, too few images
    """

    thresholds: Floats
    place: Array
    accuracy: Array
    mix: Array
    gain: float
    gain_error: float
    notes: tuple[str, ...]


def joint_search(confidences: Any, correct: Any, costs: Any, *, splits: int = 4, seed: int = 0) -> JointPath:
    """The path of thresholds that maximises held-out accuracy at each mean cost.

    Parameters
    ----------
    confidences : float ``[T, N]``
    correct : bool ``[T, N]``
        Whether each step's prediction is right.
    costs : float ``[T]``
        Cost of exiting at step 1..T, rising, in any unit.
    splits : int
        Random splits into two halves; each gives two fits.

    Raises
    ------
    BudgetError
        On shapes that do not fit, NaN, and costs that do not rise.
    """
    levels = check_confidences(confidences)
    steps, count = levels.shape
    right = check_correct(correct, levels.shape)
    price = check_costs(costs, steps)
    price = (price - price[0]) / (price[-1] - price[0])
    grid = np.linspace(0, 1, GRID)
    notes = remarks(levels)
    if count < MIN_IMAGES:
        few = f"{count} images, fewer than {MIN_IMAGES}: the official shares, without a search"
        notes += (f"{few}; even on these images budgets may be missed by {400 / count:.0f} %",)
        rows = rows_of(_rising(official_levels(levels, price, grid)), np.sort(levels, axis=1))
        return JointPath(rows, grid, np.full(GRID, np.nan), np.zeros(GRID), np.nan, np.nan, notes)

    rng = np.random.default_rng(seed)
    knots = np.linspace(0, 1, KNOTS)
    joint = []
    scores, judged = np.zeros((len(MIXES), count, KNOTS), np.float32), np.zeros(count, np.float32)
    for _ in range(splits):
        halves = np.array_split(rng.permutation(count), 2)
        for fit, judge in (halves, halves[::-1]):
            fit, judge = fit[:MAX_HALF], judge[:MAX_HALF]
            mine = levels[:, fit]
            plain = official_levels(mine, price, grid)
            joint.append(joint_levels(mine, right[:, fit], price, grid))
            ordered = np.sort(mine, axis=1)
            for m, mix in enumerate(MIXES):
                rows = rows_of(_rising((1 - mix) * plain + mix * joint[-1]), ordered)
                scores[m, judge] += _judge(rows, levels[:, judge], right[:, judge], price, knots)
            judged[judge] += 1
    scores = scores[:, judged > 0] / judged[judged > 0, None]
    gains = scores - scores[0]
    sure = gains.mean(axis=1) - CAUTION * gains.std(axis=1) / np.sqrt(gains.shape[1])
    chosen = np.array(MIXES)[sure.argmax(axis=0)]
    share = np.interp(grid, knots, np.convolve(np.pad(chosen, 1, mode="edge"), np.ones(3) / 3, mode="valid"))

    ordered = np.sort(levels, axis=1)
    merged = _merged([_rising(way) for way in joint], levels, right, price)
    plain = official_levels(levels, price, grid)
    rows = rows_of(_rising((1 - share[:, None]) * plain + share[:, None] * merged), ordered)
    pick = sure.argmax(axis=0), slice(None), np.arange(KNOTS)
    accuracy = np.interp(grid, knots, 100 * scores[pick].mean(axis=1))
    gain = 100 * gains[pick].mean(axis=0)
    error = float(gain.std() / np.sqrt(len(gain)))
    return JointPath(rows, grid, accuracy, share, float(gain.mean()), error, notes)


def _merged(ways: list[Array], confidences: Floats, correct: NDArray[np.bool_], price: Array) -> Array:
    """The mean of several fits' levels, or the best fit's where the mean is worse than they are.

    It is worse where the fits found different ways to one accuracy, and halfway between there is none.
    """
    ordered, knots = np.sort(confidences, axis=1), np.linspace(0, 1, KNOTS)
    candidates = [np.mean(ways, axis=0), *ways]
    part = slice(0, 4 * MAX_HALF)
    worth = [
        _judge(rows_of(way, ordered), confidences[:, part], correct[:, part], price, knots).mean()
        for way in candidates
    ]
    return candidates[0] if worth[0] >= np.mean(worth[1:]) else candidates[1 + int(np.argmax(worth[1:]))]


def calibrate(
    model: ModelIdentity,
    confidences: Any,
    correct: Any,
    *,
    method: Literal["joint", "official"] = "joint",
    data_hash: str = "",
    seed: int = 0,
) -> Calibration:
    """The calibration of a model on labelled held-out data.

    Parameters
    ----------
    model : ModelIdentity
    confidences : float ``[T, N]``, largest softmax probability by step and image
    correct : bool ``[T, N]``, whether each step's prediction is right
    method : "joint" or "official"
        :func:`joint_search`, whose accuracies are each half's on the other half; or the 39 official rows,
        whose accuracies are those of these images.
    data_hash : str
        Says which data.

    Raises
    ------
    BudgetError
        As :func:`joint_search`, and on an unknown method.
    """
    levels = check_confidences(confidences, model.steps)
    right = check_correct(correct, levels.shape)
    if method == "official":
        rows = np.stack([thresholds_for_shares(levels, shares) for shares in official_shares(model.steps)])
        notes = remarks(levels)
    elif method == "joint":
        found = joint_search(levels, right, model.macs, seed=seed)
        rows, notes = found.thresholds, found.notes
        if not np.isnan(found.gain):
            gain = f"{found.gain:+.2f} percent points (standard error {found.gain_error:.2f})"
            notes += (f"joint search over the official one, at equal cost on images not searched: {gain}",)
    else:
        raise BudgetError(f"method: expected 'joint' or 'official', got {method!r}")
    made = Calibration.from_confidences(
        model, rows, levels, right, data_hash=data_hash, source=method, notes=notes
    )
    if method == "official" or made.mean_macs is None or np.isnan(found.accuracy).any():
        return made
    place = (made.mean_macs - model.macs[0]) / (model.macs[-1] - model.macs[0])
    return replace(made, accuracy=np.interp(place, found.place, found.accuracy))


def remarks(confidences: Floats) -> tuple[str, ...]:
    """What is remarkable in held-out confidences ``[T, N]``: ties, shares that round to zero, few images."""
    steps, count = confidences.shape
    notes = []
    for k in range(steps - 1):
        group = int(np.unique(confidences[k], return_counts=True)[1].max())
        if group > max(1, 0.01 * count):
            notes.append(
                f"step {k + 1}: {group} of {count} images tie and exit together, whatever the budget"
            )
    places = np.floor(np.float32(count) * official_shares(steps)[:, :-1])
    if empty := int((places == 0).any(axis=1).sum()):
        notes.append(
            f"{empty} of the 39 official budgets have a share that rounds to no image: an exit is off"
        )
    return tuple(notes)


def _rising(levels: Array) -> Array:
    """The nearest levels, in least squares, that rise along the path: ``[G, T - 1]`` -> ``[G, T - 1]``.

    Isotonic regression as the largest over starts of the smallest over ends of the mean in between.
    """
    count = len(levels)
    total = np.concatenate([np.zeros((1, levels.shape[1])), np.cumsum(levels, axis=0)])
    length = np.arange(1, count + 1)[None, :] - np.arange(count)[:, None]
    out = np.empty_like(levels)
    for k, column in enumerate(total.T):
        means = np.where(length > 0, (column[None, 1:] - column[:-1, None]) / np.maximum(length, 1), np.inf)
        least = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        out[:, k] = np.where(length > 0, least, -np.inf).max(axis=0)
    return np.clip(np.maximum.accumulate(out, axis=0), 0, 1)


def _judge(
    rows: Floats, confidences: Floats, correct: NDArray[np.bool_], price: Array, knots: Array
) -> Floats:
    """Each image's correctness where the path's realised mean cost is at the knots.

    float32 ``[R, T]``, ``[T, n]``, bool ``[T, n]``, ``[T]``, ``[K]`` -> float32 ``[n, K]``.
    """
    leaving = leaving_rows(confidences, rows)
    count = confidences.shape[1]
    means = np.maximum.accumulate(sums_by_step(leaving, None, len(rows)) @ price / count)
    place = np.interp(knots, means, np.arange(len(rows)))
    low = np.floor(place).astype(np.intp)
    images = np.arange(count)[:, None]

    def at(row: NDArray[np.intp]) -> Floats:
        step = np.zeros((count, len(row)), np.intp)
        for k in range(1, len(correct)):
            step += leaving[k][:, None] <= row
        return correct[step, images].astype(np.float32)

    weight = (place - low).astype(np.float32)
    return (1 - weight) * at(low) + weight * at(np.minimum(low + 1, len(rows) - 1))
