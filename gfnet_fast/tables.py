"""Tables of measurements: CSV files whose rows are found again by a key."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Key = tuple[str, ...]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def merge_rows(
    path: Path,
    key: Sequence[str],
    fields: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    order: Callable[[Key], Any] = lambda key: key,
) -> None:
    """Write rows into a table, in order of their keys; those with the same key are replaced.

    The new table takes the old one's place at once: a reader sees one or the other.
    """
    table: dict[Key, Mapping[str, Any]] = {}
    for row in [*read_rows(path), *rows]:
        table[tuple(str(row[name]) for name in key)] = row
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(table[name] for name in sorted(table, key=order))
    part.replace(path)
