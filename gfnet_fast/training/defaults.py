"""What a training run does where nobody said: backbone, weights to begin with, sizes, and the recipe.

The recipe for pretrained weights was tuned on some 1,400 photographs, the published one is for 1.28 million.
Between, epochs go with the cube root of 1,400 by the number of images: eight times as many are seen half as
often, in four times as many updates.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gfnet_fast.checkpoints import load
from gfnet_fast.config import checked_size
from gfnet_fast.data.folder import Parts
from gfnet_fast.errors import InputError
from gfnet_fast.model.backbones import build_encoder
from gfnet_fast.training.config import FINE_TUNING, TrainConfig, family_config
from gfnet_fast.training.distributed import World
from gfnet_fast.training.job import Job
from gfnet_fast.training.pretrained import stride_of
from gfnet_fast.training.sizes import SHARE, Pictures, look_at, patch_for, sizes_for
from gfnet_fast.training.weights import at_hand, gfnet_at

BACKBONE, PRETRAINED = "timm/tf_efficientnet_lite0", "waste"
STEPS = 2
TUNED_ON = 1400
PUBLISHED_FROM = 200_000
"""From so many images on the published recipe, whatever weights a run begins with."""
MOST_OFTEN, LEAST_OFTEN = 5.0, 1 / 3
UPDATES = 10
"""Updates of an epoch that a batch is made smaller for, down to `SMALLEST` images."""
SMALLEST = 8


@dataclass(frozen=True)
class Request:
    """What a user asked for; None, or a field that is not there, is for :func:`decide`.

    Attributes are those of :class:`~gfnet_fast.training.job.Job`; `training` and `model` hold fields of
    TrainConfig and GFNetConfig.
    """

    data: Path
    output: Path
    backbone: str | None
    patch_size: int | None
    steps: int | None
    image_size: int | tuple[int, int] | None
    training: Mapping[str, Any]
    model: Mapping[str, Any]
    pretrained: str | None = None
    init: str | os.PathLike[str] | None = None

    @property
    def split(self) -> tuple[float, float, int, int]:
        """How the folder is divided: shares held out and for the report, the seed, and neighbours."""
        names = ("heldout", "validation", "split_seed", "split_run")
        config = TrainConfig(**{name: self.training[name] for name in names if name in self.training})
        return config.heldout, config.validation, config.split_seed, config.split_run


def decide(
    asked: Request, parts: Parts, world: World, recorded: Mapping[str, Any] | None = None
) -> tuple[Job, Pictures | None, list[str]]:
    """The job that a request stands for, what its pictures are like, and warnings.

    `recorded` are the settings of a run that is gone on with: it began with what it began with, whatever is
    at hand now.

    Raises InputError and CheckpointError on a backbone or weights that cannot be.
    """
    model, warnings = dict(asked.model), []
    backbone, pretrained = asked.backbone, asked.pretrained
    if pretrained is None and recorded is not None:
        pretrained = recorded["pretrained"]
    if pretrained == "none":
        pretrained = ""
    steps, image_size, patch_size = asked.steps, asked.image_size, asked.patch_size
    known: dict[str, Any] | None = None if recorded is None else recorded["model"]
    if known is None and (source := asked.init or pretrained) and (whole := gfnet_at(str(source))):
        known = load(whole).config.to_dict()
    if known is not None and asked.init is not None and backbone is None:
        backbone, steps, patch_size = (
            known["backbone"],
            steps or known["steps"],
            patch_size or known["patch_size"],
        )
        image_size = image_size or checked_size(known["image_size"])
        sizes = {"backbone", "steps", "patch_size", "image_size", "classes", "macs"}
        model = {**{name: value for name, value in known.items() if name not in sizes}, **model}
    elif known is not None:
        if backbone is None:
            backbone = known["backbone"]
            model.setdefault("backbone_args", known["backbone_args"])
        if backbone == known["backbone"] and pretrained:
            for name in ("mean", "std"):
                model.setdefault(name, tuple(known[name]))
    backbone = backbone or BACKBONE
    if pretrained is None:
        pretrained, warning = _at_hand(asked, backbone, world)
        warnings += warning
    pictures = None
    if image_size is None:
        pictures = look_at([parts.train.path(row) for row in range(len(parts.train))])
        image_size, all_of_it = sizes_for(pictures, round((patch_size or 0) / SHARE))
        if all_of_it:
            model.setdefault("crop_ratio", None)
    if patch_size is None:
        size = checked_size(image_size)
        canvas = size if isinstance(size, tuple) else (size, size)
        with torch.device("meta"):
            encoder = build_encoder(backbone, 1, **model.get("backbone_args", {}))
        patch_size = patch_for(canvas, stride_of(encoder))
    config = recipe(backbone, len(parts.train), pretrained, asked.init, world.size, asked.training)
    job = Job(
        asked.data, asked.output, backbone, patch_size, steps or STEPS, image_size, config, model, pretrained,
        asked.init,
    )  # fmt: skip
    return job, pictures, warnings


def _at_hand(asked: Request, backbone: str, world: World) -> tuple[str, list[str]]:
    """Weights for a backbone that nobody named any for, and a warning where there are none."""
    if asked.init is not None:
        return "", []
    if backbone == BACKBONE and not asked.model.get("backbone_args"):
        return PRETRAINED, []
    found = world.objects(world.rank == 0 and at_hand(backbone))[0]
    if found:
        return "timm", []
    return "", [
        f"warning: {backbone} begins with random weights, as none are in timm's cache or within reach: it "
        "needs far more images and epochs; give --pretrained with a file or a package of its weights"
    ]


def recipe(
    backbone: str,
    images: int,
    pretrained: str,
    init: str | os.PathLike[str] | None,
    processes: int,
    given: Mapping[str, Any],
) -> TrainConfig:
    """Hyper-parameters for so many training images; `given` ones go before."""
    tuned = (pretrained or init is not None) and images < PUBLISHED_FROM
    chosen: dict[str, Any] = dict(FINE_TUNING) if tuned else {}
    base = family_config(backbone, **chosen)
    if tuned:
        often = min(max((TUNED_ON / images) ** (1 / 3), LEAST_OFTEN), MOST_OFTEN)
        chosen["epochs"] = tuple(max(round(often * epochs), 1) for epochs in base.epochs)
        if init is not None:  # its encoders are what they are
            chosen |= {"epochs": (0, *chosen["epochs"][1:]), "local_from_global": False}
    epochs = given.get("epochs", chosen.get("epochs", base.epochs))
    if not epochs[0] and init is None:
        chosen["train_global"] = True  # or nothing would teach its head the classes
    if "batch" not in given:
        if (parts := given.get("accumulate", 1)) < 1:
            raise InputError(f"accumulate: expected at least 1, got {parts}")
        chosen["batch"] = batch = batch_for(images, base.batch, processes * parts)
        if not tuned:  # SGD's rates go with the batch (Goyal et al. 2017, arXiv 1706.02677)
            share = batch / base.batch
            chosen["backbone_lr"] = base.backbone_lr * share
            chosen["thumbnail_lr"] = base.thumbnail_lr * share
            chosen["classifier_lr"] = tuple(rate * share for rate in base.classifier_lr)
    return family_config(backbone, **{**chosen, **given})


def batch_for(images: int, most: int, parts: int) -> int:
    """`most` halved until an epoch has some updates, 8 at least; a multiple of `parts`, at least 2 each."""
    batch = most
    while batch // 2 >= SMALLEST and images // batch < UPDATES:
        batch //= 2
    batch = max(min(batch, images), 2)
    batch = max(batch // parts, 2) * parts
    if batch > images:
        raise InputError(
            f"images: expected at least {batch} to train on, for {parts} processes and parts, got {images}"
        )
    return batch
