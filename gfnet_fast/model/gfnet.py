"""GFNet: what a Glance and Focus Network computes, in plain torch. The oracle of this package."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import CheckpointError, InputError, reason
from gfnet_fast.model.backbones import build_encoder
from gfnet_fast.model.classifiers import build_classifier
from gfnet_fast.model.digest import weights_digest
from gfnet_fast.model.macs import count_macs, shadow
from gfnet_fast.model.policy import Policy
from gfnet_fast.model.quantised import Quantised

# The thresholds of a step at which nobody leaves, and of the last, at which all do.
NEVER, ALWAYS = 1e8, -1e8


class Trace(NamedTuple):
    """All T steps for all B images, without exits.

    logits : float32 ``[T, B, K]``
    actions : float32 ``[T-1, B, 2]``, (row, column) in 0..1
    origins : int64 ``[T-1, B, 2]``, (row, column) of each crop's top-left pixel
    """

    logits: Tensor
    actions: Tensor
    origins: Tensor

    @property
    def confidence(self) -> Tensor:
        """The largest softmax probability of each step, float32 ``[T, B]``: what the exits compare."""
        return self.logits.softmax(-1).amax(-1)


class Step(NamedTuple):
    """One step of :meth:`GFNet.unroll`, for all B images.

    logits : ``[B, K]``
    view : ``[B, 3, P, P]``, normalised: the thumbnail, or the crops
    feature : ``[B, F]``, the encoder's vector
    action, origins : ``[B, 2]``, where the crops are; None for the glance
    """

    logits: Tensor
    view: Tensor
    feature: Tensor
    action: Tensor | None = None
    origins: Tensor | None = None


class StepState(NamedTuple):
    """What a row of a batch carries from one step to the next; every field has the batch first."""

    feature_map: Tensor
    policy: Tensor | None
    classifier: Tensor

    def select(self, rows: Tensor) -> StepState:
        """The state of some rows only."""
        return StepState(*(None if t is None else t[rows] for t in self))  # type: ignore[arg-type]


def crop_origins(actions: Tensor, canvas: tuple[int, int], patch_size: int) -> Tensor:
    """Top-left pixels of the crops: ``floor(action * (side - P))`` in float32; ``[..., 2]`` -> int64.

    `canvas`: height and width, as actions are (row, column).
    """
    height, width = (side - patch_size for side in canvas)
    rows, columns = actions.float().unbind(-1)
    return torch.stack([rows * height, columns * width], -1).floor().long()


def crop_patches(images: Tensor, origins: Tensor, patch_size: int) -> Tensor:
    """P x P windows: ``images [B, C, H, W]``, ``origins [B, 2]`` (row, column) -> ``[B, C, P, P]``."""
    steps = torch.arange(patch_size, device=images.device)
    rows = (origins[:, 0, None] + steps)[:, None, :, None]
    columns = (origins[:, 1, None] + steps)[:, None, None, :]
    batch = torch.arange(images.shape[0], device=images.device)[:, None, None, None]
    channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return images[batch, channels, rows, columns]


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8, or float from 0 to 1, ``[..., 3, H, W]`` -> float32, (x - mean) / std, uint8 by 255 first."""
    centre, scale = (
        torch.tensor(three, dtype=torch.float32, device=images.device).view(3, 1, 1) for three in (mean, std)
    )
    pixels = images.float() if images.is_floating_point() else images.float() / 255
    return (pixels - centre) / scale


