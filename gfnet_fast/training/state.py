"""What a run keeps on disk while it lasts: its settings, and a checkpoint from which it goes on exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from gfnet_fast.checkpoints.official import read_content
from gfnet_fast.config import GFNetConfig
from gfnet_fast.data.split import SPLIT
from gfnet_fast.errors import CheckpointError, InputError, reason, shown
from gfnet_fast.files import DRAFT, read_json, replacing
from gfnet_fast.folder import CONFIG, THRESHOLDS, WEIGHTS

SETTINGS, CHECKPOINT, METRICS, EVALUATION = (
    "training.json",
    "checkpoint.pt",
    "metrics.jsonl",
    "evaluation.json",
)
PRETRAINED, OFFICIAL, FAILED = "pretrained.json", "official.pth.tar", "failed-stage"
MODEL = WEIGHTS, CONFIG, THRESHOLDS
_FILES = SETTINGS, PRETRAINED, SPLIT, CHECKPOINT, METRICS, EVALUATION, OFFICIAL, *MODEL


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Raise InputError unless `folder` is new, empty, or of a run with the same settings.

    A run that has left nothing but its settings and what it began with, before its first checkpoint, does
    not count.
    """
    path = folder / SETTINGS
    inside = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    inside -= {path.name for path in drafts(folder)}
    begun = {SETTINGS, *([PRETRAINED, SPLIT, "tensorboard"] if SETTINGS in inside else [])}
    if inside <= begun and (folder.is_dir() or not folder.exists()):
        return
    if SETTINGS not in inside:
        raise InputError(f"{folder}: expected a new folder, or one of a run to go on with, got another")
    known = _read_settings(path)
    theirs, ours = _flat(known), _flat(json.loads(json.dumps(settings)))
    odd = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if odd:
        lines = "; ".join(f"{name} {shown(theirs.get(name))}, got {shown(ours.get(name))}" for name in odd)
        raise InputError(f"{folder}: a run with other settings is in it: expected {lines}")


def load_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in a folder, once it has a checkpoint; None before that.

    Raises CheckpointError where they are none.
    """
    if not ((folder / CHECKPOINT).exists() and (folder / SETTINGS).exists()):
        return None
    known = _read_settings(folder / SETTINGS)
    try:
        model, pretrained = GFNetConfig.from_dict(known["model"]), known["pretrained"]
        if not isinstance(pretrained, str):
            raise TypeError(f"pretrained: {shown(pretrained)}")
    except (CheckpointError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / SETTINGS}: expected the settings of a run, got others ({reason(error)})"
        ) from error
    return {**known, "model": model.to_dict()}


def _read_settings(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected the settings of a run, got {reason(error)}") from error


def drafts(folder: Path) -> list[Path]:
    """Files of a run that it was killed in the middle of writing; nothing reads them."""
    if not folder.is_dir():
        return []
    names = tuple(f"{name}." for name in _FILES)
    found = [path for path in folder.iterdir() if path.name.endswith(DRAFT)]
    return [path for path in found if path.name.startswith((*names, FAILED))]


def _flat(values: Any, name: str = "") -> dict[str, Any]:
    """Nested tables as one, with dots in its names."""
    if not isinstance(values, dict):
        return {name: values}
    prefix = f"{name}." if name else ""
    return {key: value for k, v in values.items() for key, value in _flat(v, f"{prefix}{k}").items()}


def write_torch(path: Path, content: Any) -> None:
    """What torch.save writes, whole or not at all. Raises OSError."""
    with replacing(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # of the archive's end, which torch writes after a write has failed
            if isinstance(failed := error.__context__, OSError):
                raise OSError(failed.errno, failed.strerror, str(path)) from error
            raise


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    write_torch(folder / CHECKPOINT, content)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """What :func:`save_checkpoint` wrote last, without running code of the file's; None before that."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    return read_content(path)
