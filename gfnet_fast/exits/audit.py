"""Watching a running predictor: does the loss of early exits stay below epsilon?

A small random share of the images runs to the end; their losses feed a test that may be looked at after
every image. Sources: betting against the null by likelihood ratios, Waudby-Smith and Ramdas, "Estimating
means of bounded random variables by betting" (JRSS-B 2024); restarting at every time so that a late
change is seen soon, Shin, Ramdas, Rinaldo, "E-detectors" (arXiv 2203.03532).
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfnet_fast.errors import BudgetError
from gfnet_fast.exits.rule import as_array, as_numbers, check_fraction

RATIOS = (1.25, 1.5, 2.0, 4.0)
"""Alternatives: mean losses of so many epsilon."""


class AuditWarning(UserWarning):
    """The loss of early exits has drifted past epsilon."""


class Audit:
    """A test, valid at all times, of "the mean loss of early exits is at most epsilon".

    For each alternative q > epsilon a likelihood ratio is started before every image, with weights that
    sum to 1; the mean over the alternatives is the evidence. As long as every image's loss, given those
    before it, has a mean of at most epsilon, the probability that the evidence *ever* reaches 1 / delta
    is at most delta (Ville's inequality). When it does, :class:`AuditWarning` is raised once as a warning.

    Parameters
    ----------
    epsilon : float
        Limit of the mean loss, over all images of the stream, also those that ran all steps.
    delta : float
        Probability of a false alarm, ever.
    share : float
        Share of images that :meth:`choose` picks.
    seed : int

    Attributes
    ----------
    count, losses : int, float
        Audited images, and the sum of their losses.
    evidence : float
    alarmed : bool
    """

    def __init__(self, epsilon: float, delta: float = 0.05, *, share: float = 0.01, seed: int = 0) -> None:
        for name, value in (("epsilon", epsilon), ("delta", delta), ("share", share)):
            if name != "share" or value != 1:
                check_fraction(name, value)
        self.epsilon, self.delta, self.share = epsilon, delta, share
        self._rng = np.random.default_rng(seed)
        alternatives = np.minimum(np.array(RATIOS) * epsilon, (1 + epsilon) / 2)
        self._gain = np.log(alternatives / epsilon)
        self._decay = np.log((1 - alternatives) / (1 - epsilon))
        self.reset()

    def reset(self) -> None:
        """Forget what was observed, as after a new calibration."""
        self.count, self.losses, self.evidence, self.alarmed = 0, 0.0, 1.0, False
        self._log_started = np.full(len(self._gain), -np.inf)

    def choose(self, images: int) -> NDArray[np.bool_]:
        """Which of the next images to audit, at random and before anything is known of them: bool ``[n]``."""
        return self._rng.random(images) < self.share

    def observe(self, exits: Any, finals: Any, labels: Any = None) -> bool:
        """Predictions of audited images at their exit and after all steps: int ``[n]`` each.

        The loss is another class at the exit than after all steps; with `labels` ``[n]``, a right class
        after all steps and a wrong one at the exit. Images that ran all steps anyway belong here too.
        Returns whether the alarm is on.
        """
        early, late = as_array(exits), as_array(finals)
        truth = late if labels is None else as_array(labels)
        if not early.shape == late.shape == truth.shape:
            sizes = ", ".join(str(list(array.shape)) for array in (early, late, truth))
            raise BudgetError(
                f"observe: expected as many classes at the exit as after all steps, got {sizes}"
            )
        losses = (early != late) & (late == truth)
        return self.observe_losses(losses)

    def observe_losses(self, losses: Any) -> bool:
        """The losses of audited images, in order: numbers in 0..1, ``[n]`` -> whether the alarm is on."""
        values = np.atleast_1d(as_numbers("losses", losses))
        if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
            raise BudgetError("losses: expected numbers in 0..1, one an image")
        for loss in values:
            self.count += 1
            weight = _remaining(self.count - 1) - _remaining(self.count)
            step = np.log(loss * np.exp(self._gain) + (1 - loss) * np.exp(self._decay))
            self._log_started = step + np.logaddexp(self._log_started, math.log(weight))
            started = float(np.exp(np.minimum(self._log_started, 700)).mean())
            self.evidence = started + _remaining(self.count)
            if self.evidence >= 1 / self.delta and not self.alarmed:
                self._alarm()
        self.losses += float(values.sum())
        return self.alarmed

    def _alarm(self) -> None:
        self.alarmed = True
        text = f"the loss of early exits has drifted past {self.epsilon:g}, after {self.count} audited images"
        warnings.warn(f"{text} (false-alarm probability {self.delta:g}); calibrate anew", AuditWarning, 4)


def _remaining(count: int) -> float:
    """The weight of ratios that start after so many images: it falls slowly, so late changes are seen."""
    return 1 / (1 + math.log1p(count))
