"""Slot numbers to the device and exit flags back, without a wait in between."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gfnet_fast._scheduler import Plan


class Outcome(NamedTuple):
    """Exit flags on their way to the host: bool ``[bucket]``, there once the event (None: now) is over."""

    flags: Tensor
    event: torch.cuda.Event | None

    def ready(self) -> bool:
        return self.event is None or self.event.query()

    def wait(self) -> Tensor:
        if self.event is not None:
            self.event.synchronize()
        return self.flags


class Transfer:
    """Carries a plan's slots and steps down and the flags up; on a CPU nothing moves."""

    def __init__(self, device: torch.device, widest: int, in_flight: int) -> None:
        """`widest`: the largest bucket. Pinned buffers are used again `in_flight` + 1 launches later."""
        self.device = device
        self.pinned = device.type == "cuda"
        if self.pinned:
            ring = in_flight + 1
            self._down = torch.empty(ring, 2, widest, dtype=torch.int32).pin_memory()
            self._up = torch.empty(ring, widest, dtype=torch.bool).pin_memory()
            self._turn = 0

    def down(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """int32 ``[bucket]`` slots and steps on the device."""
        slots, steps = torch.tensor(plan.slots), torch.tensor(plan.steps)
        if not self.pinned:
            return slots, steps
        self._turn = (self._turn + 1) % len(self._down)
        buffer = self._down[self._turn, :, : plan.bucket]
        buffer[0], buffer[1] = slots, steps
        pair = [row.to(self.device, non_blocking=True) for row in buffer]
        return pair[0], pair[1]

    def up(self, exited: Tensor) -> Outcome:
        """Start the flags' way to the host; called once after each `down`."""
        if not self.pinned:
            return Outcome(exited, None)
        flags = self._up[self._turn, : len(exited)]
        flags.copy_(exited, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return Outcome(flags, event)
