"""Labelled images for measuring: a folder of class folders, or composed canvases of the embedded task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from gfnet_fast.config import GFNetConfig
from gfnet_fast.data.by_class import class_folders, images_of
from gfnet_fast.errors import InputError
from gfnet_fast.hub import comes_along
from gfnet_fast.sources import read_image

if TYPE_CHECKING:
    from gfnet_fast.model.gfnet import GFNet

READERS = min(8, os.cpu_count() or 1)


class Labelled(Protocol):
    """N images with labels int64 ``[N]``, and the names of the K classes that these count.

    `images` gives uint8 ``[n, H, W, 3]``, preprocessed.
    """

    labels: Tensor

    @property
    def classes(self) -> Sequence[str]: ...

    def images(self, rows: Sequence[int], /) -> Tensor: ...


class LabelledFolder:
    """The images below a folder, in class folders, with the preprocessing that the model expects.

    Class folders that are all named as the model's labels have those classes. Where none is, there are as
    many folders as classes, and the classes go by the sorted names.

    Parameters
    ----------
    folder : path
    config : GFNetConfig
        Of the model that will see the images.
    names : sequence of K str, optional
        The model's labels.

    Attributes
    ----------
    paths : list of N Path, class by class
    labels : int64 ``[N]``
    classes : tuple of K str
        The model's labels, or where it has none the folders' names.

    Raises
    ------
    InputError
        Where there is no such folder, a class folder holds no image, or the folders do not fit the classes.
    """

    def __init__(
        self, folder: str | os.PathLike[str], config: GFNetConfig, names: Sequence[str] | None = None
    ) -> None:
        root = Path(folder)
        folders = class_folders(root)
        if not folders:
            raise InputError(f"{root}: expected a folder with a folder of images for each class, got none")
        found = [path.name for path in folders]
        labels_of = list(names or ())
        strange = sorted(set(found) - set(labels_of))
        if labels_of and not strange and len(set(labels_of)) == len(labels_of):
            classes = [labels_of.index(name) for name in found]
        elif strange and len(strange) < len(found):  # one name misspelt would give others' classes to many
            expected = "folders that are all named as the model's labels, or none"
            raise InputError(f"{root}: expected {expected}, got {', '.join(strange)} beside others that are")
        elif len(found) == config.classes:
            classes = list(range(config.classes))
        else:
            expected = f"{config.classes} class folders, or folders named as the model's labels"
            raise InputError(f"{root}: expected {expected}, got {len(found)} folders")
        self.config = config
        self.classes = tuple(labels_of or found)
        self.paths: list[Path] = []
        labels: list[int] = []
        for label, path in zip(classes, folders, strict=True):
            images = images_of(path)
            self.paths += images
            labels += [label] * len(images)
        self.labels = torch.tensor(labels, device="cpu")

    def images(self, rows: Sequence[int], /) -> Tensor:
        """uint8 ``[n, H, W, 3]``; InputError, naming the path, at one that cannot be used."""
        with ThreadPoolExecutor(READERS) as pool:
            read = pool.map(partial(read_image, config=self.config), [self.paths[row] for row in rows])
            return torch.stack(list(read))


def open_labelled(
    name: str, model: GFNet, *, split: Literal["validation", "test"] = "test", count: int, seed: int = 0
) -> Labelled:
    """The labelled folder of that name; ``"digits"``, where there is none: `count` composed canvases.

    `split` says of which handwritten digits, none of which the embedded model was trained on.
    """
    if name != "digits" or comes_along(name) is None:
        return LabelledFolder(name, model.config, model.labels)
    from gfnet_fast.data.digits import ClutteredDigits
    from gfnet_fast.training.digits import TASK

    if (model.config.image_size, model.config.classes) != (TASK.canvas, 10):
        expected = f"a model of {TASK.canvas} px images and 10 classes for the digits"
        raise InputError(
            f"model: expected {expected}, got {model.config.image_size} px and {model.config.classes}"
        )
    return ClutteredDigits(split, count, seed, TASK)
