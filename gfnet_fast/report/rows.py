"""Rows of benchmarks and of training: read from files, and checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gfnet_fast import tables
from gfnet_fast.errors import InputError, reason, shown
from gfnet_fast.files import parse_json, read_text
from gfnet_fast.text import plain

Row = Mapping[str, Any]

BENCH = ("model", "way", "images_per_second", "mean_macs", "accuracy")
TRAINING = ("stage", "epoch")
CURVES = ("loss", "accuracy", "reward", "heldout")
"""What training may report by step: a number, or a list of them."""
# What is drawn or shown as a number; the second ones may be missing.
NUMBERS = {
    BENCH: (
        BENCH[2:],
        ("budget_macs", "mean_steps", "accuracy_low", "accuracy_high", "p25_ms", "p50_ms", "p75_ms", "ideal",
         "agreement"),
    ),
    TRAINING: (TRAINING, ("seconds", *CURVES)),
}  # fmt: skip
LARGEST = 1e18
MOST_STEPS = 100


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .csv or .jsonl file, of a benchmark or of training.

    Raises InputError on another file, on rows of neither kind, and on numbers that cannot be drawn.
    """
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise InputError(f"{path}: expected a .csv or .jsonl file, got {path.suffix or 'no suffix'}")
    if not path.exists():
        raise InputError(f"{path}: expected a file, got none of that name")
    if path.suffix.lower() == ".csv":
        rows = tables.read_rows(path)
    else:
        try:
            rows = [parse_json(line) for line in read_text(path).splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: expected a JSON object a line, got {reason(error)}") from None
    for number, row in enumerate(rows, 1):
        check_row(row, f"{path}: row {number}")
    if not rows:
        raise InputError(f"{path}: expected rows, got none")
    return rows


def check_row(row: Any, where: str) -> None:
    """Raise InputError on a row of neither kind, or with a number that cannot be drawn."""
    kind = next((kind for kind in NUMBERS if isinstance(row, dict) and set(kind) <= set(row)), None)
    if kind is None:
        expected = f"columns {', '.join(BENCH)} of a benchmark, or {' and '.join(TRAINING)} of training"
        raise InputError(f"{where}: expected {expected}, got others")
    needed, others = NUMBERS[kind]
    for name in (*needed, *(name for name in others if row.get(name) not in (None, ""))):
        many = kind is TRAINING and name in CURVES and isinstance(row[name], list)
        check_numbers(row[name] if many else [row[name]], f"{where}: {name}")
    for share in str(row.get("shares") or 0).split("/") if kind is BENCH else ():
        if not _can_be_drawn(share):
            raise InputError(f"{where}: shares: expected numbers with / between, got {shown(row['shares'])}")


def check_numbers(values: Any, where: str) -> list[float]:
    """A list of 1 to 100 numbers that can be drawn, as floats; else InputError."""
    if not isinstance(values, list) or not 1 <= len(values) <= MOST_STEPS:
        got = len(values) if isinstance(values, list) else shown(values)
        raise InputError(f"{where}: expected 1 to {MOST_STEPS} numbers, got {got}")
    if odd := [value for value in values if not _can_be_drawn(value)]:
        expected = f"a number from {-LARGEST:g} to {LARGEST:g}"
        raise InputError(f"{where}: expected {expected}, got {shown(odd[0])}")
    return [float(value) for value in values]


def is_bench(row: Row) -> bool:
    """Whether a checked row is of a benchmark; otherwise it is of training."""
    return set(BENCH) <= set(row)


def told(row: Row, names: Iterable[str]) -> dict[str, str]:
    """Some texts of a row, as a page shows them; empty where they are missing."""
    return {name: plain(str(row.get(name, ""))) for name in names}


def _can_be_drawn(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False
    try:
        return abs(float(value)) <= LARGEST  # not so for NaN
    except (ValueError, OverflowError):
        return False
