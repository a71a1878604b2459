"""Which rows leave, and why: largest softmax probability against each row's own threshold, limit, deadline.

    logits     [n, K] float        row stride free, columns adjacent
    slots      [n] int32           -1: padded row
    steps      [n] int32           1..T, the step that each row has just taken
    thresholds [C, T] float32      by slot
    limits     [C] int32           by slot: no step beyond this one; 0: cancelled
    deadlines  [C] float64         by slot, in seconds; infinity: none
    now        [1] float64         seconds on the same clock, when the launch was planned

    confidence [n] float32         1 / sum(exp(logit - max)); NaN marks a row without a probability; padded: 0
    label      [n] int32           first largest logit; NaN rows and padded rows: -1
    reason     [n] int32           the first that holds of the five below; padded: STAYS
    at         [n] int32           the step of the row's answer; padded: 0

    limit 0                        CANCELLED, at steps - 1
    steps - 1 >= limit             LAST_STEP, at steps - 1
    deadline <= now                DEADLINE, at steps - 1
    confidence >= threshold        EXITED, at steps
    steps >= limit or T            LAST_STEP, at steps; none of them: STAYS, at steps

With logits [[4, 0], [4, 0], [nan, 0]], slots [2, 0, 1] and steps [1, 2, 1], thresholds [.99, .9, -1e8],
limit 3 and no deadline for all: confidence is [.982, .982, nan], label [0, 0, -1], reason [STAYS, EXITED,
STAYS] and at [1, 2, 1].
"""

from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from gfnet_kernels._library import FLOAT_DTYPES, expect, expect_range, expect_tensor, output, register
from torch import Tensor

STAYS, EXITED, LAST_STEP, DEADLINE, ERROR, CANCELLED = range(-1, 5)  # ERROR is for those who drive the ops

WIDEST = 32768  # the row lies in one program's registers; twice as many would spill
REGISTERS, REGISTERS_WIDE = 40, 64  # up to 16,384 classes, and beyond

Exits = tuple[Tensor, Tensor, Tensor, Tensor]


