"""What a training run is told: what to train, and in what manner."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gfnet_fast.config import GFNetConfig
from gfnet_fast.data.folder import Parts
from gfnet_fast.errors import InputError
from gfnet_fast.training.config import TrainConfig

STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Job:
    """What to train: a run is the same, and can be gone on with, where these are the same.

    Attributes
    ----------
    data, output : Path
        The folder of images, see :mod:`gfnet_fast.data.folder`; and the folder for everything that a run
        writes, which is a native model folder in the end.
    backbone : str
    patch_size, steps : int
    image_size : int, or (int, int)
        Of a square, or height and width.
    training : TrainConfig
    model : mapping
        Other fields of :class:`GFNetConfig`.
    pretrained : str
        What both encoders begin with, see :mod:`gfnet_fast.training.pretrained`; "" for none.
    init : path or str, optional
        A checkpoint of a whole GFNet to begin with, or its name.
    """

    data: Path
    output: Path
    backbone: str
    patch_size: int
    steps: int
    image_size: int | tuple[int, int]
    training: TrainConfig
    model: Mapping[str, Any]
    pretrained: str = ""
    init: str | os.PathLike[str] | None = None

    @property
    def split(self) -> tuple[float, float, int, int]:
        """How the folder is divided: shares held out and for the report, the seed, and neighbours."""
        config = self.training
        return config.heldout, config.validation, config.split_seed, config.split_run

    def settings(self, parts: Parts, config: GFNetConfig) -> dict[str, Any]:
        """What is kept in training.json, and compared when a run goes on."""
        return {
            "model": config.to_dict(),
            "training": asdict(self.training),
            "pretrained": self.pretrained,
            "init": None if self.init is None else os.fsdecode(self.init),
            "classes": list(parts.classes),
            **{
                name: {"images": len(part), "sha256": part.digest}
                for name, part in zip(("train", "heldout", "validation"), parts[1:], strict=True)
            },
        }


@dataclass(frozen=True)
class Manner:
    """How to train it; may change from one start of a run to the next.

    Attributes
    ----------
    device : str
        "auto", "cpu" or "cuda".
    workers : int or None
        Processes that read images, for each process that trains; 0: none. None: two, but fewer where an epoch
        is over before they have paid for their start.
    checkpoint_every : int
        Updates between checkpoints; there is one after every epoch as well.
    bad_images : int
        How many images may be unreadable.
    compile, channels_last : bool
        Of the encoders.
    export : "" or "official"
        Also write what the official evaluation reads, ``official.pth.tar``.
    dry_run : bool
        Say what would be done, and write nothing.
    tensorboard, quiet : bool
    """

    device: str = "auto"
    workers: int | None = 0
    checkpoint_every: int = 1000
    bad_images: int = 0
    compile: bool = False
    channels_last: bool = False
    export: Literal["", "official"] = ""
    dry_run: bool = False
    tensorboard: bool = False
    quiet: bool = False


def plan_stages(
    config: TrainConfig, stages: Sequence[int] | None, state: Mapping[str, Any] | None, begun: bool
) -> list[int]:
    """The stages still to do; InputError on stages without epochs and on those that lack an earlier one."""
    wanted = [n for n in STAGES if config.epochs[n]] if stages is None else sorted(set(stages))
    if stages is not None and (odd := [n for n in wanted if n not in STAGES or not config.epochs[n]]):
        raise InputError(f"stages: expected some of 0 to 3 with epochs {config.epochs}, got {odd} among them")
    done = [] if state is None else state["done"]
    current = None if state is None else state["stage"]
    left = [n for n in wanted if n not in done]
    if current is not None and left[:1] != [current]:
        raise InputError(f"stages: expected stage {current} first, which the run is in, got {wanted}")
    if set(left) & {2, 3} and 1 not in {*done, *wanted} and not begun:
        raise InputError(f"stages: expected stage 1 before {left[0]}, or a model to begin with, got {wanted}")
    return left