class GFNet(nn.Module):
    """A Glance and Focus Network: two encoders of one architecture, a policy and a classifier.

    Attributes
    ----------
    config : GFNetConfig
        With ``macs`` filled in.
    thresholds : Tensor or None
        float32 ``[R, T]``: the exit thresholds that came with the weights, cheapest budget first.
    default_row : int
        The row of `thresholds` that is used when no budget is named.
    calibration : Calibration or None
        What those thresholds were found on and cost, where it is known; see :mod:`gfnet_fast.exits`.
    labels : tuple of str, or None
        Names of the classes.
    quantised : Quantised, or None
        Its networks in int8, where `gfnet-fast quantize` has made them.
    """

    def __init__(self, config: GFNetConfig) -> None:
        super().__init__()
        self.global_encoder = build_encoder(config.backbone, config.classes, **config.backbone_args)
        self.local_encoder = build_encoder(config.backbone, config.classes, **config.backbone_args)
        map_shape, feature_dim = _probe(self.local_encoder, config.patch_size)
        self.policy = Policy(config, map_shape)
        self.classifier = build_classifier(config, feature_dim)
        self.feature_dim = feature_dim
        self.map_shape = map_shape
        self.thresholds: Tensor | None = None
        self.default_row = 0
        self.calibration: Any = None
        self.labels: tuple[str, ...] | None = None
        self.quantised: Quantised | None = None
        if config.macs is None:
            self.config = config
            config = config.replace(macs=count_macs(self))
        self.config = config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def calibration_in(self, precision: str) -> Any:
        """The calibration that was found in a precision: "int8", or "float32", of all others too."""
        return self.quantised and self.quantised.calibration if precision == "int8" else self.calibration

    def default_thresholds(self, precision: str = "float32") -> Tensor:
        """The thresholds used where no budget is named, float32 ``[T]``: without any, nobody exits early.

        In int8 those that were found in it, where there are some.
        """
        if precision == "int8" and (own := self.calibration_in(precision)) is not None:
            return torch.from_numpy(own.thresholds[own.default_row].copy())
        if self.thresholds is not None:
            return self.thresholds[self.default_row].clone()
        row = torch.full((self.config.steps,), NEVER, dtype=torch.float32, device="cpu")
        row[-1] = ALWAYS
        return row

    def weights_digest(self) -> str:
        """What a calibration knows these weights by: 32 hexadecimal digits.

        Of all floating-point tensors but the critic's, rounded to float16; see
        :func:`~gfnet_fast.model.digest.weights_digest`.
        """
        return weights_digest(self)

    def thumbnail(self, images: Tensor) -> Tensor:
        """The glance's input: normalised ``[B, 3, H, W]`` -> ``[B, 3, P, P]``, corners aligned."""
        size, mode = [self.config.patch_size] * 2, self.config.glance_filter
        return F.interpolate(images, size=size, mode=mode, align_corners=True)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8, or float from 0 to 1, ``[B, 3, H, W]`` or ``[B, H, W, 3]`` -> float32 ``[B, 3, H, W]``.

        (x - mean) / std, uint8 by 255 first.
        """
        if images.shape[1] != 3:
            images = images.permute(0, 3, 1, 2)
        return normalise(images, self.config.mean, self.config.std)

    def forward(self, images: Tensor) -> Tensor:
        """The logits of all steps, without exits: normalised ``[B, 3, H, W]`` -> float32 ``[T, B, K]``.

        Differentiable, but for where the crops are; :meth:`trace` is the same without gradients.
        """
        check_images(images, self.config.canvas, self.device)
        return torch.stack([step.logits for step in self.unroll(images)])

    def unroll(self, images: Tensor) -> Iterator[Step]:
        """All T steps, one after another, for normalised ``[B, 3, H, W]`` images; no one leaves."""
        config, view = self.config, self.thumbnail(images)
        encoded = self.global_encoder(view)
        logits, state = self._classified(encoded, None, 1)
        yield Step(logits, view, encoded[1])
        for step in range(2, config.steps + 1):
            action, state = self.look(state)
            origins = crop_origins(action, config.canvas, config.patch_size)
            view = crop_patches(images, origins, config.patch_size)
            encoded = self.local_encoder(view)
            logits, state = self._classified(encoded, state, step)
            yield Step(logits, view, encoded[1], action, origins)

    def _classified(
        self, encoded: tuple[Tensor, Tensor], state: StepState | None, step: int
    ) -> tuple[Tensor, StepState]:
        """The logits of a step from its view's map and vector, and the state after it."""
        feature_map, feature = encoded
        before, policy = (None, None) if state is None else (state.classifier, state.policy)
        logits, after = self.classifier(feature, before, step)
        if logits is None:
            logits = self.global_encoder.head(feature)
        return logits, StepState(feature_map, policy, after)

    def glance(self, images: Tensor) -> tuple[Tensor, StepState]:
        """Step 1 of normalised ``[B, 3, H, W]`` images -> ``(logits [B, K], state)``."""
        return self.first_step(self.thumbnail(images))

    def first_step(self, thumbnails: Tensor) -> tuple[Tensor, StepState]:
        """Step 1 from the thumbnails ``[B, 3, P, P]`` -> ``(logits [B, K], state)``."""
        return self._classified(self.global_encoder(thumbnails), None, 1)

    def look(self, state: StepState) -> tuple[Tensor, StepState]:
        """The policy's action ``[B, 2]`` after a step, and the state with what the policy remembers."""
        action, policy_state = self.policy(state.feature_map, state.policy)
        return action, state._replace(policy=policy_state)

    def focus(self, images: Tensor, origins: Tensor, state: StepState, step: int) -> tuple[Tensor, StepState]:
        """Step `step` >= 2 on crops at `origins` ``[B, 2]`` of ``[B, 3, H, W]`` -> ``(logits, state)``."""
        return self.next_step(crop_patches(images, origins, self.config.patch_size), state, step)

    def next_step(self, patches: Tensor, state: StepState, step: int) -> tuple[Tensor, StepState]:
        """Step `step` >= 2 from the patches ``[B, 3, P, P]`` -> ``(logits [B, K], state)``."""
        return self._classified(self.local_encoder(patches), state, step)

    @torch.no_grad()
    def trace(self, images: Tensor) -> Trace:
        """Every step for every image: float32 ``[B, 3, H, W]``, normalised -> :class:`Trace`.

        Raises InputError on another shape, dtype or device.
        """
        check_images(images, self.config.canvas, self.device)
        logits, actions, origins = [], [], []
        for step in self.unroll(images):
            logits.append(step.logits)
            if step.action is not None and step.origins is not None:
                actions.append(step.action)
                origins.append(step.origins)
        return Trace(torch.stack(logits), torch.stack(actions), torch.stack(origins))

    def save_pretrained(self, folder: str | os.PathLike[str], *, half: bool = False) -> None:
        """Write a folder that :func:`gfnet_fast.load` reads: configuration, weights, thresholds, labels.

        With `half` most weights are stored in float16, half as large; they are read as float32 again. What
        float16 cannot hold well stays in float32; CheckpointError where it cannot hold it at all.

        Thresholds that were found with other weights, before more training, say, are left out, and a
        BudgetWarning says so.
        """
        from gfnet_fast.checkpoints.native import save  # the one import upwards: the name that users expect

        save(self, folder, half=half)

    def extra_repr(self) -> str:
        c = self.config
        sizes = f"patch_size={c.patch_size}, steps={c.steps}, image_size={c.image_size}"
        return f"{c.name}, {sizes}, classes={c.classes}"


