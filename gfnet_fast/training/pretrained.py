"""Weights to begin with, and whether a patch size fits a backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gfnet_fast.checkpoints.native import read_weights
from gfnet_fast.checkpoints.official import read_content
from gfnet_fast.checkpoints.tensors import differences, require
from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import CheckpointError, InputError, reason, shown
from gfnet_fast.files import open_regular
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.macs import shadow

# Whatever a backbone's stride, up to this size it divides it.
_PROBE = 256

SUFFIXES = (".pth", ".pt", ".safetensors")
"""What a file of weights in a package ends in."""

_COUNTER = "num_batches_tracked"  # which batch norms of old files lack, and nothing here reads


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
    """

    source: str
    file: str
    sha256: str
    matched: Literal["name", "order"]
    tensors: dict[str, str]
    left_out: list[str]

    def __str__(self) -> str:
        theirs, ours = next(iter(self.tensors.items()))
        pairs = f": {theirs} -> {ours}, ..." if self.matched == "order" else ""
        left = f"; left out {', '.join(self.left_out)}" if self.left_out else ""
        return f"{self.file}: {len(self.tensors)} tensors by {self.matched}{pairs}{left}"


def load_pretrained(model: GFNet, source: str) -> Pretrained:
    """Give both encoders a backbone's weights.

    `source` is "timm" for timm's own, a file, or an installed package that carries one, by its name or that
    of its import; nothing of a package or a file is run.

    Tensors are matched by name. Where names differ, those of a file that torch.save wrote are matched by
    order, with a timm or torchvision backbone: there have to be as many, and each pair has to agree in the
    last part of its names and in shape. Tensors of one shape and one last part that follow each other could
    be exchanged unseen; they are right where both networks are defined in one order, as ports of one
    architecture are. A classifier for other classes is left out. Batches that batch norms counted may be
    missing, or too many.

    Raises CheckpointError where the weights are not those of the backbone, InputError where timm cannot get
    them.
    """
    found, file, digest = _timm_weights(model) if source == "timm" else _file_weights(_file_of(source))
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
    kept = {ours: found[theirs] for theirs, ours in names.items()}
    floats = {name: tuple(own[name].shape) for name in kept if own[name].is_floating_point()}
    require(source, differences({name: kept[name] for name in floats}, floats))
    for encoder in (model.global_encoder, model.local_encoder):
        encoder.backbone.load_state_dict({**encoder.backbone.state_dict(), **kept})
    return Pretrained(source, file, digest, "name" if by_name else "order", names, head)


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


def _timm_weights(model: GFNet) -> tuple[dict[str, Tensor], str, str]:
    import timm

    config = model.config
    name = config.backbone.removeprefix("timm/")
    if name == config.backbone or not timm.is_model_pretrained(name):
        expected = "a timm backbone that has pretrained weights"
        raise InputError(f"pretrained: expected {expected}, or a file of weights, got {config.backbone}")
    known = timm.get_pretrained_cfg(name)
    assert known is not None
    try:
        args: dict[str, Any] = dict(config.backbone_args)
        found = timm.create_model(name, pretrained=True, num_classes=config.classes, **args).state_dict()
    except Exception as error:  # whatever the client of the hub raises without a network
        expected = f"{name}'s weights in timm's cache or from the network"
        raise InputError(
            f"pretrained: expected {expected}, got {reason(error)}; give a file of weights"
        ) from error
    return found, f"{known.architecture}.{known.tag}", ""


def _file_of(source: str) -> Path:
    """A file, or the one file of weights in an installed package; CheckpointError where there is none."""
    if Path(source).is_file():
        return Path(source)
    try:
        packages = [metadata.distribution(source)]
    except (metadata.PackageNotFoundError, ValueError):
        names = set(metadata.packages_distributions().get(source, ()))
        packages = [metadata.distribution(name) for name in names]
    if not packages:
        raise CheckpointError(
            f"{source}: expected a file of a backbone's weights, an installed package that carries one, "
            f"or 'timm', got the name of none"
        )
    # A .pth file beside the packages is a list of Python's paths.
    inside = [(package, file) for package in packages for file in package.files or () if len(file.parts) > 1]
    found = sorted(
        {Path(str(package.locate_file(file))) for package, file in inside if file.suffix in SUFFIXES}
    )
    found = [path for path in found if path.is_file()]
    if len(found) != 1:
        got = ", ".join(map(str, found)) or f"none of its {len(inside)}"
        raise CheckpointError(
            f"{source}: expected one file of weights ({' '.join(SUFFIXES)}) in the package, got {got}; "
            f"give the file"
        )
    return found[0]


def _file_weights(path: Path) -> tuple[dict[str, Tensor], str, str]:
    """The weights in a safetensors file or one that torch.save wrote; of a training's, the averaged ones."""
    from timm.models import clean_state_dict

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
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(2**20):
            digest.update(block)
    return clean_state_dict(content), path.name, digest.hexdigest()
