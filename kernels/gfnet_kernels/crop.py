"""P x P windows at integer origins, normalised, cast, channels-last.

    images  [N, 3, H, W] or [N, H, W, 3], any strides, or an ImageTable
    slots   [n] int32          which image each output row reads; -1: the row is zero
    origins [n, 2] int32       (row, column) of a window's first pixel
    out     [n, 3, P, P]       in channels-last memory

With images [2, 4, 4, 3], slots [1, -1] and origins [[2, 0], [0, 0]], crop(..., size=2, ...) gives
out[0] = image 1, rows 2..3, columns 0..1, and out[1] = 0.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from gfnet_kernels import _cpu
from gfnet_kernels._library import expect, expect_pixels, expect_slots, expect_tensor, output, register
from gfnet_kernels.images import (
    TRITON_DTYPES,
    ImageTable,
    affine,
    by_channel,
    image_list,
    normalised,
    open_image,
    open_images,
)
from gfnet_kernels.pixels import expect_aligned, places_of
from torch import Tensor

ROWS, COLUMNS, WARPS = 16, 128, 4
REGISTERS = 56


@triton.jit
def crop_kernel(
    images, slots, origins, out, image_stride, row_stride, column_stride, channel_stride,
    scale0, scale1, scale2, bias0, bias1, bias2,
    SIZE: tl.constexpr, DTYPE: tl.constexpr, RAGGED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    across: tl.constexpr = (3 * SIZE + COLUMNS - 1) // COLUMNS
    down: tl.constexpr = (SIZE + ROWS - 1) // ROWS
    program = tl.program_id(0).to(tl.int64)
    row = program // (across * down)
    tile = (program % (across * down)).to(tl.int32)
    flat = tl.arange(0, ROWS * COLUMNS)
    y = tile // across * ROWS + flat // COLUMNS
    k = tile % across * COLUMNS + flat % COLUMNS
    c = k % 3

    slot = tl.load(slots + row).to(tl.int64)
    live = slot >= 0
    readable = (y < tl.where(live, SIZE, 0)) & (k < 3 * SIZE)
    slot = tl.maximum(slot, 0)
    origin = origins + row * 2
    top = tl.load(origin).to(tl.int64)
    left = tl.load(origin + 1).to(tl.int64)
    pixels, _, _, row_stride, column_stride, channel_stride = open_image(
        images, slot, 0, 0, image_stride, row_stride, column_stride, channel_stride, DTYPE, RAGGED
    )
    at = (top + y) * row_stride + (left + k // 3) * column_stride + c.to(tl.int64) * channel_stride
    value = tl.load(pixels + at, mask=readable, other=0).to(tl.float32)

    value = value * by_channel(c, scale0, scale1, scale2) + by_channel(c, bias0, bias1, bias2)
    value = tl.where(live, value, 0.0).to(out.dtype.element_ty)

    # Loads want neighbouring values on neighbouring lanes, stores 16 bytes a lane. The compiler gives one
    # layout to all accesses of one shape, so they have two.
    value = tl.reshape(value, (ROWS, COLUMNS))
    y = (tile // across * ROWS + tl.arange(0, ROWS))[:, None]
    k = (tile % across * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    tl.store(out + row * (3 * SIZE * SIZE) + y * (3 * SIZE) + k, value, mask=(y < SIZE) & (k < 3 * SIZE))


def crop_launch(
    images: Tensor, slots: Tensor, origins: Tensor, out: Tensor, mean: Sequence[float], std: Sequence[float],
    table: torch.dtype | None,
) -> None:  # fmt: skip
    """Launch one program per tile of ROWS x COLUMNS values of one output row."""
    size, dtype = out.shape[2], table or images.dtype
    tiles = triton.cdiv(3 * size, COLUMNS) * triton.cdiv(size, ROWS)
    image, channel, row, column = (0, 0, 0, 0) if table else images.stride()
    if len(slots):
        crop_kernel[(len(slots) * tiles,)](
            images, slots, origins, out, image, row, column, channel, *affine(mean, std, dtype),
            SIZE=size, DTYPE=TRITON_DTYPES[dtype], RAGGED=table is not None, ROWS=ROWS, COLUMNS=COLUMNS,
            num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip


def _crop_cpu(
    images: Tensor, slots: Tensor, origins: Tensor, out: Tensor, mean: Sequence[float], std: Sequence[float],
    table: torch.dtype | None,
) -> None:  # fmt: skip
    slots, origins = slots.contiguous(), origins.contiguous()
    if not _cpu.crop(*places_of(images, slots, out, table), origins.data_ptr(), mean, std):
        _crop_values(images, slots, origins, out, mean, std, table)
        expect_aligned(images, slots, table)


def _crop_values(
    images: Tensor, slots: Tensor, origins: Tensor, out: Tensor, mean: Sequence[float], std: Sequence[float],
    table: torch.dtype | None,
) -> None:  # fmt: skip
    expect_slots(slots, len(images))
    size = out.shape[2]
    limits = (0, 0) if table else (images.shape[2] - size, images.shape[3] - size)
    if table is None:
        numbers = origins.flatten().tolist() or [0, 0]
        if min(numbers) >= 0 and max(numbers[::2]) <= limits[0] and max(numbers[1::2]) <= limits[1]:
            return
    rows = (slots >= 0).nonzero()[:, 0]
    if len(rows) < len(slots):
        slots, origins = slots.index_select(0, rows), origins.index_select(0, rows)
    if table is None:
        room = torch.tensor(limits, device=slots.device).expand(len(slots), 2)
    else:
        room = images.index_select(0, slots)[:, 1:3] - size
    if bool(((origins >= 0) & (origins <= room)).all()):
        return
    small = (room < 0).any(1).nonzero()
    if len(small):
        expect(False, "size", f"at most the image's {(room[small[0, 0]] + size).tolist()}", size)
    outside = ((origins < 0) | (origins > room)).any(1).nonzero()
    if len(outside):
        at = int(outside[0, 0])
        expect(False, f"origins at row {int(rows[at])}", f"0..{room[at].tolist()}", origins[at].tolist())


_crop = register(
    "crop",
    "Tensor images, Tensor slots, Tensor origins, Tensor(a!) out, float[] mean, float[] std, "
    "ScalarType? table",
    cpu=_crop_cpu,
    cuda=crop_launch,
    values=_crop_values,
)


def crop(
    images: Tensor | ImageTable, slots: Tensor, origins: Tensor, size: int, mean: Sequence[float],
    std: Sequence[float], dtype: torch.dtype, *, layout: str | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Cut one size x size window per row, normalised and cast, in channels-last memory.

    Parameters
    ----------
    images
        uint8, float32, float16 or bfloat16: [N, 3, H, W] or [N, H, W, 3] of any strides, or an `ImageTable`.
    slots
        int32 [n]: the image of each row; -1 makes the row zero.
    origins
        int32 [n, 2], (row, column) of each window's first pixel.
    mean, std
        Three values each, of channels in 0..1: uint8 pixels are divided by 255 first, float pixels are taken
        as they are. Mean 0 and std 1 leave float images unchanged.
    dtype
        float32, float16 or bfloat16; the arithmetic is float32.
    layout
        "NCHW" or "NHWC", needed where both axes have length 3.
    out
        Caller's buffer [n, 3, size, size] in channels-last memory, for a captured graph.

    Raises
    ------
    ValueError
        For shapes, dtypes and devices always; for slots and origins outside, and windows larger than their
        image in a table, on the CPU always and on a GPU under `set_debug`.
    """
    source, table = open_images(images, layout)
    mean, std = expect_pixels(mean, std, dtype, size)
    expect_tensor("slots", slots, (None,), (torch.int32,), source.device)
    count = len(slots)
    expect_tensor("origins", origins, (count, 2), (torch.int32,), source.device)
    if table is None:
        expect(size <= min(source.shape[2:]), "size", f"at most the image's {tuple(source.shape[2:])}", size)
    out = output(out, (count, 3, size, size), dtype, source.device)
    _crop(source, slots.contiguous(), origins.contiguous(), out, mean, std, table)
    return out


def crop_reference(
    images: Tensor | ImageTable, slots: Tensor, origins: Tensor, size: int, mean: Sequence[float],
    std: Sequence[float], dtype: torch.dtype, *, layout: str | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Same as `crop`, one slice at a time."""
    pictures = image_list(images, layout)
    result = torch.zeros(len(slots), 3, size, size, dtype=dtype, device=slots.device)
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            top, left = origins[row].tolist()
            window = pictures[slot][:, top : top + size, left : left + size]
            result[row] = normalised(window, mean, std).to(dtype)
    result = result.contiguous(memory_format=torch.channels_last)
    return result if out is None else out.copy_(result)
