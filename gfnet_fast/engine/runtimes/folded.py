"""torch as it is: batch norms folded, the faster memory layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gfnet_fast.engine.prepare import Prepared, lacks
from gfnet_fast.engine.runtimes import PreparedEncoder, Runtime


class Torch(Runtime):
    """Ready at once, on every device."""

    name, trial = "torch", 0.0

    def missing(self, device: torch.device, dtype: torch.dtype) -> str | None:
        return lacks(device, dtype)

    def encoder(
        self,
        encoder: Any,
        size: tuple[int, int],
        rows: int,
        dtype: torch.dtype,
        layout: torch.memory_format | None,
    ) -> PreparedEncoder:
        return Prepared(encoder, size, rows, dtype, layout)

    def layer(self, layer: Any, dtype: torch.dtype, *shapes: tuple[int, ...]) -> nn.Module:
        prepared: nn.Module = layer.to(dtype)
        return prepared


RUNTIME = Torch()
