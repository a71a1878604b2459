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
from gfnet_kernels._library import expect
from torch import Tensor

BLOCK = 1 << 18  # float32 values worked on at a time: 1 MB, which stays in a core's second-level cache

Rows = slice | Tensor


class Flat(NamedTuple):
    """The images of n live rows as one span of memory.

    ``memory`` [span]; ``start`` int64 [n], each image's pixel (0, 0, 0) within it; ``common``, the first
    row's height, width and strides of row, column and channel; ``fields`` int64 [n, 5], the same of all
    rows, or None where they are alike.
    """

    memory: Tensor
    start: Tensor
    common: tuple[int, int, int, int, int]
    fields: Tensor | None


def live_rows(slots: Tensor, out: Tensor) -> tuple[Tensor | None, Tensor]:
    """Zero the padded rows of out. Returns the live rows (None: all of them) and their slots."""
    if not len(slots) or int(slots.min()) >= 0:
        return None, slots
    live = slots >= 0
    out[~live] = 0
    rows = live.nonzero()[:, 0]
    return rows, slots.index_select(0, rows)


def flatten(images: Tensor, table: torch.dtype | None, slots: Tensor) -> Flat:
    """Describe the images of the live rows. slots: int32 [n], n >= 1."""
    if table is None:
        count, _, height, width = images.shape
        image, channel, row, column = images.stride()
        span = 1 + (count - 1) * image + 2 * channel + (height - 1) * row + (width - 1) * column
        memory = images.as_strided((span,), (1,))
        return Flat(memory, slots.long().mul_(image), (height, width, row, column, channel), None)
    fields = images.index_select(0, slots)
    address = fields[:, 0]
    astray = table.itemsize > 1 and bool((address % table.itemsize).any())
    expect(not astray, "table's addresses", f"multiples of {table.itemsize} for {table}", "others")
    far = fields[:, 1:4] - 1
    far[:, 2] = 2
    far.mul_(fields[:, 3:6])  # from the first pixel to the last along each axis; mirrored axes go backwards
    base = int((address + far.clamp(max=0).sum(1) * table.itemsize).min())
    span = int((address + far.clamp(min=0).sum(1) * table.itemsize).max()) + table.itemsize - base
    memory = torch.frombuffer((ctypes.c_byte * span).from_address(base), dtype=table)
    start = (address - base) // table.itemsize
    return Flat(memory, start, tuple(fields[0, 1:].tolist()), fields[:, 1:])


def batches(flat: Flat, rows: Tensor | None, keys: slice, values: int) -> Iterator[tuple[Rows, Rows]]:
    """Blocks of live rows that agree in fields[:, keys]: their place among the rows, and in the output."""
    count, step = len(flat.start), max(1, BLOCK // values)
    keyed = None if flat.fields is None else flat.fields[:, keys]
    if keyed is None or bool(keyed.eq(keyed[0]).all()):
        for first in range(0, count, step):
            block = slice(first, min(first + step, count))
            yield block, block if rows is None else rows[block]
        return
    _, group = torch.unique(keyed, dim=0, return_inverse=True)
    order = group.argsort(stable=True)
    for members in order.split(group.bincount().tolist()):
        for block in members.split(step):
            yield block, block if rows is None else rows[block]


def windows(flat: Flat, block: Rows, start: Tensor, height: int, width: int) -> Tensor:
    """Copy one window per row of the block, as [n, 3, height, width] in the source's own order of axes.

    ``start`` int64 [all rows]: offset of each window's first value. The block's rows share a column stride,
    and are all interleaved (r, g, b, r, g, b) or none is.
    """
    lines = start[block][:, None]
    if flat.fields is None:
        _, _, row, column, stride = flat.common
        lines, channel = lines + steps(height, row), steps(3, stride)[:, None]
    else:
        fields = flat.fields[block]
        column, stride = fields[0, 3:].tolist()
        lines, channel = (
            lines + steps(height, 1) * fields[:, 2:3],
            steps(3, 1)[:, None] * fields[:, 4, None, None],
        )
    if (column, stride) == (3, 1):
        view = flat.memory.as_strided((flat.memory.numel() - 3 * width + 1, 3 * width), (1, 1))
        return view.index_select(0, lines.view(-1)).view(-1, height, width, 3).permute(0, 3, 1, 2)
    lines, across = lines[:, None] + channel, (width - 1) * column
    view = flat.memory.as_strided((flat.memory.numel() - abs(across), width), (1, abs(column)))
    if column < 0:
        return view.index_select(0, lines.add_(across).view(-1)).view(-1, 3, height, width).flip(3)
    return view.index_select(0, lines.view(-1)).view(-1, 3, height, width)


def image_views(flat: Flat, block: Rows) -> list[Tensor]:
    """The images of a block's rows, ``[height, width, 3]`` each, where they lie."""
    starts = flat.start[block].add(flat.memory.storage_offset()).tolist()
    shapes = [flat.common] * len(starts) if flat.fields is None else flat.fields[block].tolist()
    views = []
    for start, (height, width, *strides) in zip(starts, shapes, strict=True):
        sizes = (height, width, 3)
        mirrored = [axis for axis in range(3) if strides[axis] < 0]
        start += sum((sizes[axis] - 1) * strides[axis] for axis in mirrored)
        view = flat.memory.as_strided(sizes, [abs(stride) for stride in strides], start)
        views.append(view.flip(mirrored) if mirrored else view)
    return views


def store(out: Tensor, rows: Rows, values: Tensor) -> None:
    """Write values into rows of out, in its type and layout."""
    if isinstance(rows, slice):
        out[rows].copy_(values)
    else:
        out[rows] = values.to(out.dtype)


def scratch(*shape: int) -> Tensor:
    """Float32 on the CPU, whatever torch's defaults are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


@lru_cache(maxsize=64)
def steps(count: int, stride: int) -> Tensor:
    """0, stride, 2 * stride, ..."""
    return torch.arange(count, device="cpu") * stride


@lru_cache(maxsize=64)
def constants(mean: tuple[float, ...], std: tuple[float, ...], repeat: int) -> tuple[Tensor, Tensor] | None:
    """Mean and std as [3 * repeat] lines r, g, b, r, g, b; None where they change nothing."""
    if not any(mean) and all(s == 1 for s in std):
        return None
    centre, spread = (torch.tensor(three, dtype=torch.float32, device="cpu") for three in (mean, std))
    return centre.repeat(repeat), spread.repeat(repeat)


def normalise_lines(values: Tensor, integral: bool, mean: Sequence[float], std: Sequence[float]) -> None:
    """In place, float32 [n, height, width, 3]: over 255 where integral, then minus mean, over std."""
    lines = values.view(-1, 3 * values.shape[2])
    if integral:
        lines.div_(255)
    pair = constants(tuple(mean), tuple(std), values.shape[2])
    if pair is not None:
        lines.sub_(pair[0]).div_(pair[1])
