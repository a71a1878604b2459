"""The native folder: config.json, model.safetensors and, where there are some, thresholds.json.

config.json holds ``{"schema_version": 1, "config": {...}, "labels": [...] or null}``. thresholds.json is
a calibration (see :mod:`gfnet_fast.exits.files`), or a bare table of which no costs are known:
``{"schema_version": 1, "thresholds": [[...], ...], "default_row": i}``, rows of T exit thresholds,
cheapest first, the last of each -1e8.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gfnet_fast.checkpoints.tensors import assemble
from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import CheckpointError
from gfnet_fast.exits import Calibration, ModelIdentity, load_calibration, save_calibration
from gfnet_fast.model.gfnet import GFNet

SCHEMA_VERSION = 1


def save(model: GFNet, folder: str | os.PathLike[str]) -> None:
    """Write `model` as a native folder; each file appears whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, t in model.state_dict().items()
    }
    head = {
        "schema_version": SCHEMA_VERSION,
        "config": model.config.to_dict(),
        "labels": None if model.labels is None else list(model.labels),
    }
    _replace(folder / "model.safetensors", lambda path: save_file(state, path))
    _replace(folder / "config.json", lambda path: path.write_text(json.dumps(head, indent=1) + "\n"))
    target = folder / "thresholds.json"
    if model.calibration is not None and model.calibration.mean_macs is not None:
        save_calibration(model.calibration, target)
    elif model.thresholds is not None:
        table = {
            "schema_version": SCHEMA_VERSION,
            "default_row": model.default_row,
            "thresholds": model.thresholds.tolist(),
        }
        _replace(target, lambda path: path.write_text(json.dumps(table, indent=1) + "\n"))
    else:
        target.unlink(missing_ok=True)


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    part = path.with_name(path.name + ".part")
    write(part)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


def read(folder: Path, config: GFNetConfig | None = None) -> GFNet:
    """The model that :func:`save` wrote; CheckpointError where the folder is not one."""
    head = _read_json(folder / "config.json")
    own = GFNetConfig.from_dict(_expect(head, "config", dict, folder / "config.json"))
    if config is not None and config.replace(macs=own.macs) != own:
        raise CheckpointError(f"{folder}: expected the configuration {config}, got {own}")
    weights = folder / "model.safetensors"
    try:
        state = load_file(weights)
    except FileNotFoundError as error:
        raise CheckpointError(f"{weights}: expected a file, got nothing there") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{weights}: expected a safetensors file, got one that fails: {error}"
        ) from error
    model = assemble(weights, own, state)
    if (labels := head.get("labels")) is not None:
        if not isinstance(labels, list) or len(labels) != own.classes:
            got = len(labels) if isinstance(labels, list) else type(labels).__name__
            raise CheckpointError(
                f"{folder / 'config.json'}: labels: expected {own.classes} names, got {got}"
            )
        model.labels = tuple(str(label) for label in labels)
    if (folder / "thresholds.json").exists():
        _read_thresholds(model, folder / "thresholds.json")
    return model


def _read_thresholds(model: GFNet, path: Path) -> None:
    table = _read_json(path)
    identity = ModelIdentity.of(model.config)
    if set(table) <= {"schema_version", "thresholds", "default_row"}:
        model.thresholds = check_table(path, _expect(table, "thresholds", list, path), model.config.steps)
        row = table.get("default_row", 0)
        if not isinstance(row, int) or not 0 <= row < len(model.thresholds):
            message = f"default_row: expected 0 to {len(model.thresholds) - 1}, got {row!r}"
            raise CheckpointError(f"{path}: {message}")
        model.default_row = row
        model.calibration = Calibration.from_table(identity, model.thresholds.numpy())
    else:
        calibration = load_calibration(path, identity)
        model.calibration = calibration
        model.thresholds = torch.from_numpy(calibration.thresholds.copy())
        model.default_row = calibration.default_row


def check_table(where: object, rows: Any, steps: int) -> torch.Tensor:
    """`rows` as float32 ``[R >= 1, T]`` without NaN, or CheckpointError."""
    try:
        table = torch.as_tensor(rows, dtype=torch.float32)
        if table.layout != torch.strided or table.is_meta:
            raise TypeError(f"a {table.layout} tensor on {table.device}")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"{where}: thresholds: expected rows of {steps} numbers, got {error}"
        ) from error
    if table.ndim != 2 or table.shape[1] != steps or len(table) == 0 or bool(table.isnan().any()):
        got = f"{list(table.shape)}{' with NaN' if bool(table.isnan().any()) else ''}"
        raise CheckpointError(f"{where}: thresholds: expected rows of {steps} numbers, got {got}")
    return table


def _read_json(path: Path) -> dict[str, Any]:
    try:
        head = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: expected a file, got nothing there") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got {error}") from error
    version = head.get("schema_version") if isinstance(head, dict) else None
    if version != SCHEMA_VERSION:
        raise CheckpointError(f"{path}: expected schema_version {SCHEMA_VERSION}, got {version!r}")
    return head


def _expect(values: dict[str, Any], key: str, kind: type, where: Path) -> Any:
    if not isinstance(values.get(key), kind):
        raise CheckpointError(
            f"{where}: {key}: expected a {kind.__name__}, got {type(values.get(key)).__name__}"
        )
    return values[key]
