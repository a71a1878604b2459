"""``split.csv``: which images of a folder were trained on, and which kept for thresholds or the report.

A row an image, of the part (train, heldout, val), the class, the path below the folder, and the run of
neighbours that it was drawn with. Names are bytes on a disk: what is not UTF-8, or does not print, is
``\\xNN`` by byte, and a backslash is two.
"""

from __future__ import annotations

import csv
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

from gfnet_fast.data.folder import Parts
from gfnet_fast.errors import InputError, reason, shown
from gfnet_fast.files import read_bytes, read_text, write_bytes, write_text

SPLIT = "split.csv"
PARTS = ("train", "heldout", "val")
COLUMNS = ("part", "class", "path", "run")
MAX_SPLIT = 2**30
"""Bytes of a split.csv: some ten million images."""

_ESCAPED = re.compile(rb"\\(?:x([0-9a-f]{2})|(\\))")


def write_split(folder: Path, parts: Parts, data: Path) -> None:
    """Write `folder`/split.csv of parts of `data`."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(COLUMNS)
    classes = [to_text(os.fsencode(name)) for name in parts.classes]
    for name, part in zip(PARTS, parts[1:], strict=True):
        below = os.fsencode(part.root.relative_to(data))
        inside = b"" if below == b"." else below + b"/"
        for image, label, run in zip(
            part.names.tolist(), part.labels.tolist(), part.runs.tolist(), strict=True
        ):
            rows.writerow([name, classes[label], to_text(inside + image), to_text(inside + run)])
    write_text(folder / SPLIT, out.getvalue())


@dataclass(frozen=True)
class Entry:
    """An image of a split: its part, class, and path below the folder."""

    part: str
    label: str
    path: str


def read_split(folder: Path) -> list[Entry] | None:
    """The rows of `folder`/split.csv, paths as the file system's functions take them; None where it has none.

    Raises InputError where it is not one.
    """
    path = folder / SPLIT
    try:
        header, *rows = [*csv.reader(io.StringIO(read_text(path, MAX_SPLIT), newline=""))] or [[]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: expected the split of a folder, got {reason(error)}") from error
    if tuple(header) != COLUMNS:
        raise InputError(f"{path}: expected the columns {', '.join(COLUMNS)}, got {shown(header)}")
    found = []
    for number, row in enumerate(rows, 2):
        name = to_bytes(row[2]) if len(row) == len(COLUMNS) else b""
        if row[:1] == [] or row[0] not in PARTS or not name or b"\0" in name or os.path.isabs(name):
            raise InputError(f"{path}: line {number}: expected part, class, path and run, got {shown(row)}")
        if b".." in name.split(b"/"):
            raise InputError(f"{path}: line {number}: expected a path below the folder, got {shown(row[2])}")
        found.append(Entry(row[0], os.fsdecode(to_bytes(row[1])), os.fsdecode(name)))
    return found


def carry_split(source: Path, target: Path) -> None:
    """Give a copy of a trained model the split of the model that it is of, where that has one."""
    if (source / SPLIT).is_file():
        write_bytes(target / SPLIT, read_bytes(source / SPLIT, MAX_SPLIT))


def to_text(name: bytes) -> str:
    r"""A name as text that :func:`to_bytes` reads back: ``b"a\n\xff\\"`` is ``a\x0a\xff\\``."""
    text = name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "".join(f"\\x{byte:02x}" for byte in c.encode()) for c in text)


def to_bytes(text: str) -> bytes:
    return _ESCAPED.sub(
        lambda found: bytes.fromhex(found[1].decode()) if found[1] else b"\\",
        text.encode("utf-8", "surrogateescape"),
    )
