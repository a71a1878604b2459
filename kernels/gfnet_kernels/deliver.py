"""Answers of the rows that leave, written to where each slot's owner wants them.

    slots      [n] int32           -1: padded row
    reason     [n] int32           as `exits` gives it; below 0: the row stays, nothing is written
    at         [n] int32           the step of the row's answer, up to T; 0: it has none
    label      [C, 2, 1] int32     by slot; a step's values lie at (step - 1) % 2
    confidence [C, 2, 1] float32
    logits     [C, 2, K] float32
    origins    [C, T, 2] int32     by slot; step k's at k - 1, and the glance has none
    places     [C, 5] int64        by slot: addresses of class_id, confidence, exit_step, logits, origins

    class_id   [] int64            a slot whose address of it is 0 has no owner: nothing is written
    confidence [] float32
    exit_step  [] int64
    logits     [K] float32
    origins    [T - 1, 2] int64    of steps 2..T, -1 beyond the answer's

With slots [3, 5], reason [0, -1], at [2, 1], T = 3 and origins[3, 1] = [8, 4]: slot 3's owner gets
label[3, 1], confidence[3, 1], 2, logits[3, 1] and [[8, 4], [-1, -1]]; slot 5's nothing. Where at is 0 the
answer is class -1, step 0, and NaN for confidence and logits.
"""

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from gfnet_kernels._library import expect, expect_contiguous, expect_range, expect_tensor, register
from gfnet_kernels.exits import WIDEST
from torch import Tensor

PLACES = 5
_SIZES = np.array([8, 4, 8, 4, 8])  # bytes of what lies there
BLOCK = 1024
REGISTERS = 40
SPACE = 1 << 48  # addresses of a process


@triton.jit
def deliver_kernel(
    slots, reason, at, label, confidence, logits, origins, places,
    K: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr, ORIGINS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)
    if (slot >= 0) & (tl.load(reason + row) >= 0):
        place = places + slot * 5
        class_id = tl.load(place)
        if class_id != 0:
            step = tl.load(at + row)
            answered = step > 0
            newest = slot * 2 + (tl.maximum(step, 1) - 1) % 2
            column = part * BLOCK + tl.arange(0, BLOCK)
            to = tl.load(place + 3).to(tl.pointer_type(tl.float32)) + column
            known = column < tl.where(answered, K, 0)
            tl.store(
                to, tl.load(logits + newest * K + column, mask=known, other=float("nan")), mask=column < K
            )
            if part == 0:
                number = tl.load(label + newest, mask=answered, other=-1).to(tl.int64)
                tl.store(class_id.to(tl.pointer_type(tl.int64)), number)
                share = tl.load(confidence + newest, mask=answered, other=float("nan"))
                tl.store(tl.load(place + 1).to(tl.pointer_type(tl.float32)), share)
                tl.store(tl.load(place + 2).to(tl.pointer_type(tl.int64)), step.to(tl.int64))
                if STEPS > 1:
                    i = tl.arange(0, ORIGINS)
                    point = tl.load(origins + slot * (2 * STEPS) + 2 + i, mask=i < 2 * step - 2, other=-1)
                    home = tl.load(place + 4).to(tl.pointer_type(tl.int64)) + i
                    tl.store(home, point.to(tl.int64), mask=i < 2 * STEPS - 2)


