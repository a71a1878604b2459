"""A GFNet's steps with gradients: what the training stages have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from gfnet_kernels import crop, glance
from torch import Tensor

from gfnet_fast.errors import TrainingError
from gfnet_fast.model.gfnet import GFNet, crop_origins
from gfnet_fast.training.distributed import Draws

# (feature map, step that it prepares) -> actions [B, 2]; called T - 1 times.
Chooser = Callable[[Tensor, int], Tensor]


class Views:
    """The encoders' inputs cut from uint8 ``[B, H, W, 3]`` canvases, without a float copy of the canvas."""

    def __init__(self, model: GFNet, images: Tensor) -> None:
        config = model.config
        self.config, self.images = config, images
        self.slots = torch.arange(len(images), dtype=torch.int32, device=images.device)

    def thumbnail(self) -> Tensor:
        """The glance's input, float32 ``[B, 3, P, P]``, normalised."""
        size, mode = self.config.patch_size, self.config.glance_filter
        return glance(self.images, self.slots, size, mode, self.config.mean, self.config.std, torch.float32)

    def patch(self, action: Tensor) -> Tensor:
        """The crops that actions ``[B, 2]`` take, float32 ``[B, 3, P, P]``, normalised.

        Raises TrainingError where an action is not a number: its origin would be the top left corner, and
        training would go on there.
        """
        if bad := int((~torch.isfinite(action)).any(1).sum()):
            raise TrainingError(
                f"actions: expected finite ones, got {bad} of {len(action)} that are not: the weights have "
                "diverged; train with lower learning rates"
            )
        c = self.config
        origins = crop_origins(action, c.canvas, c.patch_size).int()
        return crop(self.images, self.slots, origins, c.patch_size, c.mean, c.std, torch.float32)


class Unrolled(NamedTuple):
    """logits, auxiliary : ``[T, B, K]``, of the classifier and of the encoders' own heads."""

    logits: Tensor
    auxiliary: Tensor


def unroll(model: GFNet, images: Tensor, choose: Chooser, train_global: bool = True) -> Unrolled:
    """All T steps on uint8 ``[B, H, W, 3]`` canvases, with the crops that `choose` takes.

    `choose` sees the feature map without its gradient. Without `train_global` the glance has no gradient.
    """
    config, memory = model.config, None
    logits, auxiliary = [], []
    views = Views(model, images)
    view = views.thumbnail()
    for step in range(1, config.steps + 1):
        encoder = model.global_encoder if step == 1 else model.local_encoder
        with torch.set_grad_enabled(torch.is_grad_enabled() and (train_global or step > 1)):
            feature_map, feature = encoder(view)
            own = encoder.head(feature)
        combined, memory = model.classifier(feature, memory, step)
        logits.append(own if combined is None else combined)
        auxiliary.append(own)
        if step < config.steps:
            with torch.autocast(images.device.type, enabled=False):
                action = choose(feature_map.detach().float(), step + 1)
            view = views.patch(action)
    return Unrolled(torch.stack(logits).float(), torch.stack(auxiliary).float())


def step_loss(out: Unrolled, targets: Tensor, weight: float) -> Tensor:
    """(sum over steps of cross-entropy + weight x that of the encoders' own heads) / T.

    `targets`: labels int64 ``[B]``, or probabilities ``[B, K]``.
    """
    steps, count = out.logits.shape[:2]
    target = targets.repeat(steps, *[1] * (targets.ndim - 1))
    both = (F.cross_entropy(x.flatten(0, 1), target, reduction="sum") / count for x in out)
    classifier, own = both
    return (classifier + weight * own) / steps


class UniformCrops:
    """A chooser of actions drawn evenly from 0..1."""

    def __init__(self, draws: Draws | None = None) -> None:
        self.draws = draws or Draws()

    def __call__(self, feature_map: Tensor, step: int) -> Tensor:
        return self.draws.uniform(feature_map)


class SampledPolicy:
    """A chooser that draws from the frozen policy's normal; one for each batch, as it remembers."""

    def __init__(self, model: GFNet, std: float, draws: Draws | None = None) -> None:
        self.policy, self.std, self.draws = model.policy, std, draws or Draws()
        self.memory: Tensor | None = None

    @torch.no_grad()
    def __call__(self, feature_map: Tensor, step: int) -> Tensor:
        mean, self.memory = self.policy(feature_map, self.memory)
        return (mean + self.std * self.draws.normal(mean)).clamp(0, 1)
