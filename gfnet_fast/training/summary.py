"""What a run is about to do, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gfnet_fast.config import GFNetConfig
from gfnet_fast.data.folder import Parts
from gfnet_fast.training.config import TrainConfig
from gfnet_fast.training.job import Job
from gfnet_fast.training.pretrained import Pretrained
from gfnet_fast.training.sizes import Pictures

STAGES = ("the glance alone", "random crops", "the policy", "the policy's crops")
NAMED = 12
"""Classes that are named."""
UNEVEN = 3.0
"""Times as many images in one class as in another that are worth a word."""


def said_of_run(
    parts: Parts,
    job: Job,
    network: GFNetConfig,
    pictures: Pictures | None,
    numbers: Sequence[int],
    begun: Pretrained | None,
    state: Mapping[str, Any] | None,
) -> Iterator[str]:
    """Classes, images, network, what it begins with, and the stages still to do.

    `state` is that of a run that is gone on with.
    """
    yield said_of_classes(parts)
    yield said_of_parts(parts, job.training)
    yield said_of_network(network, pictures)
    if begun is not None:
        yield said_of_pretrained(begun, network)
    elif state is None:
        yield f"begins with: {'random weights' if job.init is None else job.init}"
    if numbers:
        yield said_of_stages(job.training, numbers, len(parts.train))


def said_of_classes(parts: Parts) -> str:
    counts = np.sum([np.bincount(part.labels, minlength=len(parts.classes)) for part in parts[1:]], 0)
    pairs = list(zip(parts.classes, counts.tolist(), strict=True))
    named = ", ".join(f"{name} {count}" for name, count in pairs[:NAMED])
    more = f", and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
    most, least = (pick(pairs, key=lambda pair: pair[1]) for pick in (max, min))
    times = most[1] / least[1]
    uneven = f"; {most[0]} has {times:.0f} times the images of {least[0]}" if times >= UNEVEN else ""
    return f"classes: {len(pairs)}: {named}{more}{uneven}"


def said_of_parts(parts: Parts, config: TrainConfig) -> str:
    """How many images each part has, and which parts were drawn from the training folder."""
    runs = f" in runs of {config.split_run}" if config.split_run > 1 else ""
    counts = [
        f"{len(part)} {what} ({f'drawn{runs}' if part.root == parts.train.root else f'in {part.root.name}/'})"
        for part, what in ((parts.heldout, "held out for thresholds"), (parts.validation, "for the report"))
    ]
    return f"images: {len(parts.train)} to train on, {', '.join(counts)}"


def said_of_network(network: GFNetConfig, pictures: Pictures | None) -> str:
    height, width = network.canvas
    seen = "all of each picture" if network.crop_ratio is None else "the centre of each picture"
    like = f"; the median picture has {pictures.height} x {pictures.width}" if pictures else ""
    return (
        f"network: {network.backbone}, {network.steps} steps of {network.patch_size} px on "
        f"{height} x {width} px (height x width), {seen}{like}"
    )


def said_of_pretrained(pretrained: Pretrained, network: GFNetConfig) -> str:
    """Which weights a run begins with, and what pixels its network expects."""
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (network.mean, network.std))
    return f"pretrained: {pretrained}; mean {mean}, std {std}"


def said_of_stages(config: TrainConfig, numbers: Sequence[int], images: int) -> str:
    rates = {0: config.thumbnail_lr, 1: config.backbone_lr, 2: config.policy_lr, 3: config.backbone_lr}
    stages = ", ".join(
        f"{number} ({STAGES[number]}) {config.epochs[number]} epochs at {rates[number]:g}"
        for number in numbers
    )
    updates = images // config.batch
    return (
        f"training: stages {stages}; {updates} updates of {config.batch} images an epoch, {config.optimizer}"
    )
