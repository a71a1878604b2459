"""Rows of an arena, read and written at their slots.

    arena [slots, F]        or [slots, T, F] for scatter with a step
    slots [n] int32         -1: gather gives a zero row, scatter writes nothing; scatter: no slot twice
    step  [n] int32         1..T: scatter writes arena[slot, step - 1]; by_slot: [slots], read at the slot
    rows  [n, F]

With arena [3, 2] holding [[1, 1], [2, 2], [3, 3]]: gather(arena, [2, -1, 0]) = [[3, 3], [0, 0], [1, 1]].
A cascaded classifier reads features 1..k side by side: gather(arena.flatten(1)[:, : k * F], slots).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gfnet_kernels._library import FLOAT_DTYPES, expect, expect_range, expect_tensor, output, register
from gfnet_kernels.state import expect_unique

ARENA_DTYPES = (*FLOAT_DTYPES, torch.int32, torch.uint8)
BLOCK = 1024
REGISTERS = 24


@triton.jit
def gather_kernel(arena, slots, out, F: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + row).to(tl.int64)
    mask = column < tl.where(slot >= 0, F, 0)
    value = tl.load(arena + tl.maximum(slot, 0) * STRIDE + column, mask=mask, other=0)
    tl.store(out + row * F + column, value, mask=column < F)


@triton.jit
def scatter_kernel(
    rows, slots, step, arena, F: tl.constexpr, ROW_STRIDE: tl.constexpr, SLOT_STRIDE: tl.constexpr,
    STEP_STRIDE: tl.constexpr, BY_SLOT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + row).to(tl.int64)
    mask = column < tl.where(slot >= 0, F, 0)
    slot = tl.maximum(slot, 0)
    to = arena + slot * SLOT_STRIDE + column
    if step is not None:
        to += (tl.load(step + (slot if BY_SLOT else row)).to(tl.int64) - 1) * STEP_STRIDE
    value = tl.load(rows + row * ROW_STRIDE + column, mask=mask, other=0)
    tl.store(to, value.to(arena.dtype.element_ty), mask=mask)


def _grid(rows: int, width: int) -> tuple[tuple[int, int], int, int]:
    """Grid, block and warps for rows of a width."""
    block = min(triton.next_power_of_2(width), BLOCK)
    return (rows, triton.cdiv(width, block)), block, max(block // 256, 1)


def gather_launch(arena: Tensor, slots: Tensor, out: Tensor) -> None:
    """Launch one program per row and BLOCK columns."""
    grid, block, warps = _grid(*out.shape)
    if out.numel():
        gather_kernel[grid](
            arena,
            slots,
            out,
            F=out.shape[1],
            STRIDE=arena.stride(0),
            BLOCK=block,
            num_warps=warps,
            enable_fp_fusion=True,
        )


def scatter_launch(rows: Tensor, slots: Tensor, step: Tensor | None, by_slot: bool, arena: Tensor) -> None:
    """Launch one program per row and BLOCK columns."""
    grid, block, warps = _grid(*rows.shape)
    if rows.numel():
        scatter_kernel[grid](
            rows, slots, step, arena, F=rows.shape[1], ROW_STRIDE=rows.stride(0), SLOT_STRIDE=arena.stride(0),
            STEP_STRIDE=0 if step is None else arena.stride(1), BY_SLOT=by_slot, BLOCK=block,
            num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip


def _gather_cpu(arena: Tensor, slots: Tensor, out: Tensor) -> None:
    if len(slots) and int(slots.min()) >= 0:
        torch.index_select(arena, 0, slots, out=out)
    elif len(slots):
        torch.index_select(arena, 0, slots.clamp(min=0), out=out)
        out[slots < 0] = 0


def _scatter_cpu(rows: Tensor, slots: Tensor, step: Tensor | None, by_slot: bool, arena: Tensor) -> None:
    if len(slots) and int(slots.min()) < 0:
        live = slots >= 0
        rows, slots, step = rows[live], slots[live], step if step is None or by_slot else step[live]
    rows, at = rows.to(arena.dtype), slots.long()
    if step is None:
        arena.index_copy_(0, at, rows)
    else:
        arena[at, (step.index_select(0, at) if by_slot else step).long() - 1] = rows


def _gather_values(arena: Tensor, slots: Tensor, out: Tensor) -> None:
    expect_range("slots", slots, -1, len(arena) - 1)


def _scatter_values(rows: Tensor, slots: Tensor, step: Tensor | None, by_slot: bool, arena: Tensor) -> None:
    expect_unique(slots, len(arena))
    if step is not None:
        live = slots >= 0
        expect_range("step", step[slots[live].long()] if by_slot else step[live], 1, arena.shape[1])


_gather = register(
    "gather",
    "Tensor arena, Tensor slots, Tensor(a!) out",
    cpu=_gather_cpu,
    cuda=gather_launch,
    values=_gather_values,
)
_scatter = register(
    "scatter",
    "Tensor rows, Tensor slots, Tensor? step, bool by_slot, Tensor(a!) arena",
    cpu=_scatter_cpu,
    cuda=scatter_launch,
    values=_scatter_values,
)


def gather(arena: Tensor, slots: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Rows of the arena at the given slots, [n, F] in the arena's type; zero where the slot is -1."""
    expect_tensor("arena", arena, (None, None), ARENA_DTYPES, arena.device)
    expect(arena.shape[1] > 0, "arena", "at least one column", 0)
    expect(arena.stride(1) == 1, "arena", "adjacent columns", f"strides {arena.stride()}")
    expect_tensor("slots", slots, (None,), (torch.int32,), arena.device)
    out = output(out, (len(slots), arena.shape[1]), arena.dtype, arena.device)
    _gather(arena, slots.contiguous(), out)
    return out


def gather_reference(arena: Tensor, slots: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Same as `gather`, one row at a time."""
    result = torch.zeros(len(slots), arena.shape[1], dtype=arena.dtype, device=arena.device)
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            result[row] = arena[slot]
    return result if out is None else out.copy_(result)


def scatter(
    arena: Tensor, slots: Tensor, rows: Tensor, step: Tensor | None = None, *, by_slot: bool = False
) -> None:
    """Write rows into the arena, cast to its type: arena[slot] or, with a step (1..T), arena[slot, step - 1].

    Rows of slot -1 are skipped. No slot may be named twice. With `by_slot` the step is read at the slot.
    """
    stepped = step is not None
    expect_tensor("arena", arena, (None,) * (3 if stepped else 2), ARENA_DTYPES, arena.device)
    expect(arena.shape[-1] > 0, "arena", "at least one column", 0)
    expect(arena.stride(-1) == 1, "arena", "adjacent columns", f"strides {arena.stride()}")
    expect_tensor("slots", slots, (None,), (torch.int32,), arena.device)
    expect_tensor("rows", rows, (len(slots), arena.shape[-1]), ARENA_DTYPES, arena.device)
    if step is not None:
        length = len(arena) if by_slot else len(slots)
        expect_tensor("step", step, (length,), (torch.int32,), arena.device)
        step = step.contiguous()
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    _scatter(rows, slots.contiguous(), step, by_slot, arena)


def scatter_reference(
    arena: Tensor, slots: Tensor, rows: Tensor, step: Tensor | None = None, *, by_slot: bool = False
) -> None:
    """Same as `scatter`, one row at a time."""
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            at = (slot,) if step is None else (slot, int(step[slot if by_slot else row]) - 1)
            arena[at] = rows[row].to(arena.dtype)
