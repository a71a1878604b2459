"""Early exit in plain torch: after each step the survivors, and only they, go on.

The simplest engine there is, and the one that the others are compared with: one batch at a time, a
boolean index and a wait at every step. Thumbnails and crops are cut from the images as they are, so that
neither a float copy of an image is made nor an image moved.
"""

from __future__ import annotations

import copy

import torch
from gfnet_kernels import crop, glance
from torch import Tensor

from gfnet_fast.model.backbones import Encoder
from gfnet_fast.model.gfnet import GFNet, crop_origins
from gfnet_fast.results import Prediction


class PreparedEncoder(Encoder):
    """An encoder that computes in another precision, or compiled; what goes in and out stays float32.

    Its own linear head, the classifier and the policy stay float32: an action rounded to bfloat16 moves
    31 % of the crops by a pixel.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype, compiled: bool) -> None:
        super().__init__()
        self.original = encoder
        self.backbone = encoder if dtype == torch.float32 else copy.deepcopy(encoder).to(dtype)
        self.dtype = dtype
        self.run = torch.compile(self.backbone, dynamic=True) if compiled else self.backbone

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feature_map, vector = self.run(x.to(self.dtype))
        return feature_map.float(), vector.float()

    def head(self, vector: Tensor) -> Tensor:
        return self.original.head(vector)


class EagerEngine:
    """Runs batches through a model, step by step, on the model's device."""

    def __init__(
        self, model: GFNet, batch: int = 64, dtype: torch.dtype = torch.float32, compiled: bool = False
    ) -> None:
        """`batch`: how many images are in flight at once; `dtype`, `compiled`: of the encoders.

        `model` itself is left as it is.
        """
        self.model = copy.copy(model)
        self.model._modules = dict(model._modules)
        if compiled or dtype != torch.float32:
            self.model.global_encoder = PreparedEncoder(model.global_encoder, dtype, compiled)
            self.model.local_encoder = PreparedEncoder(model.local_encoder, dtype, compiled)
        self.batch = batch

    @torch.no_grad()
    def predict(self, images: Tensor, thresholds: Tensor) -> Prediction:
        """uint8 ``[B, H, W, 3]`` or ``[B, 3, H, W]``, or normalised float; thresholds ``[T]``."""
        parts = [self._predict(chunk, thresholds) for chunk in images.split(self.batch)]
        return Prediction(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _predict(self, images: Tensor, thresholds: Tensor) -> Prediction:
        config, count, device = self.model.config, len(images), images.device
        out = Prediction(
            class_id=torch.empty(count, dtype=torch.long, device=device),
            confidence=torch.empty(count, device=device),
            exit_step=torch.empty(count, dtype=torch.long, device=device),
            logits=torch.empty(count, config.classes, device=device),
            origins=torch.full((count, config.steps - 1, 2), -1, device=device),
        )
        size, layout = config.patch_size, "NCHW" if images.shape[1] == 3 else "NHWC"
        normal = ((0.0,) * 3, (1.0,) * 3) if images.is_floating_point() else (config.mean, config.std)
        rows = torch.arange(count, device=device)
        view = glance(images, rows.int(), size, config.glance_filter, *normal, torch.float32, layout=layout)
        logits, state = self.model.first_step(view)
        for step in range(1, config.steps + 1):
            confidence, label = logits.softmax(1).max(1)
            leaves = (confidence >= thresholds[step - 1]) | (step == config.steps)
            gone = rows[leaves]
            out.class_id[gone], out.confidence[gone] = label[leaves], confidence[leaves]
            out.exit_step[gone], out.logits[gone] = step, logits[leaves]
            stays = ~leaves
            rows, state = rows[stays], state.select(stays)
            if len(rows) == 0:
                break
            action, state = self.model.look(state)
            origins = crop_origins(action, config.canvas, size)
            out.origins[rows, step - 1] = origins
            view = crop(images, rows.int(), origins.int(), size, *normal, torch.float32, layout=layout)
            logits, state = self.model.next_step(view, state, step + 1)
        return out