def check_images(images: Tensor, canvas: tuple[int, int], device: torch.device) -> None:
    """Raise InputError unless `images` is a float32 batch ``[B >= 1, 3, H, W]`` on `device`."""
    height, width = canvas
    if not isinstance(images, Tensor):
        raise InputError(
            f"images: expected a float32 tensor [B, 3, {height}, {width}], got {type(images).__name__}"
        )
    shape = tuple(images.shape)
    if images.dtype != torch.float32 or shape[1:] != (3, height, width) or shape[0] == 0:
        expected = f"a float32 tensor [B >= 1, 3, {height}, {width}], normalised"
        raise InputError(f"images: expected {expected}, got {images.dtype} {list(shape)}")
    if images.device != device:
        raise InputError(f"images: expected device {device}, got {images.device}")


def _probe(encoder: nn.Module, size: int) -> tuple[tuple[int, int, int], int]:
    """Shape of an encoder's feature map and width of its feature vector, without computing them."""
    try:
        with torch.no_grad():
            feature_map, feature = shadow(encoder)(torch.empty(1, 3, size, size, device="meta"))
    except Exception as error:  # a network raises what it likes on a size that it cannot take
        got = f"one that raises {type(error).__name__}: {reason(error)}"
        message = f"expected a network that takes {size} x {size} pixels, got {got}"
        raise CheckpointError(f"backbone: {message}") from error
    if feature_map.ndim != 4 or feature.ndim != 2:
        shapes = f"{list(feature_map.shape)} and {list(feature.shape)}"
        raise CheckpointError(
            f"backbone: expected a feature map [B, C, h, w] and a vector [B, F], got {shapes}"
        )
    _, channels, rows, columns = feature_map.shape
    return (channels, rows, columns), feature.shape[1]
