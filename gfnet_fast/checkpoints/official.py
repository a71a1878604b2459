"""The official checkpoints, in the two forms that are around.

The released files prefix both encoders' keys with ``module.`` and carry the configuration, the costs
and a table of thresholds; the files that the official training script saves carry none of it.
``model_prime`` is the global encoder there, ``model`` the local one.

Neither names its classes. The official code trains on ImageNet alone, so a file of a thousand has its names;
what this package writes says by ``labels`` which names it has, or that it has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gfnet_fast.checkpoints import imagenet
from gfnet_fast.checkpoints.native import check_labels, check_table, keeps_thresholds
from gfnet_fast.checkpoints.pickled import unpickle
from gfnet_fast.checkpoints.tensors import assemble, build, differences, require
from gfnet_fast.config import MAX_PATCH, RELEASED, GFNetConfig, released
from gfnet_fast.errors import BudgetError, CheckpointError, shown
from gfnet_fast.exits import Calibration, ModelIdentity
from gfnet_fast.exits.calibration import cheapest_good_row
from gfnet_fast.files import json_text, parse_json
from gfnet_fast.model.gfnet import GFNet

PARTS = {
    "model_prime_state_dict": "global_encoder.backbone.",
    "model_state_dict": "local_encoder.backbone.",
    "fc": "classifier.",
    "policy": "policy.",
}

# (official, ours): pieces of names that differ, each pair usable both ways.
_GRU = [(f"{kind}_l0", kind) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
_RENAMES = {
    "fc": [(f"rnn.{theirs}", f"gru.{ours}") for theirs, ours in _GRU],
    "policy": [*((f"gru.{theirs}", f"gru.{ours}") for theirs, ours in _GRU), ("critic.0.", "critic.")],
}
_REGNET = [
    (".proj.", ".downsample.conv."),
    (".bn.", ".downsample.bn."),
    *(
        (f".f.{theirs}.", f".{ours}.conv.")
        for theirs, ours in zip("abc", ("conv1", "conv2", "conv3"), strict=True)
    ),
    *(
        (f".f.{theirs}_bn.", f".{ours}.bn.")
        for theirs, ours in zip("abc", ("conv1", "conv2", "conv3"), strict=True)
    ),
    (".f.se.f_ex.0.", ".se.fc1."),
    (".f.se.f_ex.2.", ".se.fc2."),
    ("fc.", "head.fc."),
]


def _rename(part: str, name: str, config: GFNetConfig, to_ours: bool) -> str:
    pairs = _RENAMES.get(part) or (_REGNET if config.backbone.startswith("timm/regnety") else [])
    if name.startswith("stem."):
        return name
    for theirs, ours in pairs:
        old, new = (theirs, ours) if to_ours else (ours, theirs)
        if old in name:
            return name.replace(old, new, 1)
    return name


def _official_names(config: GFNetConfig, ours: Iterable[str]) -> dict[str, dict[str, str]]:
    """For each part: official name -> our full name, for every tensor of the model."""
    return {
        part: {
            _rename(part, name.removeprefix(prefix), config, to_ours=False): name
            for name in ours
            if name.startswith(prefix)
        }
        for part, prefix in PARTS.items()
    }


def read(path: Path, config: GFNetConfig | None = None) -> GFNet:
    """The model in an official file; nothing in the file is run. See :func:`gfnet_fast.load`."""
    content = read_content(path)
    parts = {part: _part(path, content, part) for part in PARTS}
    if "model_name" in content:
        config = _from_metadata(path, content, parts, config)
    elif config is None:
        config = _from_shapes(path, parts)
    state = {
        PARTS[part] + _rename(part, name, config, to_ours=True): tensor
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }
    if len(state) != sum(map(len, parts.values())):
        raise CheckpointError(f"{path}: expected every tensor once, got two names for one")
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    if sum(tensor.nbytes for tensor in tensors) > sum(stored.values()):
        raise CheckpointError(f"{path}: expected tensors of their own, got some that share their numbers")
    del parts, tensors
    for part in PARTS:
        del content[part]  # `state` alone holds them now
    model = assemble(path, config, build(path, config), state)
    if "labels" in content:
        try:
            model.labels = check_labels(content["labels"], config.classes)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
    elif config.classes == imagenet.CLASSES:
        model.labels = imagenet.labels()
    if "dynamic_threshold" in content:
        model.thresholds = check_table(path, content["dynamic_threshold"], config.steps)
        curve = _stored_curve(content.get("budgeted_batch_classification"), len(model.thresholds))
        identity, table = ModelIdentity.of(model), model.thresholds.numpy()
        try:
            model.calibration = Calibration.from_table(identity, table, *(curve or ()))
        except BudgetError as error:
            raise CheckpointError(f"{path}: {error}") from None
        model.default_row = len(table) - 1 if curve is None else cheapest_good_row(*curve)
    return model


def read_content(path: Path) -> dict[str, Any]:
    """The table in an official file: plain values and tensors."""
    content = unpickle(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dictionary, got {type(content).__name__}")
    return content


def _part(path: Path, content: Mapping[str, Any], part: str) -> dict[str, Any]:
    tensors = content.get(part)
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise CheckpointError(f"{path}: expected the state dictionaries {list(PARTS)}, got no {part!r}")
    plain = {name.removeprefix("module."): value for name, value in tensors.items()}
    if len(plain) != len(tensors):
        twice = sorted(set(tensors) & {f"module.{name}" for name in tensors})
        raise CheckpointError(
            f"{path}: {part}: expected every tensor once, got {shown(twice)} without prefix too"
        )
    return plain


def _classes(path: Path, parts: Mapping[str, Mapping[str, Any]]) -> int:
    for name in ("fc.weight", "fc_2.weight"):
        weight = parts["fc"].get(name)
        if isinstance(weight, Tensor) and weight.ndim == 2:
            return weight.shape[0]
    raise CheckpointError(
        f"{path}: fc: expected a matrix fc.weight or fc_2.weight, got {shown(sorted(parts['fc']))}"
    )


def _from_metadata(
    path: Path, content: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]], config: GFNetConfig | None
) -> GFNetConfig:
    name, patch_size, flops = (content.get(key) for key in ("model_name", "patch_size", "flops"))
    whole = type(patch_size) is int and 0 < patch_size <= MAX_PATCH
    if not isinstance(name, str) or not whole or not isinstance(flops, (list, tuple)):
        kinds = [type(value).__name__ for value in (name, patch_size, flops)]
        raise CheckpointError(
            f"{path}: expected model_name, patch_size and flops as str, int and list, got {kinds}"
        )
    if config is None:
        config = released(name, patch_size).replace(classes=_classes(path, parts))
    got = (name, patch_size, len(flops))
    if got != (config.name, config.patch_size, config.steps):
        expected = (config.name, config.patch_size, config.steps)
        raise CheckpointError(
            f"{path}: expected model_name, patch_size and steps {expected}, got {shown(got)}"
        )
    return config


# A tensor that only this family has, by the start of its configurations' names.
_FAMILIES = {
    "layer1.0.conv1.weight": "resnet",
    "features.norm5.weight": "densenet",
    "s1.b1.f.a.weight": "regnety",
    "conv_head.bias": "mobilenetv3",
    "conv_stem.weight": "efficientnet",
}


def _from_shapes(path: Path, parts: Mapping[str, Mapping[str, Any]]) -> GFNetConfig:
    """The released configuration whose tensors these are, of any class count."""
    family = next((family for key, family in _FAMILIES.items() if key in parts["model_state_dict"]), None)
    if family is None:
        known = ", ".join(sorted({c.name for c in RELEASED}))
        raise CheckpointError(
            f"{path}: expected the tensors of one of {known}, got another network; give its config"
        )
    classes = _classes(path, parts)
    nearest: list[str] | None = None
    for candidate in (c.replace(classes=classes) for c in RELEASED if c.name.startswith(family)):
        ours = _shapes(json_text(candidate.to_dict()))
        lines = []
        for part, names in _official_names(candidate, ours).items():
            lines += differences(parts[part], {official: ours[name] for official, name in names.items()})
        if not lines:
            return candidate
        lines = [f"compared with {candidate.name} at {candidate.patch_size}: {lines[0]}", *lines[1:]]
        if nearest is None or len(lines) < len(nearest):
            nearest = lines
    assert nearest is not None
    require(path, nearest)
    raise AssertionError("unreachable: the nearest configuration differs")


@lru_cache(maxsize=2 * len(RELEASED))
def _shapes(config: str) -> Mapping[str, tuple[int, ...]]:
    """Of all tensors of a configuration, as JSON; building one to see them takes up to a second."""
    model = build("released", GFNetConfig.from_dict(parse_json(config)))
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


def _stored_curve(curve: Any, rows: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The stored mean multiply-adds and accuracies of the rows of thresholds, where there are real ones."""
    if not isinstance(curve, (list, tuple)) or len(curve) != 2:
        return None
    for part in curve:
        if not isinstance(part, (list, tuple)) or len(part) != rows:
            return None
        if not all(isinstance(value, (int, float, np.number)) and 0 < value < 1e30 for value in part):
            return None
    costs, accuracy = (np.array([float(value) for value in part]) for part in curve)
    return costs, accuracy


