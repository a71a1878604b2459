"""Images in: files, folders, globs, PIL images, arrays and tensors, with the official preprocessing.

Preprocessing is Resize of the short side to ``int(S / crop_ratio)`` with Pillow, then CenterCrop to
S x S. EXIF rotation is not applied, as in the official evaluation.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import InputError

Source = Union[str, "os.PathLike[str]", Image.Image, NDArray[Any], torch.Tensor]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})

# A decoded image larger than this is taken for a decompression bomb; a 124 KB PNG can claim 3 GB.
MAX_PIXELS = 128 * 1024 * 1024

# Pixels that are normalised lie within a few units; far beyond, a network overflows.
LARGEST = 1e4

_EXPECTED = "expected a path, a PIL image, an array or a tensor"


def _path(source: object) -> str | None:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else None


def is_one(source: object) -> bool:
    """Whether `source` is one image, and not a folder, a glob or an iterable of sources."""
    text = _path(source)
    if text is not None:
        return not _is_folder_or_glob(text)
    return isinstance(source, (Image.Image, np.ndarray, torch.Tensor))


def _is_folder_or_glob(text: str) -> bool:
    return os.path.isdir(text) or (glob.has_magic(text) and not os.path.exists(text))


def expand(source: Source | Iterable[Source], strict: bool = True) -> Iterator[Source | InputError]:
    """One image after another: folders give the images below them and globs their matches, sorted by path.

    A folder or a glob without an image, and what is no source, raises InputError, or comes as one in its
    place where not `strict`.
    """
    text = _path(source)
    if text is None and not isinstance(source, (Image.Image, np.ndarray, torch.Tensor)):
        if not isinstance(source, Iterable) or isinstance(source, (bytes, bytearray)):
            yield _refused(f"source: {_EXPECTED}, got {type(source).__name__}", strict)
            return
        for item in source:
            yield from expand(item, strict)
    elif text is not None and _is_folder_or_glob(text):
        found = Path(text).rglob("*") if os.path.isdir(text) else map(Path, glob.glob(text, recursive=True))
        paths = sorted(path for path in found if path.suffix.lower() in SUFFIXES and path.is_file())
        if not paths:
            yield _refused(f"{text}: expected images ({' '.join(sorted(SUFFIXES))}), got none", strict)
        yield from paths
    else:
        yield source  # type: ignore[misc]


def _refused(message: str, strict: bool) -> InputError:
    if strict:
        raise InputError(message)
    return InputError(message)


def describe(source: Source | InputError, index: int) -> str:
    """A name for one image: its path, or its kind and place."""
    if isinstance(source, InputError):
        return str(source).split(": expected", 1)[0]
    return _path(source) or f"{type(source).__name__} {index}"


def read_image(source: Source, config: GFNetConfig) -> torch.Tensor:
    """One preprocessed image: uint8 ``[S, S, 3]``, or float32 ``[3, S, S]`` where it came normalised.

    Arrays and tensors are uint8 ``[H, W, 3]`` or ``[3, H, W]`` of any size, or float32 ``[3, S, S]``,
    preprocessed and normalised already. InputError says what else came.
    """
    if isinstance(source, torch.Tensor):
        if (
            source.layout != torch.strided
            or source.is_meta
            or source.dtype not in (torch.uint8, torch.float32)
        ):
            got = f"{source.dtype} {source.layout} on {source.device}"
            raise InputError(f"tensor: expected a dense uint8 or float32 tensor, got {got}")
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        if source.dtype == np.float32:
            return _normalised(source, config.image_size)
        source = Image.fromarray(_interleaved(source))
    if isinstance(source, Image.Image):
        return preprocess(source, config)
    if (text := _path(source)) is None:
        raise InputError(f"source: {_EXPECTED}, got {type(source).__name__}")
    image = open_image(Path(text))
    try:
        return preprocess(image, config)
    except InputError as error:
        raise InputError(f"{text}: {error}") from error


def preprocess(image: Image.Image, config: GFNetConfig) -> torch.Tensor:
    """Resize and CenterCrop: a PIL image -> uint8 ``[S, S, 3]``."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as transforms

    if image.mode[0] in "IF":
        expected = "8 bits a channel (16 bits and floats would be cut off, not scaled: convert them first)"
        raise InputError(f"image: expected {expected}, got mode {image.mode}")
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if short < 1 or config.resize_to * config.resize_to * long // short > MAX_PIXELS:
        expected = f"at most {MAX_PIXELS} pixels after the resize of the short side to {config.resize_to}"
        raise InputError(f"image: expected {expected}, got {width} x {height}")
    try:
        image = image.convert("RGB")
    except Exception as error:  # a lazy image fails here in whatever way its decoder does
        raise InputError(f"image: expected a whole image, got one that fails to decode ({error})") from error
    image = transforms.resize(image, config.resize_to, InterpolationMode(config.resize_filter))
    return torch.from_numpy(np.array(transforms.center_crop(image, config.image_size)))