@triton.jit
def exits_kernel(
    logits, slots, steps, thresholds, limits, deadlines, now, confidence, label, reason, at,
    K: tl.constexpr, STRIDE: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
    STAYS: tl.constexpr = STAYS, EXITED: tl.constexpr = EXITED, LAST_STEP: tl.constexpr = LAST_STEP,
    DEADLINE: tl.constexpr = DEADLINE, CANCELLED: tl.constexpr = CANCELLED,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    live = slot >= 0
    slot = tl.maximum(slot, 0)
    column = tl.arange(0, BLOCK)

    # K and STRIDE are constants: 1,000 as a run-time value would load two bytes at a time.
    mask = column < tl.where(live, K, 0)
    value = tl.load(logits + row * STRIDE + column, mask=mask, other=float("-inf")).to(tl.float32)
    largest = tl.max(value, 0)
    share = 1.0 / tl.sum(tl.where(column < K, tl.exp(value - largest), 0.0), 0)
    first = tl.min(tl.where(value == largest, column, K), 0)

    step = tl.load(steps + row, mask=live, other=0)
    limit = tl.load(limits + slot, mask=live, other=0)
    bar = tl.load(thresholds + slot * STEPS + tl.minimum(tl.maximum(step, 1), STEPS) - 1, mask=live, other=0)
    late = tl.load(deadlines + slot, mask=live, other=0) <= tl.load(now)
    beyond = step > limit
    why = tl.where(share >= bar, EXITED, tl.where(step >= tl.minimum(limit, STEPS), LAST_STEP, STAYS))
    why = tl.where(late, DEADLINE, why)
    why = tl.where(beyond, tl.where(limit == 0, CANCELLED, LAST_STEP), why)

    tl.store(confidence + row, tl.where(live, share, 0.0))
    tl.store(label + row, tl.where(live, tl.where(share == share, first, -1), -1))
    tl.store(reason + row, tl.where(live, why, STAYS))
    tl.store(at + row, tl.where(live, step - (beyond | late).to(tl.int32), 0))


def exits_launch(
    logits: Tensor, slots: Tensor, steps: Tensor, thresholds: Tensor, limits: Tensor, deadlines: Tensor,
    now: Tensor, confidence: Tensor, label: Tensor, reason: Tensor, at: Tensor,
) -> None:  # fmt: skip
    """Launch one program per row."""
    rows, classes = logits.shape
    block = triton.next_power_of_2(classes)
    if rows:
        exits_kernel[(rows,)](
            logits, slots, steps, thresholds, limits, deadlines, now, confidence, label, reason, at,
            K=classes, STRIDE=logits.stride(0), STEPS=thresholds.shape[1], BLOCK=block,
            num_warps=min(max(block // 256, 1), 32), enable_fp_fusion=True,
        )  # fmt: skip


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
    return blocks.index_select(0, _multiples(rows, across) + block).argmax(1).add_(block, alpha=width)


@lru_cache(maxsize=64)
def _multiples(count: int, stride: int) -> Tensor:
    """0, stride, 2 * stride, ..."""
    return torch.arange(count, device="cpu") * stride


def _exits_cpu(
    logits: Tensor, slots: Tensor, steps: Tensor, thresholds: Tensor, limits: Tensor, deadlines: Tensor,
    now: Tensor, confidence: Tensor, label: Tensor, reason: Tensor, at: Tensor,
) -> None:  # fmt: skip
    if not len(logits):
        return
    values = logits.float()
    best = _first_largest(values)
    torch.gather(values.softmax(1), 1, best.view(-1, 1), out=confidence.view(-1, 1))

    # The rule in numpy, whose operations on a few rows take a third of the time of torch's.
    slot, step, share, why = slots.numpy(), steps.numpy(), confidence.numpy(), reason.numpy()
    first = label.numpy()
    first[:] = best.numpy()
    np.putmask(first, share != share, -1)
    padded = slot < 0
    some = np.count_nonzero(padded)
    if some:
        slot, step = np.maximum(slot, 0), np.maximum(step, 1)
    slot = slot.astype(np.intp)
    limit, bars = limits.numpy()[slot], thresholds.numpy()
    last = bars.shape[1]
    beyond, late = step > limit, deadlines.numpy()[slot] <= now.numpy()
    why.fill(STAYS)
    np.putmask(why, step >= np.minimum(limit, last), LAST_STEP)
    np.putmask(why, share >= bars.ravel()[slot * last + (step - 1)], EXITED)
    np.putmask(why, late, DEADLINE)
    np.putmask(why, beyond, LAST_STEP)
    np.putmask(why, limit == 0, CANCELLED)
    np.subtract(step, beyond | late, out=at.numpy())
    if some:
        share[padded], first[padded], why[padded], at.numpy()[padded] = 0, -1, STAYS, 0


def _exits_values(
    logits: Tensor, slots: Tensor, steps: Tensor, thresholds: Tensor, limits: Tensor, deadlines: Tensor,
    now: Tensor, confidence: Tensor, label: Tensor, reason: Tensor, at: Tensor,
) -> None:  # fmt: skip
    expect_range("slots", slots, -1, len(limits) - 1)
    live = slots >= 0
    expect_range("steps", steps[live], 1, thresholds.shape[1])
    expect_range("limits", limits[slots[live].long()], 0, 2**31 - 1)


_exits = register(
    "exits",
    "Tensor logits, Tensor slots, Tensor steps, Tensor thresholds, Tensor limits, Tensor deadlines, "
    "Tensor now, Tensor(a!) confidence, Tensor(b!) label, Tensor(c!) reason, Tensor(d!) at",
    cpu=_exits_cpu,
    cuda=exits_launch,
    values=_exits_values,
)


def exits(
    logits: Tensor, slots: Tensor, steps: Tensor, thresholds: Tensor, limits: Tensor, deadlines: Tensor,
    now: Tensor, *, out: Exits | None = None,
) -> Exits:  # fmt: skip
    """Confidence and label of every row, why it leaves, and at which step; the softmax is never written.

    Parameters
    ----------
    logits
        [n, K] float32, float16 or bfloat16, K at most 32,768.
    slots, steps
        int32 [n] each: -1 where a row is padded; the step it has just taken, 1..T.
    thresholds, limits, deadlines
        By slot: float32 [C, T], int32 [C] and float64 [C]. Limits above T are T; 0 means cancelled.
    now
        float64 [1], seconds on the deadlines' clock.
    out
        Caller's buffers (confidence, label, reason, at), for a captured graph.

    Returns
    -------
    confidence, label, reason, at
        float32, then int32 [n] each. A row whose softmax is not a number has confidence NaN and label -1, and
        is never EXITED. Padded rows hold 0, -1, STAYS and 0.
    """
    device = logits.device
    expect_tensor("logits", logits, (None, None), FLOAT_DTYPES, device)
    rows = len(logits)
    expect(1 <= logits.shape[1] <= WIDEST, "classes", f"1..{WIDEST}", logits.shape[1])
    expect_tensor("slots", slots, (rows,), (torch.int32,), device)
    expect_tensor("steps", steps, (rows,), (torch.int32,), device)
    expect_tensor("thresholds", thresholds, (None, None), (torch.float32,), device)
    expect(thresholds.shape[1] > 0, "thresholds", "one per step", 0)
    expect_tensor("limits", limits, (len(thresholds),), (torch.int32,), device)
    expect_tensor("deadlines", deadlines, (len(thresholds),), (torch.float64,), device)
    expect_tensor("now", now, (1,), (torch.float64,), device)
    buffers = out or (None, None, None, None)
    results = (
        output(buffers[0], (rows,), torch.float32, device),
        output(buffers[1], (rows,), torch.int32, device),
        output(buffers[2], (rows,), torch.int32, device),
        output(buffers[3], (rows,), torch.int32, device),
    )
    _exits(
        logits if logits.stride(1) == 1 else logits.contiguous(), slots.contiguous(), steps.contiguous(),
        thresholds.contiguous(), limits.contiguous(), deadlines.contiguous(), now, *results,
    )  # fmt: skip
    return results


def exits_reference(
    logits: Tensor, slots: Tensor, steps: Tensor, thresholds: Tensor, limits: Tensor, deadlines: Tensor,
    now: Tensor, *, out: Exits | None = None,
) -> Exits:  # fmt: skip
    """Same as `exits`, through the softmax and one row at a time."""
    shares, _ = logits.float().softmax(1).max(1)
    best = logits.float().argmax(1)
    results = (
        torch.zeros_like(shares),
        torch.full_like(slots, -1),
        torch.full_like(slots, STAYS),
        torch.zeros_like(slots),
    )
    for row, (slot, step) in enumerate(zip(slots.tolist(), steps.tolist(), strict=True)):
        if slot < 0:
            continue
        limit, share = int(limits[slot]), shares[row]
        if limit == 0:
            found = CANCELLED, step - 1
        elif step - 1 >= limit:
            found = LAST_STEP, step - 1
        elif deadlines[slot] <= now[0]:
            found = DEADLINE, step - 1
        elif share >= thresholds[slot, step - 1]:
            found = EXITED, step
        else:
            found = LAST_STEP if step >= min(limit, thresholds.shape[1]) else STAYS, step
        results[0][row], results[1][row] = share, -1 if share.isnan() else best[row]
        results[2][row], results[3][row] = found
    if out is not None:
        for buffer, result in zip(out, results, strict=True):
            buffer.copy_(result)
    return results if out is None else out
