"""Images in: files, folders, globs, encoded bytes, PIL images, arrays, tensors; their preprocessing.

The official one is Resize of the short side to ``int(S / crop_ratio)`` with Pillow, then CenterCrop to S x S;
:class:`~gfnet_fast.config.GFNetConfig` says what else there is. EXIF rotation is not applied and alpha is
dropped, as in the official evaluation.
"""

from __future__ import annotations

import io
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gfnet_fast.arrays import Floats, copied, is_batch, normalised_floats, plain_tensor
from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import InputError, reason
from gfnet_fast.files import read_bytes
from gfnet_fast.original import Original
from gfnet_fast.pictures import (
    MAX_ENCODED,
    MAX_PIXELS,
    SUFFIXES,
    Resized,
    check_size,
    coloured,
    decode,
)
from gfnet_fast.quiet import quiet
from gfnet_fast.walking import find, is_folder_or_glob, is_url

Encoded = bytes | bytearray | memoryview | BinaryIO
Source = str | os.PathLike[Any] | Encoded | Image.Image | NDArray[Any] | torch.Tensor
Taken = str | bytes | Image.Image | NDArray[np.uint8] | Floats

LONGEST_URL = 200  # characters that an error shows
PIECE = 2**20  # bytes of a file object that are asked for at a time
DEEPEST = 32  # iterables within each other

_EXPECTED = "expected a path, an encoded image, a PIL image, an array or a tensor"
_BYTES = (bytes, bytearray, memoryview, array)
_DECODED = (Image.Image, np.ndarray, torch.Tensor)


class Canvas(NamedTuple):
    """A preprocessed image: uint8 ``[H, W, 3]`` or normalised float32 ``[3, H, W]``, and what it is of."""

    pixels: torch.Tensor
    original: Original


def _path(source: object) -> str | None:
    """The text of a path, whose own form may be bytes."""
    return os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else None


def _is_file(source: object) -> bool:
    return callable(getattr(source, "read", None))


def is_one(source: object) -> bool:
    """Whether `source` is one image, and not a folder, a glob, a batch or an iterable of sources."""
    text = _path(source)
    if text is not None:
        return not is_folder_or_glob(text)
    return (isinstance(source, (*_BYTES, *_DECODED)) and not is_batch(source)) or _is_file(source)


def known_count(source: object) -> int | None:
    """How many images a source is, where that is known without looking anywhere."""
    with suppress(Exception):  # what it raises is said in its place
        if is_one(source):
            return 1
        if is_batch(source) or (isinstance(source, (list, tuple)) and all(map(is_one, source))):
            return len(source)  # type: ignore[arg-type]
    return None


def expand(
    source: Source | Iterable[Source], strict: bool = True, within: tuple[int, ...] = ()
) -> Iterator[Source | InputError]:
    """One image after another: folders give the images below them and globs their matches, sorted by path;
    batches of arrays give theirs.

    A folder or a glob without an image, a folder that cannot be read, and what is no source raise InputError,
    or come as one in their place where not `strict`. What an iterable raises is raised. `within`: the
    iterables around this one.
    """
    try:
        text, one = _path(source), is_one(source)
        items = iter(()) if one or text is not None else _items(source, within)
    except Exception as error:
        yield _refused(without_frames(error), strict)
        return
    if one:
        yield text or source  # type: ignore[misc]
    elif text is None:
        for item in items:
            yield from expand(item, strict, (*within, id(source)))
    else:
        images = 0
        for images, found in enumerate(find(text), 1):  # noqa: B007
            yield _refused(found, strict) if isinstance(found, InputError) else str(found)
        if not images:
            expected = f"expected images ({' '.join(sorted(SUFFIXES))})"
            yield _refused(InputError(f"{text}: {expected}, got none"), strict)


def _items(source: object, within: tuple[int, ...]) -> Iterator[Any]:
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise InputError(f"source: {_EXPECTED}, got {type(source).__name__}")
    if id(source) in within or len(within) == DEEPEST:
        got = "one that holds itself" if id(source) in within else "more"
        raise InputError(f"source: expected at most {DEEPEST} iterables within each other, got {got}")
    return iter(plain_tensor("tensor", source) if isinstance(source, torch.Tensor) else source)


def _refused(error: InputError, strict: bool) -> InputError:
    if strict:
        raise error
    return error


def without_frames(error: Exception) -> InputError:
    """What an exception says, without what it holds: frames, and the pixels in them."""
    if isinstance(error, InputError):
        return InputError(str(error))
    try:
        got = f"{type(error).__name__}: {reason(error)}"
    except Exception:  # its own __str__ raises
        got = type(error).__name__
    return InputError(f"source: {_EXPECTED}, got one that fails ({got})")


def describe(source: Source | InputError, index: int) -> str:
    """A name for one image: its path, a file's name, or its kind and place."""
    if isinstance(source, InputError):
        return str(source).split(": expected", 1)[0]
    if isinstance(source, str):
        return source
    name = getattr(source, "name", None) if _is_file(source) else None
    return name if isinstance(name, str) else f"{type(source).__name__} {index}"


def take(source: Source, config: GFNetConfig, normalised: bool | None = None) -> Taken:
    """An image as it is now, whatever its owner does with it later; a path is read when it is decoded.

    Files are read from where they stand. `normalised`: what floats are, as for :meth:`Predictor.stream`.
    Raises InputError where the type, the shape or the size is wrong, before anything is copied.
    """
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return copied(source, config.canvas, normalised)
    return _taken(source)


