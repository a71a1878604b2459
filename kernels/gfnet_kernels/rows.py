"""Rows of arenas, read and written at their slots: of several arenas in one launch.

    arena [slots, F]        or [slots, R, F] for scatter with a step
    slots [n] int32         -1: gather gives a zero row, scatter writes nothing; scatter: no slot twice
    step  [n] int32         from 1 on: scatter writes arena[slot, (step - 1) % R]
    rows  [n, F]

With arena [3, 2] holding [[1, 1], [2, 2], [3, 3]]: gather(arena, [2, -1, 0]) = [[3, 3], [0, 0], [1, 1]].
An arena of R = T keeps the rows of all T steps, one of R = 2 those of the newest two.
A cascaded classifier reads features 1..k side by side: gather(arena.flatten(1)[:, : k * F], slots).
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
import triton
import triton.language as tl
from gfnet_kernels._library import (
    FLOAT_DTYPES,
    expect,
    expect_range,
    expect_rows_apart,
    expect_tensor,
    output,
    register,
)
from gfnet_kernels.state import expect_unique
from torch import Tensor

ARENA_DTYPES = (*FLOAT_DTYPES, torch.int32, torch.uint8)
WRITTEN_DTYPES = (*ARENA_DTYPES, torch.int64, torch.float64)
BLOCK = 1024
REGISTERS = 32

Tensors = Sequence[Tensor]


# Along the second axis of the grid each arena has programs FIRST[i] to FIRST[i + 1]; what a program does not
# belong to it skips as a whole. Widths and strides are constants, so that accesses vectorise.


@triton.jit
def gather_kernel(
    arenas, slots, outs, WIDTHS: tl.constexpr, FIRST: tl.constexpr, STRIDES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)
    for i in tl.static_range(len(WIDTHS)):
        if (part >= FIRST[i]) & (part < FIRST[i + 1]):
            column = (part - FIRST[i]) * BLOCK + tl.arange(0, BLOCK)
            mask = column < tl.where(slot >= 0, WIDTHS[i], 0)
            value = tl.load(arenas[i] + tl.maximum(slot, 0) * STRIDES[i] + column, mask=mask, other=0)
            tl.store(outs[i] + row * WIDTHS[i] + column, value, mask=column < WIDTHS[i])


@triton.jit
def scatter_kernel(
    rows, slots, step, arenas, WIDTHS: tl.constexpr, FIRST: tl.constexpr, ROW_STRIDES: tl.constexpr,
    SLOT_STRIDES: tl.constexpr, STEP_STRIDES: tl.constexpr, LENGTHS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)
    live = slot >= 0
    slot = tl.maximum(slot, 0)
    if step is not None:
        taken = tl.maximum(tl.load(step + row) - 1, 0)
    for i in tl.static_range(len(WIDTHS)):
        if (part >= FIRST[i]) & (part < FIRST[i + 1]):
            column = (part - FIRST[i]) * BLOCK + tl.arange(0, BLOCK)
            mask = column < tl.where(live, WIDTHS[i], 0)
            value = tl.load(rows[i] + row * ROW_STRIDES[i] + column, mask=mask, other=0)
            to = arenas[i] + slot * SLOT_STRIDES[i] + column
            if LENGTHS[i] > 1:
                to += (taken % LENGTHS[i]).to(tl.int64) * STEP_STRIDES[i]
            tl.store(to, value.to(arenas[i].dtype.element_ty), mask=mask)


def _parts(widths: Sequence[int]) -> tuple[tuple[int, ...], int, int]:
    """Where the programs of each arena begin, how many columns a program has, and its warps."""
    block = min(triton.next_power_of_2(max(widths)), BLOCK)
    first = tuple(accumulate((triton.cdiv(width, block) for width in widths), initial=0))
    return first, block, max(block // 256, 1)


def gather_launch(arenas: Tensors, slots: Tensor, outs: Tensors) -> None:
    """Launch one program per row and BLOCK columns of an arena."""
    widths = tuple(arena.shape[1] for arena in arenas)
    first, block, warps = _parts(widths)
    if len(slots):
        gather_kernel[(len(slots), first[-1])](
            tuple(arenas), slots, tuple(outs), WIDTHS=widths, FIRST=first,
            STRIDES=tuple(arena.stride(0) for arena in arenas), BLOCK=block,
            num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip


def scatter_launch(rows: Tensors, slots: Tensor, step: Tensor | None, arenas: Tensors) -> None:
    """Launch one program per row and BLOCK columns of an arena."""
    widths = tuple(arena.shape[-1] for arena in arenas)
    first, block, warps = _parts(widths)
    if len(slots):
        scatter_kernel[(len(slots), first[-1])](
            tuple(rows), slots, step, tuple(arenas), WIDTHS=widths, FIRST=first,
            # That of a single row is never used, and would be another kernel.
            ROW_STRIDES=tuple(part.stride(0) if len(slots) > 1 else part.shape[1] for part in rows),
            SLOT_STRIDES=tuple(arena.stride(0) for arena in arenas),
            STEP_STRIDES=tuple(arena.stride(-2) for arena in arenas),
            LENGTHS=tuple(arena.shape[1] if arena.ndim == 3 else 1 for arena in arenas),
            BLOCK=block, num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip


def _gather_cpu(arenas: Tensors, slots: Tensor, outs: Tensors) -> None:
    if not len(slots):
        return
    padded = int(slots.min()) < 0
    live = slots.clamp(min=0) if padded else slots
    for arena, out in zip(arenas, outs, strict=True):
        torch.index_select(arena, 0, live, out=out)
        if padded:
            out[slots < 0] = 0


def _array(values: Tensor) -> np.ndarray:
    """The memory of a tensor on the CPU, of bfloat16 as the integers that it is stored as."""
    values = values.detach()
    return (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).numpy()


def _scatter_cpu(rows: Tensors, slots: Tensor, step: Tensor | None, arenas: Tensors) -> None:
    # Assigned in numpy: index_copy_ and index_put_ take 1.7 times as long for a row, 2.6 times for 64.
    at, taken = slots.numpy(), None if step is None else step.numpy() - 1
    if len(at) and at.min() < 0:
        live = at >= 0
        at, taken, rows = at[live], None if taken is None else taken[live], [part[live] for part in rows]
    for part, arena in zip(rows, arenas, strict=True):
        if arena.is_neg():  # its memory holds what is negated when it is read
            part, arena = -part, torch._neg_view(arena)
        values = _array(part if part.dtype == arena.dtype else part.to(arena.dtype))
        if arena.ndim == 2 or taken is None:
            _array(arena)[at] = values
        else:
            _array(arena)[at, taken % arena.shape[1]] = values


def _gather_values(arenas: Tensors, slots: Tensor, outs: Tensors) -> None:
    expect_range("slots", slots, -1, min(len(arena) for arena in arenas) - 1)


def _scatter_values(rows: Tensors, slots: Tensor, step: Tensor | None, arenas: Tensors) -> None:
    expect_unique(slots, min(len(arena) for arena in arenas))
    if step is not None:
        expect_range("step", step[slots >= 0], 1, 2**31 - 1)


_gather = register(
    "gather",
    "Tensor[] arenas, Tensor slots, Tensor(a!)[] outs",
    cpu=_gather_cpu,
    cuda=gather_launch,
    values=_gather_values,
)
_scatter = register(
    "scatter",
    "Tensor[] rows, Tensor slots, Tensor? step, Tensor(a!)[] arenas",
    cpu=_scatter_cpu,
    cuda=scatter_launch,
    values=_scatter_values,
)


def gather_all(arenas: Tensors, slots: Tensor) -> tuple[Tensor, ...]:
    """Rows of several arenas at the same slots in one launch; each as :func:`gather` gives them."""
    expect(len(arenas) > 0, "arenas", "at least one", 0)
    outs = tuple(_gather_output(arena, slots, None) for arena in arenas)
    _gather(list(arenas), slots.contiguous(), list(outs))
    return outs


def gather(arena: Tensor, slots: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Rows of the arena at the given slots, [n, F] in the arena's type; zero where the slot is -1."""
    out = _gather_output(arena, slots, out)
    _gather([arena], slots.contiguous(), [out])
    return out


