"""The thousand classes of ImageNet (ILSVRC 2012), in the order that the names of their folders sort in."""

from __future__ import annotations

from functools import cache
from typing import Any

CLASSES = 1000

# Two pairs of classes share their first word in WordNet.
_APART = {
    "n02012849": "crane (bird)",
    "n03126707": "crane (machine)",
    "n03710637": "maillot (tights)",
    "n03710721": "maillot (swimsuit)",
}


@cache
def labels() -> tuple[str, ...]:
    """A short name for each class, no two alike: the first of WordNet's words for it."""
    info = _info()
    words = zip(folders(), info.label_descriptions(), strict=True)
    return tuple(_APART.get(number) or text.split(",")[0] for number, text in words)


@cache
def folders() -> tuple[str, ...]:
    """What the folders of the classes are called: WordNet's numbers, n01440764 and on."""
    return tuple(_info().label_names())


def _info() -> Any:
    from timm.data import ImageNetInfo

    return ImageNetInfo("imagenet-1k")
