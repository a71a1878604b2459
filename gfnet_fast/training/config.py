"""Hyper-parameters: the published ones by family in one table, every one of them a field to override.

Source: Wang et al., NeurIPS 2020 (arXiv 2010.05300), appendix A, T-PAMI 2023 (arXiv 2201.03014), and the
behaviour of the official training script.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gfnet_fast.config import RELEASED, GFNetConfig, checked_size
from gfnet_fast.errors import InputError, reason, shown
from gfnet_fast.files import parse_json

LARGEST = 2**63 - 1
"""The largest whole number of a setting."""
LARGEST_RATE = 1e30
"""The largest rate or weight: all that a run makes of it is a float32."""


@dataclass(frozen=True)
class TrainConfig:
    """What a training run does.

    Attributes
    ----------
    epochs : (int, int, int, int)
        Of stages 0 (the global encoder alone, on thumbnails), 1 (encoders and classifier, random crops),
        2 (the policy alone, PPO) and 3 (encoders and classifier, the policy's crops); 0 leaves one out.
    batch : int
        Images of an update, over all processes.
    accumulate : int
        Parts that a process computes its share of a batch in, one after the other; saves memory.
    backbone_lr, classifier_lr : float, (float, float)
        Peak learning rates; the classifier's in stages 1 and 3. Cosine schedule by epoch.
    thumbnail_lr : float
        Stage 0's peak learning rate.
    optimizer : "sgd" or "adamw"
        Of stages 0, 1 and 3.
    momentum, weight_decay : float
        SGD's momentum is Nesterov's; AdamW's decay is decoupled.
    freeze : float
        Share of an encoder's parameter tensors, the first in order of definition, that stay as they are.
    batch_norm : "batch" or "running"
        Which statistics the encoders' batch norms use in stages 0, 1 and 3; running ones stay as they are.
    smoothing, mixup : float
        Of labels, in stages 0, 1 and 3: what is spread over all classes, and mixup's alpha; 0: none.
    local_from_global : bool
        Whether the local encoder begins as the global one is after stage 0, and a cascaded classifier as the
        mean of the steps' own heads.
    auxiliary : float
        Weight of the encoders' own linear classifiers in the loss.
    train_global : bool
        Whether stages 1 and 3 train the global encoder.
    policy_lr, gamma, clip, action_std, value_weight, entropy_weight : float
        PPO with Adam. Actions are drawn with that standard deviation and clamped to 0..1.
    ppo_epochs : int
        Updates a batch of episodes.
    reward : "difference" or "contrast"
        The true class's probability minus that of the step before, or minus that after a random crop.
    amp : bool
        Whether the encoders run in bfloat16 (autocast); losses, actions and log-probabilities stay float32.
    ema : float
        Decay of an exponential moving average of the weights in stages 0, 1 and 3, with which each of them
        ends; 0: none.
    scale : (float, float)
        Training images are random crops of those of a folder, of a share of the area between these.
    flip, vertical_flip, color_jitter, auto_augment, erase : float, float, float, str, float
        The chances of a flip left to right and top to bottom, and timm's colour jitter, policy
        ("rand-m9-mstd0.5") and chance of erasing.
    heldout, validation : float
        Shares of each class that are kept from training for the thresholds and for the report, where the
        folder does not name those parts; drawn by `split_seed`.
    seed, split_seed : int
    split_run : int
        Neighbours by number in their names that are drawn together, e.g. the photographs of one object.
    patience : int
        Epochs of stages 0, 1 and 3 without a better state after which a stage ends; 0: all its epochs.
    """

    epochs: tuple[int, int, int, int] = (0, 60, 15, 60)
    batch: int = 256
    accumulate: int = 1
    backbone_lr: float = 0.01
    classifier_lr: tuple[float, float] = (0.1, 0.01)
    thumbnail_lr: float = 0.01
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    freeze: float = 0.0
    batch_norm: Literal["batch", "running"] = "batch"
    smoothing: float = 0.0
    mixup: float = 0.0
    local_from_global: bool = False
    auxiliary: float = 1.0
    train_global: bool = True
    policy_lr: float = 3e-4
    gamma: float = 0.7
    clip: float = 0.2
    action_std: float = 0.1
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    ppo_epochs: int = 1
    reward: Literal["difference", "contrast"] = "difference"
    amp: bool = False
    ema: float = 0.0
    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    vertical_flip: float = 0.0
    color_jitter: float = 0.0
    auto_augment: str = ""
    erase: float = 0.0
    heldout: float = 0.1
    validation: float = 0.1
    seed: int = 0
    split_seed: int = 0
    split_run: int = 1
    patience: int = 0

    def __post_init__(self) -> None:
        if len(self.epochs) != 4 or min(self.epochs) < 0:
            raise InputError(f"epochs: expected four numbers of at least 0, one a stage, got {self.epochs}")
        if self.batch < 2:
            raise InputError(f"batch: expected at least 2 (batch norm), got {self.batch}")
        for name in ("ppo_epochs", "accumulate", "split_run"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.batch % self.accumulate:
            raise InputError(f"accumulate: expected a divisor of batch {self.batch}, got {self.accumulate}")
        for name in ("seed", "split_seed", "patience"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not 0 < self.action_std <= LARGEST_RATE:
            raise InputError(f"action_std: expected more than 0 to {LARGEST_RATE:g}, got {self.action_std}")
        for name in ("ema", "heldout", "validation", "freeze", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}: expected 0 or more and less than 1, got {getattr(self, name)}")
        rates = ("backbone_lr", "thumbnail_lr", "policy_lr", "momentum", "weight_decay", "auxiliary")
        for name in (*rates, "clip", "value_weight", "entropy_weight", "color_jitter", "mixup"):
            if not 0 <= getattr(self, name) <= LARGEST_RATE:
                raise InputError(f"{name}: expected 0 to {LARGEST_RATE:g}, got {getattr(self, name)}")
        if len(self.classifier_lr) != 2 or not all(0 <= rate <= LARGEST_RATE for rate in self.classifier_lr):
            raise InputError(
                f"classifier_lr: expected two numbers from 0 to {LARGEST_RATE:g}, got {self.classifier_lr}"
            )
        for name in ("gamma", "flip", "vertical_flip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"scale: expected two shares of the area, the smaller first, got {self.scale}")
        for name, hint in get_type_hints(TrainConfig).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                raise InputError(f"{name}: expected {_says(hint)}, got {getattr(self, name)!r}")


_RESNET = TrainConfig()
# What replaces them for networks that begin with pretrained weights; tuned on some 1,400 photographs.
FINE_TUNING: dict[str, Any] = {
    "epochs": (6, 5, 5, 2),
    "batch": 32,
    "optimizer": "adamw",
    "thumbnail_lr": 3e-4,
    "backbone_lr": 2e-4,
    "classifier_lr": (2e-4, 1e-4),
    "weight_decay": 0.01,
    "freeze": 0.3,
    "batch_norm": "running",
    "smoothing": 0.1,
    "local_from_global": True,
    "train_global": False,
    "auxiliary": 1.0,
    "action_std": 0.2,
    "ppo_epochs": 4,
    "reward": "contrast",
    "scale": (0.4, 1.0),
}
_FROZEN = TrainConfig(backbone_lr=0.005, auxiliary=5.0, train_global=False)
FAMILIES: dict[str, TrainConfig] = {
    "resnet": _RESNET,
    "densenet": _RESNET,
    "regnet": TrainConfig(backbone_lr=0.02, weight_decay=5e-5),
    "efficientnet": replace(_FROZEN, epochs=(0, 30, 15, 30)),
    "mobilenetv3": replace(_FROZEN, epochs=(0, 90, 15, 90)),
}


# How the released configurations of a family read feature maps and classify.
_WIDE = {"policy": "linear", "policy_hidden": 2048, "policy_width": 1024}
FORMS: dict[str, dict[str, Any]] = {
    "resnet": _WIDE,
    "densenet": _WIDE,
    "regnet": {"glance_head": True},
    "efficientnet": {"classifier": "cascaded"},
    "mobilenetv3": {"classifier": "cascaded"},
}

# Backbones of which more is known than their family, whoever hands out their weights.
_HALF = (0.5, 0.5, 0.5)
BACKBONES: dict[str, dict[str, Any]] = {
    f"timm/tf_efficientnet_lite{size}": {**FORMS["efficientnet"], "mean": _HALF, "std": _HALF}
    for size in range(3)
}


def family_of(backbone: str) -> str:
    """The family in a backbone's name (``timm/tf_efficientnet_b2``, ``torchvision/mobilenet_v3_large``).

    "resnet" where the name holds none.
    """
    name = backbone.rsplit("/", 1)[-1].replace("_", "")
    return next((family for family in FAMILIES if family in name), "resnet")


def family_config(backbone: str, **overrides: Any) -> TrainConfig:
    """The published hyper-parameters of a backbone's family (ResNet's for others), with some replaced."""
    return replace(FAMILIES[family_of(backbone)], **overrides)


def form_of(backbone: str) -> dict[str, Any]:
    """Fields of the configuration of a network on `backbone` that is not a released one.

    The form is its family's. Mean and standard deviation are those that its weights were trained with, of a
    timm backbone as timm says them; where nobody does they are left out. Raises InputError on weights that
    timm does not know (``timm/NAME.TAG``).
    """
    if backbone in BACKBONES:
        return BACKBONES[backbone]
    form, (source, _, name) = FORMS[family_of(backbone)], backbone.partition("/")
    if source != "timm":
        return form
    import timm

    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise InputError(
            f"backbone: expected weights that timm knows, got {name}: {reason(error)}"
        ) from error
    return form if known is None else {**form, "mean": known.mean, "std": known.std}


def model_config(
    backbone: str,
    patch_size: int,
    steps: int,
    image_size: int | tuple[int, int],
    classes: int,
    /,
    **overrides: Any,
) -> GFNetConfig:
    """The network to train: the released one of these sizes, or one as :func:`form_of` says.

    Of images that are not square it sees all, unless `overrides` have a `crop_ratio`.
    """
    if odd := sorted({"backbone", "patch_size", "steps", "image_size", "classes", "macs"} & overrides.keys()):
        raise InputError(f"model: expected fields that nothing else says, got {', '.join(odd)}")
    image_size = checked_size(image_size)
    sizes = (backbone, patch_size, steps, image_size)
    for known in RELEASED:
        if sizes == (known.backbone, known.patch_size, known.steps, known.image_size):
            return known.replace(classes=classes, **overrides)
    whole = {"crop_ratio": None} if isinstance(image_size, tuple) else {}
    form = {"name": backbone.rsplit("/", 1)[-1], **form_of(backbone), **whole, **overrides}
    name = form.pop("name")
    return GFNetConfig(name, backbone, patch_size, steps, image_size, classes=classes, **form)


def checked(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values for a dataclass's fields by their declared types; text is read as the field's type.

    Numbers with commas between are a tuple, and JSON a mapping. InputError, which begins with `where`, says
    which field is unknown or which value does not fit.
    """
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    if unknown := sorted(set(values) - set(known)):
        raise InputError(f"{where}: expected some of {', '.join(known)}, got {', '.join(unknown)}")
    return {name: _as(hints[name], value, f"{where}: {name}") for name, value in values.items()}


def _as(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    wrong = InputError(f"{where}: expected {_says(hint)}, got {shown(value)}")
    if origin is Literal:
        if value in args:
            return value
        raise wrong
    if origin is UnionType:
        for arg in args:
            with suppress(InputError):
                return _as(arg, value, where)
        raise wrong
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)) or len(parts) != len(args):
            raise wrong
        return tuple(_as(arg, part, where) for arg, part in zip(args, parts, strict=True))
    if hint is str:
        if isinstance(value, str):
            return value
        raise wrong
    if isinstance(value, str):
        try:
            value = parse_json(f"0{value}" if hint is float and value.startswith(".") else value)
        except ValueError:
            raise wrong from None
    if type(value) is int and abs(value) > LARGEST:
        raise wrong
    if hint is float and type(value) is int:
        return float(value)
    plain = dict if origin is not None and issubclass(origin, Mapping) else hint
    if type(value) is not plain:
        raise wrong
    return value


def _says(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is UnionType:
        return " or ".join(_says(arg) for arg in args)
    if origin is tuple:
        return f"{len(args)} values ({', '.join(_says(arg) for arg in args)})"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
    return names.get(hint, "a JSON object")