def _gather_output(arena: Tensor, slots: Tensor, out: Tensor | None) -> Tensor:
    """Check what gather takes, and where it writes."""
    expect_tensor("arena", arena, (None, None), ARENA_DTYPES, arena.device)
    expect(arena.shape[1] > 0, "arena", "at least one column", 0)
    expect(arena.stride(1) == 1, "arena", "adjacent columns", f"strides {arena.stride()}")
    expect_tensor("slots", slots, (None,), (torch.int32,), arena.device)
    return output(out, (len(slots), arena.shape[1]), arena.dtype, arena.device)


def gather_reference(arena: Tensor, slots: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Same as `gather`, one row at a time."""
    result = torch.zeros(len(slots), arena.shape[1], dtype=arena.dtype, device=arena.device)
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            result[row] = arena[slot]
    return result if out is None else out.copy_(result)


def scatter_all(arenas: Tensors, slots: Tensor, rows: Tensors, step: Tensor | None = None) -> None:
    """Write rows into several arenas at the same slots and steps in one launch.

    An arena [slots, F] takes its row whatever the step, one [slots, R, F] at (step - 1) % R; see
    :func:`scatter`. Without any of the latter no step is needed.
    """
    expect(len(arenas) == len(rows) > 0, "rows", f"one tensor for each of {len(arenas)} arenas", len(rows))
    most = 2
    if step is not None:
        expect_tensor("step", step, (len(slots),), (torch.int32,), slots.device)
        step, most = step.contiguous(), 3
    rows = [
        _scatter_input(arena, slots, part, min(arena.ndim, most))
        for arena, part in zip(arenas, rows, strict=True)
    ]
    _scatter(rows, slots.contiguous(), step, list(arenas))


def scatter(arena: Tensor, slots: Tensor, rows: Tensor, step: Tensor | None = None) -> None:
    """Write rows into the arena, cast to its type: arena[slot], or with a step arena[slot, (step - 1) % R].

    Rows of slot -1 are skipped. No slot may be named twice.
    """
    rows = _scatter_input(arena, slots, rows, 2 if step is None else 3)
    if step is not None:
        expect_tensor("step", step, (len(slots),), (torch.int32,), arena.device)
        step = step.contiguous()
    _scatter([rows], slots.contiguous(), step, [arena])


def _scatter_input(arena: Tensor, slots: Tensor, rows: Tensor, axes: int) -> Tensor:
    """Check an arena of 2 or 3 axes and its rows; the rows with adjacent columns."""
    expect_tensor("arena", arena, (None,) * axes, WRITTEN_DTYPES, arena.device)
    expect(arena.shape[-1] > 0, "arena", "at least one column", 0)
    expect(axes == 2 or arena.shape[1] > 0, "arena", "at least one row a slot", 0)
    expect(arena.stride(-1) == 1, "arena", "adjacent columns", f"strides {arena.stride()}")
    expect_rows_apart("arena", arena)
    expect_tensor("slots", slots, (None,), (torch.int32,), arena.device)
    expect_tensor("rows", rows, (len(slots), arena.shape[-1]), WRITTEN_DTYPES, arena.device)
    return rows if rows.stride(1) == 1 else rows.contiguous()


def scatter_reference(arena: Tensor, slots: Tensor, rows: Tensor, step: Tensor | None = None) -> None:
    """Same as `scatter`, one row at a time."""
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            home = arena[slot]
            if step is not None:
                home = home[(int(step[row]) - 1) % arena.shape[1]]
            home.copy_(rows[row])
