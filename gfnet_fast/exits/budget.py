"""What the mean image may cost, as a value."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from gfnet_fast.errors import BudgetError, shown
from gfnet_fast.exits.official import check_shares
from gfnet_fast.exits.rule import NEVER, Floats, as_array, cap_steps, check_thresholds

if TYPE_CHECKING:
    from gfnet_fast.exits.calibration import Calibration

TARGETS = ("macs", "latency_ms", "thresholds", "shares")


@dataclass(frozen=True)
class Budget:
    """What the mean image may cost: exactly one target, or none with `max_steps`.

    Attributes
    ----------
    macs : float
        Mean multiply-adds an image.
    latency_ms : float
        Mean milliseconds an image, on the device whose costs were measured.
    thresholds : tuple of T float
        The thresholds themselves; the last is ``-1e8``.
    shares : tuple of T float
        The share of the images that should exit at each step.
    max_steps : int
        Nobody takes more steps. Alone: everybody takes exactly so many (anytime prediction).

    Raises
    ------
    BudgetError
        On no or two targets, and on values that no model could meet.
    """

    macs: float | None = None
    latency_ms: float | None = None
    thresholds: tuple[float, ...] | None = None
    shares: tuple[float, ...] | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.max_steps is not None):
            raise BudgetError(
                f"budget: expected one of {', '.join(TARGETS)}, or max_steps; got {given or 'none'}"
            )
        for name in ("macs", "latency_ms"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _positive(name, getattr(self, name)))
        if self.thresholds is not None:
            row = as_array(self.thresholds)
            # One number fits no model either, but only a model can say how many it wants.
            row = np.atleast_1d(row) if row.size == 1 else check_thresholds(row, row.size)
            object.__setattr__(self, "thresholds", tuple(row.tolist()))
        if self.shares is not None:
            row = as_array(self.shares)
            object.__setattr__(self, "shares", tuple(check_shares(row, row.size).tolist()))
        if self.max_steps is not None:
            if isinstance(self.max_steps, bool) or not isinstance(self.max_steps, (int, np.integer)):
                raise BudgetError(f"max_steps: expected a whole number, got {shown(self.max_steps)}")
            if self.max_steps < 1:
                raise BudgetError(f"max_steps: expected at least 1, got {shown(self.max_steps)}")
            object.__setattr__(self, "max_steps", int(self.max_steps))

    @property
    def target(self) -> str | None:
        """The name of the target that is set, or None where only `max_steps` is."""
        return next((name for name in TARGETS if getattr(self, name) is not None), None)

    def __str__(self) -> str:
        given = ((f.name, getattr(self, f.name)) for f in fields(self))
        return f"Budget({', '.join(f'{name}={value!r}' for name, value in given if value is not None)})"


def resolve(
    budget: Budget, steps: int, calibration: Calibration | None = None, *, device: str | None = None
) -> Floats:
    """The thresholds that meet a budget: -> float32 ``[T]``, the last ``-1e8``.

    Parameters
    ----------
    budget : Budget
    steps : int
        T of the model that runs.
    calibration : Calibration, optional
        Needed for ``macs``, ``latency_ms`` and ``shares``.
    device : str, optional
        The device that runs, as torch names it (``"cpu"``, ``"cuda:0"``); needed for ``latency_ms``.

    Raises
    ------
    BudgetError
        On a budget out of the model's range, which is named; on one that asks for a calibration that is
        not there; and on a calibration of another number of steps or another device.
    """
    if calibration is not None and calibration.model.steps != steps:
        raise BudgetError(
            f"calibration: expected one for {steps} steps, got one for {calibration.model.steps}"
        )
    if budget.target is None:
        return cap_steps(np.full(steps, NEVER), budget.max_steps)
    if budget.target == "thresholds":
        return cap_steps(check_thresholds(budget.thresholds, steps), budget.max_steps)
    if calibration is None:
        what = f"a budget in {budget.target} needs a calibration, and this model has none"
        raise BudgetError(f"{what}; make one with `gfnet-fast calibrate`, or give thresholds or max_steps")
    return calibration.resolve(budget, device=device)


def _positive(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise BudgetError(f"{name}: expected a number above 0, got {type(value).__name__}") from None
    if not (np.isfinite(number) and number > 0):
        raise BudgetError(f"{name}: expected a finite number above 0, got {number}")
    return number
