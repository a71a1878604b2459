"""Images in: files, folders, globs, encoded bytes, PIL images, arrays, tensors; their preprocessing.

The official one is Resize of the short side to ``int(S / crop_ratio)`` with Pillow, then CenterCrop to S x S;
:class:`~gfnet_fast.config.GFNetConfig` says what else there is. EXIF rotation is not applied and alpha is
dropped, as in the official evaluation.
"""

from __future__ import annotations

import io
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from gfnet_kernels.images import plain
from numpy.typing import NDArray
from PIL import Image

from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import InputError, reason
from gfnet_fast.files import read_bytes
from gfnet_fast.pictures import (
    MAX_ENCODED,
    MAX_PIXELS,
    SUFFIXES,
    Resized,
    check_size,
    coloured,
    decode,
    quiet,
)
from gfnet_fast.walking import find, is_folder_or_glob

Encoded = bytes | bytearray | memoryview | BinaryIO
Source = str | os.PathLike[Any] | Encoded | Image.Image | NDArray[Any] | torch.Tensor
Taken = str | bytes | Image.Image | NDArray[Any] | torch.Tensor

# Pixels that are normalised lie within a few units; far beyond, a network overflows.
LARGEST = 1e4

PIECE = 2**20  # bytes of a file object that are asked for at a time
DEEPEST = 32  # iterables within each other

_EXPECTED = "expected a path, an encoded image, a PIL image, an array or a tensor"
_BYTES = (bytes, bytearray, memoryview, array)
_DECODED = (Image.Image, np.ndarray, torch.Tensor)


def _path(source: object) -> str | None:
    """The text of a path, whose own form may be bytes."""
    return os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else None


def _is_file(source: object) -> bool:
    return callable(getattr(source, "read", None))


def is_one(source: object) -> bool:
    """Whether `source` is one image, and not a folder, a glob or an iterable of sources."""
    text = _path(source)
    if text is not None:
        return not is_folder_or_glob(text)
    return isinstance(source, (*_BYTES, *_DECODED)) or _is_file(source)


def expand(
    source: Source | Iterable[Source], strict: bool = True, within: tuple[int, ...] = ()
) -> Iterator[Source | InputError]:
    """One image after another: folders give the images below them and globs their matches, sorted by path.

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
    return iter(source)


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
    """A name for one image: its path, or its kind and place."""
    if isinstance(source, InputError):
        return str(source).split(": expected", 1)[0]
    return source if isinstance(source, str) else f"{type(source).__name__} {index}"


def take(source: Source, config: GFNetConfig) -> Taken:
    """An image as it is now, whatever its owner does with it later; a path is read when it is decoded.

    Files are read from where they stand. Raises InputError where the type, the shape or the size is wrong,
    before anything is copied.
    """
    if isinstance(source, _BYTES):
        view = memoryview(source)
        if view.ndim != 1 or view.itemsize != 1:
            got = f"{type(source).__name__} of {view.ndim} dimensions and {view.itemsize} bytes a value"
            raise InputError(f"bytes: expected an encoded image in one dimension, got {got}")
        _check_encoded(view.nbytes)
        return bytes(view)
    if isinstance(source, torch.Tensor):
        return _copied_tensor(source, config.canvas)
    if isinstance(source, np.ndarray):
        return _copied_array(source, config.canvas)
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


def _copied_tensor(tensor: torch.Tensor, canvas: tuple[int, int]) -> torch.Tensor:
    tensor = _plain("tensor", tensor)
    _check_shape("tensor", str(tensor.dtype).removeprefix("torch."), list(tensor.shape), canvas)
    return tensor.detach().resolve_neg().clone()


def _plain(what: str, tensor: torch.Tensor) -> torch.Tensor:
    try:
        return plain(what, tensor)
    except ValueError as error:
        raise InputError(str(error)) from None


def _copied_array(array: NDArray[Any], canvas: tuple[int, int]) -> NDArray[Any]:
    if isinstance(array, np.ma.MaskedArray):
        raise InputError("array: expected one without a mask, got a masked array")
    _check_shape("array", str(array.dtype), list(array.shape), canvas)
    return np.array(array, order="C")


def _check_shape(what: str, dtype: str, shape: list[int], canvas: tuple[int, int]) -> None:
    """InputError unless it is that of an image: uint8 of any size, or float32 of the canvas's."""
    normalised = [3, *canvas]
    if dtype == "float32":
        if shape != normalised:
            raise InputError(f"{what}: expected float32 {normalised}, normalised, got {shape}")
        return
    if dtype != "uint8" or len(shape) != 3 or 3 not in (shape[0], shape[2]) or 0 in shape:
        expected = f"uint8 [H, W, 3] or [3, H, W] of any size, or float32 {normalised} that is normalised"
        raise InputError(f"{what}: expected {expected}, got {dtype} {shape}")
    if math.prod(shape) > 3 * MAX_PIXELS:
        raise InputError(f"{what}: expected at most {MAX_PIXELS} pixels, got {shape}")


