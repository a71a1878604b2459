"""Hyper-parameters: the published ones by family in one table, every one of them a field to override.

Source: Huang et al., NeurIPS 2020 (arXiv 2010.05300), appendix A, T-PAMI 2023 (arXiv 2201.03014), and the
behaviour of the official training script.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from gfnet_fast.errors import InputError


@dataclass(frozen=True)
class TrainConfig:
    """What a training run does.

    Attributes
    ----------
    epochs : (int, int, int, int)
        Of stages 0 (the global encoder alone, on thumbnails), 1 (encoders and classifier, random crops),
        2 (the policy alone, PPO) and 3 (encoders and classifier, the policy's crops); 0 leaves one out.
    batch : int
    backbone_lr, classifier_lr : float, (float, float)
        Peak learning rates; the classifier's in stages 1 and 3. Cosine schedule by epoch.
    thumbnail_lr : float
        Stage 0's peak learning rate.
    momentum, weight_decay : float
        SGD with Nesterov momentum, in stages 0, 1 and 3.
    auxiliary : float
        Weight of the encoders' own linear classifiers in the loss.
    train_global : bool
        Whether stages 1 and 3 train the global encoder.
    policy_lr, gamma, clip, action_std, value_weight, entropy_weight : float
        PPO with Adam. Actions are drawn with that standard deviation and clamped to 0..1.
    ppo_epochs : int
        Updates a batch of episodes.
    reward : "difference" or "contrast"
        The true class's probability minus that of the step before, or minus that after a random crop.
    amp : bool
        Whether the encoders run in bfloat16 (autocast); losses, actions and log-probabilities stay float32.
    seed : int
    """

    epochs: tuple[int, int, int, int] = (0, 60, 15, 60)
    batch: int = 256
    backbone_lr: float = 0.01
    classifier_lr: tuple[float, float] = (0.1, 0.01)
    thumbnail_lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    auxiliary: float = 1.0
    train_global: bool = True
    policy_lr: float = 3e-4
    gamma: float = 0.7
    clip: float = 0.2
    action_std: float = 0.1
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    ppo_epochs: int = 1
    reward: Literal["difference", "contrast"] = "difference"
    amp: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.epochs) != 4 or min(self.epochs) < 0:
            raise InputError(f"epochs: expected four numbers of at least 0, one a stage, got {self.epochs}")
        if self.batch < 2:
            raise InputError(f"batch: expected at least 2 (batch norm), got {self.batch}")
        if self.ppo_epochs < 1:
            raise InputError(f"ppo_epochs: expected at least 1, got {self.ppo_epochs}")
        if not self.action_std > 0:
            raise InputError(f"action_std: expected more than 0, got {self.action_std}")
        if self.reward not in ("difference", "contrast"):
            raise InputError(f"reward: expected 'difference' or 'contrast', got {self.reward!r}")


_RESNET = TrainConfig()
_FROZEN = TrainConfig(backbone_lr=0.005, auxiliary=5.0, train_global=False)
FAMILIES: dict[str, TrainConfig] = {
    "resnet": _RESNET,
    "densenet": _RESNET,
    "regnet": TrainConfig(backbone_lr=0.02, weight_decay=5e-5),
    "efficientnet": replace(_FROZEN, epochs=(0, 30, 15, 30)),
    "mobilenetv3": replace(_FROZEN, epochs=(0, 90, 15, 90)),
}


def family_config(backbone: str, **overrides: Any) -> TrainConfig:
    """The published hyper-parameters of a backbone's family (ResNet's for others), with some replaced.

    The family is looked for anywhere in the name: ``timm/tf_efficientnet_b2``,
    ``torchvision/mobilenet_v3_large``.
    """
    name = backbone.rsplit("/", 1)[-1].replace("_", "")
    config = next((config for family, config in FAMILIES.items() if family in name), _RESNET)
    return replace(config, **overrides)
