"""Tables of measurements: CSV files whose rows are found again by a key."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gfnet_fast.errors import InputError

Row = Mapping[str, Any]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table; none where there is no file. Raises InputError on a file that is no table."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a table, got {error}") from None


def check_table(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a table that rows with these fields can go into; InputError where they cannot."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: expected a folder that exists to write into, got {path.parent}")
    rows = read_rows(path)
    if rows and set(rows[0]) != set(fields):
        raise InputError(f"{path}: expected a table of {', '.join(fields)}, got others; name another file")
    return rows


def merge_rows(
    path: Path,
    key: Sequence[str],
    fields: Sequence[str],
    rows: Iterable[Row],
    order: Callable[[Row], Any] | None = None,
) -> None:
    """Write rows into a table, in place of all that have the key of one of them; in order of the key.

    The new table takes the old one's place at once: a reader sees one or the other.
    """

    def key_of(row: Row) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in key)

    path.parent.mkdir(parents=True, exist_ok=True)
    new = list(rows)
    named = {key_of(row) for row in new}
    table = [row for row in check_table(path, fields) if key_of(row) not in named] + new
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(sorted(table, key=order or key_of))
    part.replace(path)