def read_image(source: Source, config: GFNetConfig) -> torch.Tensor:
    """One preprocessed image: uint8 ``[H, W, 3]``, or float32 ``[3, H, W]`` where it came normalised.

    A path is of an image file; bytes, and a binary file object from where it stands, are an encoded image.
    Arrays and tensors are uint8 ``[h, w, 3]`` or ``[3, h, w]`` of any size, or float32 ``[3, H, W]``,
    preprocessed and normalised already; H and W are the canvas's. Alpha is dropped. InputError says what
    else came.
    """
    return prepare(take(source, config), config)


def prepare(taken: Taken, config: GFNetConfig) -> torch.Tensor:
    """What :func:`take` gave, decoded and preprocessed; see :func:`read_image`."""
    if isinstance(taken, torch.Tensor):
        taken = taken.cpu().numpy()
    if isinstance(taken, np.ndarray):
        if taken.dtype == np.float32:
            return _normalised(taken)
        interleaved = taken if taken.shape[2] == 3 else np.ascontiguousarray(taken.transpose(1, 2, 0))
        taken = Image.fromarray(interleaved)
    name = taken if isinstance(taken, str) else "image"
    image = taken if isinstance(taken, Image.Image) else open_image(taken, config.resized)
    try:
        return preprocess(image, config)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


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


def _normalised(array: NDArray[Any]) -> torch.Tensor:
    if bad := int((~(np.abs(array) <= LARGEST)).sum()):
        raise InputError(f"array: expected finite numbers up to {LARGEST:g}, got {bad} that are not")
    return torch.from_numpy(array)


def check_batch(images: torch.Tensor, canvas: tuple[int, int], device: torch.device) -> torch.Tensor:
    """`images`, with their values in memory; InputError unless they are a batch of canvases on `device`.

    A batch is uint8, or normalised float.

    Numbers that are not finite are looked for on a CPU only: on a GPU the look would wait for the device.
    """
    if not isinstance(images, torch.Tensor):
        raise InputError(f"images: expected a tensor, got {type(images).__name__}")
    if images.device != device:
        raise InputError(f"images: expected device {device}, got {images.device}")
    images = _plain("images", images)
    shape, planar, interleaved = list(images.shape), [3, *canvas], [*canvas, 3]
    is_float = images.dtype in (torch.float32, torch.float16, torch.bfloat16)
    fits = images.ndim == 4 and (shape[1:] == planar or (shape[1:] == interleaved and not is_float))
    if not fits or shape[0] < 1 or not (is_float or images.dtype == torch.uint8):
        height, width = canvas
        last = f"[B, 3, {height}, {width}]"
        expected = f"uint8 [B >= 1, {height}, {width}, 3] or {last}, or normalised float {last}"
        raise InputError(f"images: expected {expected}, got {images.dtype} {shape}")
    if is_float and device.type == "cpu" and (bad := int((~(images.abs() <= LARGEST)).sum())):
        raise InputError(f"images: expected finite numbers up to {LARGEST:g}, got {bad} that are not")
    return images.resolve_neg()