def open_image(path: Path) -> Image.Image:
    try:
        found = path.exists()
    except OSError as error:
        raise InputError(f"path: expected one of an image file, got {str(path)!r} ({error})") from error
    if not found:
        raise InputError(f"{path}: expected an image file, got nothing there")
    try:
        with ExitStack() as opened:
            image = opened.enter_context(Image.open(path))
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(f"{path}: expected at most {MAX_PIXELS} pixels, got {width} x {height}")
            image.load()
            opened.pop_all()  # closed where it fails only
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: expected an image, got a file of another kind") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: expected at most {MAX_PIXELS} pixels, got more ({error})") from error
    except Exception as error:  # a damaged file fails in whatever way its decoder does
        raise InputError(f"{path}: expected a whole image, got one that fails to decode ({error})") from error
    return image


def _interleaved(array: NDArray[Any]) -> NDArray[np.uint8]:
    got = f"{array.dtype} {list(array.shape)}"
    if array.dtype == np.uint8 and array.ndim == 3 and array.size:
        if array.shape[2] == 3:
            return np.ascontiguousarray(array)
        if array.shape[0] == 3:
            return np.ascontiguousarray(array.transpose(1, 2, 0))
    expected = "uint8 [H, W, 3] or [3, H, W], or float32 [3, S, S] that is normalised"
    raise InputError(f"array: expected {expected}, got {got}")


def _normalised(array: NDArray[Any], size: int) -> torch.Tensor:
    if array.shape != (3, size, size):
        raise InputError(f"array: expected float32 [3, {size}, {size}], normalised, got {list(array.shape)}")
    if bad := int((~(np.abs(array) <= LARGEST)).sum()):
        raise InputError(f"array: expected finite numbers up to {LARGEST:g}, got {bad} that are not")
    return torch.from_numpy(np.array(array, order="C"))


def check_batch(images: torch.Tensor, size: int, device: torch.device) -> None:
    """Raise InputError unless `images` is a batch for S = `size` on `device`: uint8, or normalised float.

    Numbers that are not finite are looked for on a CPU only: on a GPU the look would wait for the device.
    """
    if not isinstance(images, torch.Tensor):
        raise InputError(f"images: expected a tensor, got {type(images).__name__}")
    shape, planar, interleaved = list(images.shape), [3, size, size], [size, size, 3]
    is_float = images.dtype in (torch.float32, torch.float16, torch.bfloat16)
    fits = images.ndim == 4 and (shape[1:] == planar or (shape[1:] == interleaved and not is_float))
    if not fits or shape[0] < 1 or not (is_float or images.dtype == torch.uint8):
        last = f"[B, 3, {size}, {size}]"
        expected = f"uint8 [B >= 1, {size}, {size}, 3] or {last}, or normalised float {last}"
        raise InputError(f"images: expected {expected}, got {images.dtype} {shape}")
    if images.layout != torch.strided:
        raise InputError(f"images: expected a dense tensor, got {images.layout}")
    if images.device != device:
        raise InputError(f"images: expected device {device}, got {images.device}")
    if is_float and device.type == "cpu" and (bad := int((~(images.abs() <= LARGEST)).sum())):
        raise InputError(f"images: expected finite numbers up to {LARGEST:g}, got {bad} that are not")
