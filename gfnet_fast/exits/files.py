"""A calibration as a JSON file, ``thresholds.json`` in a native model folder."""

from __future__ import annotations

import base64
import json
import os
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from gfnet_fast.errors import BudgetError, reason, shown
from gfnet_fast.exits.calibration import CALIBRATE, Calibration
from gfnet_fast.exits.identity import CostTable, ModelIdentity
from gfnet_fast.exits.rule import BudgetWarning, as_numbers
from gfnet_fast.files import parse_json, read_text, write_text

SCHEMA_VERSION = 1

MAX_NOTES = 1000


def to_json(calibration: Calibration) -> str:
    """A calibration as JSON text; every number comes back bit-equal from :func:`from_json`."""
    c = calibration
    accuracy = None if c.accuracy is None else [None if np.isnan(a) else a for a in c.accuracy.tolist()]
    cost = c.cost and {
        "device": c.cost.device, "milliseconds": list(c.cost.milliseconds), "settings": c.cost.settings,
    }  # fmt: skip
    content = {
        "schema_version": SCHEMA_VERSION,
        "model": {
            "name": c.model.name, "patch_size": c.model.patch_size,
            "steps": c.model.steps, "macs": list(c.model.macs),
            "weights": c.model.weights, "precision": c.model.precision,
        },
        "data": {"hash": c.data_hash, "count": c.count},
        "source": c.source,
        "notes": list(c.notes),
        "cost": cost,
        "default_row": c.default_row,
        "thresholds": c.thresholds.tolist(),
        "mean_macs": None if c.mean_macs is None else c.mean_macs.tolist(),
        "shares": None if c.shares is None else c.shares.tolist(),
        "accuracy": accuracy,
        "harm": None if c.harm is None else c.harm.tolist(),
        "sample": None if c.sample is None else base64.b64encode(c.sample.astype("<f4").tobytes()).decode(),
    }  # fmt: skip
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_json(text: str, model: ModelIdentity | None = None, *, where: str = "calibration") -> Calibration:
    """The calibration in a JSON text.

    A bare table, with nothing but ``schema_version``, ``thresholds`` and perhaps ``default_row``, is taken
    for that of `model`, as :meth:`Calibration.from_table` takes it.

    Raises BudgetError, beginning with `where`, on text that is not JSON, another schema version, missing
    or unknown fields, NaN, and everything that :class:`Calibration` refuses.
    """
    try:
        content = parse_json(text)
    except ValueError as error:
        raise BudgetError(f"{where}: expected JSON, got {reason(error)}") from None
    return from_content(content, model, where=where)


def from_content(content: Any, model: ModelIdentity | None, *, where: str) -> Calibration:
    """The calibration in what a JSON text says; see :func:`from_json`."""
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        raise BudgetError(f"{where}: expected schema_version {SCHEMA_VERSION}, got {shown(version)}")
    try:
        if model is not None and set(content) <= {"schema_version", "thresholds", "default_row"}:
            return Calibration.from_table(model, content["thresholds"])
        return _read(content)
    except BudgetError as error:
        raise BudgetError(f"{where}: {error}") from None
    except Exception as error:  # a table of another shape fails in whatever way it is read
        raise BudgetError(f"{where}: not a calibration ({type(error).__name__}: {reason(error)})") from None


def save_calibration(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Write a calibration; the file appears whole or not at all."""
    write_text(path, to_json(calibration))


def load_calibration(path: str | os.PathLike[str], model: ModelIdentity | None = None) -> Calibration:
    """Read a calibration, of `model` where it is given.

    A file that does not say which weights it belongs to is taken for that of `model`, and a BudgetWarning
    says so.

    Raises BudgetError on a file that is not there or not readable, on everything that :func:`from_json`
    refuses, and on the calibration of another model or other weights.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise BudgetError(
            f"{path}: no calibration can be read ({reason(error)}); make one with `gfnet-fast calibrate`"
        ) from None
    calibration = from_json(text, model, where=str(path))
    return calibration if model is None else assigned(calibration, model, where=str(path), stacklevel=3)


def check_owner(calibration: Calibration, model: ModelIdentity, *, where: str) -> None:
    """:meth:`Calibration.check_model`, its error beginning with `where`."""
    try:
        calibration.check_model(model)
    except BudgetError as error:
        raise BudgetError(f"{where}: {error}") from None


def assigned(calibration: Calibration, model: ModelIdentity, *, where: str, stacklevel: int) -> Calibration:
    """A calibration as that of `model`; a BudgetWarning where it does not say of which weights it is.

    Raises BudgetError, beginning with `where`, on the calibration of another model or other weights.
    """
    check_owner(calibration, model, where=where)
    if calibration.model.weights is None and model.weights is not None:
        expected = "expected the digest of the weights it belongs to, got none; it is taken for that of these"
        remedy = f"{CALIBRATE} if they were trained since, or else save the model once more"
        warnings.warn(f"{where}: {expected}: {remedy}", BudgetWarning, stacklevel)
        return replace(calibration, model=model)
    return calibration


def _read(content: dict[str, Any]) -> Calibration:
    known = {
        "schema_version",
        "model",
        "data",
        "source",
        "notes",
        "cost",
        "thresholds",
        "mean_macs",
        "shares",
    }
    if unknown := sorted(set(content) - known - {"accuracy", "harm", "sample", "default_row"}):
        raise BudgetError(f"expected only known fields, got {shown(unknown)}")
    model = ModelIdentity(**content["model"])
    accuracy, sample, cost = content["accuracy"], content["sample"], content["cost"]
    if accuracy is not None:
        accuracy = as_numbers("accuracy", [np.nan if a is None else a for a in accuracy])
    if sample is not None:
        raw = base64.b64decode(sample, validate=True)
        sample = np.frombuffer(raw, "<f4").reshape(model.steps, -1).astype(np.float32)
    if not isinstance(content["notes"], list) or len(content["notes"]) > MAX_NOTES:
        raise BudgetError(f"notes: expected at most {MAX_NOTES} texts, got {shown(content['notes'])}")
    return Calibration(
        model,
        content["thresholds"],
        mean_macs=content["mean_macs"],
        shares=content["shares"],
        accuracy=accuracy,
        harm=content.get("harm"),
        count=_count(content["data"]["count"]),
        data_hash=_text("hash", content["data"]["hash"]),
        source=_text("source", content["source"]),
        cost=None
        if cost is None
        else CostTable(cost["device"], tuple(cost["milliseconds"]), cost["settings"]),
        sample=sample,
        notes=tuple(note if isinstance(note, str) else shown(note) for note in content["notes"]),
    )


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BudgetError(f"{name}: expected a text, got {shown(value)}")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise BudgetError(f"count: expected a number of images, got {shown(value)}")
    return value
