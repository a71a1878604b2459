"""A look at held-out images after each epoch, so that a stage can end with the best of its states.

What is compared is the mean cross-entropy over images and steps: of few images it moves with every answer,
where accuracy moves with few. The images are those that the thresholds are found on, never those of the
report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gfnet_fast.data.folder import Part
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training.distributed import World
from gfnet_fast.training.evaluate import learned
from gfnet_fast.training.unroll import Chooser, Views, unroll

SHARE = 8
"""A look takes at most one image for so many to train on: it costs well below a tenth of an epoch."""
MOST = 1000
MEMORY = 256 * 2**20
"""Bytes of the images, which are kept in memory."""
BATCH = 64

Load = Callable[[Part], Iterator[tuple[Tensor, Tensor]]]


def looked_at(heldout: Part, training: int, canvas: tuple[int, int], classes: int) -> Part:
    """Evenly spaced images of the held-out part, of all classes, as many as a look may take."""
    most = max(min(training // SHARE, MOST, MEMORY // (3 * canvas[0] * canvas[1])), classes)
    if len(heldout) <= most:
        return heldout
    return heldout.take(np.unique(np.linspace(0, len(heldout) - 1, most).round().astype(int)))


class Seen(NamedTuple):
    """loss : mean cross-entropy, infinite where it is not a number; accuracy : by step."""

    loss: float
    accuracy: list[float]


class Look:
    """The same images and the same random crops each time; every process takes its share of them."""

    def __init__(self, part: Part, load: Load, world: World, seed: int) -> None:
        self.part, self.load, self.world, self.seed = part, load, world, seed
        self.images: list[tuple[Tensor, Tensor]] | None = None

    @torch.no_grad()
    def __call__(self, model: GFNet, stage: int) -> Seen:
        """How good a model is at what a stage trains: the glance, random crops, or the policy's."""
        if self.images is None:
            self.images = [(images.cpu(), labels.cpu()) for images, labels in self.load(self.part)]
        model.eval()
        losses, rights = [], []
        for at, (images, labels) in enumerate(self.images):
            images, labels = images.to(self.world.device), labels.to(self.world.device)
            if stage == 0:
                vector = model.global_encoder(Views(model, images).thumbnail())[1]
                logits = model.global_encoder.head(vector).float()[None]
            else:
                choose = learned(model) if stage == 3 else self._random(at, model.config.steps)
                logits = unroll(model, images, choose).logits
            flat = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none")
            losses.append(flat.view(len(logits), -1).double().cpu())
            rights.append((logits.argmax(-1) == labels).double().cpu())
        everyones = self.world.objects((losses, rights))
        if not any(some for some, _ in everyones):  # none is readable: the evaluation at the end says so
            return Seen(math.inf, [])
        loss = torch.cat([part for some, _ in everyones for part in some], 1).mean().item()
        right = torch.cat([part for _, some in everyones for part in some], 1).mean(1)
        return Seen(loss if math.isfinite(loss) else math.inf, right.tolist())

    def _random(self, batch: int, steps: int) -> Chooser:
        """Crops drawn for each image by its place in the part, whichever process has it."""
        drawn = torch.rand(len(self.part), steps - 1, 2, generator=torch.Generator().manual_seed(self.seed))
        rows = torch.arange(self.world.rank, len(self.part), self.world.size).split(BATCH)[batch]
        return lambda feature_map, step: drawn[rows, step - 2][: len(feature_map)].to(feature_map.device)


@dataclass
class Best:
    """The best state of a stage so far: after which epoch, -1 as it began."""

    loss: float
    epoch: int
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, model: torch.nn.Module, seen: Seen, epoch: int) -> Best:
        return cls(seen.loss, epoch, {k: v.detach().clone() for k, v in model.state_dict().items()})

    def state(self) -> dict[str, Any]:
        return {"loss": self.loss, "epoch": self.epoch, "weights": self.weights}
