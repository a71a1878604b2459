"""What defines a GFNet, and the released configurations as one table.

Sources: Wang et al., "Glance and Focus", NeurIPS 2020 (arXiv 2010.05300) and T-PAMI 2023
(arXiv 2201.03014), and the metadata of the released checkpoints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Literal

from gfnet_fast.arguments import check_arguments
from gfnet_fast.errors import CheckpointError, shown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# A configuration may come from a stranger's folder; nothing is built, and no memory taken, beyond these.
MAX_SIDE = 8192  # pixels
MAX_PATCH = 1024  # pixels; what a network is laid out for
MAX_WIDTH = 65_536
MAX_CLASSES = 2**20
MAX_STEPS = 64
MAX_MACS = 10**15
MAX_NAME = 256  # characters
STD = (1e-4, 1e4)
MAX_MEAN = 1e4

# Control characters, and halves of surrogate pairs: no file and no terminal takes them as they are.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Filter = Literal["bicubic", "bilinear"]
CHOICES = {
    "glance_filter": ("bicubic", "bilinear"),
    "resize_filter": ("bicubic", "bilinear"),
    "policy": ("linear", "conv"),
    "classifier": ("recurrent", "cascaded"),
}


@dataclass(frozen=True)
class GFNetConfig:
    """Everything that defines a GFNet but its weights.

    Attributes
    ----------
    name : str
        Name of the configuration, as in the released checkpoints.
    backbone : str
        ``"timm/NAME"``, ``"torchvision/NAME"``, or the name of a builder given to
        :func:`gfnet_fast.register_backbone`. Both encoders are this network.
    patch_size, steps : int
        P and T: the thumbnail and every crop are P x P pixels, and an image takes 1 to T steps.
    image_size : int, or (int, int)
        S, for images of S x S pixels, or height and width; two that are equal become S.
    crop_ratio : float or None
        Preprocessing resizes an image, its aspect kept, until it covers the canvas / `crop_ratio` (of
        S x S: its short side to ``int(S / crop_ratio)``), then crops the centre. None: it resizes the whole
        image to the canvas, its aspect not kept, and cuts nothing off.
    resize_filter, glance_filter : "bilinear" or "bicubic"
        The filter of that resize, and of the thumbnail.
    policy : "linear" or "conv"
        How the policy reads a feature map: flattened through two linear layers, or through a 1 x 1
        convolution first. `policy_hidden` is the width of its first layer, `policy_width` of its
        last and of its GRU.
    classifier : "recurrent" or "cascaded"
        One GRU over the steps' features, or one linear layer a step on the concatenation of the
        features so far.
    glance_head : bool
        Whether the glance's logits come from the global encoder's own linear layer. Always so for
        the cascaded classifier.
    backbone_args : mapping
        Passed to the backbone's builder: words and numbers that shape the network, of the names that
        :mod:`gfnet_fast.arguments` lists for timm and torchvision.
    macs : tuple of int, or None
        Multiply-adds for an image that exits at step 1, 2, ..., T. None where nobody has counted them: to
        count takes a model, whose own `config` always has them.

    Raises
    ------
    CheckpointError
        On a value of another type or beyond the limits of this module (8,192 pixels, 64 steps, a million
        classes, widths of 65,536).
    """

    name: str
    backbone: str
    patch_size: int
    steps: int
    image_size: int | tuple[int, int]
    crop_ratio: float | None = 0.875
    resize_filter: Filter = "bilinear"
    glance_filter: Filter = "bicubic"
    policy: Literal["linear", "conv"] = "conv"
    policy_hidden: int = 32
    policy_width: int = 256
    classifier: Literal["recurrent", "cascaded"] = "recurrent"
    classifier_width: int = 1024
    glance_head: bool = False
    classes: int = 1000
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    macs: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", checked_size(self.image_size))
        for key, most in (
            ("patch_size", MAX_PATCH),
            ("classes", MAX_CLASSES),
            ("policy_hidden", MAX_WIDTH),
            ("policy_width", MAX_WIDTH),
            ("classifier_width", MAX_WIDTH),
        ):
            _check_whole(key, getattr(self, key), 1, most)
        _check_whole("steps", self.steps, 2, MAX_STEPS)
        if self.patch_size > min(self.canvas):
            raise CheckpointError(
                f"patch_size: expected at most {min(self.canvas)} (image_size), got {self.patch_size}"
            )
        for key in ("name", "backbone"):
            check_text(key, getattr(self, key))
        if not isinstance(self.backbone_args, Mapping):
            raise CheckpointError(f"backbone_args: expected a mapping, got {shown(self.backbone_args)}")
        check_arguments(self.backbone, self.backbone_args)
        if not isinstance(self.glance_head, bool):
            raise CheckpointError(f"glance_head: expected true or false, got {shown(self.glance_head)}")
        ratio, least = self.crop_ratio, max(self.canvas) / MAX_SIDE
        if ratio is not None and (not _is_number(ratio) or not least <= ratio <= 1):
            raise CheckpointError(
                f"crop_ratio: expected none, or {least:g} to 1, so that an image is resized to at most "
                f"{MAX_SIDE} pixels, got {shown(ratio)}"
            )
        for key, choices in CHOICES.items():
            value = getattr(self, key)
            if not isinstance(value, str) or value not in choices:
                raise CheckpointError(f"{key}: expected one of {choices}, got {shown(value)}")
        object.__setattr__(self, "mean", _numbers("mean", self.mean, 3, -MAX_MEAN, MAX_MEAN))
        object.__setattr__(self, "std", _numbers("std", self.std, 3, *STD))
        if self.classifier == "cascaded":
            object.__setattr__(self, "glance_head", True)
        if self.macs is not None:
            macs = tuple(map(int, _numbers("macs", self.macs, self.steps, 1, MAX_MACS)))
            if any(a >= b for a, b in pairwise(macs)):
                raise CheckpointError(f"macs: expected {self.steps} increasing numbers, got {macs}")
            object.__setattr__(self, "macs", macs)

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of a preprocessed image, in pixels."""
        size = self.image_size
        return size if isinstance(size, tuple) else (size, size)

    @property
    def resize_to(self) -> tuple[int, int]:
        """Height and width that an image covers after preprocessing's resize; has, if nothing is cut off."""
        height, width = self.canvas
        ratio = 1 if self.crop_ratio is None else self.crop_ratio
        return int(height / ratio), int(width / ratio)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image of `height` x `width` pixels after preprocessing's resize."""
        rows, columns = self.resize_to
        if self.crop_ratio is None:
            return rows, columns
        if rows * width >= columns * height:
            return rows, rows * width // height
        return columns * height // width, columns

    def replace(self, **changes: Any) -> GFNetConfig:
        """This configuration with some fields changed; its multiply-adds are counted anew."""
        return replace(self, **{"macs": None, **changes})

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold, for :meth:`from_dict`."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GFNetConfig:
        """The configuration that :meth:`to_dict` wrote; CheckpointError names what is unknown or missing."""
        known = {f.name for f in fields(cls)}
        values = {str(name): value for name, value in values.items()}
        required = {"name", "backbone", "patch_size", "steps", "image_size"}
        if unknown := sorted(set(values) - known):
            raise CheckpointError(f"config: unknown fields {shown(unknown)}; expected only {sorted(known)}")
        if missing := sorted(required - set(values)):
            raise CheckpointError(f"config: missing fields {missing}")
        return cls(**values)


