"""The stages of training, each over batches of ``(uint8 images [B, H, W, 3], labels [B])``.

A stage is an object that knows one update; :func:`run` takes it through its epochs. The functions
``train_*`` do both, for batches of one's own in one process.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfnet_fast.model.backbones import Encoder
from gfnet_fast.model.classifiers import CASCADE_LAYERS
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training.config import TrainConfig
from gfnet_fast.training.distributed import ALONE, Draws, World, without_sync
from gfnet_fast.training.ppo import Episodes, collect, normal_entropy, ppo_loss, returns
from gfnet_fast.training.unroll import (
    Chooser,
    SampledPolicy,
    TrainingError,
    UniformCrops,
    step_loss,
    unroll,
)
from gfnet_fast.training.updates import freeze, mixed, mixup_share, optimizer, targets, training_mode

Batches = Iterable[tuple[Tensor, Tensor]]
# Called with an epoch's number, from 0; gives that epoch's batches.
EpochBatches = Callable[[int], Batches]
Report = Callable[[dict[str, Any]], None]
# Called with the rows of this process's batch that are about to be computed.
RowDraws = Callable[[slice], Draws]


@dataclass
class Sums:
    """Means over an epoch, weighted by images; on the CPU, where those of a checkpoint and of others are."""

    totals: dict[str, Tensor | float] = field(default_factory=dict)
    count: int = 0

    def add(self, images: int, **values: Tensor | float) -> None:
        self.count += images
        for key, value in values.items():
            value = value.detach().cpu() if isinstance(value, Tensor) else value
            self.totals[key] = self.totals.get(key, 0.0) + value * images

    def means(self, world: World = ALONE) -> dict[str, Any]:
        """Over all processes' images; lists for tensors."""
        everyones = world.objects((self.totals, self.count))
        count = sum(count for _, count in everyones)
        totals = merged(totals for totals, _ in everyones)
        return {k: (v / count).tolist() if isinstance(v, Tensor) else v / count for k, v in totals.items()}


def merged(parts: Iterable[dict[str, Tensor | float]]) -> dict[str, Tensor | float]:
    """The sums of several processes, added up."""
    total: dict[str, Tensor | float] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total[key] + value if key in total else value
    return total


@dataclass
class Position:
    """Where in a stage a run is: `batch` of `epoch` is the next one, `sums` are those before it."""

    epoch: int = 0
    batch: int = 0
    sums: Sums = field(default_factory=Sums)


class Stage(ABC):
    """One stage: what it trains, in which modes, and what it does to a batch.

    A batch is computed in `config.accumulate` equal parts, whose gradients add up before the update.
    """

    def __init__(
        self,
        head: dict[str, Any],
        epochs: int,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        world: World,
    ) -> None:
        self.head, self.epochs, self.optimizer = head, epochs, optimizer
        self.config, self.world = config, world
        self.peaks = [group["lr"] for group in optimizer.param_groups]

    @property
    def number(self) -> int:
        return self.head["stage"]

    def begin(self, epoch: int) -> None:
        """Modes, and the learning rates of a cosine from their peaks to 0."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = 0.5 * peak * (1 + math.cos(math.pi * epoch / self.epochs))

    @abstractmethod
    def update(self, images: Tensor, labels: Tensor, at: Position, draws: RowDraws) -> None:
        """One update; what there is to report is added to `at.sums`."""

    @abstractmethod
    def end(self) -> None:
        """Leave everything in evaluation mode."""

    def parts(self, count: int) -> list[slice]:
        """The rows of a batch of `count` by parts."""
        each = -(-count // self.config.accumulate)
        return [slice(start, min(start + each, count)) for start in range(0, count, each)]

    def descend(self, loss: Tensor, share: float, epoch: int) -> None:
        """Add a part's gradients; TrainingError before that where its loss is not a number."""
        if self.world.any(not bool(torch.isfinite(loss.detach()))):
            raise TrainingError(
                f"stage {self.number}, epoch {epoch}: expected a finite loss, got {loss.item()}"
            )
        (loss if share == 1 else loss * share).backward()


