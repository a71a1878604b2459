"""Weights to begin with, and whether a patch size fits a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfnet_fast.checkpoints.native import read_weights
from gfnet_fast.checkpoints.official import read_content
from gfnet_fast.errors import CheckpointError, InputError, reason, shown
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.macs import shadow

# Whatever a backbone's stride, up to this size it divides it.
_PROBE = 256


def stride_of(encoder: nn.Module) -> int:
    """Pixels of the input to a cell of the feature map; nothing is computed."""
    with torch.no_grad():
        feature_map, _ = shadow(encoder)(torch.empty(1, 3, _PROBE, _PROBE, device="meta"))
    return _PROBE // feature_map.shape[2]


def check_stride(model: GFNet) -> None:
    """Raise InputError where the backbone's stride does not divide the patch size."""
    config, stride = model.config, stride_of(model.local_encoder)
    if config.patch_size % stride:
        below = config.patch_size // stride * stride
        near = f"{below} or {below + stride}" if below else str(stride)
        raise InputError(
            f"patch_size: expected a multiple of {config.backbone}'s stride {stride} ({near}), "
            f"got {config.patch_size}"
        )


def load_pretrained(model: GFNet, source: str) -> None:
    """Give both encoders a backbone's weights: timm's own ("timm"), or those in a file.

    A classifier for other classes is left out, all else has to fit. Raises CheckpointError, or InputError
    where timm cannot get the weights.
    """
    own = model.local_encoder.backbone.state_dict()
    found = _timm_weights(model) if source == "timm" else _file_weights(Path(source))
    head = {name for name, tensor in found.items() if name in own and tensor.shape != own[name].shape}
    layers = {name.rpartition(".")[0] for name in head}
    last = {
        name.rpartition(".")[0] for name, tensor in own.items() if model.config.classes in tensor.shape[:1]
    }
    missing, unexpected = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
    if missing or unexpected or len(layers) > 1 or not layers <= last:
        odd = [*missing[:2], *unexpected[:2], *sorted(head)[:2]]
        raise CheckpointError(
            f"{source}: expected the weights of {model.config.backbone}, got some that differ in {odd}"
        )
    for encoder in (model.global_encoder, model.local_encoder):
        kept = {name: tensor for name, tensor in found.items() if name not in head}
        encoder.backbone.load_state_dict({**encoder.backbone.state_dict(), **kept})


def _timm_weights(model: GFNet) -> dict[str, Tensor]:
    import timm

    config = model.config
    name = config.backbone.removeprefix("timm/")
    if name == config.backbone or not timm.is_model_pretrained(name):
        known = "a timm backbone that has pretrained weights"
        raise InputError(f"pretrained: expected {known}, or a file of weights, got {config.backbone}")
    try:
        args: dict[str, Any] = dict(config.backbone_args)
        return timm.create_model(name, pretrained=True, num_classes=config.classes, **args).state_dict()
    except Exception as error:  # whatever the client of the hub raises without a network
        expected = f"{name}'s weights in timm's cache or from the network"
        raise InputError(
            f"pretrained: expected {expected}, got {reason(error)}; give a file of weights"
        ) from error


def _file_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a safetensors file or one that torch.save wrote; of a training's, the averaged ones."""
    from timm.models import clean_state_dict

    if not path.is_file():
        raise CheckpointError(
            f"{path}: expected a file of a backbone's weights (or 'timm'), got nothing there"
        )
    content: Any = read_weights(path) if path.suffix == ".safetensors" else read_content(path)
    for name in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(content.get(name), dict):
            content = content[name]
            break
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: expected tensors by name, got {shown(name)}: {type(value).__name__}"
            )
    return clean_state_dict(content)
