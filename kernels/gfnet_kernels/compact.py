"""The slots of the rows that stay, in order, and how many they are.

    slots     [n] int32     -1: padded row
    exited    [n] bool
    valid     [1] int32     optional; rows from valid[0] on are padded
    survivors [n] int32     slots of rows that have not exited, in their order, then -1
    count     [1] int32

With slots [7, 3, -1, 5] and exited [False, True, False, False]: survivors = [7, 5, -1, -1], count = [2].
The list is itself padded with -1, so the next launch can take all of it without knowing the count.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gfnet_kernels._library import expect, expect_range, expect_tensor, output, register
from gfnet_kernels.exits import live_mask

LONGEST = 65536
BLOCK = 4096
REGISTERS = 64


@triton.jit
def compact_kernel(slots, exited, valid, survivors, count, n, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    # One program: a running total needs neither atomics nor a second pass. Every place is written once, by a
    # survivor counted from the front or by a -1 counted from the back.
    limit = n
    if valid is not None:
        limit = tl.minimum(n, tl.load(valid))
    kept = 0
    for block in range(BLOCKS):
        row = block * BLOCK + tl.arange(0, BLOCK)
        inside = row < n
        slot = tl.load(slots + row, mask=inside, other=-1)
        gone = tl.load(exited + row, mask=inside, other=1).to(tl.int32)
        stays = tl.where((slot >= 0) & (gone == 0) & (row < limit), 1, 0)
        rank = kept + tl.cumsum(stays, 0)

        to = tl.where(stays == 1, rank - 1, n - 1 - row + rank)
        tl.store(survivors + to, tl.where(stays == 1, slot, -1), mask=inside)
        kept += tl.sum(stays, 0)
    tl.store(count, kept)


def compact_launch(
    slots: Tensor, exited: Tensor, valid: Tensor | None, survivors: Tensor, count: Tensor
) -> None:
    """Launch the one program."""
    block = min(max(triton.next_power_of_2(max(len(slots), 1)), 128), BLOCK)
    compact_kernel[(1,)](
        slots, exited, valid, survivors, count, len(slots),
        BLOCK=block, BLOCKS=triton.cdiv(len(slots), block),
        num_warps=max(block // 128, 4), enable_fp_fusion=True,
    )  # fmt: skip


def _compact_cpu(
    slots: Tensor, exited: Tensor, valid: Tensor | None, survivors: Tensor, count: Tensor
) -> None:
    stays = exited.logical_not()
    if valid is not None or (len(slots) and int(slots.min()) < 0):
        stays.logical_and_(live_mask(len(slots), slots, valid, slots.device))
    rows = stays.nonzero().view(-1)
    kept = rows.shape[0]
    survivors.fill_(-1)
    torch.index_select(slots, 0, rows, out=survivors[:kept])
    count.fill_(kept)


def _compact_values(
    slots: Tensor, exited: Tensor, valid: Tensor | None, survivors: Tensor, count: Tensor
) -> None:
    if valid is not None:
        expect_range("valid", valid, 0, len(slots))
        slots = slots[: int(valid)]
    expect_range("slots", slots, -1, 2**31 - 1)


_compact = register(
    "compact",
    "Tensor slots, Tensor exited, Tensor? valid, Tensor(a!) survivors, Tensor(b!) count",
    cpu=_compact_cpu,
    cuda=compact_launch,
    values=_compact_values,
)


def compact(
    slots: Tensor, exited: Tensor, *, valid: Tensor | None = None, out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Slots of the rows that stay, first and in order, and their count; nothing waits for the device.

    Parameters
    ----------
    slots
        int32 [n], n at most 65,536; -1 where a row is padded.
    exited
        bool [n], as `exits` gives it.
    valid
        int32 [1]: rows from here on are padded.
    out
        Caller's buffers (survivors, count), for a captured graph; survivors must not overlap slots.

    Returns
    -------
    survivors, count
        int32 [n], filled up with -1, and int32 [1].
    """
    device = slots.device
    expect_tensor("slots", slots, (None,), (torch.int32,), device)
    rows = len(slots)
    expect_tensor("exited", exited, (rows,), (torch.bool,), device)
    expect(rows <= LONGEST, "slots", f"at most {LONGEST} rows", rows)
    if valid is not None:
        expect_tensor("valid", valid, (1,), (torch.int32,), device)
    survivors, count = out or (None, None)
    survivors = output(survivors, (rows,), torch.int32, device)
    count = output(count, (1,), torch.int32, device)
    _compact(slots.contiguous(), exited.contiguous(), valid, survivors, count)
    return survivors, count


def compact_reference(
    slots: Tensor, exited: Tensor, *, valid: Tensor | None = None, out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Same as `compact`, through boolean indexing."""
    stays = slots[live_mask(len(slots), slots, valid, slots.device) & ~exited]
    survivors = torch.full_like(slots, -1)
    survivors[: len(stays)] = stays
    results = survivors, torch.full((1,), len(stays), dtype=torch.int32, device=slots.device)
    return results if out is None else (out[0].copy_(results[0]), out[1].copy_(results[1]))
