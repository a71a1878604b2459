"""Where weights to begin with come from: timm, a file, an installed package, or another GFNet."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from gfnet_fast.checkpoints import load
from gfnet_fast.checkpoints.files import obtain
from gfnet_fast.checkpoints.native import read_weights
from gfnet_fast.checkpoints.official import PARTS, read_content
from gfnet_fast.errors import CheckpointError, InputError, reason, shown
from gfnet_fast.files import sha256_of
from gfnet_fast.hub import comes_along, source_of
from gfnet_fast.model.gfnet import GFNet

SUFFIXES = (".pth", ".pt", ".safetensors")
"""What a file of weights in a package ends in."""

PATIENCE = 3.0
"""Seconds that a network is waited for, where nobody asked for timm's weights by name."""


class Weights(NamedTuple):
    """A backbone's tensors by their names, and where they are from.

    file, sha256 : of timm's own, the name that timm has for them, and none
    encoder : of another GFNet, the name of that model
    left_out : names of a classifier for other classes
    """

    tensors: dict[str, Tensor]
    file: str
    sha256: str
    encoder: str = ""
    left_out: tuple[str, ...] = ()


def weights_of(model: GFNet, source: str) -> Weights:
    """The weights behind a source for `model`'s backbone; see :func:`load_pretrained`."""
    if source == "timm":
        return _timm_weights(model)
    if (path := gfnet_at(source)) is not None:
        return _gfnet_weights(model, source, path)
    return _file_weights(_file_of(source))


def gfnet_at(source: str) -> Path | None:
    """The folder or official file of a whole GFNet that a source names; None where it is something else."""
    path = Path(source) if source_of(source) is None and not comes_along(source) else obtain(source)
    if path.is_dir():
        return path
    if path.is_file() and path.suffix != ".safetensors" and PARTS.keys() <= read_content(path).keys():
        return path
    return None


def at_hand(backbone: str) -> bool:
    """Whether timm has weights of a backbone that are in its cache or can be downloaded now."""
    import timm

    name = backbone.removeprefix("timm/")
    if name == backbone or not timm.is_model_pretrained(name):
        return False
    known = timm.get_pretrained_cfg(name)
    assert known is not None
    import huggingface_hub
    import torch

    if not known.hf_hub_id:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(str(known.url)).name
        return cached.exists() or _answers(str(known.url))
    files = "model.safetensors", "pytorch_model.bin"
    if any(isinstance(huggingface_hub.try_to_load_from_cache(known.hf_hub_id, file), str) for file in files):
        return True
    return _answers(huggingface_hub.hf_hub_url(known.hf_hub_id, files[0]))


def _answers(url: str) -> bool:
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(url, method="HEAD"), timeout=PATIENCE):
            return True
    except HTTPError:  # somebody is there; another file's name may fit
        return True
    except (OSError, ValueError):
        return False


def _timm_weights(model: GFNet) -> Weights:
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
    return Weights(found, f"{known.architecture}.{known.tag}", "")


def _gfnet_weights(model: GFNet, source: str, path: Path) -> Weights:
    """Another GFNet's local encoder, without its classifier, whose classes are its own."""
    other, config = load(path), model.config
    theirs, ours = ((c.backbone, dict(c.backbone_args)) for c in (other.config, config))
    if theirs != ours:
        raise CheckpointError(f"{source}: expected a GFNet on {_said(*ours)}, got one on {_said(*theirs)}")
    backbone = other.local_encoder.backbone
    heads = [
        name
        for name, layer in backbone.named_modules()
        if isinstance(layer, nn.Linear) and layer.out_features == other.config.classes
    ]
    tensors: dict[str, Tensor] = backbone.state_dict()
    left = tuple(name for name in tensors if heads and name.rpartition(".")[0] == heads[-1])
    file = path / "model.safetensors" if path.is_dir() else path
    return Weights(tensors, file.name, sha256_of(file), source, left)


def _said(backbone: str, args: dict[str, Any]) -> str:
    return f"{backbone} {shown(args)}" if args else backbone


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
            f"a GFNet's folder, file or name, or 'timm', got the name of none"
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


def _file_weights(path: Path) -> Weights:
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
    return Weights(clean_state_dict(content), path.name, sha256_of(path))
