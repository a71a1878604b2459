"""Reads pixels on a CPU: resized images and windows, normalised, of memory named by its address.

``address`` is a table's, of ``count`` rows, or the first of ``count`` images that are ``alike``: height,
width and strides of image, row, column and channel. ``slots`` are int32, ``out`` is dense
[rows, size, size, 3]; types are numbered as in `gfnet_kernels.pixels`. False, with nothing written, where a
slot, an origin, a side or a table's address is not one.
"""

from collections.abc import Sequence

def glance(
    address: int,
    count: int,
    alike: Sequence[int] | None,
    type: int,
    slots: int,
    rows: int,
    out: int,
    out_type: int,
    size: int,
    threads: int,
    taps: int,
    scale: Sequence[float],
    bias: Sequence[float],
) -> bool: ...
def crop(
    address: int,
    count: int,
    alike: Sequence[int] | None,
    type: int,
    slots: int,
    rows: int,
    out: int,
    out_type: int,
    size: int,
    threads: int,
    origins: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> bool: ...
