"""The joint search: all thresholds together, for the best accuracy on labelled held-out data.

The official search fixes the shares of images by exit step in advance, one family for every model. Here
they are found: for each of some mean costs, the thresholds that maximise accuracy less a penalty for
missing that cost, by exact coordinate ascent (with the other steps' thresholds held, one sum by
confidence gives the best threshold of a step), from the official ones and from the neighbours' best.

Thresholds chosen on n images follow those images' noise. Three things hold it down. The search runs on
random halves, and the halves' thresholds, matched at equal cost, are averaged. Each half's thresholds
are judged on the other half. And the official thresholds are a candidate, alone and mixed in: what was
best on the other halves, over the whole curve, is what comes back.
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
MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
Array = NDArray[np.float64]


class JointPath(NamedTuple):
    """What the joint search found.

    thresholds : float32 ``[R, T]``, a nested path from everybody exits at the glance to nobody exits early
    place : float64 ``[R]``, mean costs evenly spaced from 0 (the glance's) to 1 (the last step's)
    accuracy : float64 ``[R]``, percent at those costs, each half's thresholds on the other half; NaN
        without a search
    mix : how much of the joint search is in the path, 0 (the official shares) to 1
    gain, gain_error : accuracy over the official shares', percent points, mean over the costs, on the
        other halves, and its standard error over images; NaN without a search
    notes : what was remarkable: ties, empty shares, too few images
    """

    thresholds: Floats
    place: Array
    accuracy: Array
    mix: float
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
        notes += (f"{count} images, fewer than {MIN_IMAGES}: the official shares, without a search",)
        rows = rows_of(_rising(official_levels(levels, price, grid)), np.sort(levels, axis=1))
        return JointPath(rows, grid, np.full(GRID, np.nan), 0.0, np.nan, np.nan, notes)

    rng = np.random.default_rng(seed)
    fits = []
    scores, judged = np.zeros((len(MIXES), count)), np.zeros(count)
    accuracy = np.zeros((len(MIXES), GRID))
    for _ in range(splits):
        halves = np.array_split(rng.permutation(count), 2)
        for fit, judge in (halves, halves[::-1]):
            fit, judge = fit[:MAX_HALF], judge[:MAX_HALF]
            mine, seen, truth = levels[:, fit], levels[:, judge], right[:, judge]
            plain = official_levels(mine, price, grid)
            joint = joint_levels(mine, right[:, fit], price, grid)
            ways = [_rising((1 - mix) * plain + mix * joint) for mix in MIXES]
            fits.append(ways)
            ordered = np.sort(mine, axis=1)
            for m, way in enumerate(ways):
                at_costs, by_image = _judge(rows_of(way, ordered), seen, truth, price, grid)
                accuracy[m] += 100 * at_costs / (2 * splits)
                scores[m, judge] += 100 * by_image
            judged[judge] += 1
    scores = scores[:, judged > 0] / judged[judged > 0]
    best = int(scores.mean(axis=1).argmax())
    gain = scores[best] - scores[0]
    rows = _merged([ways[best] for ways in fits], levels, right, price, grid)
    error = float(gain.std() / np.sqrt(len(gain)))
    return JointPath(rows, grid, accuracy[best], MIXES[best], float(gain.mean()), error, notes)


def _merged(
    ways: list[Array], confidences: Floats, correct: NDArray[np.bool_], price: Array, grid: Array
) -> Floats:
    """The mean of several fits' levels as thresholds, or the best fit's where the mean is worse than they.

    It is worse where the fits found different ways to one accuracy, and halfway between there is none.
    """
    ordered = np.sort(confidences, axis=1)
    paths = [rows_of(way, ordered) for way in (np.mean(ways, axis=0), *ways)]
    worth = [_judge(path, confidences, correct, price, grid)[1].mean() for path in paths]
    return paths[0] if worth[0] >= np.mean(worth[1:]) else paths[1 + int(np.argmax(worth[1:]))]


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
    """The levels made to rise along the path: halfway between the least rise above and below them."""
    above = np.maximum.accumulate(levels, axis=0)
    below = np.minimum.accumulate(levels[::-1], axis=0)[::-1]
    return (above + below) / 2


def _judge(
    rows: Floats, confidences: Floats, correct: NDArray[np.bool_], price: Array, grid: Array
) -> tuple[Array, Array]:
    """Accuracy at given realised costs ``[G]``, and each image's mean correctness over the costs ``[n]``."""
    leaving = leaving_rows(confidences, rows)
    count = confidences.shape[1]
    means = np.maximum.accumulate(sums_by_step(leaving, None, len(rows)) / count @ price)
    hits = sums_by_step(leaving, correct, len(rows)).sum(axis=1) / count
    middles = np.concatenate([[0.0], (means[1:] + means[:-1]) / 2, [1.0]])
    by_image = (np.diff(middles[leaving], axis=0) * correct).sum(axis=0)
    return np.interp(grid, means, hits), by_image
