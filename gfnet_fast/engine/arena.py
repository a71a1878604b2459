"""What the images in flight have on the device, in tensors indexed by slot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import numpy as np
import torch
from gfnet_kernels import ImageTable, entry_of
from gfnet_kernels.images import ENTRY, channels_first, in_memory
from numpy.typing import NDArray
from torch import Tensor

from gfnet_fast.engine.transfer import to_device
from gfnet_fast.errors import InputError
from gfnet_fast.results import Prediction

IMAGE_DTYPES = (torch.uint8, torch.float32, torch.float16, torch.bfloat16)


class Arena:
    """Tensors of a fixed size, whatever the number of images that pass through.

    Attributes
    ----------
    table : ImageTable
        int64 ``[C, 6]``: where the images lie, what size they have and how they are strided.
    room : float32 ``[C, 2]``
        Height and width of an image less the patch: how far a crop's origin can go.
    feature_map : ``[C, M]``, flattened in channel, row, column order; the policy reads it one launch later
    policy : float32 ``[C, Wp]``, the policy's recurrent state
    memory : ``[C, Wc]``, what the classifier keeps of earlier steps
    logits, confidence, label : ``[C, 2, K]``, ``[C, 2, 1]``, ``[C, 2, 1]``
        The newest prediction, in turn at odd and even steps: one that is being written leaves the one
        before it alone, for images whose time comes while they are in flight.
    origins : int32 ``[C, T, 2]``, where each step's crop began; the glance has none
    thresholds : float32 ``[T]``
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
        self.feature_map, self.memory = rows(widths[0], of=dtype), rows(widths[2], of=dtype)
        self.policy = rows(widths[1], of=torch.float32)
        self.logits = rows(2, classes, of=torch.float32)
        self.confidence = rows(2, 1, of=torch.float32)
        self.label = rows(2, 1, of=torch.int32)
        self.origins = rows(steps, 2, of=torch.int32)
        self.thresholds = torch.empty(steps, dtype=torch.float32, device=device)
        self._sources: list[Tensor | None] = [None] * capacity
        self._held = 0

    @property
    def bytes(self) -> int:
        """Size of all tensors; the images themselves are their owners'."""
        return sum(t.numel() * t.element_size() for t in vars(self).values() if isinstance(t, Tensor))

    def check(self, images: Tensor | Sequence[Tensor]) -> None:
        """Raise InputError unless `images` can be put into the arena beside those that are there."""
        batch = [images[:1]] if isinstance(images, Tensor) else [image[None] for image in images]
        for image in batch:
            try:
                in_memory("images", image)
            except ValueError as error:
                raise InputError(str(error)) from None
            shape, least = list(image.shape), self.patch
            if image.ndim != 4 or 3 not in (shape[1], shape[3]):
                expected = "[B, H, W, 3] or [B, 3, H, W]"
                raise InputError(f"images: expected {expected}, got {image.dtype} {shape}")
            if min(channels_first(image).shape[2:]) < least:
                raise InputError(f"images: expected sides of at least {least} pixels, got {shape}")
            if image.dtype not in IMAGE_DTYPES:
                raise InputError(f"images: expected one of {IMAGE_DTYPES}, got {image.dtype}")
            if image.device != self.device:
                raise InputError(f"images: expected device {self.device}, got {image.device}")
        types = {image.dtype for image in batch} | ({self.table.dtype} if self._held else set())
        if len(types) > 1:
            raise InputError(f"images: expected one dtype for all in flight, got {sorted(map(str, types))}")

    def put(self, slots: NDArray[np.int32], images: Tensor | Sequence[Tensor]) -> None:
        """Note where n checked images lie, one a slot; they stay unchanged until they are released."""
        if isinstance(images, Tensor):
            planar = channels_first(images)
            entries = torch.tensor([entry_of(images[0])], device="cpu").repeat(len(slots), 1)
            entries[:, 0] += torch.arange(len(slots), device="cpu") * (
                planar.stride(0) * planar.element_size()
            )
        else:
            entries = torch.tensor([entry_of(image) for image in images], device="cpu")
        if images[0].dtype != self.table.dtype:
            self.table = ImageTable(self.table.entries, images[0].dtype)
        told = to_device(torch.cat([torch.from_numpy(slots).long()[:, None], entries], 1), self.device)
        at, entries = told[:, 0], told[:, 1:]
        self.table.entries.index_copy_(0, at, entries)
        self.room.index_copy_(0, at, (entries[:, 1:3] - self.patch).float())
        owners = repeat(images) if isinstance(images, Tensor) else images  # a view an image takes time
        for slot, owner in zip(slots.tolist(), owners, strict=False):
            self._sources[slot] = owner
        self._held += len(slots)

    def release(self, slots: NDArray[np.int32]) -> None:
        """Let go of the images of slots that have been read."""
        for slot in slots.tolist():
            self._sources[slot] = None
        self._held -= len(slots)

    def release_all(self) -> None:
        self._sources = [None] * self.capacity
        self._held = 0

    def read(self, slots: NDArray[np.int32], steps: NDArray[np.int32]) -> Prediction:
        """The predictions that n slots hold of the steps named; step 0: none, class -1 and NaN."""
        # Worked out on the host and copied at once: on a GPU each operation costs the loop microseconds.
        later = np.arange(1, self.steps) >= steps[:, None]
        numbers = np.column_stack([slots, 2 * slots + (steps - 1) % 2, steps, later]).astype(np.int64)
        told = to_device(torch.from_numpy(numbers), self.device)
        at, place, step = told[:, 0], told[:, 1], told[:, 2]
        origins = self.origins.index_select(0, at)[:, 1:]
        prediction = Prediction(
            class_id=self.label.view(-1).index_select(0, place).long(),
            confidence=self.confidence.view(-1).index_select(0, place),
            exit_step=step.contiguous(),
            logits=self.logits.flatten(0, 1).index_select(0, place),
            origins=origins.long().masked_fill_(told[:, 3:, None] > 0, -1),
        )
        if not steps.all():
            none = step == 0
            prediction.class_id.masked_fill_(none, -1)
            prediction.confidence.masked_fill_(none, float("nan"))
            prediction.logits.masked_fill_(none[:, None], float("nan"))
        return prediction
