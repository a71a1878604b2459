"""What a run keeps on disk while it lasts: its settings, and a checkpoint from which it goes on exactly."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from gfnet_fast.errors import CheckpointError, InputError

SETTINGS, CHECKPOINT = "training.json", "checkpoint.pt"


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """A file that appears whole or not at all, and is on the disk when this returns."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    write_whole(path, lambda file: file.write((json.dumps(value, indent=1) + "\n").encode()))


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Raise InputError unless `folder` is new, empty, or of a run with the same settings.

    A run that has left nothing but its settings, before its first checkpoint, does not count.
    """
    path = folder / SETTINGS
    inside = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    begun = {SETTINGS, SETTINGS + ".part", *(["tensorboard"] if SETTINGS in inside else [])}
    if inside <= begun and (folder.is_dir() or not folder.exists()):
        return
    if SETTINGS not in inside:
        raise InputError(f"{folder}: expected a new folder, or one of a run to go on with, got another")
    try:
        known = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path}: expected the settings of a run, got {error}") from error
    theirs, ours = _flat(known), _flat(json.loads(json.dumps(settings)))
    odd = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if odd:
        lines = "; ".join(f"{name} {theirs.get(name)!r}, got {ours.get(name)!r}" for name in odd)
        raise InputError(f"{folder}: a run with other settings is in it: expected {lines}")


def _flat(values: Any, name: str = "") -> dict[str, Any]:
    """Nested tables as one, with dots in its names."""
    if not isinstance(values, dict):
        return {name: values}
    prefix = f"{name}." if name else ""
    return {key: value for k, v in values.items() for key, value in _flat(v, f"{prefix}{k}").items()}


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    write_whole(folder / CHECKPOINT, lambda file: torch.save(content, file))


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """What :func:`save_checkpoint` wrote last, without running code of the file's; None before that."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in whatever way its bytes lead to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: expected a checkpoint of a run, got a damaged one ({reason})"
        ) from error