def run(
    stage: Stage,
    data: EpochBatches,
    report: Report,
    at: Position | None = None,
    draws: Callable[[Position, slice], Draws] | None = None,
    after: Callable[[], None] | None = None,
    enough: Callable[[Position], bool] | None = None,
) -> None:
    """Take a stage through its epochs, from `at` on; `data` has to begin there too.

    Parameters
    ----------
    at : moves along; an epoch's report comes when it is at the next one's start
    draws : the random numbers of some rows of the batch at a position; torch's own where not given
    after : called after every update
    enough : asked before an epoch; ends the stage early
    """
    at = at or Position()
    while at.epoch < stage.epochs and not (enough and enough(at)):
        stage.begin(at.epoch)
        for images, labels in data(at.epoch):
            stage.update(images, labels, at, lambda rows: draws(at, rows) if draws else Draws())
            at.batch += 1
            if after:
                after()
        row = {**stage.head, "epoch": at.epoch, **at.sums.means(stage.world)}
        at.epoch, at.batch, at.sums = at.epoch + 1, 0, Sums()
        report(row)
    stage.end()


class _Own(nn.Module):
    """An encoder with its own head, as one module."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder.head(self.encoder(x)[1])


class EncoderStage(Stage):
    """Stage 0: one encoder with its own head, as a classifier of views of the images.

    `view` makes P x P normalised float batches of the images; as they are where not given.
    """

    def __init__(
        self,
        encoder: Encoder,
        epochs: int,
        rate: float,
        config: TrainConfig,
        what: str = "thumbnails",
        view: Callable[[Tensor], Tensor] | None = None,
        world: World = ALONE,
    ) -> None:
        freeze(encoder, config.freeze)
        descent = optimizer([(encoder.parameters(), rate)], config)
        super().__init__({"stage": 0, "what": what}, epochs, descent, config, world)
        self.encoder, self.view = encoder, view
        self.network = world.wrap(_Own(encoder))

    def begin(self, epoch: int) -> None:
        super().begin(epoch)
        training_mode(self.encoder, self.config)

    def update(self, images: Tensor, labels: Tensor, at: Position, draws: RowDraws) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        for rows in (parts := self.parts(len(images))):
            y = labels[rows]
            share = mixup_share(self.config)
            x = mixed(images[rows], share)
            if self.view is not None:
                x = self.view(x)
            with without_sync(self.network, rows is not parts[-1]):
                with _precision(self.config, x):
                    logits = self.network(x).float()
                loss = F.cross_entropy(logits, targets(y, logits.shape[1], share, self.config))
                self.descend(loss, len(y) / len(labels), at.epoch)
            right = (logits.argmax(1) == y).float().mean().item()
            at.sums.add(len(y), loss=loss.item(), accuracy=right)
        self.optimizer.step()

    def end(self) -> None:
        self.encoder.requires_grad_(True).eval()


class _Steps(nn.Module):
    """The steps and their loss as one module, so that one forward answers to one backward."""

    def __init__(self, model: GFNet, trained: list[nn.Module], config: TrainConfig) -> None:
        super().__init__()
        self.trained = nn.ModuleList(trained)
        self.whole = (model,)  # in a tuple: what is not trained is no part of this module
        self.config = config

    def forward(self, images: Tensor, aim: Tensor, choose: Chooser) -> tuple[Tensor, Tensor]:
        with _precision(self.config, images):
            out = unroll(self.whole[0], images, choose, self.config.train_global)
        return step_loss(out, aim, self.config.auxiliary), out.logits.detach()


class ClassifierStage(Stage):
    """Stage 1 (uniformly random crops) or 3 (the frozen policy's crops, still sampled).

    `crops` replaces stage 1's choice; it is called once a batch, after the batch was drawn.
    """

    def __init__(
        self,
        model: GFNet,
        stage: int,
        config: TrainConfig,
        crops: Callable[[], Chooser] | None = None,
        world: World = ALONE,
    ) -> None:
        encoders = [model.local_encoder, *([model.global_encoder] if config.train_global else [])]
        for encoder in encoders:
            freeze(encoder, config.freeze)
        groups = [(encoder.parameters(), config.backbone_lr) for encoder in encoders]
        groups.append((model.classifier.parameters(), config.classifier_lr[stage != 1]))
        descent = optimizer(groups, config)
        super().__init__({"stage": stage}, config.epochs[stage], descent, config, world)
        self.model, self.crops, self.encoders = model, crops, encoders
        # A cascaded classifier holds the layers of five steps, whatever their number.
        unused = model.config.classifier == "cascaded" and model.config.steps < CASCADE_LAYERS
        self.network = world.wrap(_Steps(model, [*encoders, model.classifier], config), unused)

    def begin(self, epoch: int) -> None:
        super().begin(epoch)
        self.model.eval()
        self.model.classifier.train()
        for encoder in self.encoders:
            training_mode(encoder, self.config)

    def chooser(self, draws: Draws) -> Chooser:
        if self.number == 3:
            return SampledPolicy(self.model, self.config.action_std, draws)
        return UniformCrops(draws) if self.crops is None else self.crops()

    def update(self, images: Tensor, labels: Tensor, at: Position, draws: RowDraws) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        for rows in (parts := self.parts(len(images))):
            y = labels[rows]
            with without_sync(self.network, rows is not parts[-1]):
                share = mixup_share(self.config)
                aim = targets(y, self.model.config.classes, share, self.config)
                loss, logits = self.network(mixed(images[rows], share), aim, self.chooser(draws(rows)))
                self.descend(loss, len(y) / len(labels), at.epoch)
            right = (logits.argmax(-1) == y).float().mean(1)
            at.sums.add(len(y), loss=loss.item(), accuracy=right, losses=_entropies(logits, y))
        self.optimizer.step()

    def end(self) -> None:
        self.model.requires_grad_(True).eval()


class _Surrogate(nn.Module):
    """PPO's loss as one module."""

    def __init__(self, model: GFNet, config: TrainConfig) -> None:
        super().__init__()
        self.policy = model.policy
        self.whole, self.config = (model,), config

    def forward(self, episodes: Episodes, targets: Tensor) -> Tensor:
        return ppo_loss(self.whole[0], episodes, targets, self.config)


class PolicyStage(Stage):
    """Stage 2: PPO on the policy; all else is frozen and in evaluation mode."""

    def __init__(self, model: GFNet, config: TrainConfig, world: World = ALONE) -> None:
        optimizer = torch.optim.Adam(model.policy.parameters(), lr=config.policy_lr, betas=(0.9, 0.999))
        super().__init__({"stage": 2}, config.epochs[2], optimizer, config, world)
        self.model = model
        self.network = world.wrap(_Surrogate(model, config))

    def begin(self, epoch: int) -> None:
        """The rate is constant."""
        self.model.eval()

    def update(self, images: Tensor, labels: Tensor, at: Position, draws: RowDraws) -> None:
        config, parts = self.config, self.parts(len(images))
        with _precision(config, images):
            played = [collect(self.model, images[p], labels[p], config, draws(p)) for p in parts]
        rewards = torch.cat([episodes.rewards for episodes in played], 1)
        targets = returns(rewards, config.gamma, self.world)
        for _ in range(config.ppo_epochs):
            self.optimizer.zero_grad(set_to_none=True)
            total = 0.0
            for rows, episodes in zip(parts, played, strict=True):
                share = (rows.stop - rows.start) / len(labels)
                with without_sync(self.network, rows is not parts[-1]):
                    loss = self.network(episodes, targets[:, rows])
                    self.descend(loss, share, at.epoch)
                total += share * loss.item()
            self.optimizer.step()
        means = torch.cat([episodes.means for episodes in played], 1)
        at.sums.add(
            len(images),
            loss=total,
            reward=rewards.mean(1),
            accuracy=torch.cat([episodes.correct for episodes in played], 1).float().mean(1),
            entropy=normal_entropy(config.action_std),
            spread=means.std(1, correction=0).mean(1),
        )

    def end(self) -> None:
        self.model.eval()


def train_encoder(
    encoder: Encoder,
    views: EpochBatches,
    epochs: int,
    rate: float,
    config: TrainConfig,
    report: Report,
    name: str = "thumbnails",
) -> None:
    """Stage 0 on P x P views (normalised float batches) of one's own."""
    run(EncoderStage(encoder, epochs, rate, config, name), views, report)


def train_classifier(
    model: GFNet,
    data: EpochBatches,
    stage: int,
    config: TrainConfig,
    report: Report,
    crops: Callable[[], Chooser] | None = None,
) -> None:
    """Stage 1 or 3; see :class:`ClassifierStage`."""
    run(ClassifierStage(model, stage, config, crops), data, report)


def train_policy(model: GFNet, data: EpochBatches, config: TrainConfig, report: Report) -> None:
    """Stage 2; see :class:`PolicyStage`."""
    run(PolicyStage(model, config), data, report)


def _precision(config: TrainConfig, images: Tensor) -> torch.autocast:
    return torch.autocast(images.device.type, torch.bfloat16, enabled=config.amp)


def _entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy by step ``[T]`` of ``[T, B, K]``."""
    return torch.stack([F.cross_entropy(step, labels) for step in logits])
