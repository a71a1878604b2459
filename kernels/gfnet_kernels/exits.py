"""Which rows leave: largest softmax probability against the threshold of each row's own step.

    logits     [n, K] float        row stride free, columns adjacent
    step       [n] int32           1..T, the steps that row has taken; by_slot: [slots], read at the slot
    thresholds [T] float32
    slots      [n] int32           optional; -1: padded row
    valid      [1] int32           optional; rows from valid[0] on are padded

    confidence [n] float32         1 / sum(exp(logit - max)); NaN marks a row without a probability; padded: 0
    label      [n] int32           first largest logit; NaN rows and padded rows: -1
    exited     [n] bool            confidence >= thresholds[step - 1], and every row at step T; padded: False

With logits [[4, 0], [4, 0], [nan, 0]], step [1, 2, 1] and thresholds [.99, .9, -1e8]: confidence is
[.982, .982, nan], label [0, 0, -1], exited [False, True, False].
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from gfnet_kernels._library import FLOAT_DTYPES, expect, expect_range, expect_tensor, output, register
from gfnet_kernels.pixels import steps

WIDEST = 32768  # the row lies in one program's registers; twice as many would spill
REGISTERS, REGISTERS_WIDE = 40, 64  # up to 16,384 classes, and beyond

Exits = tuple[Tensor, Tensor, Tensor]


@triton.jit
def exits_kernel(
    logits, step, thresholds, slots, valid, confidence, label, exited,
    K: tl.constexpr, STRIDE: tl.constexpr, STEPS: tl.constexpr, BY_SLOT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    slot = row
    if slots is not None:
        slot = tl.load(slots + row).to(tl.int64)
    if valid is not None:
        slot = tl.where(row < tl.load(valid), slot, -1)
    live = slot >= 0
    column = tl.arange(0, BLOCK)

    # K and STRIDE are constants: 1,000 as a run-time value would load two bytes at a time.
    mask = column < tl.where(live, K, 0)
    value = tl.load(logits + row * STRIDE + column, mask=mask, other=float("-inf")).to(tl.float32)
    largest = tl.max(value, 0)
    share = 1.0 / tl.sum(tl.where(column < K, tl.exp(value - largest), 0.0), 0)
    first = tl.min(tl.where(value == largest, column, K), 0)

    at = tl.load(step + (tl.maximum(slot, 0) if BY_SLOT else row))
    bar = tl.load(thresholds + tl.minimum(tl.maximum(at - 1, 0), STEPS - 1))
    leaves = tl.where(at >= STEPS, 1, tl.where(share >= bar, 1, 0))

    tl.store(confidence + row, tl.where(live, share, 0.0))
    tl.store(label + row, tl.where(live, tl.where(share == share, first, -1), -1))
    tl.store(exited + row, tl.where(live, leaves, 0) != 0)


def exits_launch(
    logits: Tensor, step: Tensor, thresholds: Tensor, slots: Tensor | None, valid: Tensor | None,
    by_slot: bool, confidence: Tensor, label: Tensor, exited: Tensor,
) -> None:  # fmt: skip
    """Launch one program per row."""
    rows, classes = logits.shape
    block = triton.next_power_of_2(classes)
    if rows:
        exits_kernel[(rows,)](
            logits, step, thresholds, slots, valid, confidence, label, exited,
            K=classes, STRIDE=logits.stride(0), STEPS=len(thresholds), BY_SLOT=by_slot, BLOCK=block,
            num_warps=min(max(block // 256, 1), 32), enable_fp_fusion=True,
        )  # fmt: skip


def live_mask(rows: int, slots: Tensor | None, valid: Tensor | None, device: torch.device) -> Tensor:
    """Bool [rows]: neither slot -1 nor from valid[0] on."""
    if valid is None:
        return torch.ones(rows, dtype=torch.bool, device=device) if slots is None else slots >= 0
    live = torch.arange(rows, device=device) < valid
    return live if slots is None else live & (slots >= 0)


@lru_cache(maxsize=16)
def _block_width(columns: int) -> int:
    """Largest divisor of a row up to 128, a multiple of four where there is one: those vectorise."""
    return max(
        (w for w in range(1, min(columns, 128) + 1) if columns % w == 0), key=lambda w: (w % 4 == 0, w)
    )


def _first_largest(values: Tensor) -> Tensor:
    """Argmax of each row, looked for only in the block of columns that holds the largest value.

    torch's argmax takes 1.7 ms for 1,024 x 1,000 on a core, amax over blocks of 100 0.2 ms.
    """
    rows, columns = values.shape
    width = _block_width(columns)
    across = columns // width
    if across == 1:
        return values.argmax(1)
    blocks = values.reshape(-1, width)
    block = blocks.amax(1).view(rows, across).argmax(1)
    return blocks.index_select(0, steps(rows, across) + block).argmax(1).add_(block, alpha=width)


def _exits_cpu(
    logits: Tensor, step: Tensor, thresholds: Tensor, slots: Tensor | None, valid: Tensor | None,
    by_slot: bool, confidence: Tensor, label: Tensor, exited: Tensor,
) -> None:  # fmt: skip
    if not len(logits):
        return
    live = None
    if valid is not None or (slots is not None and int(slots.min()) < 0):
        live = live_mask(len(logits), slots, valid, logits.device)
    if by_slot and slots is not None:
        step = step.index_select(0, slots if live is None else slots.where(live, 0))
    last = len(thresholds)
    bar = thresholds.index_select(0, step.sub(1).clamp_(0, last - 1))

    values = logits.float()
    best = _first_largest(values)
    torch.gather(values.softmax(1), 1, best.view(-1, 1), out=confidence.view(-1, 1))
    label.copy_(best).masked_fill_(confidence.ne(confidence), -1)
    torch.ge(confidence, bar, out=exited).logical_or_(step >= last)
    if live is not None:
        padded = live.logical_not_()
        confidence.masked_fill_(padded, 0)
        label.masked_fill_(padded, -1)
        exited.masked_fill_(padded, False)


def _exits_values(
    logits: Tensor, step: Tensor, thresholds: Tensor, slots: Tensor | None, valid: Tensor | None,
    by_slot: bool, confidence: Tensor, label: Tensor, exited: Tensor,
) -> None:  # fmt: skip
    rows = len(logits)
    if valid is not None:
        expect_range("valid", valid, 0, rows)
        rows = int(valid)
    if slots is not None:
        slots = slots[:rows]
        expect_range("slots", slots, -1, len(step) - 1 if by_slot else 2**31 - 1)
        live = slots >= 0
        step = step[slots[live].long()] if by_slot else step[:rows][live]
    expect_range("step", step[:rows], 1, len(thresholds))


_exits = register(
    "exits",
    "Tensor logits, Tensor step, Tensor thresholds, Tensor? slots, Tensor? valid, bool by_slot, "
    "Tensor(a!) confidence, Tensor(b!) label, Tensor(c!) exited",
    cpu=_exits_cpu,
    cuda=exits_launch,
    values=_exits_values,
)


def exits(
    logits: Tensor, step: Tensor, thresholds: Tensor, *, slots: Tensor | None = None,
    valid: Tensor | None = None, by_slot: bool = False, out: Exits | None = None,
) -> Exits:  # fmt: skip
    """Confidence, label and exit flag of every row; the softmax is never written.

    Parameters
    ----------
    logits
        [n, K] float32, float16 or bfloat16, K at most 32,768.
    step
        int32 [n]: steps taken so far, 1..T; with `by_slot` [slots], read at the row's slot.
    thresholds
        float32 [T]. A row at step T leaves whatever its confidence.
    slots, valid
        Padding: int32 [n] with -1 where a row is padded, and int32 [1], the number of rows that are not.
    out
        Caller's buffers (confidence, label, exited), for a captured graph.

    Returns
    -------
    confidence, label, exited
        float32, int32 and bool [n]. A row whose softmax is not a number has confidence NaN and label -1, and
        leaves at step T only. Padded rows hold 0, -1 and False.
    """
    device = logits.device
    expect_tensor("logits", logits, (None, None), FLOAT_DTYPES, device)
    rows = len(logits)
    expect(1 <= logits.shape[1] <= WIDEST, "classes", f"1..{WIDEST}", logits.shape[1])
    expect(by_slot is False or slots is not None, "by_slot", "slots with it", None)
    expect_tensor("step", step, (None if by_slot else rows,), (torch.int32,), device)
    expect_tensor("thresholds", thresholds, (None,), (torch.float32,), device)
    expect(len(thresholds) > 0, "thresholds", "one per step", 0)
    if slots is not None:
        expect_tensor("slots", slots, (rows,), (torch.int32,), device)
    if valid is not None:
        expect_tensor("valid", valid, (1,), (torch.int32,), device)
    buffers = out or (None, None, None)
    results = (
        output(buffers[0], (rows,), torch.float32, device),
        output(buffers[1], (rows,), torch.int32, device),
        output(buffers[2], (rows,), torch.bool, device),
    )
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    slots = slots if slots is None else slots.contiguous()
    _exits(logits, step.contiguous(), thresholds.contiguous(), slots, valid, by_slot, *results)
    return results


def exits_reference(
    logits: Tensor, step: Tensor, thresholds: Tensor, *, slots: Tensor | None = None,
    valid: Tensor | None = None, by_slot: bool = False, out: Exits | None = None,
) -> Exits:  # fmt: skip
    """Same as `exits`, through the softmax."""
    live = live_mask(len(logits), slots, valid, logits.device)
    at = step[slots.where(live, 0).long()] if by_slot and slots is not None else step
    confidence, _ = logits.float().softmax(1).max(1)
    label = torch.where(confidence.isnan(), -1, logits.float().argmax(1)).int()
    exited = (confidence >= thresholds[(at - 1).clamp(0, len(thresholds) - 1).long()]) | (
        at >= len(thresholds)
    )
    results = (confidence.where(live, 0.0), label.where(live, -1), exited & live)
    return (
        results
        if out is None
        else (out[0].copy_(results[0]), out[1].copy_(results[1]), out[2].copy_(results[2]))
    )
