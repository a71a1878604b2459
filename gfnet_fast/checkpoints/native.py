"""The native folder: config.json, model.safetensors and, where there are some, thresholds.json.

config.json holds ``{"schema_version": 1, "config": {...}, "labels": [...] or null}``. thresholds.json is
a calibration (see :mod:`gfnet_fast.exits.files`), or a bare table of which no costs are known:
``{"schema_version": 1, "thresholds": [[...], ...], "default_row": i}``, rows of T exit thresholds,
cheapest first, the last of each -1e8. A calibration says by a digest which weights it belongs to; a bare
table is taken for that of the weights beside it. A model that has been quantised has more files, see
:mod:`gfnet_fast.checkpoints.int8`.

model.safetensors holds the state dict. Floating-point tensors may be of any precision, each of its own;
they are read as float32.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from gfnet_fast.checkpoints.beginnings import what_else
from gfnet_fast.checkpoints.int8 import keep_int8, read_int8
from gfnet_fast.checkpoints.tensors import assemble, build
from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import BudgetError, CheckpointError, reason, shown
from gfnet_fast.exits import BudgetWarning, Calibration, ModelIdentity
from gfnet_fast.exits.files import check_owner, from_content, to_json
from gfnet_fast.files import json_text, open_regular, parse_json, read_text, write_bytes, write_text
from gfnet_fast.folder import CONFIG, INT8, THRESHOLDS, WEIGHTS
from gfnet_fast.model.gfnet import GFNet

SCHEMA_VERSION = 1

MAX_HEADER = 4 * 2**20
"""Bytes of the names, types and shapes in model.safetensors."""

MAX_ROWS = 65_536
"""Rows of thresholds."""

MAX_LABEL = 1024
"""Characters of a class's name."""

HALF_ERROR = 1e-3
"""Most that float16 may change a tensor: the norm of the change by its norm."""