def official_form(config: GFNetConfig) -> str:
    """ "released" for a released network of any number of classes, "training" for all others."""
    known = [released.replace(macs=None) for released in RELEASED]
    return "released" if config.replace(classes=1000, macs=None) in known else "training"


def check_official(config: GFNetConfig) -> None:
    """Raise CheckpointError where the official evaluation would preprocess images otherwise."""
    if isinstance(config.image_size, tuple) or config.crop_ratio is None:
        height, width = config.canvas
        expected = "square images, of which the centre is cropped"
        got = f"{height} x {width} pixels and crop_ratio {config.crop_ratio}"
        raise CheckpointError(f"official form: expected {expected}, got {got}")


def official_checkpoint(model: GFNet, form: str = "released") -> dict[str, Any]:
    """`model` as an official checkpoint, for `torch.save`; `form` is "released" or "training".

    Thresholds whose calibration is that of other weights are left out of the released form, and a
    BudgetWarning says so.

    Raises CheckpointError for another form, and as :func:`check_official`.
    """
    if form not in ("released", "training"):
        raise CheckpointError(f"form: expected 'released' or 'training', got {form!r}")
    config = model.config
    check_official(config)
    if form == "released" and official_form(config) != "released":
        known = ", ".join(f"{c.name} at {c.patch_size}" for c in RELEASED)
        got = f"{config.name} at {config.patch_size}"
        if (config.name, config.patch_size) in {(c.name, c.patch_size) for c in RELEASED}:
            got += " with other settings"
        raise CheckpointError(f"released form: expected one of {known}, got {got}; use 'training'")
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    names = _official_names(config, state)
    parts = {
        part: {official: state[ours] for official, ours in table.items()} for part, table in names.items()
    }
    labels = None if model.labels is None else [*(check_labels([*model.labels], config.classes) or ())]
    if form == "training":
        trained = {"epoch": 0, "acc": 0.0, "best_acc": 0.0, "optimizer": None, "ppo_optimizer": None}
        return {**trained, **parts, "labels": labels}
    for part in ("model_state_dict", "model_prime_state_dict"):
        parts[part] = {f"module.{name}": tensor for name, tensor in parts[part].items()}
    assert config.macs is not None
    content: dict[str, Any] = {
        "model_name": config.name,
        "patch_size": config.patch_size,
        "flops": [float(m) for m in config.macs],
        **parts,
        "labels": labels,
    }
    if model.thresholds is not None and keeps_thresholds(model, stacklevel=3):
        content["dynamic_threshold"] = model.thresholds.clone()
    return content
