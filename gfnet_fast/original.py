"""Where a canvas comes from: preprocessing undone, for what the network looked at in the original picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gfnet_fast.config import GFNetConfig

Box = tuple[float, float, float, float]  # left, top, right, bottom: pixel (row, column) is column..column + 1


class Original(NamedTuple):
    """The picture that a canvas was made of.

    size : its height and width, in pixels
    shown : what the canvas shows of it, in its pixels
    path : the file that it was read from; None where it was none
    """

    size: tuple[int, int]
    shown: Box
    path: str | None = None

    @classmethod
    def resized(cls, height: int, width: int, config: GFNetConfig, path: str | None = None) -> Original:
        """Of a picture that :func:`~gfnet_fast.sources.preprocess` makes a canvas of."""
        rows, columns = config.resized(height, width)
        top, bottom = _kept(config.canvas[0], rows, height)
        left, right = _kept(config.canvas[1], columns, width)
        return cls((height, width), (left, top, right, bottom), path)

    @classmethod
    def whole(cls, height: int, width: int) -> Original:
        """Of a picture that is a canvas already."""
        return cls((height, width), (0.0, 0.0, float(width), float(height)))

    def boxes(self, origins: Iterable[tuple[int, int]], config: GFNetConfig) -> tuple[Box, ...]:
        """What the canvas shows, and then each crop at `origins`, (row, column) of the canvas."""
        left, top, right, bottom = self.shown
        height, width = config.canvas
        down, across = (bottom - top) / height, (right - left) / width
        side = config.patch_size
        crops = (
            (
                left + column * across,
                top + row * down,
                min(left + (column + side) * across, right),
                min(top + (row + side) * down, bottom),
            )
            for row, column in origins
        )
        return (self.shown, *crops)


def _kept(canvas: int, resized: int, original: int) -> tuple[float, float]:
    """What torchvision's centre crop leaves of one side, which is never shorter than the canvas's."""
    begin = round((resized - canvas) / 2)
    return begin * original / resized, (begin + canvas) * original / resized
