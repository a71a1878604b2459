"""Labelled images for measuring: a folder of class folders, or composed canvases of the embedded task."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from gfnet_fast.config import GFNetConfig
from gfnet_fast.data.by_class import class_folders, images_of
from gfnet_fast.data.split import SPLIT, Entry, read_split
from gfnet_fast.errors import InputError
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


class LabelledImages:
    """Images by their paths, with the preprocessing that the model of `config` expects.

    Attributes
    ----------
    paths : list of N Path
    labels : int64 ``[N]``
    classes : tuple of K str
        Their names.
    """

    def __init__(
        self, paths: list[Path], labels: Sequence[int], classes: Sequence[str], config: GFNetConfig
    ) -> None:
        self.paths, self.classes, self.config = paths, tuple(classes), config
        self.labels = torch.tensor(labels, device="cpu")

    def images(self, rows: Sequence[int], /) -> Tensor:
        """uint8 ``[n, H, W, 3]``; InputError, naming the path, at one that cannot be used."""
        with ThreadPoolExecutor(READERS) as pool:
            read = pool.map(partial(read_image, config=self.config), [self.paths[row] for row in rows])
            return torch.stack(list(read))


class LabelledFolder(LabelledImages):
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
    by_order : list of str
        The folders' names, where their order alone says which of the model's classes they are.

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
        self.by_order: list[str] = []
        labels_of = list(names or ())
        strange = sorted(set(found) - set(labels_of))
        if labels_of and not strange and len(set(labels_of)) == len(labels_of):
            classes = [labels_of.index(name) for name in found]
        elif strange and len(strange) < len(found):  # one name misspelt would give others' classes to many
            expected = "folders that are all named as the model's labels, or none"
            raise InputError(f"{root}: expected {expected}, got {', '.join(strange)} beside others that are")
        elif len(found) == config.classes:
            classes = list(range(config.classes))
            self.by_order = found if labels_of else []
        else:
            expected = f"{config.classes} class folders, or folders named as the model's labels"
            raise InputError(f"{root}: expected {expected}, got {len(found)} folders")
        paths: list[Path] = []
        labels: list[int] = []
        for label, path in zip(classes, folders, strict=True):
            images = images_of(path)
            paths += images
            labels += [label] * len(images)
        super().__init__(paths, labels, labels_of or found, config)


def open_labelled(
    name: str,
    model: GFNet,
    *,
    split: Literal["validation", "test"] = "test",
    count: int,
    seed: int = 0,
    source: str | os.PathLike[str] = "",
    part: str = "auto",
    tell: Callable[[str], None] = lambda text: None,
) -> Labelled:
    """The labelled folder of that name; ``"digits"``, where there is none: `count` composed canvases.

    `split` says of which handwritten digits, none of which the embedded model was trained on. Of the folder
    that the model was trained on, which `source`'s ``split.csv`` tells, those are taken that were kept from
    training: for "test" those for the report, else those for thresholds.

    Parameters
    ----------
    source : path
        Where the model was read from.
    part : "auto", "all", "train", "heldout" or "val"
        Which part of that folder; "auto" takes all images of any other folder.
    tell : called with a line that says which images, and how many
    """
    if name != "digits" or os.path.exists(name):
        return _open_folder(Path(name), model, "val" if split == "test" else "heldout", source, part, tell)
    if part not in ("auto", "all"):
        raise InputError(f"part: expected auto or all for composed canvases, got {part}")
    from gfnet_fast.data.digits import ClutteredDigits
    from gfnet_fast.training.digits import TASK

    if (model.config.image_size, model.config.classes) != (TASK.canvas, 10):
        expected = f"a model of {TASK.canvas} px images and 10 classes for the digits"
        raise InputError(
            f"model: expected {expected}, got {model.config.image_size} px and {model.config.classes}"
        )
    return ClutteredDigits(split, count, seed, TASK)


def _open_folder(
    folder: Path,
    model: GFNet,
    usual: str,
    source: str | os.PathLike[str],
    part: str,
    tell: Callable[[str], None],
) -> Labelled:
    home = Path(source) if source and Path(source).is_dir() else None
    split = read_split(home) if home else None
    why = f"{home or 'the model'} has no {SPLIT}"
    if home and split is not None:
        known = [entry for entry in split if (folder / entry.path).is_file()]
        if len(known) == len(split) and not (part == "all" and not (folder / "train").is_dir()):
            wanted = usual if part == "auto" else part
            images = _part_of(folder, split, wanted, model)
            tell(f"images: {len(images.paths)} of {len(split)}, the part {wanted!r} of {home / SPLIT}")
            return images
        why = f"{len(known)} of the {len(split)} images of {home / SPLIT} are there"
    if part not in ("auto", "all"):
        raise InputError(
            f"{folder}: expected the folder that the model was trained on for {part!r}, got: {why}"
        )
    images = LabelledFolder(folder, model.config, model.labels)
    if images.by_order:
        pairs = zip(images.by_order, images.classes, strict=True)
        tell(f"classes: by the order of the folders: {', '.join(f'{one} is {name}' for one, name in pairs)}")
    doubt = part == "auto" and (any(e.part == "train" for e in known) if split else _trained_here(home))
    warning = f"; training images may be among them ({why})" if doubt else ""
    tell(f"images: all {len(images.paths)} of {folder}{warning}")
    return images


def _trained_here(home: Path | None) -> bool:
    """Whether a model's folder is that of a training run."""
    return home is not None and (home / "training.json").exists()


def _part_of(folder: Path, split: Sequence[Entry], part: str, model: GFNet) -> LabelledImages:
    labels = {name: label for label, name in enumerate(model.labels or ())}
    mine = [entry for entry in split if part in ("all", entry.part)]
    if odd := sorted({entry.label for entry in mine} - set(labels)):
        raise InputError(f"{SPLIT}: expected the model's classes, got {', '.join(odd)}")
    if not mine:
        raise InputError(f"{SPLIT}: expected images of the part {part!r}, got none")
    paths = [folder / entry.path for entry in mine]
    return LabelledImages(paths, [labels[entry.label] for entry in mine], list(labels), model.config)
