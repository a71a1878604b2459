"""Classifiers over the steps' feature vectors: recurrent (NeurIPS 2020) and cascaded (T-PAMI 2023).

Both have one form: ``classifier(feature, state, step)`` -> ``(logits, state)``, where `state` is all
that the next step needs of the earlier ones. Neither gives the glance's logits where the
configuration has ``glance_head``: those are the global encoder's own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfnet_fast.config import GFNetConfig

# The released checkpoints hold the layers of steps 2 to 5, whatever their number of steps.
CASCADE_LAYERS = 5


class RecurrentClassifier(nn.Module):
    """``Linear(GRU(feature))``, one GRU over all steps; its state is the hidden vector ``[B, width]``."""

    def __init__(self, config: GFNetConfig, feature_dim: int) -> None:
        super().__init__()
        self.gru = nn.GRUCell(feature_dim, config.classifier_width)
        self.fc = nn.Linear(config.classifier_width, config.classes)
        self.glance_head = config.glance_head

    def forward(self, feature: Tensor, state: Tensor | None, step: int) -> tuple[Tensor | None, Tensor]:
        """``feature [B, F]``, ``state [B, width]`` or None at step 1 -> ``(logits [B, K], state)``.

        Logits are None where they are the encoder's own.
        """
        state = self.gru(feature, state)
        return (None if step == 1 and self.glance_head else self.fc(state)), state


class CascadedClassifier(nn.Module):
    """Step k >= 2: one linear layer on the features of steps 1..k, which are its state ``[B, k F]``."""

    def __init__(self, config: GFNetConfig, feature_dim: int) -> None:
        super().__init__()
        for step in range(2, max(config.steps, CASCADE_LAYERS) + 1):
            setattr(self, f"fc_{step}", nn.Linear(step * feature_dim, config.classes))

    def forward(self, feature: Tensor, state: Tensor | None, step: int) -> tuple[Tensor | None, Tensor]:
        """``feature [B, F]``, ``state [B, (step - 1) F]`` or None at step 1 -> ``(logits [B, K], state)``."""
        if step == 1:
            return None, feature
        assert state is not None
        state = torch.cat([state, feature], dim=1)
        return getattr(self, f"fc_{step}")(state), state


def build_classifier(config: GFNetConfig, feature_dim: int) -> RecurrentClassifier | CascadedClassifier:
    kind = RecurrentClassifier if config.classifier == "recurrent" else CascadedClassifier
    return kind(config, feature_dim)
