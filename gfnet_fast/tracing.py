"""Inside a model: all steps of images from any source, without exits, in the plain model and in float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from gfnet_fast.config import GFNetConfig
from gfnet_fast.decoding import Decoded, Unusable
from gfnet_fast.engine.prepare import exact_float32
from gfnet_fast.engine.running import plain
from gfnet_fast.errors import InputError
from gfnet_fast.model.gfnet import GFNet, Step, Trace
from gfnet_fast.sources import Source, prepare, take


class Crops(NamedTuple):
    """What the network looked at, as pictures: uint8, channels last, on the CPU.

    thumbnails : ``[B, P, P, 3]``, the glance's
    crops : ``[T-1, B, P, P, 3]``, of steps 2 to T
    """

    thumbnails: Tensor
    crops: Tensor


class Tracing:
    """A predictor's model, unrolled on sources a batch at a time; what comes out is on the CPU.

    Each method reads all of `source`, as for :meth:`Predictor.stream`, and raises InputError at the first
    image that cannot be used.
    """

    def __init__(self, model: GFNet, batch: int, normalised: bool | None) -> None:
        self._model, self._batch, self._normalised = model, batch, normalised

    def trace(self, source: Source | Iterable[Source]) -> Trace:
        """Logits, actions and origins of all steps."""
        parts = [
            Trace(
                torch.stack([step.logits.cpu() for step in steps]),
                torch.stack([step.action.cpu() for step in steps if step.action is not None]),
                torch.stack([step.origins.cpu() for step in steps if step.origins is not None]),
            )
            for steps in self._unrolled(source)
        ]
        return Trace(*(torch.cat(columns, 1) for columns in zip(*parts, strict=True)))

    def features(self, source: Source | Iterable[Source]) -> Tensor:
        """The encoders' vectors of all steps, float32 ``[T, B, F]``."""
        parts = [torch.stack([step.feature.cpu() for step in steps]) for steps in self._unrolled(source)]
        return torch.cat(parts, 1)

    def crops(self, source: Source | Iterable[Source]) -> Crops:
        """Thumbnails and crops as pixels."""
        config = self._model.config
        parts = [
            torch.stack([_pixels(step.view, config).cpu() for step in steps])
            for steps in self._unrolled(source)
        ]
        views = torch.cat(parts, 1)
        return Crops(views[0], views[1:])

    def _unrolled(self, source: Source | Iterable[Source]) -> Iterator[list[Step]]:
        """The steps of each batch."""
        none = True
        for images in self._batches(source):
            none = False
            with plain(self._model.device), exact_float32():
                yield list(self._model.unroll(images.to(self._model.device)))
        if none:
            raise InputError("source: expected at least one image, got none")

    def _batches(self, source: Source | Iterable[Source]) -> Iterator[Tensor]:
        """Normalised images, float32 ``[B, 3, H, W]``."""
        config, batch = self._model.config, []
        taking = partial(take, config=config, normalised=self._normalised)
        reading = partial(prepare, config=config)
        with Decoded(source, taking, reading, ahead=self._batch) as decoded:
            for _, canvas in decoded:
                if isinstance(canvas, Unusable):
                    raise InputError(canvas.why)
                if isinstance(canvas, Exception):
                    raise canvas
                image = canvas.pixels
                batch.append(image if image.is_floating_point() else self._model.normalise(image[None])[0])
                if len(batch) == self._batch:
                    yield torch.stack(batch)
                    batch = []
        if batch:
            yield torch.stack(batch)


def _pixels(views: Tensor, config: GFNetConfig) -> Tensor:
    """Normalised ``[B, 3, P, P]`` -> uint8 ``[B, P, P, 3]``; of pixels that were uint8 exactly those."""
    mean, std = (
        torch.tensor(three, device=views.device).view(3, 1, 1) for three in (config.mean, config.std)
    )
    return ((views * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
