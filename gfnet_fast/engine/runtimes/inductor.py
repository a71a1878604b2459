"""torch.compile: each bucket is a program of its own, which takes half a minute for a ResNet-50 on a CPU."""

from __future__ import annotations

from typing import Any, cast

import torch

from gfnet_fast.engine.runtimes import Run
from gfnet_fast.engine.runtimes.folded import Torch


class Inductor(Torch):
    """As `torch`, and what lies between an encoder's layers in few programs."""

    name, trial = "inductor", 60.0

    def preparing(self) -> Any:
        """While the buckets compile: each is a new shape of one function, and none may fall back to eager."""
        return torch._dynamo.config.patch(recompile_limit=1024, accumulated_recompile_limit=1 << 16)

    def whole(self, run: Run) -> Run:
        """`run` through torch.compile for the one shape that it will be called with, weights frozen on a CPU.

        Freezing keeps a second copy of the weights, packed. Call the result first under :meth:`preparing`, in
        the mode (no_grad or inference) that it will be called in.
        """
        frozen = not torch.cuda.is_available()
        options: dict[str, Any] = {"freezing": True} if frozen else {"max_autotune_conv_backends": "ATEN"}
        return cast(Run, torch.compile(run, dynamic=False, fullgraph=True, options=options))


RUNTIME = Inductor()
