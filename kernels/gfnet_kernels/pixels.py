"""How the plain-torch forms of crop and glance read and write pixels without a loop over images.

Every image is seen as one span of memory, and a line of pixels as one row of an overlapping view of it, so
that any number of windows is one index_select of lines. Images of different sizes share it, since a line's
place is computed: lines = start[:, None] + arange(height) * row_stride.

    start = [0, 700], row_stride = 30, height = 2  ->  lines = [[0, 30], [700, 730]]
"""

import ctypes
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 1 << 18  # float32 values worked on at a time: 1 MB, which stays in a core's second-level cache

Rows = slice | Tensor


class Flat(NamedTuple):
    """The images of n live rows as one span of memory.

    ``memory`` [span]; ``fields`` int64 [n, 6], entries whose address has become the offset of pixel (0, 0, 0)
    within the span; ``uniform``: the rows differ in nothing but that offset.
    """

    memory: Tensor
    fields: Tensor
    uniform: bool


def live_rows(slots: Tensor, out: Tensor) -> tuple[Tensor | None, Tensor]:
    """Zero the padded rows of out. Returns the live rows (None: all of them) and their slots as int64."""
    live = slots >= 0
    if bool(live.all()):
        return None, slots.long()
    out[~live] = 0
    rows = live.nonzero()[:, 0]
    return rows, slots.index_select(0, rows).long()


def flatten(images: Tensor, table: torch.dtype | None, slots: Tensor) -> Flat:
    """Describe the images of the live rows. slots: int64 [n], n >= 1."""
    if table is None:
        count, _, height, width = images.shape
        image, channel, row, column = images.stride()
        fields = torch.tensor(((0, height, width, row, column, channel),)).repeat(len(slots), 1)
        fields[:, 0] = slots * image
        span = 1 + (count - 1) * image + 2 * channel + (height - 1) * row + (width - 1) * column
        return Flat(images.as_strided((span,), (1,)), fields, True)
    fields = images.index_select(0, slots)
    address, height, width, row, column, channel = fields.unbind(1)
    extent = 1 + 2 * channel + (height - 1) * row + (width - 1) * column
    base = int(address.min())
    span = int((address - base + extent * table.itemsize).max())
    memory = torch.frombuffer((ctypes.c_byte * span).from_address(base), dtype=table)
    fields[:, 0] = (address - base) // table.itemsize
    return Flat(memory, fields, len(slots) == 1)


def batches(flat: Flat, rows: Tensor | None, keys: slice, values: int) -> Iterator[tuple[Rows, Rows]]:
    """Blocks of live rows that agree in fields[:, keys]: their place in flat.fields, and in the output."""
    count, step = len(flat.fields), max(1, BLOCK // values)
    if flat.uniform:
        for first in range(0, count, step):
            block = slice(first, min(first + step, count))
            yield block, block if rows is None else rows[block]
        return
    _, group = torch.unique(flat.fields[:, keys], dim=0, return_inverse=True)
    order = group.argsort(stable=True)
    for members in order.split(group.bincount().tolist()):
        for block in members.split(step):
            yield block, block if rows is None else rows[block]


def windows(flat: Flat, block: Rows, start: Tensor, height: int, width: int) -> Tensor:
    """Copy one window per row of the block, as [n, 3, height, width] in the source's own order of axes.

    ``start`` int64 [all rows]: offset of each window's first value. The block's rows share a column stride.
    """
    fields, start = flat.fields[block], start[block]
    row, channel, column = fields[:, 3:4], fields[:, 5], int(fields[0, 4])
    lines = start[:, None] + torch.arange(height) * row
    if column == 3 and bool((channel == 1).all()):
        view = flat.memory.as_strided((flat.memory.numel() - 3 * width + 1, 3 * width), (1, 1))
        return view.index_select(0, lines.view(-1)).view(-1, height, width, 3).permute(0, 3, 1, 2)
    lines = (torch.arange(3) * channel[:, None])[:, :, None] + lines[:, None]
    view = flat.memory.as_strided((flat.memory.numel() - (width - 1) * column, width), (1, column))
    return view.index_select(0, lines.view(-1)).view(-1, 3, height, width)


@lru_cache(maxsize=64)
def constants(mean: tuple[float, ...], std: tuple[float, ...], repeat: int) -> tuple[Tensor, Tensor] | None:
    """Mean and std as [3 * repeat] lines r, g, b, r, g, b; None where they change nothing."""
    if not any(mean) and all(s == 1 for s in std):
        return None
    return torch.tensor(mean).repeat(repeat), torch.tensor(std).repeat(repeat)


def normalise_lines(values: Tensor, integral: bool, mean: Sequence[float], std: Sequence[float]) -> None:
    """In place, float32 [n, height, width, 3]: over 255 where integral, then minus mean, over std."""
    lines = values.view(-1, 3 * values.shape[2])
    if integral:
        lines.div_(255)
    pair = constants(tuple(mean), tuple(std), values.shape[2])
    if pair is not None:
        lines.sub_(pair[0]).div_(pair[1])


def normalise_planes(values: Tensor, integral: bool, mean: Sequence[float], std: Sequence[float]) -> None:
    """In place, float32 [n, 3, height, width]: over 255 where integral, then minus mean, over std."""
    if integral:
        values.div_(255)
    pair = constants(tuple(mean), tuple(std), 1)
    if pair is not None:
        values.sub_(pair[0].view(3, 1, 1)).div_(pair[1].view(3, 1, 1))
