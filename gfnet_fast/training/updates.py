"""What an update does to weights: the optimiser, the layers that stay as they were, the targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfnet_fast.model.backbones import Encoder
from gfnet_fast.training.config import TrainConfig


def optimizer(
    groups: Sequence[tuple[Iterable[nn.Parameter], float]], config: TrainConfig
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, if any, or AdamW; a group is parameters and their peak learning rate."""
    parts = [
        {"params": [parameter for parameter in parameters if parameter.requires_grad], "lr": rate}
        for parameters, rate in groups
    ]
    momentum, decay = config.momentum, config.weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parts, weight_decay=decay)
    return torch.optim.SGD(parts, momentum=momentum, weight_decay=decay, nesterov=momentum > 0)


def freeze(encoder: Encoder, share: float) -> None:
    """Let the first `share` of an encoder's parameter tensors, in order of definition, stay as they are."""
    parameters = list(encoder.parameters())
    for at, parameter in enumerate(parameters):
        parameter.requires_grad_(at >= round(share * len(parameters)))


def training_mode(encoder: Encoder, config: TrainConfig) -> None:
    """Training mode, but for batch norms that are frozen or are to keep their running statistics."""
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            held = [not parameter.requires_grad for parameter in module.parameters()]
            module.train(config.batch_norm == "batch" and not (held and all(held)))


def mixup_share(config: TrainConfig) -> float:
    """The share of an image that is its own, one half or more, so that its label stays the likeliest.

    Zhang et al., "mixup", ICLR 2018 (arXiv 1710.09412); drawn from torch's own generator.
    """
    if not config.mixup:
        return 1.0
    share = torch.distributions.Beta(config.mixup, config.mixup).sample().item()
    return max(share, 1 - share)


def mixed(images: Tensor, share: float) -> Tensor:
    """That share of every image of a batch and the rest of the one opposite to it, in their own type."""
    if share == 1:
        return images
    blend = images.float() * share + images.flip(0).float() * (1 - share)
    return (blend if images.is_floating_point() else blend.round()).to(images.dtype)


def targets(labels: Tensor, classes: int, share: float, config: TrainConfig) -> Tensor:
    """Smoothed probabilities ``[B, K]`` of images mixed in that share."""
    own = F.one_hot(labels, classes).float() * (1 - config.smoothing) + config.smoothing / classes
    return own * share + own.flip(0) * (1 - share)
