"""A folder of images by class: its parts, and batches that do not depend on who reads them.

``FOLDER/train/CLASS/*`` and, where they are there, ``FOLDER/val/CLASS/*`` and ``FOLDER/heldout/CLASS/*``; or
``FOLDER/CLASS/*``. What is missing is drawn by a seed. Classes are numbered in the order of their folders'
names.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gfnet_fast.config import GFNetConfig
from gfnet_fast.data.by_class import class_folders, images_of
from gfnet_fast.errors import InputError
from gfnet_fast.sources import open_image, read_image

_LAST_NUMBER = re.compile(rb"(.*?)([0-9]+)[^0-9]*", re.DOTALL)

Item = tuple[int, int]  # which image, and the seed of what is random about it


@dataclass(frozen=True, eq=False)
class Part:
    """Some images of a folder: names below `root` (bytes ``[N]``), labels int64 ``[N]``, and runs.

    `runs` (bytes ``[N]``) are names too: images of one run stay together where a folder is divided.
    """

    root: Path
    names: np.ndarray
    labels: np.ndarray
    runs: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, row: int) -> Path:
        return self.root / os.fsdecode(self.names[row])

    def take(self, rows: np.ndarray) -> Part:
        return Part(self.root, self.names[rows], self.labels[rows], self.runs[rows])

    @property
    def digest(self) -> str:
        """Says which images these are: sha256 of their names."""
        return hashlib.sha256(b"\n".join(self.names.tolist())).hexdigest()


class Parts(NamedTuple):
    """What a run trains on, finds thresholds on and reports on; disjoint."""

    classes: tuple[str, ...]
    train: Part
    heldout: Part
    validation: Part


def read_parts(
    folder: Path, heldout: float = 0.1, validation: float = 0.1, seed: int = 0, run: int = 1
) -> Parts:
    """The three parts of a folder; shares are of each class, for the parts that the folder does not name.

    Images are drawn in runs of `run` neighbours, which stay together. The last number n in a file's name puts
    it into run (n - 1) // run of those in its folder that begin alike: with 3, ``a1 a2 a3`` and ``a4 a6``.
    Files without a number are counted in the order of their names. Shares are of the runs, rounded, at
    least one run each.

    Raises InputError on a folder without classes or with one, an empty class, parts with other classes than
    ``train``, other folders beside them, and classes too small to be divided.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of images by class, got none")
    named = {name: folder / name for name in ("train", "heldout", "val") if (folder / name).is_dir()}
    if "train" not in named:
        named = {"train": folder}
    elif odd := [path.name for path in class_folders(folder) if path.name not in named]:
        raise InputError(f"{folder}: expected train, val and heldout only beside each other, got {odd} too")
    classes = _classes(named["train"])
    for part in named.values():
        if (other := _classes(part)) != classes:
            odd = sorted(set(other) ^ set(classes))
            raise InputError(f"{part}: expected the classes of {named['train']}, got a difference in {odd}")
    found = {name: _part(part, classes, run) for name, part in named.items()}
    shares = {"heldout": heldout, "val": validation}
    missing = {name: share for name, share in shares.items() if name not in found}
    pieces = _divided(
        found["train"],
        classes,
        list(missing.values()),
        seed,
        "images" if run == 1 else f"runs of {run} images",
    )
    found.update(zip(["train", *missing], pieces, strict=True))
    return Parts(classes, found["train"], found["heldout"], found["val"])


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in class_folders(folder))
    if len(names) < 2:
        raise InputError(f"{folder}: expected two or more folders, one a class, got {list(names)}")
    return names


def _part(folder: Path, classes: Sequence[str], run: int) -> Part:
    names: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = images_of(folder / name)
        names += [os.fsencode(path.relative_to(folder)) for path in images]
        labels += [label] * len(images)
    return Part(folder, np.array(names), np.array(labels, np.int64), np.array(runs_of(names, run)))


def _divided(part: Part, classes: Sequence[str], shares: list[float], seed: int, what: str) -> list[Part]:
    """What is left of a part, and its shares: of each class's runs, rounded, at least one each."""
    rows: list[list[np.ndarray]] = [[] for _ in range(len(shares) + 1)]
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        mine = np.flatnonzero(part.labels == label)
        _, first, runs = np.unique(part.runs[mine], return_index=True, return_inverse=True)
        runs = np.argsort(np.argsort(first))[runs]  # numbered in the order in which they are met
        drawn = rng.permutation(len(first))
        counts = [max(round(share * len(drawn)), 1) for share in shares]
        if sum(counts) >= len(drawn):
            raise InputError(
                f"{part.root / name}: expected more than {sum(counts)} {what}, to keep that many from "
                f"training, got {len(drawn)}"
            )
        *kept, rest = np.split(drawn, np.cumsum(counts))
        for piece, some in zip(rows, [rest, *kept], strict=True):
            piece.append(mine[np.isin(runs, some)])
    return [part.take(np.sort(np.concatenate(piece))) for piece in rows]


