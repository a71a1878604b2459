"""What the compiled forms of crop and glance are told: where pixels lie, and where they go."""

import torch
from gfnet_kernels._library import expect
from gfnet_kernels.images import IMAGE_DTYPES
from torch import Tensor

TYPES = {dtype: number for number, dtype in enumerate(IMAGE_DTYPES)}  # as `Type` in kernels/csrc/images.hpp

Places = tuple[int, int, tuple[int, int, int, int, int, int] | None, int, int, int, int, int, int, int]


def places_of(images: Tensor, slots: Tensor, out: Tensor, table: torch.dtype | None) -> Places:
    """The first ten arguments of `_cpu.crop` and `_cpu.glance`. slots: int32 [n], adjacent."""
    dense = out.is_contiguous(memory_format=torch.channels_last)
    expect(dense, "out memory", torch.channels_last, f"strides {out.stride()}")
    alike = None
    if table is None:
        image, channel, row, column = images.stride()
        height, width = images.shape[2:]
        alike = height, width, image, row, column, channel
    return (
        images.data_ptr(),
        len(images),
        alike,
        TYPES[table or images.dtype],
        slots.data_ptr(),
        len(slots),
        out.data_ptr(),
        TYPES[out.dtype],
        out.shape[2],
        torch.get_num_threads(),
    )


def expect_aligned(images: Tensor, slots: Tensor, table: torch.dtype | None) -> None:
    """Check that the addresses of a table's images that are read are multiples of their values' size."""
    if table is not None and table.itemsize > 1:
        astray = images.index_select(0, slots[slots >= 0])[:, 0] % table.itemsize
        expect(not astray.any(), "table's addresses", f"multiples of {table.itemsize} for {table}", "others")
