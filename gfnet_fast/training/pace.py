"""How long a run will take: what is measured of a stage, and its multiply-adds for those not met yet."""

from __future__ import annotations

import time
from collections.abc import Mapping

from gfnet_fast.training.config import TrainConfig

FIRST, LEAST = 3, 2.0
"""Batches, and seconds, before anything is said of a stage."""


def passes(stage: int, steps: int, config: TrainConfig) -> float:
    """What an image costs in a stage, in an encoder's forward passes; a backward pass costs two."""
    if stage == 0:
        return 3.0
    if stage == 2:
        return steps + (steps - 1 if config.reward == "contrast" else 0)
    return 3.0 * (steps - 1) + (3.0 if config.train_global else 1.0)


class Pace:
    """Of the stages that are still to do.

    Parameters
    ----------
    work : by stage, its epochs, batches an epoch, and what a batch costs
    measuring : what the evaluation at the end costs, in the same unit
    """

    def __init__(self, work: Mapping[int, tuple[int, int, float]], measuring: float) -> None:
        self.work, self.measuring = work, measuring
        self.rate: float | None = None  # seconds for a unit
        self.stage: int | None = None
        self.known = False

    def begin(self, stage: int) -> None:
        """A stage begins or goes on; its own pace is not known yet."""
        self.stage, self.known, self.count = stage, False, -1

    def batch(self) -> bool:
        """After an update; whether the stage's own pace is known with this one.

        The first is not counted: workers start, and networks are compiled.
        """
        assert self.stage is not None
        now = time.monotonic()
        if self.count < 0:
            self.start = now
        self.count += 1
        taken = now - self.start
        if self.count < FIRST or taken < LEAST:
            return False
        self.rate = taken / (self.count * self.work[self.stage][2])
        first, self.known = not self.known, True
        return first

    def left(self, epoch: int, batch: int) -> float | None:
        """Seconds from a place in the stage to the end of the run; None where nothing is measured yet."""
        if self.rate is None or self.stage is None:
            return None
        epochs, batches, cost = self.work[self.stage]
        units = max((epochs - epoch) * batches - batch, 0) * cost + self.measuring
        units += sum(e * b * c for stage, (e, b, c) in self.work.items() if stage > self.stage)
        return units * self.rate


def said(seconds: float) -> str:
    """``"40 s"``, ``"2 min 30 s"``, ``"3 h 20 min"``: as exact as an estimate is."""
    if seconds < 60:
        return f"{max(round(seconds / 5) * 5, 5)} s"
    if seconds < 600:
        minutes, rest = divmod(round(seconds / 10) * 10, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(round(minutes / 10) * 10, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
