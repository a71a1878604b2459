"""Weights to begin with, and whether a patch size fits a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from gfnet_fast.checkpoints.tensors import differences, require
from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import CheckpointError, InputError, reason, shown
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.macs import shadow
from gfnet_fast.training.weights import weights_of

# Whatever a backbone's stride, up to this size it divides it.
_PROBE = 256

_COUNTER = "num_batches_tracked"  # which batch norms of old files lack, and nothing here reads


def stride_of(encoder: nn.Module) -> int:
    """Pixels of the input to a cell of the feature map; nothing is computed.

    Raises CheckpointError where the network takes one size only.
    """
    try:
        with torch.no_grad():
            feature_map, _ = shadow(encoder)(torch.empty(1, 3, _PROBE, _PROBE, device="meta"))
    except Exception as error:  # a network raises what it likes on a size that it cannot take
        got = f"one that raises {type(error).__name__}: {reason(error)}"
        raise CheckpointError(
            f"backbone: expected a network that takes images of any size, got {got}"
        ) from error
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


@dataclass(frozen=True)
class Pretrained:
    """The weights that a run began with.

    Attributes
    ----------
    source, file, sha256 : str
        What was asked for, and the file's name and hash; of timm's own, the name that timm has for them.
    matched : "name" or "order"
        How its tensors were matched with the network's.
    tensors : dict
        The network's name of each tensor that was taken, by the file's.
    left_out : list of str
        The file's names of a classifier for other classes.
    encoder : str
        The GFNet whose local encoder they are; "" of a backbone's own.
    """

    source: str
    file: str
    sha256: str
    matched: Literal["name", "order"]
    tensors: dict[str, str]
    left_out: list[str]
    encoder: str = ""

    def __str__(self) -> str:
        theirs, ours = next(iter(self.tensors.items()))
        pairs = f": {theirs} -> {ours}, ..." if self.matched == "order" else ""
        left = f"; left out {', '.join(self.left_out)}" if self.left_out else ""
        both = f"both encoders begin with the local encoder of {self.encoder}, " if self.encoder else ""
        return f"{both}{self.file}: {len(self.tensors)} tensors by {self.matched}{pairs}{left}"


def load_pretrained(model: GFNet, source: str) -> Pretrained:
    """Give both encoders a backbone's weights.

    `source` is "timm" for timm's own, a file, an installed package that carries one, by its name or that of
    its import, or a whole GFNet on the same backbone (its folder, official file, or the name of one that
    comes along), whose local encoder both begin with. Nothing of a package or a file is run.

    Tensors are matched by name. Where names differ, those of a file that torch.save wrote are matched by
    order, with a timm or torchvision backbone: there have to be as many, and each pair has to agree in the
    last part of its names and in shape. Tensors of one shape and one last part that follow each other could
    be exchanged unseen; they are right where both networks are defined in one order, as ports of one
    architecture are. A classifier for other classes is left out. Batches that batch norms counted may be
    missing, or too many.

    Raises CheckpointError where the weights are not those of the backbone, InputError where timm cannot get
    them.
    """
    found, file, digest, whose, own_head = weights_of(model, source)
    config, own = model.config, model.local_encoder.backbone.state_dict()
    if any(name.endswith(_COUNTER) for name in found) != any(name.endswith(_COUNTER) for name in own):
        found = {name: tensor for name, tensor in found.items() if not name.endswith(_COUNTER)}
        own = {name: tensor for name, tensor in own.items() if not name.endswith(_COUNTER)}
    by_name = found.keys() == own.keys()
    try:
        ours = list(own) if by_name else in_order(config, file, found, own)
        names, head = _matched(found, own, ours if by_name else list(found), ours, config.classes)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: expected the weights of {config.backbone}, {error}") from None
    names = {theirs: ours for theirs, ours in names.items() if theirs not in own_head}
    head = [*dict.fromkeys([*head, *own_head])]
    kept = {ours: found[theirs] for theirs, ours in names.items()}
    floats = {name: tuple(own[name].shape) for name in kept if own[name].is_floating_point()}
    require(source, differences({name: kept[name] for name in floats}, floats))
    for encoder in (model.global_encoder, model.local_encoder):
        encoder.backbone.load_state_dict({**encoder.backbone.state_dict(), **kept})
    return Pretrained(source, file, digest, "name" if by_name else "order", names, head, whose)


def in_order(
    config: GFNetConfig, file: str, found: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> list[str]:
    """The network's names in the order of its definition, where there is one to match a file's with."""
    kind, _, name = config.backbone.partition("/")
    if Path(file).suffix == ".safetensors" or kind not in ("timm", "torchvision"):
        odd = [*[n for n in own if n not in found][:2], *[n for n in found if n not in own][:2]]
        why = "no order to go by in safetensors" if kind in ("timm", "torchvision") else "no stock network"
        raise CheckpointError(f"got names that differ in {shown(odd)} ({why})")
    if kind == "timm":
        return list(own)
    import torchvision

    with torch.device("meta"):  # the encoder is a traced copy, with its layers in the order of their use
        stock = torchvision.models.get_model(name, num_classes=1, **config.backbone_args)
    return [name for name in stock.state_dict() if name in own]


def _matched(
    found: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    theirs: Sequence[str],
    ours: Sequence[str],
    classes: int,
) -> tuple[dict[str, str], list[str]]:
    """The network's names by the file's, and the file's names of a classifier for other classes.

    CheckpointError says which tensor is the first that does not fit.
    """
    pairs = list(zip(theirs, ours, strict=False))
    other = [(t, o) for t, o in pairs if found[t].shape != own[o].shape]
    layers = {o.rpartition(".")[0] for _, o in other}
    if len(layers) > 1 or any((classes, *found[t].shape[1:]) != own[o].shape for t, o in other):
        other = []
    for place, (t, o) in enumerate(pairs, 1):
        fits = found[t].shape == own[o].shape or (t, o) in other
        named = t == o or (t not in own and t.rpartition(".")[2] == o.rpartition(".")[2])
        if not fits or not named:
            got = f"{shown(t)} {list(found[t].shape)} for {o!r} {list(own[o].shape)}"
            raise CheckpointError(f"got others: tensor {place} is {got}")
    if len(theirs) != len(ours):
        over = [*theirs[len(ours) :], *ours[len(theirs) :]][0]
        raise CheckpointError(f"got {len(theirs)} tensors for {len(ours)}: {shown(over)} is over")
    left = [t for t, _ in other]
    return {t: o for t, o in pairs if t not in left}, left
