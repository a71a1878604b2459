"""The stages of training, each over an iterable of ``(uint8 images [B, S, S, 3], labels [B])`` batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfnet_fast.model.backbones import Encoder
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training.config import TrainConfig
from gfnet_fast.training.ppo import collect, ppo_loss, returns
from gfnet_fast.training.unroll import Chooser, TrainingError, step_loss, unroll

Batches = Iterable[tuple[Tensor, Tensor]]
# Called with an epoch's number, from 0; gives that epoch's batches.
EpochBatches = Callable[[int], Batches]
Report = Callable[[dict[str, Any]], None]


@dataclass
class _Sums:
    """Means over an epoch, weighted by images."""

    totals: dict[str, Tensor | float]
    count: int = 0

    def add(self, images: int, **values: Tensor | float) -> None:
        self.count += images
        for key, value in values.items():
            self.totals[key] = self.totals.get(key, 0.0) + value * images

    def means(self) -> dict[str, Any]:
        listed = {k: (v / self.count) for k, v in self.totals.items()}
        return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in listed.items()}


def sgd(groups: list[tuple[Iterable[nn.Parameter], float]], config: TrainConfig) -> torch.optim.SGD:
    """SGD with Nesterov momentum; `groups` are parameters with their peak learning rates."""
    parts = [{"params": list(parameters), "lr": rate} for parameters, rate in groups]
    return torch.optim.SGD(parts, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=True)


def _cosine(optimizer: torch.optim.Optimizer, epochs: int) -> Iterator[int]:
    """The epochs' numbers; each with the learning rates of a cosine from their peaks to 0."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    for epoch in range(epochs):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = 0.5 * peak * (1 + math.cos(math.pi * epoch / epochs))
        yield epoch


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, stage: int, epoch: int) -> None:
    if not bool(torch.isfinite(loss.detach())):
        raise TrainingError(f"stage {stage}, epoch {epoch}: expected a finite loss, got {loss.item()}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def train_encoder(
    encoder: Encoder,
    views: EpochBatches,
    epochs: int,
    rate: float,
    config: TrainConfig,
    report: Report,
    name: str = "thumbnails",
) -> None:
    """Stage 0: one encoder with its own head, as a classifier of P x P views (normalised float batches)."""
    encoder.train()
    optimizer = sgd([(encoder.parameters(), rate)], config)
    for epoch in _cosine(optimizer, epochs):
        sums = _Sums({})
        for x, labels in views(epoch):
            with _precision(config, x):
                logits = encoder.head(encoder(x)[1]).float()
            loss = F.cross_entropy(logits, labels)
            _descend(optimizer, loss, 0, epoch)
            sums.add(len(x), loss=loss.item(), accuracy=(logits.argmax(1) == labels).float().mean().item())
        report({"stage": 0, "what": name, "epoch": epoch, **sums.means()})
    encoder.eval()


def train_classifier(
    model: GFNet,
    data: EpochBatches,
    stage: int,
    config: TrainConfig,
    report: Report,
    crops: Callable[[], Chooser] | None = None,
) -> None:
    """Stage 1 (uniformly random crops) or 3 (the frozen policy's crops, still sampled).

    `crops` replaces stage 1's choice; it is called once a batch, after the batch was drawn.
    """
    random_crops = stage == 1
    parts = [(model.local_encoder.parameters(), config.backbone_lr)]
    if config.train_global:
        parts.append((model.global_encoder.parameters(), config.backbone_lr))
    optimizer = sgd([*parts, (model.classifier.parameters(), config.classifier_lr[not random_crops])], config)
    for epoch in _cosine(optimizer, config.epochs[stage]):
        model.train()
        model.policy.eval()
        if not config.train_global:
            model.global_encoder.eval()
        sums = _Sums({})
        for images, labels in data(epoch):
            if random_crops:
                choose = uniform_crops if crops is None else crops()
            else:
                choose = SampledPolicy(model, config.action_std)
            with _precision(config, images):
                out = unroll(model, images, choose, config.train_global)
            loss = step_loss(out, labels, config.auxiliary)
            _descend(optimizer, loss, stage, epoch)
            sums.add(len(images), loss=loss.item(), accuracy=_accuracies(out.logits.detach(), labels))
        report({"stage": stage, "epoch": epoch, **sums.means()})
    model.eval()


def train_policy(model: GFNet, data: EpochBatches, config: TrainConfig, report: Report) -> None:
    """Stage 2: PPO on the policy; all else is frozen and in evaluation mode."""
    model.eval()
    optimizer = torch.optim.Adam(model.policy.parameters(), lr=config.policy_lr, betas=(0.9, 0.999))
    for epoch in range(config.epochs[2]):
        sums = _Sums({})
        for images, labels in data(epoch):
            with _precision(config, images):
                episodes = collect(model, images, labels, config)
            targets = returns(episodes.rewards, config.gamma)
            for _ in range(config.ppo_epochs):
                loss = ppo_loss(model, episodes, targets, config)
                _descend(optimizer, loss, 2, epoch)
            sums.add(
                len(images),
                loss=loss.item(),
                reward=episodes.rewards.mean(1),
                accuracy=episodes.correct.float().mean(1),
            )
        report({"stage": 2, "epoch": epoch, **sums.means()})


def _precision(config: TrainConfig, images: Tensor) -> torch.autocast:
    return torch.autocast(images.device.type, torch.bfloat16, enabled=config.amp)


def _accuracies(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(-1) == labels).float().mean(1)


def uniform_crops(feature_map: Tensor, step: int) -> Tensor:
    """Actions ``[B, 2]`` drawn evenly from 0..1, from torch's own generator."""
    return torch.rand(len(feature_map), 2, device=feature_map.device)


class SampledPolicy:
    """A chooser that draws from the frozen policy's normal; one for each batch, as it remembers."""

    def __init__(self, model: GFNet, std: float) -> None:
        self.policy, self.std = model.policy, std
        self.memory: Tensor | None = None

    @torch.no_grad()
    def __call__(self, feature_map: Tensor, step: int) -> Tensor:
        mean, self.memory = self.policy(feature_map, self.memory)
        return (mean + self.std * torch.randn_like(mean)).clamp(0, 1)
