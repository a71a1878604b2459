"""From measured runs to the cost of a step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfnet_fast.errors import BudgetError
from gfnet_fast.exits.rule import as_numbers


def fit_costs(shares: Any, milliseconds: Any) -> tuple[NDArray[np.float64], float]:
    """Milliseconds of exiting at step 1..T, from runs at several budgets through the whole engine.

    A run's mean time is the sum over steps of the share that exits there times its cost. The costs are
    those that rise with the step and leave the least squares of relative errors.

    Parameters
    ----------
    shares : float ``[M, T]``
        Realised share of images that exit at each step, run by run; M >= T runs that differ.
    milliseconds : float ``[M]``
        Mean time an image, above 0.

    Returns
    -------
    float64 ``[T]``, and the largest relative error it leaves on any run: what a cost a step cannot explain,
    such as padding that depends on the mix. A budget in time is met no better than that.

    Raises
    ------
    BudgetError
        On shapes that do not fit, fewer runs than steps, or times that are not above 0.
    """
    runs, times = as_numbers("shares", shares), as_numbers("milliseconds", milliseconds)
    if runs.ndim != 2 or len(runs) < runs.shape[1] or times.shape != (len(runs),):
        expected = "shares [M >= T, T] and milliseconds [M]"
        raise BudgetError(f"fit_costs: expected {expected}, got {list(runs.shape)} and {list(times.shape)}")
    if not (np.isfinite(runs).all() and np.isfinite(times).all() and (times > 0).all()):
        raise BudgetError("fit_costs: expected finite shares and times above 0")
    if not np.allclose(runs.sum(axis=1), 1, atol=1e-4):
        raise BudgetError("fit_costs: expected shares that sum to 1, run by run")
    stays = np.cumsum(runs[:, ::-1], axis=1)[:, ::-1] / times[:, None]
    least = 1e-6 * times.min()
    increments = np.full(runs.shape[1], least)
    for _ in range(20_000):
        before = increments.copy()
        for k, column in enumerate(stays.T):
            if square := column @ column:
                miss = 1 - stays @ increments
                increments[k] = max(least, increments[k] + column @ miss / square)
        if np.abs(increments - before).max() <= 1e-10 * times.max():
            break
    return np.cumsum(increments), float(np.abs(1 - stays @ increments).max())
