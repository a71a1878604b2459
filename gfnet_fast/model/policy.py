"""The policy: where to look next (Wang et al. 2020, section 3.2 and appendix A)."""

from __future__ import annotations

from torch import Tensor, nn

from gfnet_fast.config import GFNetConfig


class Policy(nn.Module):
    """A recurrent actor, and the critic that trains it, over the encoders' feature maps.

    The feature map is flattened in channel, row, column order, whatever its memory layout.
    """

    def __init__(self, config: GFNetConfig, map_shape: tuple[int, int, int]) -> None:
        """`map_shape`: channels, rows and columns of the encoders' feature map at patch size."""
        super().__init__()
        channels, rows, columns = map_shape
        hidden, width = config.policy_hidden, config.policy_width
        self.flattens_first = config.policy == "linear"
        if self.flattens_first:
            self.state_encoder = nn.Sequential(
                nn.Linear(channels * rows * columns, hidden),
                nn.ReLU(),
                nn.Linear(hidden, width),
                nn.ReLU(),
            )
        else:
            self.state_encoder = nn.Sequential(
                nn.Conv2d(channels, hidden, 1, bias=False),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(hidden * rows * columns, width),
                nn.ReLU(),
            )
        self.gru = nn.GRUCell(width, width)
        self.actor = nn.Sequential(nn.Linear(width, 2), nn.Sigmoid())
        self.critic = nn.Linear(width, 1)

    def forward(self, feature_map: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``map [B, C, h, w]``, ``state [B, width]`` or None at the start -> ``(action [B, 2], state)``.

        The action is the actor's mean, (row, column) in 0..1.
        """
        seen = feature_map.flatten(1) if self.flattens_first else feature_map
        state = self.gru(self.state_encoder(seen), state)
        return self.actor(state), state

    def value(self, state: Tensor) -> Tensor:
        """The critic's estimate ``[B]`` of the return from a policy state ``[B, width]``."""
        return self.critic(state).squeeze(-1)