def deliver_launch(
    slots: Tensor, reason: Tensor, at: Tensor, label: Tensor, confidence: Tensor, logits: Tensor,
    origins: Tensor, places: Tensor,
) -> None:  # fmt: skip
    """Launch one program per row and BLOCK classes."""
    classes, steps = logits.shape[2], origins.shape[1]
    block = min(triton.next_power_of_2(classes), BLOCK)
    if len(slots):
        deliver_kernel[(len(slots), triton.cdiv(classes, block))](
            slots, reason, at, label, confidence, logits, origins, places,
            K=classes, STEPS=steps, BLOCK=block, ORIGINS=triton.next_power_of_2(2 * steps),
            num_warps=max(block // 256, 1), enable_fp_fusion=True,
        )  # fmt: skip


class _Memory:
    """What numpy asks of memory that it does not own."""

    def __init__(self, **interface: Any) -> None:
        self.__array_interface__ = {"version": 3, **interface}


@lru_cache(maxsize=64)
def _memory(kind: type[np.generic], *width: int) -> Any:
    """All memory as values, or as rows of `width` values: number i begins at address (i + 1) * itemsize.

    Rows of any owners, however far apart, are written by one assignment, and nothing else is.
    """
    dtype = np.dtype(kind)
    size = dtype.itemsize
    shape, strides = (SPACE // size - max(width, default=1), *width), (size,) * (1 + len(width))
    return np.asarray(_Memory(typestr=dtype.str, data=(size, False), shape=shape, strides=strides))


@lru_cache(maxsize=64)
def _taken(steps: int) -> Any:
    """Bool [T + 1, 2 (T - 1)]: whether a slot that has taken so many steps has each number of its origins."""
    return np.arange(steps + 1)[:, None] >= np.repeat(np.arange(2, steps + 1), 2)


def _deliver_cpu(
    slots: Tensor, reason: Tensor, at: Tensor, label: Tensor, confidence: Tensor, logits: Tensor,
    origins: Tensor, places: Tensor,
) -> None:  # fmt: skip
    slot = slots.numpy()
    leaves = (slot >= 0) & (reason.numpy() >= 0)
    slot, step = slot[leaves].astype(np.intp), at.numpy()[leaves]
    to = places.numpy()[slot]
    owned = to[:, 0] != 0
    if np.count_nonzero(owned) < len(owned):
        slot, step, to = slot[owned], step[owned], to[owned]
    if not len(slot):
        return
    expect(not (to % _SIZES).any(), "places", f"multiples of {_SIZES.tolist()}", "others")
    to = (to // _SIZES - 1).T

    steps, newest = origins.shape[1], 2 * slot + (step - 1) % 2
    numbers, shares = label.numpy().ravel()[newest], confidence.numpy().ravel()[newest]
    values = logits.numpy().reshape(-1, logits.shape[2]).take(newest, 0)
    none = step == 0
    if np.count_nonzero(none):
        numbers[none], shares[none], values[none] = -1, np.nan, np.nan
    integers, floats = _memory(np.int64), _memory(np.float32)
    integers[to[0]], floats[to[1]], integers[to[2]] = numbers, shares, step
    _memory(np.float32, values.shape[1])[to[3]] = values
    if steps > 1:
        points = origins.numpy().reshape(-1, 2 * steps)[slot, 2:]
        _memory(np.int64, 2 * steps - 2)[to[4]] = np.where(_taken(steps)[step], points, -1)


def _deliver_values(
    slots: Tensor, reason: Tensor, at: Tensor, label: Tensor, confidence: Tensor, logits: Tensor,
    origins: Tensor, places: Tensor,
) -> None:  # fmt: skip
    expect_range("slots", slots, -1, len(places) - 1)
    leaves = (slots >= 0) & (reason >= 0)
    expect_range("at", at[leaves], 0, origins.shape[1])
    wanted = places[slots[leaves].long()]
    wanted = wanted[wanted[:, 0] != 0]
    several = PLACES if origins.shape[1] > 1 else PLACES - 1
    expect(bool((wanted[:, :several] > 0).all()), "places", "all addresses of a slot with an owner", "a 0")


# Marked as written, since what it points at is: an op that writes nothing would be dropped by a compiler.
_deliver = register(
    "deliver",
    "Tensor slots, Tensor reason, Tensor at, Tensor label, Tensor confidence, Tensor logits, Tensor origins, "
    "Tensor(a!) places",
    cpu=_deliver_cpu,
    cuda=deliver_launch,
    values=_deliver_values,
)


def deliver(
    slots: Tensor, reason: Tensor, at: Tensor, label: Tensor, confidence: Tensor, logits: Tensor,
    origins: Tensor, places: Tensor,
) -> None:  # fmt: skip
    """Write the answer of every row that leaves to its slot's addresses; nothing waits for the device.

    Parameters
    ----------
    slots, reason, at
        int32 [n] each, as `exits` takes and gives them; no slot twice.
    label, confidence, logits, origins
        The arena, by slot: int32 [C, 2, 1], float32 [C, 2, 1], float32 [C, 2, K] and int32 [C, T, 2]; all
        contiguous.
    places
        int64 [C, 5]: addresses that the device can write, of one int64, one float32, one int64, K float32
        and 2 (T - 1) int64; 0 first where nobody wants the answer. Multiples of the values' size: ValueError
        on a CPU where they are not. For the rest they are taken at their word.
    """
    device = places.device
    expect_tensor("places", places, (None, PLACES), (torch.int64,), device)
    expect_tensor("slots", slots, (None,), (torch.int32,), device)
    rows, count = len(slots), len(places)
    expect_tensor("reason", reason, (rows,), (torch.int32,), device)
    expect_tensor("at", at, (rows,), (torch.int32,), device)
    expect_tensor("label", label, (count, 2, 1), (torch.int32,), device)
    expect_tensor("confidence", confidence, (count, 2, 1), (torch.float32,), device)
    expect_tensor("logits", logits, (count, 2, None), (torch.float32,), device)
    expect(1 <= logits.shape[2] <= WIDEST, "classes", f"1..{WIDEST}", logits.shape[2])
    expect_tensor("origins", origins, (count, None, 2), (torch.int32,), device)
    expect(origins.shape[1] > 0, "origins", "one per step", 0)
    for what, arena in (
        ("label", label), ("confidence", confidence), ("logits", logits), ("origins", origins),
        ("places", places),
    ):  # fmt: skip
        expect_contiguous(what, arena)
    _deliver(
        slots.contiguous(), reason.contiguous(), at.contiguous(), label, confidence, logits, origins, places
    )


def deliver_reference(
    slots: Tensor, reason: Tensor, at: Tensor, label: Tensor, confidence: Tensor, logits: Tensor,
    origins: Tensor, places: Tensor,
) -> None:  # fmt: skip
    """Same as `deliver`, one row and field at a time, at addresses of the host."""
    steps = origins.shape[1]
    for slot, why, step in zip(slots.tolist(), reason.tolist(), at.tolist(), strict=True):
        if slot < 0 or why < 0 or places[slot, 0] == 0:
            continue
        newest, points = (step - 1) % 2, torch.full((steps - 1, 2), -1)
        points[: max(step - 1, 0)] = origins[slot, 1 : max(step, 1)].cpu()
        fields = (
            label[slot, newest].long() if step else torch.tensor([-1]),
            confidence[slot, newest] if step else torch.tensor([float("nan")]),
            torch.tensor([step]),
            logits[slot, newest] if step else torch.full(logits.shape[2:], float("nan")),
            points,
        )
        for address, field in zip(places[slot].tolist(), fields, strict=True):
            data = field.cpu().numpy().tobytes()
            ctypes.memmove(address, data, len(data))