def save(model: GFNet, folder: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write `model` as a native folder; each file appears whole or not at all.

    While it writes, the weights are three times in memory.

    Thresholds whose calibration is that of other weights, as after more training, are left out, those that
    were in the folder as well, and a BudgetWarning says so: the weights are written whatever has become of
    their thresholds, and a model without any takes all steps. ``gfnet-fast calibrate`` finds new ones. A
    table of one's own, ``model.thresholds``, is written where ``model.calibration`` is None. Networks in int8
    are treated likewise.

    Parameters
    ----------
    model : GFNet
    folder : path
        Made where there is none.
    half : bool
        Parameters in float16, but for those that would change by more than `HALF_ERROR`; these and all
        buffers, the statistics of batch norms among them, in float32.

    Raises
    ------
    CheckpointError
        A parameter holds numbers beyond float16, or the labels cannot be written. Nothing is written then.
    """
    folder = Path(folder)
    state = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, t in model.state_dict().items()
    }
    if half:
        buffers = {name for name, _ in model.named_buffers()}
        for name, t in state.items():
            if t.is_floating_point():
                state[name] = t.float() if name in buffers else _halved(name, t.float())
    head = {
        "schema_version": SCHEMA_VERSION,
        "config": model.config.to_dict(),
        "labels": None
        if model.labels is None
        else list(check_labels([*model.labels], model.config.classes) or ()),
    }
    texts = {CONFIG: json_text(head)}
    kept = keeps_thresholds(model, stacklevel=4)
    if kept and model.calibration is not None and model.calibration.mean_macs is not None:
        texts[THRESHOLDS] = to_json(model.calibration)
    elif kept and model.thresholds is not None:
        table = {
            "schema_version": SCHEMA_VERSION,
            "default_row": model.default_row,
            "thresholds": model.thresholds.tolist(),
        }
        texts[THRESHOLDS] = json_text(table)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / WEIGHTS, safetensors_bytes(state))
    for name, text in texts.items():
        write_text(folder / name, text)
    if THRESHOLDS not in texts:
        (folder / THRESHOLDS).unlink(missing_ok=True)
    keep_int8(model, folder, stacklevel=4)


def keeps_thresholds(model: GFNet, *, stacklevel: int) -> bool:
    """Whether a model's thresholds may be written with its weights; a BudgetWarning where they may not."""
    if model.calibration is not None:
        try:
            model.calibration.check_model(ModelIdentity.of(model))
        except BudgetError as error:
            warnings.warn(f"thresholds are left out: {error}", BudgetWarning, stacklevel)
            return False
    return True


def _halved(name: str, values: Tensor) -> Tensor:
    """float32 `values` in float16, or as they are where they would change too much."""
    halved = values.half()
    if bool(halved.isinf().any()):
        most, got = torch.finfo(torch.float16).max, float(values.abs().max())
        raise CheckpointError(f"{name}: expected numbers of at most {most:g} for float16, got {got:g}")
    norm, lost = (torch.linalg.vector_norm(t, dtype=torch.float64) for t in (values, values - halved))
    return values if bool(lost > HALF_ERROR * norm) else halved


def read(folder: Path, config: GFNetConfig | None = None, *, unread: str | None = None) -> GFNet:
    """The model that :func:`save` wrote; CheckpointError where the folder is not one.

    `unread`: a precision, "float32" or "int8", of whose thresholds nothing is read. BudgetError where others
    are no calibration, or that of other weights. Networks in int8 that were made of other weights are left
    out, with a BudgetWarning.
    """
    model = _read(folder, config)
    if unread != "float32" and os.path.lexists(folder / THRESHOLDS):
        _read_thresholds(model, folder / THRESHOLDS)
    if os.path.lexists(folder / INT8):
        model.quantised = read_int8(model, folder, thresholds=unread != "int8")
    return model


def _read(folder: Path, config: GFNetConfig | None) -> GFNet:
    """Without thresholds, and in float32 only."""
    head = _read_json(folder / CONFIG)
    values = _expect(head, "config", dict, folder / CONFIG)
    try:
        own = GFNetConfig.from_dict(values)
        labels = check_labels(head.get("labels"), own.classes)
    except CheckpointError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from None
    if config is not None and config.replace(macs=own.macs) != own:
        raise CheckpointError(f"{folder}: expected the configuration {config}, got {own}")
    weights = folder / WEIGHTS
    model = assemble(weights, own, build(folder / CONFIG, own), read_weights(weights))
    model.labels = labels
    return model


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU and in memory of their own, or CheckpointError.

    The file is read, not mapped: what becomes of it later changes no weight. While it is read its tensors
    are twice in memory.
    """
    try:
        with open_regular(path) as file:
            head = file.read(1024)
            size = int.from_bytes(head[:8], "little")
            if words := None if head[8:9] == b"{" else what_else(head):
                raise ValueError(words)
            if size > MAX_HEADER:
                raise ValueError(f"a header of {size} bytes, more than {MAX_HEADER}")
            file.seek(0)
            return parse_safetensors(file.read())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected a file, got nothing there") from None
    except Exception as error:  # a damaged file fails in whatever way its bytes lead to
        raise CheckpointError(f"{path}: expected a safetensors file, got {reason(error)}") from None


def check_labels(values: Any, classes: int) -> tuple[str, ...] | None:
    """`values` as the names of `classes` classes; None for none. CheckpointError where they are others."""
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != classes:
        got = len(values) if isinstance(values, list) else type(values).__name__
        raise CheckpointError(f"labels: expected {classes} names, got {got}")
    expected = f"labels: expected texts of at most {MAX_LABEL} characters"
    for value in values:
        surrogate = isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)
        if not isinstance(value, str) or len(value) > MAX_LABEL or surrogate:
            raise CheckpointError(f"{expected} that can be written, got {shown(value)}")
    return tuple(values)


def _read_thresholds(model: GFNet, path: Path) -> None:
    table = _read_json(path)
    identity = ModelIdentity.of(model)
    if set(table) <= {"schema_version", "thresholds", "default_row"}:
        model.thresholds = check_table(path, _expect(table, "thresholds", list, path), model.config.steps)
        row = table.get("default_row", 0)
        if type(row) is not int or not 0 <= row < len(model.thresholds):
            message = f"default_row: expected 0 to {len(model.thresholds) - 1}, got {shown(row)}"
            raise CheckpointError(f"{path}: {message}")
        model.default_row = row
        model.calibration = Calibration.from_table(identity, model.thresholds.numpy())
    else:
        calibration = from_content(table, identity, where=str(path))
        check_owner(calibration, identity, where=str(path))
        model.calibration = calibration
        model.thresholds = torch.from_numpy(calibration.thresholds.copy())
        model.default_row = calibration.default_row


def check_table(where: object, rows: Any, steps: int) -> Tensor:
    """`rows` as float32 ``[R >= 1, T]`` without NaN, or CheckpointError.

    A dense tensor of numbers, or a list of at most `MAX_ROWS` lists of numbers.
    """
    try:
        if not isinstance(rows, Tensor):
            table = torch.tensor(_lists(rows, steps), dtype=torch.float32, device="cpu")
        elif rows.is_complex():
            raise TypeError(f"a tensor of {rows.dtype}")
        else:
            table = rows.detach().to(torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        expected = f"rows of {steps} numbers"
        raise CheckpointError(f"{where}: thresholds: expected {expected}, got {reason(error)}") from None
    with_nan = bool(table.isnan().any())
    if table.ndim != 2 or table.shape[1] != steps or not 1 <= len(table) <= MAX_ROWS or with_nan:
        got = f"{list(table.shape)}{' with NaN' if with_nan else ''}"
        raise CheckpointError(f"{where}: thresholds: expected rows of {steps} numbers, got {got}")
    return table


def _lists(rows: Any, steps: int) -> list[list[float]]:
    if not isinstance(rows, (list, tuple)) or len(rows) > MAX_ROWS:
        raise TypeError(shown(rows))
    for row in rows:
        numbers = isinstance(row, (list, tuple)) and all(isinstance(value, (int, float)) for value in row)
        if not numbers or len(row) != steps:
            raise TypeError(f"a row {shown(row)}")
    return [[float(value) for value in row] for row in rows]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected a file, got nothing there") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {reason(error)}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: expected a text in UTF-8, got {reason(error)}") from None
    try:
        head = parse_json(text)
    except ValueError as error:
        words = None if text.lstrip()[:1] == "{" else what_else(text[:400].encode("utf-8", "replace"))
        raise CheckpointError(f"{path}: expected JSON, got {words or reason(error)}") from None
    version = head.get("schema_version") if isinstance(head, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        raise CheckpointError(f"{path}: expected schema_version {SCHEMA_VERSION}, got {shown(version)}")
    return head


def _expect(values: dict[str, Any], key: str, kind: type, where: Path) -> Any:
    if not isinstance(values.get(key), kind):
        raise CheckpointError(
            f"{where}: {key}: expected a {kind.__name__}, got {type(values.get(key)).__name__}"
        )
    return values[key]
