"""Tables of measurements: CSV files whose rows are found again by a key.

Names of models, machines and data come from elsewhere: a text that a spreadsheet would take for a formula has
an apostrophe before it in the file.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gfnet_fast.errors import InputError, reason
from gfnet_fast.files import read_text, write_bytes

Row = Mapping[str, Any]

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table; none where there is no file. Raises InputError on a file that is no table."""
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: expected a table, got {reason(error)}") from None
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise InputError(f"{path}: row {number}: expected as many cells as the head has, got others")
    return [{name: _unguarded(cell) for name, cell in row.items()} for row in rows]


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
    if odd := {name for row in new for name in row} - set(fields):
        raise InputError(f"{path}: expected rows of {', '.join(fields)}, got {', '.join(sorted(odd))}")
    named = {key_of(row) for row in new}
    table = [row for row in check_table(path, fields) if key_of(row) not in named] + new
    text = "".join(table_lines(fields, sorted(table, key=order or key_of)))
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def table_lines(fields: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
    """A table's text, a line at a time: the head, then the rows; what is None or missing stays empty."""
    yield line(fields)
    for row in rows:
        yield line([row.get(name, "") for name in fields])


def line(cells: Sequence[Any]) -> str:
    """Cells as a line of a CSV file: quoted where they have to be, and no text a formula."""
    text = io.StringIO(newline="")
    guarded = [_guarded(cell) for cell in cells]
    csv.writer(text, lineterminator="\r\n").writerow(guarded)  # cells with one of the two are quoted
    return text.getvalue().removesuffix("\r\n") + "\n"


def _guarded(cell: Any) -> Any:
    """A cell as it stands in a file; see :func:`_unguarded`."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) and not _is_number(cell) else cell


def _unguarded(cell: Any) -> Any:
    return cell[1:] if isinstance(cell, str) and cell[:1] == "'" and _FORMULA.match(cell) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
