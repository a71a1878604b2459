"""Sizes of a network that suit a folder's pictures, from the headers of some of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from gfnet_fast.errors import InputError
from gfnet_fast.files import open_regular
from gfnet_fast.pictures import FORMATS, check_size
from gfnet_fast.quiet import quiet

SAMPLE = 200
SIDE, LEAST_SIDE = 224, 96
SQUARE = 1.25
"""Pictures at most so much longer than wide, or wider, are seen on a square."""
LONGEST = 4.0
SHARE = 2 / 3
"""A glance's and a crop's side, by the canvas's: of what was tried on photographs, what paid."""


class Pictures(NamedTuple):
    """Median height and width of a sample of pictures, and how much higher than wide the middle half is."""

    height: int
    width: int
    aspects: tuple[float, float]


class Sizes(NamedTuple):
    """A canvas, and whether it shows whole pictures."""

    image_size: int | tuple[int, int]
    whole: bool


def look_at(paths: Sequence[Path]) -> Pictures | None:
    """What evenly spaced pictures are like; None where no header can be read."""
    picked = np.linspace(0, len(paths) - 1, min(SAMPLE, len(paths))).round().astype(int)
    found = [size for row in picked if (size := _size_of(paths[row]))]
    if not found:
        return None
    heights, widths = np.array(found, float).T
    low, high = np.quantile(heights / widths, (0.25, 0.75))
    return Pictures(round(np.median(heights)), round(np.median(widths)), (float(low), float(high)))


def _size_of(path: Path) -> tuple[int, int] | None:
    """Height and width, from the header."""
    try:
        with open_regular(path) as file, quiet(), Image.open(file, formats=FORMATS) as image:
            check_size(image)
            return image.height, image.width
    except (InputError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def sizes_for(pictures: Pictures | None, least: int = 0) -> Sizes:
    """A canvas of the area of 224 x 224 px, or of the pictures' where they are smaller, 96 x 96 at least.

    Square, for the centre of the pictures; but where most are far from square, of their form and for whole
    pictures. No side is below `least`.
    """
    if pictures is None:
        return Sizes(max(SIDE, least), False)
    height, width, (low, high) = pictures
    side = min(max(math.sqrt(height * width), LEAST_SIDE), SIDE)
    far = not 1 / SQUARE <= height / width <= SQUARE
    alike = low > SQUARE or high < 1 / SQUARE
    aspect = min(max(height / width, 1 / LONGEST), LONGEST) if far and alike else 1.0
    rows, columns = (max(4 * round(s / 4), least) for s in (side * aspect**0.5, side / aspect**0.5))
    return Sizes(rows if rows == columns else (rows, columns), far)


def patch_for(canvas: tuple[int, int], stride: int) -> int:
    """The patch size: two thirds of the canvas's side, a multiple of the stride that fits into it."""
    most = min(SHARE * math.sqrt(canvas[0] * canvas[1]), *canvas)
    return max(int(most // stride), 1) * stride