def checked_size(value: Any) -> int | tuple[int, int]:
    """An image's size: S, or (height, width) where they differ. Raises CheckpointError."""
    sides = value if isinstance(value, (list, tuple)) and len(value) == 2 else [value]
    for side in sides:
        whole = isinstance(side, Integral) and not isinstance(side, bool)
        if not whole or not 1 <= int(side) <= MAX_SIDE:
            expected = f"a whole number from 1 to {MAX_SIDE}, or two: height and width"
            raise CheckpointError(f"image_size: expected {expected}, got {shown(value)}")
    return sides[0] if sides[0] == sides[-1] else (sides[0], sides[1])


def check_text(key: str, value: Any, most: int = MAX_NAME) -> None:
    """Raise CheckpointError unless `value` is a short text that can be written and printed."""
    if not isinstance(value, str) or len(value) > most or _UNPRINTABLE.search(value):
        expected = f"a text of at most {most} characters, without control characters"
        raise CheckpointError(f"{key}: expected {expected}, got {shown(value)}")


def _check_whole(key: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= int(value) <= most:
        raise CheckpointError(f"{key}: expected a whole number from {least} to {most}, got {shown(value)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _numbers(key: str, values: Any, count: int, least: float, most: float) -> tuple[float, ...]:
    """`values` as `count` floats; comparing refuses NaN, and whole numbers that no float holds."""
    try:
        values = list(values) if not isinstance(values, (str, bytes, Mapping)) else []
    except TypeError:
        values = [values]
    fits = len(values) == count
    if not fits or not all(_is_number(value) and least <= value <= most for value in values):
        raise CheckpointError(
            f"{key}: expected {count} numbers from {least:g} to {most:g}, got {shown(values)}"
        )
    return tuple(map(float, values))


def _recurrent(name: str, backbone: str, patch_size: int, **more: Any) -> GFNetConfig:
    more = {"policy": "linear", "policy_hidden": 2048, "policy_width": 1024, **more}
    return GFNetConfig(name, backbone, patch_size, steps=5, image_size=224, **more)


def _regnet(name: str, backbone: str) -> GFNetConfig:
    return GFNetConfig(
        name, backbone, 96, steps=5, image_size=224, glance_filter="bilinear", glance_head=True
    )


def _cascaded(
    name: str, backbone: str, patch_size: int, steps: int, image_size: int, **more: Any
) -> GFNetConfig:
    return GFNetConfig(name, backbone, patch_size, steps, image_size, classifier="cascaded", **more)


# MobileNetV3-Large x1.25 is not a registered timm model; `model.backbones` builds it by timm's own builder.
RELEASED: tuple[GFNetConfig, ...] = (
    _recurrent("resnet50", "timm/resnet50", 96),
    _recurrent("resnet50", "timm/resnet50", 128),
    _recurrent("densenet121", "timm/densenet121", 96, glance_filter="bilinear"),
    _recurrent("densenet169", "timm/densenet169", 96, glance_filter="bilinear"),
    _recurrent("densenet201", "timm/densenet201", 96, glance_filter="bilinear"),
    _regnet("regnety_600m", "timm/regnety_006"),
    _regnet("regnety_800m", "timm/regnety_008"),
    _regnet("regnety_1.6g", "timm/regnety_016"),
    _cascaded("mobilenetv3_large_100", "timm/mobilenetv3_large_100", 96, 3, 224),
    _cascaded("mobilenetv3_large_100", "timm/mobilenetv3_large_100", 128, 3, 224),
    _cascaded("mobilenetv3_large_125", "timm/mobilenetv3_large_125", 128, 3, 224),
    _cascaded("efficientnet_b2", "timm/efficientnet_b2", 128, 4, 260, resize_filter="bicubic"),
    _cascaded(
        "efficientnet_b3", "timm/efficientnet_b3", 128, 4, 300, resize_filter="bicubic", crop_ratio=0.904
    ),
    _cascaded(
        "efficientnet_b3", "timm/efficientnet_b3", 144, 4, 300, resize_filter="bicubic", crop_ratio=0.904
    ),
)


def released(name: str, patch_size: int | None = None) -> GFNetConfig:
    """A released configuration by the name and the patch size in its checkpoint.

    `patch_size` may be left out where the name has only one.
    """
    found = [c for c in RELEASED if c.name == name and patch_size in (None, c.patch_size)]
    if len(found) != 1:
        known = ", ".join(f"{c.name} at {c.patch_size}" for c in RELEASED)
        what = name if patch_size is None else f"{name} at {patch_size}"
        raise CheckpointError(f"expected one released configuration ({known}), got {shown(what)}")
    return found[0]
