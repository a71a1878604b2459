"""What the images in flight have on the device, by slot, and the queue of those that go on."""

from __future__ import annotations

import math

import torch
from gfnet_kernels import ImageTable
from gfnet_kernels.deliver import PLACES
from gfnet_kernels.images import ENTRY
from torch import Tensor


class Arena:
    """Tensors of a fixed size, whatever the number of images that pass through.

    Attributes
    ----------
    table : ImageTable
        int64 ``[C, 6]``: where the images lie, what size they have and how they are strided.
    room : float32 ``[C, 2]``
        Height and width of an image less the patch: how far a crop's origin can go.
    thresholds, limits, deadlines : float32 ``[C, T]``, int32 ``[C]``, float64 ``[C]``
        When a slot leaves: confidence by step; no step beyond the limit, 0: cancelled; seconds.
    places : int64 ``[C, 5]``, addresses that a slot's answer is written to
    taken : int32 ``[C]``, the steps that a slot has taken
    feature_map : ``[C, M]``, flattened as the encoder lays it out; the policy reads it one launch later
    policy : float32 ``[C, Wp]``, the policy's recurrent state
    memory : ``[C, Wc]``, what the classifier keeps of earlier steps
    logits, confidence, label : ``[C, 2, K]``, ``[C, 2, 1]``, ``[C, 2, 1]``
        The newest prediction, in turn at odd and even steps: one that is being written leaves the one
        before it alone, for images whose time comes while they are in flight.
    origins : int32 ``[C, T, 2]``, where each step's crop began; the glance has none
    queue, counters : int32 ``[C]`` and int64 ``[2]``
        The ring of slots that need a focus step, and how many have ever left and entered it.
    """

    def __init__(
        self,
        capacity: int,
        *,
        patch: int,
        steps: int,
        classes: int,
        widths: tuple[int, int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`widths`: M, Wp and Wc; `dtype`: what encoders and classifier compute in."""

        def rows(*shape: int, of: torch.dtype) -> Tensor:
            return torch.zeros(capacity, *shape, dtype=of, device=device)

        self.capacity, self.patch, self.steps, self.device = capacity, patch, steps, device
        self.table = ImageTable(rows(ENTRY, of=torch.int64), torch.uint8)
        self.room = rows(2, of=torch.float32)
        self.thresholds, self.limits = rows(steps, of=torch.float32), rows(of=torch.int32)
        self.deadlines, self.places = rows(of=torch.float64), rows(PLACES, of=torch.int64)
        self.taken = rows(of=torch.int32)
        self.feature_map, self.memory = rows(widths[0], of=dtype), rows(widths[2], of=dtype)
        self.policy = rows(widths[1], of=torch.float32)
        self.logits = rows(2, classes, of=torch.float32)
        self.confidence = rows(2, 1, of=torch.float32)
        self.label = rows(2, 1, of=torch.int32)
        self.origins = rows(steps, 2, of=torch.int32)
        self.queue = rows(of=torch.int32)
        self.counters = torch.zeros(2, dtype=torch.int64, device=device)

    @property
    def bytes(self) -> int:
        """Size of all tensors; the images themselves are their owners'."""
        return sum(t.numel() * t.element_size() for t in vars(self).values() if isinstance(t, Tensor))

    def hold(self, pixels: torch.dtype) -> None:
        """Say what type the pixels of all images in flight have."""
        if pixels != self.table.dtype:
            self.table = ImageTable(self.table.entries, pixels)

    def clear(self) -> None:
        """Empty the queue."""
        self.counters.zero_()

    def fill(self, count: int) -> None:
        """`count` slots ready for step 2, of blank images that never leave: what a launch is timed on."""
        slots = torch.arange(count, dtype=torch.int32, device=self.device)
        self.queue[:count] = slots
        self.counters.copy_(torch.tensor([0, count], device="cpu"))
        self.taken.fill_(1)
        self.limits.fill_(self.steps)
        self.deadlines.fill_(math.inf)
        self.thresholds.fill_(math.inf)
        self.places.zero_()
