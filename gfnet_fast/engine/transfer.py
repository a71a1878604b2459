"""Slot numbers to the device, exit flags and answers back, without a wait in between."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gfnet_fast._scheduler import Plan


def to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to `device`; nothing waits.

    A plain copy to a GPU waits for the whole stream. The pinned memory is torch's own, which is not used
    again before the copy has been made.
    """
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers


class Arrival(NamedTuple):
    """Tensors on their way to the host, there once the event (None: now) is over."""

    tensors: tuple[Tensor, ...]
    event: torch.cuda.Event | None

    def ready(self) -> bool:
        return self.event is None or self.event.query()

    def wait(self) -> tuple[Tensor, ...]:
        if self.event is not None:
            self.event.synchronize()
        return self.tensors

    def taken(self) -> tuple[Tensor, ...]:
        """As :meth:`wait`, in memory that may be kept: page-locked memory is for the next ones."""
        tensors = self.wait()
        return tensors if self.event is None else tuple(tensor.clone() for tensor in tensors)


class Transfer:
    """Carries a plan's slots and steps down and what came of it up; on a CPU nothing moves."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def down(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """int32 ``[bucket]`` slots and steps on the device."""
        slots, steps = to_device(torch.from_numpy(np.stack([plan.slots, plan.steps])), self.device)
        return slots, steps

    def up(self, *found: Tensor) -> Arrival:
        """Start the way to the host."""
        if self.device.type != "cuda":
            return Arrival(found, None)
        tensors = tuple(torch.empty(t.shape, dtype=t.dtype, device="cpu", pin_memory=True) for t in found)
        for there, here in zip(found, tensors, strict=True):
            here.copy_(there, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return Arrival(tensors, event)
