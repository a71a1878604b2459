"""Encoded images: which formats are decoded, within which memory, and without a word on stderr."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable

from PIL import Image, UnidentifiedImageError, features

from gfnet_fast.errors import InputError, reason
from gfnet_fast.quiet import quiet

Image.init()

# Raster formats that Pillow decodes itself: no document, nothing that starts another program, and no file of
# files whose images may be larger than it says (icons). Folders are searched for the first group.
_COMMON = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_CODECS = {
    "AVIF": "avif",
    "JPEG": "jpg",
    "JPEG2000": "jpg_2000",
    "WEBP": "webp",
}  # a Pillow may lack
FORMATS = tuple(
    name
    for name in (*_COMMON, "DIB", "PCX", "SGI", "TGA")
    if name in Image.OPEN and (name not in _CODECS or features.check(_CODECS[name]))
)
# With JPEGs that hold several images (MPO); without films, and floats that would be refused.
SUFFIXES = frozenset(
    suffix
    for suffix, name in Image.EXTENSION.items()
    if (name in _COMMON and name in FORMATS and suffix not in (".avifs", ".pfm")) or name == "MPO"
)

# A decoded image larger than this is taken for a decompression bomb; a 124 KB PNG can claim 3 GB.
MAX_PIXELS = 128 * 2**20
MAX_ENCODED = 512 * 2**20

# What an image may take, decoded and while it is resized: so many bytes, and more for each byte of its file.
MEMORY, GROWTH = 224 * 2**20, 96

# Bytes a pixel that Pillow holds of a mode, the copy in "RGB" (of "1" in "L") included; 8 of others. Some
# codecs hold more meanwhile, as was measured: all coefficients, frames to draw on, integers for samples.
_HELD = {"L": 1, "1": 2, "RGB": 4, "P": 5}
_HELD_BY_CODEC = {"AVIF": 12, "JPEG2000": 20, "WEBP": 16}
_STRIP = {"L": 1, "1": 0, "RGB": 3, "P": 1}  # of a TIFF, whose strips may each be all of it; 4 of others
_PROGRESSIVE = 10

# Pixels times scans of a progressive JPEG; pixels, beside one a byte, of formats that Pillow decodes in
# Python; tiles of a JPEG 2000. Each costs seconds or hundreds of megabytes where few bytes ask for it.
MAX_SCANNED, MAX_INTERPRETED, MAX_TILES = 2**30, 2 * 2**20, 1024

# For each row and column of an image, and of what it is resized to, Pillow's bicubic filter, the wider one,
# has at most so many weights of eight bytes.
_WEIGHTS = 4, 5

# (height, width) -> (height, width)
Resized = Callable[[int, int], tuple[int, int]]

_TILE_SIDES = (322, 323)  # TIFF's tags; a tile is decoded as a whole, however small the image is


def decode(content: bytes, resized: Resized | None = None) -> Image.Image:
    """The first image of an encoded file, in mode "L" or "RGB" and memory of its own; alpha is dropped.

    `resized`: says what an image of a height and width will be resized to, which takes memory too.

    InputError on what is no image of FORMATS, is damaged, has more than 8 bits a channel, or would take more
    memory, the resize included, than MEMORY and GROWTH times the file's size. What a codec takes for itself
    is not counted.
    """
    if not content:
        raise InputError(
            "expected an encoded image, got no byte (a file object is read from where it stands)"
        )
    if len(content) > MAX_ENCODED:
        raise InputError(f"expected at most {MAX_ENCODED} bytes, got {len(content)}")
    try:
        with quiet():
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            check_size(image)
            _check_memory(image, len(content), resized)
            _check_work(image, content)
            image.load()
            return coloured(image)
    except InputError:
        raise
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise InputError(f"expected an image, got a file of another kind than {known}") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"expected at most {MAX_PIXELS} pixels, got more ({reason(error)})") from None
    except Exception as error:  # a damaged file fails in whatever way its decoder does
        got = f"one that fails to decode ({reason(error)})"
        raise InputError(f"expected a whole image, got {got}") from None


def check_size(image: Image.Image) -> None:
    """InputError unless an image, decoded or not, has 8 bits a channel and at most MAX_PIXELS pixels."""
    width, height = image.size
    if not 1 <= width * height <= MAX_PIXELS:
        raise InputError(f"expected at most {MAX_PIXELS} pixels, got {width} x {height}")
    if image.mode[0] in "IF":
        expected = "8 bits a channel (16 bits and floats would be cut off, not scaled: convert them first)"
        raise InputError(f"expected {expected}, got mode {image.mode}")


def _check_memory(image: Image.Image, size: int, resized: Resized | None) -> None:
    width, height = image.size
    tags = getattr(image, "tag_v2", {})
    tile = [tags.get(tag, 0) for tag in _TILE_SIDES]
    a_pixel = max(_HELD.get(image.mode, 8), _HELD_BY_CODEC.get(image.format or "", 0))
    if image.format == "TIFF":
        a_pixel += _STRIP.get(image.mode, 4)
    if image.info.get("progressive"):
        a_pixel = max(a_pixel, _PROGRESSIVE)
    held = max(width * height, tile[0] * tile[1]) * a_pixel
    if resized is not None:  # Pillow resizes the rows first, and then the columns of what that gave
        rows, columns = resized(height, width)
        held += columns * (height + rows) * (1 if image.mode in ("L", "1") else 4)
        held += 8 * (_WEIGHTS[0] * (height + width) + _WEIGHTS[1] * (rows + columns))
    limit = MEMORY + GROWTH * size
    if held > limit:
        got = f"{held} ({width} x {height} pixels in {size} bytes)"
        raise InputError(f"expected an image that takes at most {limit} bytes of memory, got {got}")


def _check_work(image: Image.Image, content: bytes) -> None:
    pixels = image.width * image.height
    if image.format in ("JPEG", "MPO") and (scans := content.count(b"\xff\xda")) * pixels > MAX_SCANNED:
        expected = f"a JPEG of at most {MAX_SCANNED} pixels in all its scans"
        raise InputError(f"expected {expected}, got {scans} scans of {pixels}")
    codecs = {tile[0] for tile in getattr(image, "tile", ())}
    if codecs & set(Image.DECODERS) and pixels > (most := MAX_INTERPRETED + len(content)):
        expected = f"at most {most} pixels of a {image.format} of this kind, which is decoded slowly"
        raise InputError(f"expected {expected}, got {pixels}")
    if image.format == "JPEG2000" and (tiles := _tiles(content)) > MAX_TILES:
        raise InputError(f"expected a JPEG 2000 of at most {MAX_TILES} tiles, got {tiles}")


def _tiles(content: bytes) -> int:
    """Of a JPEG 2000: its codestream begins with the sizes of the image and of a tile."""
    begin = content.find(b"\xff\x4f\xff\x51")
    width, height, left, top, across, down = struct.unpack_from(">6I", content, begin + 8)
    return math.ceil((width - left) / across) * math.ceil((height - top) / down)


def coloured(image: Image.Image) -> Image.Image:
    """An image in mode "L" or "RGB": itself, or a copy."""
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")
