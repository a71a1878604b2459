"""What goes with a launch to the device and comes back: one block of memory, the same for all launches.

    numbers    now float64 [1], wanted int32 [1]: when it was planned; how many rows of the queue it takes
    rows       slots int32 [B], steps int32 [B], where the host has planned them; -1 and 0: padding
    admitted   int64 [B, W], for each image of a glance: where it lies, where its answer goes, its limits
    record     int32 [2 + 3 B], the way back: how many have left, how many are ready, and of each that has
               left slot, step and reason

On a GPU a block lies in page-locked memory, which a captured launch copies from and to; on a CPU both sides
are one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gfnet_kernels.deliver import PLACES
from gfnet_kernels.images import ENTRY
from numpy.typing import NDArray
from torch import Tensor

from gfnet_fast._scheduler import Stage

HEAD = 2  # words of 8 bytes before the rows
LEFT = 2  # numbers of a record before those that have left


class Admission(NamedTuple):
    """What a slot is told when its image is admitted, as columns of int64 ``[n, W]``, a tensor or an array.

    entry : int64 ``[n, 6]``, the image table's row
    places : int64 ``[n, 5]``, addresses of its answer's class, confidence, step, logits, origins; 0: nowhere
    deadline : float64 ``[n, 1]``, on the engine's clock; inf: none
    room : float32 ``[n, 2]``, height and width of the image less the patch
    limit : int32 ``[n, 1]``, no step beyond it; 0: cancelled
    thresholds : float32 ``[n, T]``
    ticket : int64 ``[n]``, for the host only
    """

    entry: Any
    places: Any
    deadline: Any
    room: Any
    limit: Any
    thresholds: Any
    ticket: Any

    @classmethod
    def of(cls, words: Any, steps: int) -> Admission:
        kinds: Any = torch if isinstance(words, Tensor) else np
        floats, after = words.view(kinds.float32), ENTRY + PLACES
        return cls(
            entry=words[:, :ENTRY],
            places=words[:, ENTRY:after],
            deadline=words.view(kinds.float64)[:, after : after + 1],
            room=floats[:, 2 * after + 2 : 2 * after + 4],
            limit=words.view(kinds.int32)[:, 2 * after + 4 : 2 * after + 5],
            thresholds=floats[:, 2 * after + 5 : 2 * after + 5 + steps],
            ticket=words[:, -1],
        )

    @staticmethod
    def width(steps: int) -> int:
        """W, in words of 8 bytes."""
        return ENTRY + PLACES + 1 + 1 + (1 + steps + 1) // 2 + 1


class Side(NamedTuple):
    """The parts of a block's memory, on the host or on the device."""

    now: Tensor
    wanted: Tensor
    slots: Tensor
    steps: Tensor
    admitted: Tensor

    @classmethod
    def of(cls, memory: Tensor, rows: int, width: int) -> Side:
        numbers = memory.view(torch.int32)
        begin = 2 * HEAD
        return cls(
            now=memory[:1].view(torch.float64),
            wanted=numbers[2:3],
            slots=numbers[begin : begin + rows],
            steps=numbers[begin + rows : begin + 2 * rows],
            admitted=memory[HEAD + rows :].view(rows, width),
        )


class Block:
    """The block of one launch at a time.

    Attributes
    ----------
    device : Side
        What the stages read.
    record : int32 ``[2 + 3 B]`` on the device, what they write
    end : torch.cuda.Event on a GPU, of the launch under way
    """

    def __init__(self, rows: int, steps: int, device: torch.device) -> None:
        """`rows`: B, of the largest launch; `steps`: T."""
        width, apart = Admission.width(steps), device.type == "cuda"
        self._head, self._width = HEAD + rows, width
        size = self._head + rows * width
        self._sent = torch.zeros(size, dtype=torch.int64, device="cpu", pin_memory=apart)
        self._back = torch.zeros(LEFT + 3 * rows, dtype=torch.int32, device="cpu", pin_memory=apart)
        self._arrived = self._sent.to(device) if apart else self._sent
        self.record = self._back.to(device) if apart else self._back
        self.device = Side.of(self._arrived, rows, width)
        self._apart = apart
        host = Side.of(self._sent, rows, width)
        self._now, self._wanted, self._slots, self._steps, self._admitted = (part.numpy() for part in host)
        self._left = self._back[LEFT:].view(rows, 3).numpy()
        self._numbers = self._back[:LEFT].numpy()
        self.end: Any = torch.cuda.Event() if apart else None

    def clear(self) -> None:
        """Padding only."""
        self._wanted[0], self._slots[:], self._steps[:] = 0, -1, 0

    def fill(
        self,
        stage: Stage,
        bucket: int,
        count: int,
        now: float,
        slots: NDArray[np.int32],
        steps: NDArray[np.int32],
        told: NDArray[np.int64],
    ) -> None:
        """For a launch of `count` rows that was planned at `now`.

        `slots` and `steps` ``[bucket]``, or ``[0]`` where the rows come from the queue; `told` ``[C, W]`` has
        what the slots of a glance are told.
        """
        self._now[0], self._wanted[0] = now, count
        if len(slots):
            self._slots[:bucket], self._steps[:bucket] = slots, steps
        if stage is Stage.GLANCE:
            told.take(slots[:count], axis=0, out=self._admitted[:count], mode="clip")

    def down(self, stage: Stage, bucket: int) -> None:
        """Start the way to the device, of what a launch of this size reads."""
        if self._apart:
            size = self._head + (bucket * self._width if stage is Stage.GLANCE else 0)
            self._arrived[:size].copy_(self._sent[:size], non_blocking=True)

    def up(self, bucket: int) -> None:
        """Start the way of the record to the host."""
        if self._apart:
            size = LEFT + 3 * bucket
            self._back[:size].copy_(self.record[:size], non_blocking=True)

    def left(self) -> NDArray[np.int32]:
        """int32 ``[k, 3]``, slot, step and reason of those that have left; a view, until the next launch."""
        return self._left[: self._numbers[0]]
