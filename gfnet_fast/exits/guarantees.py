"""The cheapest point of a path whose loss against running all steps is certified.

Sources: fixed-sequence testing, and Hoeffding-Bentkus p-values for bounded losses, as in Angelopoulos,
Bates, Candes, Jordan, Lei, "Learn then Test" (arXiv 2110.01052), sections 2 and 3; for early exits,
Jazbec et al., "Fast yet Safe: Early-Exiting with Risk Control" (arXiv 2405.20915).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfnet_fast.errors import BudgetError
from gfnet_fast.exits.calibration import Calibration
from gfnet_fast.exits.path import curve, ends
from gfnet_fast.exits.rule import Floats, as_array, as_numbers, check_confidences, check_fraction, check_path

Array = NDArray[np.float64]


def disagreement(predictions: Any) -> NDArray[np.bool_]:
    """Loss of exiting at each step: another class than with all steps. Int ``[T, N]`` -> bool ``[T, N]``.

    It needs no labels, and is at least :func:`harm`, whatever the labels are.
    """
    classes = as_array(predictions)
    if classes.ndim != 2 or 0 in classes.shape:
        raise BudgetError(f"predictions: expected shape [T, N], got {list(classes.shape)}")
    return classes != classes[-1]


def binomial_p_values(losses: Any, count: int, epsilon: float) -> Array:
    """P(Binomial(count, epsilon) <= losses), exactly: whole numbers ``[R]`` -> float64 ``[R]``.

    The p-value of "the mean of a 0/1 loss is more than epsilon" after so many losses in `count` images.
    """
    numbers = np.atleast_1d(as_array(losses)).astype(np.int64)
    k = np.arange(1, int(numbers.max()) + 1)
    odds = math.log(epsilon) - math.log1p(-epsilon)
    steps = np.log(np.maximum(count - k + 1, 1)) - np.log(k) + odds
    log_terms = count * math.log1p(-epsilon) + np.concatenate([[0.0], np.cumsum(steps)])
    p = np.minimum(np.exp(np.logaddexp.accumulate(log_terms)[np.minimum(numbers, count)]), 1.0)
    return np.where(numbers >= count, 1.0, p)


def hoeffding_bentkus_p_values(means: Any, count: int, epsilon: float) -> Array:
    """p-values of "the mean loss is more than epsilon" for losses in 0..1: their means ``[R]`` -> ``[R]``.

    The lesser of Hoeffding's bound, exp(-n h(mean, epsilon)) with h the binomial relative entropy, and
    Bentkus', e P(Binomial(n, epsilon) <= ceil(n mean)).
    """
    mean = np.atleast_1d(as_array(means)).astype(np.float64)
    low = np.minimum(mean, epsilon)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.where(low > 0, low * np.log(low / epsilon), 0) + (1 - low) * np.log(
            (1 - low) / (1 - epsilon)
        )
    tail = binomial_p_values(np.ceil(mean * count - 1e-9), count, epsilon)
    return np.minimum(np.minimum(np.exp(-count * entropy), math.e * tail), 1.0)


@dataclass(frozen=True, eq=False)
class Certificate:
    """What was certified, and on what.

    Attributes
    ----------
    row : int
        The row of the path.
    thresholds : float32 ``[T]``
    epsilon, delta : float
        With probability at least 1 - delta over the draw of the held-out images, the mean loss of these
        thresholds on new images drawn alike is at most epsilon.
    loss : float
        Mean loss on the held-out images.
    count : int
        Those images.
    p_value : float
        Of this row alone; 0 for the last row, whose loss is 0 by definition.
    """

    row: int
    thresholds: Floats
    epsilon: float
    delta: float
    loss: float
    count: int
    p_value: float

    def __str__(self) -> str:
        level = f"{100 * (1 - self.delta):g} % confidence, {self.count} images"
        return f"mean loss at most {self.epsilon:g} ({level}; {self.loss:.4g} observed)"


def certify(
    path: Calibration | Any,
    confidences: Any,
    losses: Any,
    *,
    epsilon: float,
    delta: float = 0.05,
    data_hash: str = "",
) -> Certificate:
    """The cheapest row of a path whose mean loss is certified to be at most epsilon.

    Rows are tested from the dearest on, each at level delta, until the first that cannot be certified
    (fixed-sequence testing: no correction for their number). Losses of 0 and 1 are tested by the exact
    binomial p-value, others by Hoeffding-Bentkus. Running all steps has no loss, and comes back where
    nothing cheaper is certified (as row R where the path itself does not end there).

    The guarantee holds for a path and a network that were fixed before these images were seen: they must
    be neither training images nor those the path was found on. Nothing here can tell that they are.

    Parameters
    ----------
    path : Calibration, or float ``[R, T]`` from cheapest to dearest
    confidences : float ``[T, N]``
    losses : bool or float ``[T, N]``, 0..1
        Loss of each image if it exits at each step, 0 at the last: :func:`harm`, :func:`disagreement`,
        or any other.
    epsilon, delta : float, between 0 and 1
    data_hash : str, optional
        Where given, it must not be the calibration's own. So the very set that the path was found on is
        caught, in any order; a part of it, or a set that shares images with it, is not.

    Raises
    ------
    BudgetError
        On values out of range, and on the data that the path was found on.
    """
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        check_fraction(name, value)
    if isinstance(path, Calibration):
        if data_hash and data_hash == path.data_hash:
            raise BudgetError("certify: expected other images than those the path was found on, got the same")
        path = path.thresholds
    levels = check_confidences(confidences)
    values = as_numbers("losses", losses)
    if values.shape != levels.shape:
        raise BudgetError(
            f"losses: expected {list(levels.shape)}, as the confidences, got {list(values.shape)}"
        )
    if not ((values >= 0) & (values <= 1)).all() or values[-1].any():
        raise BudgetError("losses: expected numbers in 0..1, and 0 at the last step")
    rows = check_path(path, len(levels))
    if (rows[-1, :-1] <= 1).any():
        rows = np.concatenate([rows, ends(len(levels))[1:]])
    count = levels.shape[1]
    means = curve(levels, rows, values)[1]
    assert means is not None
    if np.isin(values, (0, 1)).all():
        p = binomial_p_values(np.rint(means * count), count, epsilon)
    else:
        p = hoeffding_bentkus_p_values(means, count, epsilon)
    p[-1] = 0.0
    failed = np.flatnonzero(p > delta)
    row = int(failed[-1]) + 1 if len(failed) else 0
    return Certificate(row, rows[row], epsilon, delta, float(means[row]), count, float(p[row]))
