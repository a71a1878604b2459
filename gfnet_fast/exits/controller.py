"""Holding a mean cost on a stream that drifts, by moving along a path of thresholds."""

from __future__ import annotations

import math
import warnings

import numpy as np

from gfnet_fast.errors import BudgetError
from gfnet_fast.exits.calibration import Calibration
from gfnet_fast.exits.path import capped_shares, position_of
from gfnet_fast.exits.rule import BudgetWarning, Floats, cap_steps

CERTAINTY = 3.0
"""Standard errors that a mean has to be off by before the controller moves."""

MEMORY = 16_384
"""Images after which the older half of what was seen counts for nothing."""


class Controller:
    """Moves along a nested path so that the measured mean cost of an image stays at a target.

    It keeps the mean of what :meth:`observe` brings. Only when that is off the target by more than the
    tolerance and by more than chance allows, for the images seen so far, does it move: by `gain` times
    the error, in mean cost as calibrated, and by `max_step` of the path at most. Then it starts to count
    anew, after the images that were already on their way. A large error is so met after few images, a
    small one after many, and noise alone moves it rarely. Moves do not overshoot while the true cost
    rises along the path at most 1 / gain times as fast as the calibrated one, and settle up to 2 / gain.

    Parameters
    ----------
    calibration : Calibration
        With a nested path and known shares.
    latency_ms, images_per_second, macs : float
        The target, exactly one. The first two need the calibration's cost table.
    device : str, optional
        The device that runs, for the first two.
    max_steps : int, optional
        Nobody takes more steps.
    gain, max_step, tolerance : float
        See above; `max_step` is a share of the range of mean costs, `tolerance` of the target.
    lag : int
        Images in flight: so many are not counted after a move.
    min_images : int
        Images to see before any move.

    Attributes
    ----------
    target : float
        Milliseconds or multiply-adds an image.
    position : float
        On the path, as :meth:`Calibration.at` takes it.
    thresholds : float32 ``[T]``
    moves : int
    held : bool
        False while the target is beyond an end of the path.

    Raises
    ------
    BudgetError
        On no or two targets, a target out of the calibrated range, a path that is not nested, and
        parameters out of range.
    """

    def __init__(
        self,
        calibration: Calibration,
        *,
        latency_ms: float | None = None,
        images_per_second: float | None = None,
        macs: float | None = None,
        device: str | None = None,
        max_steps: int | None = None,
        gain: float = 0.7,
        max_step: float = 0.1,
        tolerance: float = 0.005,
        lag: int = 0,
        min_images: int = 128,
    ) -> None:
        given = {"latency_ms": latency_ms, "images_per_second": images_per_second, "macs": macs}
        named = {name: value for name, value in given.items() if value is not None}
        if len(named) != 1:
            raise BudgetError(f"controller: expected one of {', '.join(given)}, got {list(named) or 'none'}")
        ((name, value),) = named.items()
        for key, number in (("gain", gain), ("max_step", max_step), ("tolerance", tolerance), (name, value)):
            most = math.inf if key in given else 1
            if not (isinstance(number, (int, float, np.number)) and 0 < number <= most and number < math.inf):
                wanted = f"a number above 0{'' if key in given else ' up to 1'}"
                raise BudgetError(f"{key}: expected {wanted}, got {number!r}")
        for key, count, least in (("lag", lag, 0), ("min_images", min_images, 1)):
            if not (isinstance(count, (int, np.integer)) and count >= least):
                raise BudgetError(f"{key}: expected a whole number of at least {least}, got {count!r}")
        if calibration.shares is None:
            raise BudgetError(
                "controller: expected known shares, got a table without; use `gfnet-fast calibrate`"
            )
        if not calibration.nested:
            raise BudgetError("controller: expected a nested path; calibrate with the joint search")
        self.calibration, self.max_steps = calibration, max_steps
        self.gain, self.max_step, self.tolerance = gain, max_step, tolerance
        self.lag, self.min_images = lag, min_images
        unit = "macs" if name == "macs" else "latency_ms"
        self._costs = calibration.costs(unit, device=device, max_steps=max_steps)
        self._spread = self._deviation(unit)
        self._range = float(self._costs[-1] - self._costs[0])
        self.target = 1000 / value if name == "images_per_second" else float(value)
        if not self._costs[0] <= self.target <= self._costs[-1]:
            span = f"{self._costs[0]:.6g} to {self._costs[-1]:.6g} {unit} an image"
            raise BudgetError(f"{name}: expected a target in {span}, got {self.target:.6g}")
        self._aim = self.target
        self._cost, self._images, self._skip = 0.0, 0.0, 0
        self.moves, self.held = 0, True

    @property
    def position(self) -> float:
        return position_of(self._costs, self._aim)

    @property
    def thresholds(self) -> Floats:
        return cap_steps(self.calibration.at(self.position), self.max_steps)

    def observe(self, cost: float, images: int) -> bool:
        """What some images that left together cost: their sum, in milliseconds or multiply-adds.

        Returns whether the thresholds have moved. Raises BudgetError on a cost that is not a number.
        """
        if not (math.isfinite(cost) and cost >= 0) or images < 0:
            raise BudgetError(f"observe: expected a cost and a number of images, got {cost} and {images}")
        if self._skip > 0:
            self._skip -= images
            return False
        self._cost, self._images = self._cost + cost, self._images + images
        if self._images < self.min_images:
            return False
        error = self.target - self._cost / self._images
        noise = CERTAINTY * float(np.interp(self.position, range(len(self._spread)), self._spread))
        if abs(error) <= max(self.tolerance * self.target, noise / math.sqrt(self._images)):
            self.held = True
            if self._images > MEMORY:
                self._cost, self._images = self._cost / 2, self._images / 2
            return False
        return self._move(error)

    def _move(self, error: float) -> bool:
        bound = self.max_step * self._range
        aim = self._aim + min(max(self.gain * error, -bound), bound)
        aim = min(max(aim, float(self._costs[0])), float(self._costs[-1]))
        moved = bool(aim != self._aim)
        if not moved and self.held:
            mean = self._cost / self._images
            end = "cheapest" if error < 0 else "dearest"
            text = (
                f"the mean cost is {mean:.6g} at the {end} end of the path; {self.target:.6g} cannot be held"
            )
            warnings.warn(text, BudgetWarning, 4)
        self.held = moved
        self._aim, self._skip = aim, self.lag if moved else 0
        self.moves += int(moved)
        self._forget()
        return moved

    def _forget(self) -> None:
        self._cost, self._images = 0.0, 0.0

    def _deviation(self, unit: str) -> np.ndarray:
        """Standard deviation of an image's cost at each row: float64 ``[R]``."""
        assert self.calibration.shares is not None
        table = self.calibration.cost
        price = np.array(
            self.calibration.model.macs if unit == "macs" or table is None else table.milliseconds
        )
        shares = capped_shares(self.calibration.shares, self.max_steps)
        return np.sqrt(np.maximum(shares @ price**2 - (shares @ price) ** 2, 0))
