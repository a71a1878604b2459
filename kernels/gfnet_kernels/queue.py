"""A ring of slots on the device: launches take theirs from its head, and put back who goes on at its tail.

    queue    [Q] int32          the ring: number i lies at place i % Q
    counters [2] int64          head and tail, which only grow; tail - head, at most Q, wait
    count    [1] int32          how many rows are wanted
    taken    [C] int32          by slot: steps taken so far

    slots    [n] int32          -1: padded row
    reason   [n] int32          why a row leaves, as `exits` gives it; below 0: it stays
    at       [n] int32          the step of each row's answer
    record   [2 + 3m] int32     how many left and wait; slot, step and reason of each that left; m >= n

With queue [9, 4, 7], counters [1, 3], count [5] and taken[4] = 1, taken[7] = 2: take(..., rows=4) gives
slots [4, 7, -1, -1] and steps [2, 3, 0, 0]. Nothing has moved. With reason [-1, 0, -1, -1] and
at [2, 3, 0, 0], compact(..., took=True) leaves queue [4, 4, 7], counters [3, 4], record [1, 1, 7, 3, 0, ...]:
slot 4 waits again, slot 7 has left. A launch that fails between the two has changed nothing.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from gfnet_kernels._library import expect, expect_contiguous, expect_range, expect_tensor, output, register
from torch import Tensor

LONGEST = 65536
TAKEN = 256  # rows of a program of take
BLOCK = 4096
REGISTERS = 64

Rows = tuple[Tensor, Tensor]


@triton.jit
def take_kernel(queue, counters, count, taken, slots, steps, n, Q: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head = tl.load(counters)
    waiting = tl.minimum(tl.load(counters + 1) - head, tl.load(count).to(tl.int64))
    place = (head % Q).to(tl.int32) + row
    place = tl.where(place >= Q, place - Q, place)

    live = row < tl.minimum(waiting, n)
    slot = tl.load(queue + place, mask=live, other=-1)
    step = tl.load(taken + slot, mask=live, other=-1) + 1
    tl.store(slots + row, slot, mask=row < n)
    tl.store(steps + row, step, mask=row < n)


@triton.jit
def compact_kernel(
    slots, reason, at, queue, counters, record, n,
    Q: tl.constexpr, TOOK: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    # One program: a running total needs neither atomics nor a second pass.
    head = tl.load(counters)
    tail = tl.load(counters + 1)
    first = (tail % Q).to(tl.int32)
    kept = 0
    left = 0
    for block in range(BLOCKS):
        row = block * BLOCK + tl.arange(0, BLOCK)
        slot = tl.load(slots + row, mask=row < n, other=-1)
        why = tl.load(reason + row, mask=row < n, other=-1)
        stays = (slot >= 0) & (why < 0)
        leaves = (slot >= 0) & (why >= 0)
        # Both totals in one sum: a block's are at most BLOCK, far below 2^16.
        rank = tl.cumsum(stays.to(tl.int32) + (leaves.to(tl.int32) << 16), 0)

        place = first + kept + (rank & 0xFFFF) - 1
        place = tl.where(place >= Q, place - Q, place)
        tl.store(queue + place, slot, mask=stays)
        leaver = record + 3 * (left + (rank >> 16)) - 1
        tl.store(leaver, slot, mask=leaves)
        tl.store(leaver + 1, tl.load(at + row, mask=leaves), mask=leaves)
        tl.store(leaver + 2, why, mask=leaves)
        kept += tl.sum(stays.to(tl.int32), 0)
        left += tl.sum(leaves.to(tl.int32), 0)

    tl.store(record, left)
    if TOOK:
        head += kept + left
    tail += kept
    tl.store(counters, head)
    tl.store(counters + 1, tail)
    tl.store(record + 1, (tail - head).to(tl.int32))


def take_launch(
    queue: Tensor, counters: Tensor, count: Tensor, taken: Tensor, by_step: bool, slots: Tensor, steps: Tensor
) -> None:
    """Launch one program per TAKEN rows; they are in the ring's order, whatever `by_step`."""
    if len(slots):
        take_kernel[(triton.cdiv(len(slots), TAKEN),)](
            queue, counters, count, taken, slots, steps, len(slots),
            Q=len(queue), BLOCK=TAKEN, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip


def compact_launch(
    slots: Tensor, reason: Tensor, at: Tensor, queue: Tensor, counters: Tensor, record: Tensor, took: bool
) -> None:
    """Launch the one program."""
    block = min(max(triton.next_power_of_2(max(len(slots), 1)), 128), BLOCK)
    compact_kernel[(1,)](
        slots, reason, at, queue, counters, record, len(slots),
        Q=len(queue), TOOK=took, BLOCK=block, BLOCKS=triton.cdiv(len(slots), block),
        num_warps=max(block // 128, 4), enable_fp_fusion=True,
    )  # fmt: skip


def _take_cpu(
    queue: Tensor, counters: Tensor, count: Tensor, taken: Tensor, by_step: bool, slots: Tensor, steps: Tensor
) -> None:
    ring, row, step = queue.numpy(), slots.numpy(), steps.numpy()
    head, tail = counters.tolist()
    live = max(min(int(count), tail - head, len(row)), 0)
    first = head % len(ring)
    ahead = min(live, len(ring) - first)  # and the rest from the ring's front
    row[:ahead] = ring[first : first + ahead]
    row[ahead:live] = ring[: live - ahead]
    row[live:] = -1
    np.add(taken.numpy()[row[:live].astype(np.intp)], 1, out=step[:live])
    step[live:] = 0
    if by_step:
        order = step[:live].argsort(kind="stable")
        row[:live] = row[order]
        step[:live] = step[order]


def _compact_cpu(
    slots: Tensor, reason: Tensor, at: Tensor, queue: Tensor, counters: Tensor, record: Tensor, took: bool
) -> None:
    ring, slot, why, found = queue.numpy(), slots.numpy(), reason.numpy(), record.numpy()
    live, leaves = slot >= 0, why >= 0
    leaves &= live
    stays = slot[live & (why < 0)]
    kept, left = len(stays), np.count_nonzero(leaves)
    head, tail = counters.tolist()
    first = tail % len(ring)
    ahead = min(kept, len(ring) - first)
    ring[first : first + ahead] = stays[:ahead]
    ring[: kept - ahead] = stays[ahead:]
    rows = found[2 : 2 + 3 * left].reshape(left, 3)
    rows[:, 0], rows[:, 1], rows[:, 2] = slot[leaves], at.numpy()[leaves], why[leaves]
    head, tail = head + (kept + left if took else 0), tail + kept
    found[:2] = left, tail - head
    counters.numpy()[:] = head, tail


def _expect_counters(queue: Tensor, counters: Tensor) -> None:
    head, tail = counters.tolist()
    expect(0 <= head <= tail <= head + len(queue), "counters", f"0 <= head <= tail <= head + {len(queue)}",
           [head, tail])  # fmt: skip


def _take_values(
    queue: Tensor, counters: Tensor, count: Tensor, taken: Tensor, by_step: bool, slots: Tensor, steps: Tensor
) -> None:
    _expect_counters(queue, counters)
    expect_range("count", count, 0, 2**31 - 1)
    head, tail = counters.tolist()
    places = torch.arange(head, min(tail, head + int(count), head + len(slots)), device=queue.device)
    waiting = queue[places % len(queue)]
    expect_range("queue", waiting, 0, len(taken) - 1)
    expect_range("taken", taken[waiting.long()], 0, 2**31 - 2)


def _compact_values(
    slots: Tensor, reason: Tensor, at: Tensor, queue: Tensor, counters: Tensor, record: Tensor, took: bool
) -> None:
    expect_range("slots", slots, -1, 2**31 - 1)
    _expect_counters(queue, counters)
    head, tail = counters.tolist()
    live = slots >= 0
    kept = int((live & (reason < 0)).sum())
    head += int(live.sum()) if took else 0
    expect(head <= tail, "counters", f"{int(live.sum())} rows taken from the head", f"{counters.tolist()}")
    expect(tail + kept - head <= len(queue), "queue", f"room for {kept} more", f"{len(queue)} places")


_take = register(
    "take",
    "Tensor queue, Tensor counters, Tensor count, Tensor taken, bool by_step, Tensor(a!) slots, "
    "Tensor(b!) steps",
    cpu=_take_cpu,
    cuda=take_launch,
    values=_take_values,
)
_compact = register(
    "compact",
    "Tensor slots, Tensor reason, Tensor at, Tensor(a!) queue, Tensor(b!) counters, Tensor(c!) record, "
    "bool took",
    cpu=_compact_cpu,
    cuda=compact_launch,
    values=_compact_values,
)


def take(
    queue: Tensor, counters: Tensor, count: Tensor, taken: Tensor, rows: int, *, by_step: bool = False,
    out: Rows | None = None,
) -> Rows:  # fmt: skip
    """Slots at the ring's head and the step that each is about to take; nothing moves, nothing waits.

    Parameters
    ----------
    queue, counters
        int32 [Q], the ring, and int64 [2], its head and tail.
    count
        int32 [1]: how many rows are wanted; there are no more than wait, and no more than `rows`.
    taken
        int32 [C], by slot: steps taken so far.
    rows
        n, at most 65,536.
    by_step
        Rows stably sorted by step; on a CPU only, for classifiers with weights for each step.
    out
        Caller's buffers (slots, steps), for a captured graph.

    Returns
    -------
    slots, steps
        int32 [n] each; padded rows, -1 and 0, are last.
    """
    device = queue.device
    _expect_ring(queue, counters)
    expect_tensor("count", count, (1,), (torch.int32,), device)
    expect_tensor("taken", taken, (None,), (torch.int32,), device)
    expect(0 <= rows <= LONGEST, "rows", f"0..{LONGEST}", rows)
    expect(not by_step or device.type == "cpu", "by_step", "a CPU", device)
    slots, steps = out or (None, None)
    slots = output(slots, (rows,), torch.int32, device)
    steps = output(steps, (rows,), torch.int32, device)
    _take(queue, counters, count, taken.contiguous(), by_step, slots, steps)
    return slots, steps


def compact(
    slots: Tensor, reason: Tensor, at: Tensor, queue: Tensor, counters: Tensor, record: Tensor, *, took: bool
) -> None:
    """Append who stays to the ring, in row order, and note who leaves; nothing waits for the device.

    Parameters
    ----------
    slots, reason, at
        int32 [n] each, n at most 65,536: -1 where a row is padded; below 0 where it stays; its answer's step.
    queue, counters
        int32 [Q] and int64 [2], as `take` has them; both are written.
    record
        int32 [2 + 3m], m >= n: how many left and how many wait now, then (slot, at, reason) of each that
        left, in row order. The rest is left alone.
    took
        Whether the rows came from the ring's head, which then moves past them.
    """
    device = queue.device
    expect_tensor("slots", slots, (None,), (torch.int32,), device)
    rows = len(slots)
    expect(rows <= LONGEST, "slots", f"at most {LONGEST} rows", rows)
    expect_tensor("reason", reason, (rows,), (torch.int32,), device)
    expect_tensor("at", at, (rows,), (torch.int32,), device)
    _expect_ring(queue, counters)
    expect_tensor("record", record, (None,), (torch.int32,), device)
    expect(len(record) >= 2 + 3 * rows, "record", f"at least {2 + 3 * rows} numbers", len(record))
    expect_contiguous("record", record)
    _compact(slots.contiguous(), reason.contiguous(), at.contiguous(), queue, counters, record, took)


def _expect_ring(queue: Tensor, counters: Tensor) -> None:
    expect_tensor("queue", queue, (None,), (torch.int32,), queue.device)
    expect(len(queue) > 0, "queue", "at least one place", 0)
    expect_contiguous("queue", queue)
    expect_tensor("counters", counters, (2,), (torch.int64,), queue.device)
    expect_contiguous("counters", counters)


def take_reference(
    queue: Tensor, counters: Tensor, count: Tensor, taken: Tensor, rows: int, *, by_step: bool = False,
    out: Rows | None = None,
) -> Rows:  # fmt: skip
    """Same as `take`, one row at a time."""
    head, tail = counters.tolist()
    numbers = range(head, head + min(int(count), tail - head, rows))
    found = [int(queue[number % len(queue)]) for number in numbers]
    pairs = [(slot, int(taken[slot]) + 1) for slot in found]
    if by_step:
        pairs.sort(key=lambda pair: pair[1])
    pairs += [(-1, 0)] * (rows - len(pairs))
    slots, steps = torch.tensor(pairs, dtype=torch.int32, device=queue.device).view(-1, 2).unbind(1)
    return (slots, steps) if out is None else (out[0].copy_(slots), out[1].copy_(steps))


def compact_reference(
    slots: Tensor, reason: Tensor, at: Tensor, queue: Tensor, counters: Tensor, record: Tensor, *, took: bool
) -> None:
    """Same as `compact`, one row at a time."""
    left = 0
    head, tail = counters.tolist()
    for row in zip(slots.tolist(), at.tolist(), reason.tolist(), strict=True):
        if row[0] >= 0:
            head += took
            if row[2] < 0:
                queue[tail % len(queue)] = row[0]
                tail += 1
            else:
                record[2 + 3 * left : 5 + 3 * left] = record.new_tensor(row)
                left += 1
    counters[0], counters[1] = head, tail
    record[0], record[1] = left, tail - head
