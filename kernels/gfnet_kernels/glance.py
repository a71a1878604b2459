"""The whole image resized to P x P, normalised, cast, channels-last.

    images [N, 3, H, W] or [N, H, W, 3], any strides, or an ImageTable
    slots  [n] int32       which image each output row reads; -1: the row is zero
    out    [n, 3, P, P]    in channels-last memory

Coordinates are those of F.interpolate with align_corners=True, in float32: position y of the output lies at
y * ((H - 1) / (P - 1)). With H = 5 and P = 3 the scale is 2, so outputs 0, 1, 2 lie on rows 0, 2, 4.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from gfnet_kernels import _cpu
from gfnet_kernels._library import (
    expect,
    expect_pixels,
    expect_range,
    expect_slots,
    expect_tensor,
    output,
    register,
)
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

ROWS, COLUMNS, WARPS = 16, 64, 4
REGISTERS = 96
TAPS = {"bilinear": 2, "bicubic": 4}


@triton.jit
def tap_weight(t, tap, TAPS: tl.constexpr):
    """Weight of neighbour `tap` of TAPS at fraction t: linear for two, the cubic with a = -0.75 for four."""
    d = tl.abs(t - (tap - (TAPS // 2 - 1)))
    if TAPS == 2:
        weight = 1.0 - d
    else:
        near = (1.25 * d - 2.25) * d * d + 1.0
        far = ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0
        weight = tl.where(d <= 1.0, near, far)
    return weight


@triton.jit
def source_position(index, length, SIZE: tl.constexpr):
    """Whole and fractional source coordinate of an output index, align_corners=True."""
    if SIZE == 1:
        position = index.to(tl.float32) * 0.0
    else:
        position = tl.div_rn(tl.cast(length - 1, tl.float32), SIZE - 1.0) * index.to(tl.float32)
    whole = tl.floor(position)
    return whole.to(tl.int32), position - whole


@triton.jit
def glance_kernel(
    images, slots, out, height, width, image_stride, row_stride, column_stride, channel_stride,
    scale0, scale1, scale2, bias0, bias1, bias2,
    SIZE: tl.constexpr, TAPS: tl.constexpr, DTYPE: tl.constexpr, RAGGED: tl.constexpr,
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
    pixels, height, width, row_stride, column_stride, channel_stride = open_image(
        images, tl.maximum(slot, 0), height, width, image_stride, row_stride, column_stride, channel_stride,
        DTYPE, RAGGED,
    )  # fmt: skip
    y0, ty = source_position(y, height, SIZE)
    x0, tx = source_position(k // 3, width, SIZE)

    value = tl.zeros((ROWS * COLUMNS,), tl.float32)
    for i in range(TAPS):
        yi = tl.minimum(tl.maximum(y0 + (i - TAPS // 2 + 1), 0), height - 1)
        line = tl.zeros((ROWS * COLUMNS,), tl.float32)
        for j in tl.static_range(TAPS):
            xj = tl.minimum(tl.maximum(x0 + (j - TAPS // 2 + 1), 0), width - 1)
            at = yi.to(tl.int64) * row_stride
            at += xj.to(tl.int64) * column_stride + c.to(tl.int64) * channel_stride
            tap = tl.load(pixels + at, mask=readable, other=0).to(tl.float32)
            line += tap * tap_weight(tx, j, TAPS)
        value += line * tap_weight(ty, i, TAPS)

    value = value * by_channel(c, scale0, scale1, scale2) + by_channel(c, bias0, bias1, bias2)
    value = tl.where(live, value, 0.0).to(out.dtype.element_ty)

    # Loads want neighbouring values on neighbouring lanes, stores 16 bytes a lane. The compiler gives one
    # layout to all accesses of one shape, so they have two.
    value = tl.reshape(value, (ROWS, COLUMNS))
    y = (tile // across * ROWS + tl.arange(0, ROWS))[:, None]
    k = (tile % across * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    tl.store(out + row * (3 * SIZE * SIZE) + y * (3 * SIZE) + k, value, mask=(y < SIZE) & (k < 3 * SIZE))


def glance_launch(
    images: Tensor, slots: Tensor, out: Tensor, filter: str, mean: Sequence[float], std: Sequence[float],
    table: torch.dtype | None,
) -> None:  # fmt: skip
    """Launch one program per tile of ROWS x COLUMNS values of one output row."""
    size, dtype = out.shape[2], table or images.dtype
    tiles = triton.cdiv(3 * size, COLUMNS) * triton.cdiv(size, ROWS)
    height, width = (0, 0) if table else images.shape[2:]
    image, channel, row, column = (0, 0, 0, 0) if table else images.stride()
    if len(slots):
        glance_kernel[(len(slots) * tiles,)](
            images, slots, out, height, width, image, row, column, channel, *affine(mean, std, dtype),
            SIZE=size, TAPS=TAPS[filter], DTYPE=TRITON_DTYPES[dtype], RAGGED=table is not None,
            ROWS=ROWS, COLUMNS=COLUMNS, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip


def _glance_cpu(
    images: Tensor, slots: Tensor, out: Tensor, filter: str, mean: Sequence[float], std: Sequence[float],
    table: torch.dtype | None,
) -> None:  # fmt: skip
    slots, numbers = slots.contiguous(), affine(mean, std, table or images.dtype)
    places = places_of(images, slots, out, table)
    if not _cpu.glance(*places, TAPS[filter], numbers[:3], numbers[3:]):
        _glance_values(images, slots, out, filter, mean, std, table)
        expect_aligned(images, slots, table)


def _glance_values(
    images: Tensor, slots: Tensor, out: Tensor, filter: str, mean: Sequence[float], std: Sequence[float],
    table: torch.dtype | None,
) -> None:  # fmt: skip
    expect_slots(slots, len(images))
    if not bool((slots >= 0).any()):
        return
    if table is None:
        shape = tuple(images.shape)
        expect(min(shape[2:]) > 0, "images.shape", "at least one row and one column", shape)
    else:
        sides = images.index_select(0, slots[slots >= 0].long())[:, 1:3]
        expect_range("table's height and width", sides, 1, 2**31 - 1)


_glance = register(
    "glance",
    "Tensor images, Tensor slots, Tensor(a!) out, str filter, float[] mean, float[] std, ScalarType? table",
    cpu=_glance_cpu,
    cuda=glance_launch,
    values=_glance_values,
)


def glance(
    images: Tensor | ImageTable, slots: Tensor, size: int, filter: str, mean: Sequence[float],
    std: Sequence[float], dtype: torch.dtype, *, layout: str | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Resize one image per row to size x size (align_corners=True, no antialias), normalised and cast.

    Parameters
    ----------
    images
        uint8, float32, float16 or bfloat16: [N, 3, H, W] or [N, H, W, 3] of any strides, or an `ImageTable`.
    slots
        int32 [n]: the image of each row; -1 makes the row zero.
    filter
        "bicubic" (a = -0.75) or "bilinear".
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
        For shapes, dtypes and devices always; for slots outside on the CPU always and on a GPU under
        `set_debug`.
    """
    source, table = open_images(images, layout)
    expect(filter in TAPS, "filter", " or ".join(TAPS), filter)
    mean, std = expect_pixels(mean, std, dtype, size)
    expect_tensor("slots", slots, (None,), (torch.int32,), source.device)
    out = output(out, (len(slots), 3, size, size), dtype, source.device)
    _glance(source, slots.contiguous(), out, filter, mean, std, table)
    return out


def glance_reference(
    images: Tensor | ImageTable, slots: Tensor, size: int, filter: str, mean: Sequence[float],
    std: Sequence[float], dtype: torch.dtype, *, layout: str | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Same as `glance`: F.interpolate of each normalised image."""
    pictures = image_list(images, layout)
    result = torch.zeros(len(slots), 3, size, size, dtype=dtype, device=slots.device)
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            image = normalised(pictures[slot], mean, std)[None]
            result[row] = F.interpolate(image, size=(size, size), mode=filter, align_corners=True)[0].to(
                dtype
            )
    result = result.contiguous(memory_format=torch.channels_last)
    return result if out is None else out.copy_(result)