def runs_of(names: Sequence[bytes], run: int) -> list[bytes]:
    """The run of so many neighbours that each image is of; of one: itself.

    ``a/b12.png`` is of the run ``a/b#1`` of ten, and the n-th without a number in its name of ``a/~0``.
    """
    if run == 1:
        return list(names)
    unnumbered: Counter[bytes] = Counter()
    found = []
    for name in names:
        folder, file = os.path.split(name)
        if match := _LAST_NUMBER.fullmatch(os.path.splitext(file)[0]):
            own = b"%b#%d" % (match[1], (int(match[2]) - 1) // run)
        else:
            own = b"~%d" % (unnumbered[folder] // run)
            unnumbered[folder] += 1
        found.append(os.path.join(folder, own))
    return found


class Batch(NamedTuple):
    """images : uint8 ``[B, H, W, 3]``; labels : int64 ``[B]``; bad : what could not be read, by path."""

    images: Tensor
    labels: Tensor
    bad: dict[str, str]

    def to(self, device: torch.device) -> Batch:
        images, labels = (t.to(device, non_blocking=True) for t in self[:2])
        return Batch(images, labels, self.bad)


def shuffled_batches(count: int, size: int, seed: int) -> Tensor:
    """An epoch's rows in random order, in whole batches: int64 ``[count // size, size]``."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: count // size * size].view(-1, size)


class Order:
    """Batches of items: their rows, and the seed of each; made when they are asked for."""

    def __init__(self, batches: Sequence[Tensor], seed: Callable[[int], int] = lambda row: 0) -> None:
        self.batches, self.seed = batches, seed

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Item]]:
        for batch in self.batches:
            yield [(row, self.seed(row)) for row in batch.tolist()]


Reader = Callable[[Path], Tensor]
Read = tuple[list[Tensor], int, dict[str, str]]  # one image or none, its label, and what was bad


class FolderImages(Dataset):
    """A part's images, each read by `reader` with the random numbers of its item's seed.

    With `replace`, the next readable image of the part stands in for one that cannot be read, so that
    batches keep their size; otherwise it is left out.
    """

    def __init__(self, part: Part, reader: Reader, replace: bool = False) -> None:
        self.part, self.reader, self.replace = part, reader, replace

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, item: Item) -> Read:
        row, seed = item
        bad: dict[str, str] = {}
        for _ in range(len(self) if self.replace else 1):
            path = self.part.path(row)
            try:
                with seeded(seed):
                    return [self.reader(path)], int(self.part.labels[row]), bad
            except InputError as error:
                bad[str(path)] = str(error)
                row = (row + 1) % len(self)
        return [], 0, bad


def evaluation_reader(config: GFNetConfig) -> Reader:
    """What the predictor sees: uint8 ``[H, W, 3]``."""
    return lambda path: read_image(path, config)


class TrainingReader:
    """timm's augmentation of an image of a file: uint8 ``[H, W, 3]``.

    A random crop of a share of the area between `scale`, and a flip; the rest where asked for. A crop is
    3/4 to 4/3 times as wide for its height as the canvas.
    """

    def __init__(
        self,
        config: GFNetConfig,
        scale: tuple[float, float] = (0.08, 1.0),
        flip: float = 0.5,
        color_jitter: float = 0.0,
        auto_augment: str = "",
        erase: float = 0.0,
        vertical_flip: float = 0.0,
    ) -> None:
        from timm.data import create_transform

        aspect = config.canvas[1] / config.canvas[0]
        try:
            self.transform = create_transform(
                config.canvas,
                is_training=True,
                scale=scale,
                ratio=(3 / 4 * aspect, 4 / 3 * aspect),
                hflip=flip,
                vflip=vertical_flip,
                color_jitter=color_jitter or None,  # type: ignore[arg-type]
                auto_augment=auto_augment or None,
                re_prob=erase,
                re_mode="const",
                interpolation=config.resize_filter,
                normalize=False,
            )
        except (AssertionError, ValueError, KeyError, IndexError) as error:
            raise InputError(f"augmentation: expected what timm knows, got {error!r}") from error

    def __call__(self, path: Path) -> Tensor:
        return self.transform(open_image(path).convert("RGB")).permute(1, 2, 0)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, numpy's and torch's own generators begin at `seed` inside, and go on afterwards as before."""
    own = torch.default_generator  # torch.manual_seed would queue work for GPUs that are not there
    before = random.getstate(), np.random.get_state(), own.get_state()  # noqa: NPY002  (what augmentations use)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    own.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        own.set_state(before[2])


def load_batches(
    images: FolderImages, order: Iterable[Sequence[Item]], workers: int = 0, pin: bool = False
) -> Iterator[Batch]:
    """Batches of the items of `order`, read by that many worker processes."""
    loader = DataLoader(
        images,
        batch_sampler=order,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        worker_init_fn=_start_worker if workers else None,
    )
    # Workers inherit this, and so are at no moment ended by a signal that is meant for their parent.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        batches = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    yield from batches


def _collate(items: list[Read]) -> Batch:
    images = [image for found, _, _ in items for image in found]
    labels = [label for found, label, _ in items if found]
    bad = {path: why for *_, some in items for path, why in some.items()}
    stacked = torch.stack(images) if images else torch.empty(0, 0, 0, 3, dtype=torch.uint8, device="cpu")
    return Batch(stacked, torch.tensor(labels, dtype=torch.long, device="cpu"), bad)


def _start_worker(number: int) -> None:
    """A worker leaves when its parent tells it to, not when somebody signals to the whole process group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_leave_when_told, daemon=True).start()


def _leave_when_told() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