def _taken(source: object) -> str | bytes | Image.Image:
    """What :func:`take` makes of all but arrays."""
    if isinstance(source, _BYTES):
        view = memoryview(source)
        if view.ndim != 1 or view.itemsize != 1:
            got = f"{type(source).__name__} of {view.ndim} dimensions and {view.itemsize} bytes a value"
            raise InputError(f"bytes: expected an encoded image in one dimension, got {got}")
        _check_encoded(view.nbytes)
        return bytes(view)
    if isinstance(source, Image.Image):
        return _copied_picture(source)
    if (text := _path(source)) is not None:
        return text
    if _is_file(source):
        return _content(source)
    raise InputError(f"source: {_EXPECTED}, got {type(source).__name__}")


def _check_encoded(count: int) -> None:
    if count > MAX_ENCODED:
        raise InputError(f"bytes: expected at most {MAX_ENCODED}, got {count}")


def _content(file: Any) -> bytes:
    if isinstance(file, io.TextIOBase):
        raise InputError("file: expected one that is open for binary reading, got a text")
    content = bytearray()
    while part := file.read(PIECE):
        content += part
        _check_encoded(len(content))
    return bytes(content)


def _copied_picture(image: Image.Image) -> Image.Image:
    try:
        check_size(image)
        with quiet():
            return image.copy() if image.mode in ("L", "RGB") else coloured(image)
    except InputError as error:
        raise InputError(f"image: {error}") from None
    except Exception as error:  # a lazy image fails here in whatever way its decoder does
        got = f"one that fails to decode ({reason(error)})"
        raise InputError(f"image: expected a whole image, got {got}") from None


def read_image(source: Source, config: GFNetConfig) -> torch.Tensor:
    """One preprocessed image: uint8 ``[H, W, 3]``, or float32 ``[3, H, W]`` where it came normalised.

    A path is of an image file; bytes, and a binary file object from where it stands, are an encoded image;
    :mod:`~gfnet_fast.arrays` says what arrays and tensors are. InputError says what else came.
    """
    return prepare(take(source, config), config).pixels


def prepare(taken: Taken, config: GFNetConfig) -> Canvas:
    """What :func:`take` gave, decoded and preprocessed; see :func:`read_image`."""
    if isinstance(taken, Floats):
        pixels = normalised_floats("floats", taken.values[None], config, taken.normalised)[0]
        return Canvas(pixels, Original.whole(*config.canvas))
    name, path = (taken, taken) if isinstance(taken, str) else ("image", None)
    image = _decoded(taken, config.resized)
    try:
        return Canvas(preprocess(image, config), Original.resized(image.height, image.width, config, path))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def picture(source: Source) -> Image.Image:
    """One picture with all its pixels, decoded, in mode "L" or "RGB"; InputError where there is none.

    Of what :func:`read_image` takes all but floats.
    """
    if not isinstance(source, (np.ndarray, torch.Tensor)):
        return _decoded(_taken(source))
    if source.dtype not in (np.uint8, torch.uint8):
        raise InputError(f"image: expected the original picture as uint8, got {source.dtype}")
    return Image.fromarray(copied(source, (0, 0)))  # type: ignore[arg-type]  # no floats


def _decoded(taken: str | bytes | Image.Image | NDArray[Any], resized: Resized | None = None) -> Image.Image:
    if isinstance(taken, np.ndarray):
        return Image.fromarray(taken)
    return taken if isinstance(taken, Image.Image) else open_image(taken, resized)


def preprocess(image: Image.Image, config: GFNetConfig) -> torch.Tensor:
    """Resize and CenterCrop: a PIL image in mode "L" or "RGB" -> uint8 ``[H, W, 3]``."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as transforms

    width, height = image.size
    rows, columns = config.resized(height, width)
    if rows * columns > MAX_PIXELS:
        got = f"{columns} x {rows} of {width} x {height}"
        raise InputError(f"expected at most {MAX_PIXELS} pixels after the resize, got {got}")
    image = transforms.resize(image, [rows, columns], InterpolationMode(config.resize_filter))
    image = transforms.center_crop(image, list(config.canvas))
    return torch.from_numpy(np.array(image.convert("RGB")))


def open_image(source: str | os.PathLike[str] | bytes, resized: Resized | None = None) -> Image.Image:
    """The image of a file or of its bytes, decoded, in mode "L" or "RGB"; InputError where there is none.

    `resized`: as for :func:`~gfnet_fast.pictures.decode`.

    The file is read as a whole: a decoder that mapped it would end the process where somebody else makes it
    shorter meanwhile.
    """
    name = "image" if isinstance(source, bytes) else str(source)
    if is_url(name) and not os.path.lexists(name):
        got = "a URL, which is not fetched: give urllib.request.urlopen(url, timeout=10).read()"
        raise InputError(f"{name[:LONGEST_URL]}: expected an image file, got {got}")
    try:
        content = source if isinstance(source, bytes) else read_bytes(source, MAX_ENCODED)
        return decode(content, resized)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{name}: expected an image file, got nothing there") from None
    except OSError as error:
        got = f"one that cannot be read ({error.strerror or reason(error)})"
        raise InputError(f"{name}: expected an image file, got {got}") from None
