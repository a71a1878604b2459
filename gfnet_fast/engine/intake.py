"""Images as an engine takes them in: checked, and where they lie, for one image or for many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from gfnet_kernels import entry_of
from gfnet_kernels.images import ENTRY, channels_first, in_memory
from numpy.typing import NDArray
from torch import Tensor

from gfnet_fast.errors import InputError

Images = Tensor | Sequence[Tensor]
IMAGE_DTYPES = (torch.uint8, torch.float32, torch.float16, torch.bfloat16)
# What images of one form have in common: class, type of pixels, and where they lie but for the address.
FORM: tuple[Callable[[Tensor], Any], ...] = (
    type, attrgetter("dtype"), attrgetter("device"), attrgetter("layout"), Tensor.is_neg, Tensor.size,
    Tensor.stride,
)  # fmt: skip
MOST_KNOWN = 4096
_KNOWN: dict[Any, tuple[int, ...]] = {}  # rows of forms that are in order; the address is each image's own


def entries_of(images: Images, least: int, device: torch.device) -> tuple[NDArray[np.int64], torch.dtype]:
    """Rows of an image table for n images, int64 ``[n, 6]``, and the type of their pixels.

    Parameters
    ----------
    images : ``[n, H, W, 3]`` or ``[n, 3, H, W]``, or a list of single images of any sizes
        uint8, float32, float16 or bfloat16, all of one type, any strides.
    least : pixels that each side has at least
    device : where they have to lie

    Raises
    ------
    InputError
        On anything else, and on tensors whose values are not what lies in their memory.
    """
    if isinstance(images, Tensor):
        return _of_batch(images, least, device)
    if not len(images):
        return np.empty((0, ENTRY), np.int64), torch.uint8
    try:
        return _of_list(images, least, device)
    except (
        AttributeError,
        RuntimeError,
        TypeError,
    ) as error:  # of what is no plain tensor: its own check says so
        with suppress(AttributeError, RuntimeError, TypeError):
            for image in images:
                _check(image, least, device)
        raise InputError(f"images: expected tensors with memory, got one without: {error}") from None


def _of_batch(images: Tensor, least: int, device: torch.device) -> tuple[NDArray[np.int64], torch.dtype]:
    try:
        images = in_memory("images", images)
    except ValueError as error:
        raise InputError(str(error)) from None
    if images.ndim != 4:
        raise InputError(_expected(images))
    entries = np.empty((len(images), ENTRY), np.int64)
    if len(images):
        entries[:] = _check(images[0], least, device)
        entries[:, 0] += np.arange(len(images)) * (images.stride(0) * images.element_size())
    return entries, images.dtype


def _of_list(
    images: Sequence[Tensor], least: int, device: torch.device
) -> tuple[NDArray[np.int64], torch.dtype]:
    """One image is looked at for each form: type, pixels, device, shape, layout, sign and strides."""
    alike = [set(map(part, images)) for part in FORM]
    if all(len(kinds) == 1 for kinds in alike):
        forms = [tuple(kinds.pop() for kinds in alike)]
    else:
        forms = list(zip(*(map(part, images) for part in FORM), strict=True))
    addresses = np.fromiter(map(Tensor.data_ptr, images), np.int64, len(images))
    if not addresses.all():  # no memory at all, whatever the form says
        raise TypeError("images: expected tensors with memory")
    rows: dict[Any, tuple[int, ...]] = {}
    for form in set(forms):
        if (row := _KNOWN.get((form, least, device))) is None:
            row = _check(images[forms.index(form)], least, device)
            if len(_KNOWN) >= MOST_KNOWN:
                _KNOWN.clear()
            _KNOWN[form, least, device] = row
        rows[form] = row
    types = {form[1] for form in rows}
    if len(types) > 1:
        raise InputError(f"images: expected one dtype for all in flight, got {sorted(map(str, types))}")
    entries = np.empty((len(images), ENTRY), np.int64)
    entries[:] = [rows[form] for form in forms] if len(rows) > 1 else list(rows.values())
    entries[:, 0] = addresses
    return entries, types.pop()


def _check(image: Tensor, least: int, device: torch.device) -> tuple[int, ...]:
    """The row of one image, ``[H, W, 3]`` or ``[3, H, W]``; raises InputError."""
    try:
        image = in_memory("images", image)
        if image.ndim != 3 or 3 not in (image.shape[0], image.shape[2]):
            raise InputError(_expected(image[None]))
        if min(channels_first(image[None]).shape[2:]) < least:
            expected = f"sides of at least {least} pixels"
            raise InputError(f"images: expected {expected}, got {[1, *image.shape]}")
        if image.dtype not in IMAGE_DTYPES:
            raise InputError(f"images: expected one of {IMAGE_DTYPES}, got {image.dtype}")
        if image.device != device:
            raise InputError(f"images: expected device {device}, got {image.device}")
        return entry_of(image)
    except ValueError as error:
        raise InputError(str(error)) from None


def _expected(images: Tensor) -> str:
    shape = list(images.shape)
    return f"images: expected [B, H, W, 3] or [B, 3, H, W], got {images.dtype} {shape}"
