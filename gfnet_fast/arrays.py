"""Arrays and tensors in: which shapes and types are an image, and whether floats are normalised.

uint8 is a picture of any size: ``[H, W]``, or 1, 3 or 4 channels first or last; alpha is dropped. Floats are
preprocessed: ``[3, H, W]`` or ``[H, W, 3]`` of the canvas, normalised or from 0 to 1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from gfnet_kernels.images import plain
from numpy.typing import NDArray
from torch import Tensor

from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import InputError, shown
from gfnet_fast.model.gfnet import normalise
from gfnet_fast.pictures import MAX_PIXELS

# Far beyond what pixels are, a network overflows.
LARGEST = 1e4

# How far pixels from 0 to 1 may lie outside where a filter with negative weights has resized them.
OVERSHOOT = 0.5

# Numbers within 0..1 that differ by more than this are pixels that were not normalised: of a picture that
# was, they would all lie in a fifth of the range, right above the mean.
CONTRAST = 0.5

CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
_FLOATS = ("float16", "bfloat16", "float32", "float64")


class Floats(NamedTuple):
    """A preprocessed image, float32 ``[3, H, W]`` on the CPU, and what was said of its numbers."""

    values: Tensor
    normalised: bool | None


def is_batch(source: object) -> bool:
    """Whether `source` is an array or a tensor of several images."""
    return isinstance(source, (np.ndarray, Tensor)) and source.ndim == 4


def plain_tensor(what: str, tensor: Tensor) -> Tensor:
    """A tensor whose values lie in memory; InputError on any other."""
    try:
        return plain(what, tensor)
    except ValueError as error:
        raise InputError(str(error)) from None


def copied(
    array: NDArray[Any] | Tensor, canvas: tuple[int, int], normalised: bool | None = None
) -> NDArray[np.uint8] | Floats:
    """A copy of one image: uint8 ``[H, W]`` or ``[H, W, 3]``, or floats of the `canvas`.

    InputError on another shape or type, before anything is copied.
    """
    if isinstance(array, Tensor):
        array = plain_tensor("tensor", array)
        dtype = str(array.dtype).removeprefix("torch.")
        what, cast = "tensor", "x.to(torch.uint8)"
    else:
        if isinstance(array, np.ma.MaskedArray):
            raise InputError("array: expected one without a mask, got a masked array")
        dtype, what, cast = array.dtype.newbyteorder("=").name, "array", "x.astype('uint8')"
    shape = list(array.shape)
    axis = _channel_axis(what, dtype, shape, canvas, cast)
    if isinstance(array, Tensor):
        array = array.detach().resolve_neg().cpu()
        array = (array.float() if dtype in _FLOATS else array).numpy()
    if dtype in _FLOATS:
        planar = array if axis == 0 else array.transpose(2, 0, 1)
        return Floats(torch.from_numpy(np.array(planar, np.float32, order="C")), normalised)
    if axis is not None:
        array = np.moveaxis(array, axis, 2)
        array = array[..., 0] if array.shape[2] == 1 else array[..., :3]
    return np.array(array, order="C")


def _channel_axis(what: str, dtype: str, shape: list[int], canvas: tuple[int, int], cast: str) -> int | None:
    """Where the channels are: 0, 2, or None where there are none; InputError unless it is one image."""
    if len(shape) == 4:
        advice = "give list(x), or predict_batch where they are preprocessed"
        raise InputError(f"{what}: expected one image, got a batch {shape}; {advice}")
    planar, interleaved = [3, *canvas], [*canvas, 3]
    if dtype in _FLOATS:
        if shape not in (planar, interleaved):
            to, of = _cast("x.round()", cast), _cast("(x * 255).round()", cast)
            advice = f"give a picture of any size as uint8, {to}, or {of} where they are from 0 to 1"
            expected = f"floats {planar}, which are preprocessed"
            raise InputError(f"{what}: expected {expected}, got {dtype} {shape}; {advice}")
        return 0 if shape == planar else 2
    if dtype != "uint8":
        expected = f"uint8 of any size, or floats {planar}, which are preprocessed"
        raise InputError(f"{what}: expected {expected}, got {dtype} {shape}{_advice(dtype, cast)}")
    ends = [axis for axis in (0, 2) if len(shape) == 3 and shape[axis] in CHANNELS]
    if 0 in shape or not (len(shape) == 2 or ends):
        expected = "uint8 [H, W], or with 1, 3 or 4 channels, [H, W, C] or [C, H, W]"
        advice = "; of grey images give list(x)" if len(shape) == 3 and 0 not in shape else ""
        raise InputError(f"{what}: expected {expected}, got {dtype} {shape}{advice}")
    if len(ends) == 2:
        expected = "channels first or last"
        advice = "give PIL.Image.fromarray(x) where they are last"
        raise InputError(f"{what}: expected {expected}, got {shape}, which may be either; {advice}")
    if math.prod(shape) > (3 if ends else 1) * MAX_PIXELS:
        raise InputError(f"{what}: expected at most {MAX_PIXELS} pixels, got {shape}")
    return ends[0] if ends else None


def _cast(value: str, cast: str) -> str:
    return cast.replace("x", value, 1)


def _advice(dtype: str, cast: str) -> str:
    """What to do with a type that is not taken, where that is known."""
    if dtype == "bool":
        return f"; give {cast} * 255"
    if dtype == "uint16":
        return f"; give {_cast('(x // 257)', cast)} where 65535 is white"
    if dtype.startswith(("int", "uint")):
        return f"; give {cast} where they are from 0 to 255"
    if dtype.startswith(("str", "object")):
        return "; give x.tolist() where they are paths or images"
    return ""


def check_batch(
    images: Tensor, config: GFNetConfig, device: torch.device, normalised: bool | None = None
) -> Tensor:
    """`images`, with their values in memory; InputError unless they are a batch of canvases on `device`.

    uint8 as it is; floats are normalised where they were not, and float32 where they were float64. Numbers
    are looked at on a CPU only: on a GPU the look would wait for the device.
    """
    if not isinstance(images, Tensor):
        advice = "; torch.from_numpy(x)" if isinstance(images, np.ndarray) else ""
        raise InputError(f"images: expected a tensor, got {type(images).__name__}{advice}")
    if images.device != device:
        raise InputError(f"images: expected device {device}, got {images.device}")
    images = plain_tensor("images", images)
    shape, planar, interleaved = list(images.shape), [3, *config.canvas], [*config.canvas, 3]
    is_float = str(images.dtype).removeprefix("torch.") in _FLOATS
    fits = images.ndim == 4 and shape[0] >= 1 and shape[1:] in (planar, interleaved)
    if not fits or not (is_float or images.dtype == torch.uint8):
        height, width = config.canvas
        forms = f"[B >= 1, {height}, {width}, 3] or [B, 3, {height}, {width}]"
        raise InputError(f"images: expected uint8 or floats {forms}, got {images.dtype} {shape}")
    images = images.resolve_neg()
    if not is_float:
        return images
    if shape[1:] != planar:
        images = images.permute(0, 3, 1, 2)
    return normalised_floats("images", images, config, normalised)


def check_normalised(normalised: object) -> None:
    if normalised is not None and not isinstance(normalised, bool):
        raise InputError(f"normalised: expected True, False or None, got {shown(normalised)}")


def normalised_floats(what: str, images: Tensor, config: GFNetConfig, normalised: bool | None) -> Tensor:
    """Floats ``[B, 3, H, W]`` as the network takes them; InputError where their numbers cannot be pixels.

    `normalised`: whether they are (x - mean) / std already, or from 0 to 1; None takes them for normalised,
    and raises InputError where they do not look it.
    """
    if images.device.type == "cpu":
        _check_numbers(what, images, config, normalised)
    if normalised is False:
        return normalise(images, config.mean, config.std)
    return images.float() if images.dtype == torch.float64 else images


def _check_numbers(what: str, images: Tensor, config: GFNetConfig, normalised: bool | None) -> None:
    least, most = (float(end) for end in torch.aminmax(images))
    if not -LARGEST <= least <= most <= LARGEST:  # not a number fails as well
        bad = int((~(images.abs() <= LARGEST)).sum())
        raise InputError(f"{what}: expected finite numbers up to {LARGEST:g}, got {bad} that are not")
    got = f"got {least:.3g} to {most:.3g}"
    if normalised is False and (least < -OVERSHOOT or most > 1 + OVERSHOOT):
        advice = "say normalised=True where they are" if least < 0 else "give uint8 for 0 to 255"
        raise InputError(f"{what}: expected pixels from 0 to 1, as normalised=False says, {got}; {advice}")
    if normalised is not None:
        return
    begin, end = _reach(config)
    expected = f"expected normalised numbers, {begin:.3g} to {end:.3g}"
    if least >= 0 and most <= 1 and most - least > CONTRAST and abs(begin) + abs(end - 1) > CONTRAST / 2:
        advice = "say normalised=False where they are, or normalised=True where not"
        raise InputError(f"{what}: {expected}, {got}, as of pixels from 0 to 1; {advice}")
    room = end - begin  # noise, say, that was added
    if not begin - room <= least <= most <= end + room:
        advice = "give uint8 where they are, or say normalised=True where not"
        raise InputError(f"{what}: {expected}, {got}, as of pixels from 0 to 255; {advice}")


def _reach(config: GFNetConfig) -> tuple[float, float]:
    """What black and white are, normalised, in the channels where they are least and most."""
    both = list(zip(config.mean, config.std, strict=True))
    return min(-mean / std for mean, std in both), max((1 - mean) / std for mean, std in both)
