"""The images below a folder or of a glob: one rule for what is predicted, measured and trained on.

Regular files with a suffix of :data:`~gfnet_fast.pictures.SUFFIXES`. Links are followed, to folders too; a
folder to which several paths lead, those of a loop among them, is entered by the first. Names that begin with
a dot and ``__MACOSX`` are left out, unless they are named.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from gfnet_fast.errors import InputError, reason
from gfnet_fast.pictures import SUFFIXES

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")

Key = tuple[int, int]  # a folder's device and inode
Found = Path | InputError  # the error is what kept a folder from being read


class _Seen(NamedTuple):
    """A path; of a folder also those it lies in, and of one that cannot be read why."""

    path: Path
    above: frozenset[Key] | None = None
    error: InputError | None = None


def is_folder_or_glob(text: str) -> bool:
    """Whether a path stands for many: it is a folder, or a pattern and neither a file's name nor a URL."""
    return os.path.isdir(text) or (glob.has_magic(text) and not os.path.lexists(text) and not is_url(text))


def is_url(text: str) -> bool:
    """Whether a text begins as a URL does, ``https://``, ``s3://``, ``data:``."""
    return _URL.match(text) is not None


def root(text: str) -> Path:
    """The folder that a folder's or a glob's images are below, or a file's own."""
    if os.path.isdir(text):
        return Path(text)
    return _split(text)[0] if is_folder_or_glob(text) else Path(text).parent


def may_find_in(text: str, folder: Path) -> bool:
    """Whether images in `folder`, or below it, can be among those of a folder or a glob `text`.

    Of links below `text` nothing is known.
    """
    place, top = Path(os.path.realpath(folder)), Path(os.path.realpath(root(text)))
    if not place.is_relative_to(top) or os.path.isdir(text):
        return place.is_relative_to(top)
    below, parts = place.relative_to(top).parts, _split(text)[1]
    if "**" in parts or ".." in parts:
        return True
    return len(below) < len(parts) and all(map(fnmatch.fnmatch, below, parts))


def find(text: str, inside: Path | None = None) -> Iterator[Found]:
    """The images of a folder or a glob, sorted by path, each path once; errors are in their places.

    A folder that is a part of `inside`, as a class is of a data set, does not lead back to that.
    """
    above: frozenset[Key] = _with(inside, frozenset()) if inside else frozenset()
    if os.path.isdir(text):
        seen: Iterable[_Seen] = _below(Path(text), above)  # in the order of the sorted paths
    else:
        seen = sorted({one.path: one for one in _matching(*_split(text), above)}.values())
    for one in seen:
        if one.error is not None:
            yield one.error
        elif one.above is None and _is_image(one.path):
            yield one.path


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, by name; InputError where it cannot be read."""
    return [folder / name for name, is_folder in _listed(folder) if is_folder and not _hidden(name)]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image(path: Path) -> bool:
    """Whether a path is to be read: what cannot be looked at is, and says so then."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError) as error:  # ValueError: a zero byte, or what no file system can hold
        return isinstance(error, PermissionError)


def _listed(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder, sorted, and whether each is a folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, _leads_to_folder(entry)) for entry in entries)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: expected a folder that can be read, got {reason(error)}") from None


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed
        return False


def _with(folder: Path, above: frozenset[Key]) -> frozenset[Key]:
    """`above` and this folder; the same where it is among them."""
    try:
        found = folder.stat()
    except (OSError, ValueError):  # listing it will say why
        return above | {(-1, len(above))}
    return above | {(found.st_dev, found.st_ino)}


def _below(folder: Path, above: frozenset[Key]) -> Iterator[_Seen]:
    """Everything below a folder that is not hidden, depth first, by names; each folder once."""
    if (within := _with(folder, above)) == above:
        return
    entered: set[Key] = set()
    under_way = [(within, _in(folder, within))]  # a list, for folders can be nested deeper than calls
    while under_way:
        within, rest = under_way[-1]
        one = next(rest, None)
        if one is None:
            under_way.pop()
        elif one.above is None or one.error is not None:
            yield one
        elif (new := (deeper := _with(one.path, within)) - within) and not new & entered:
            entered |= {key for key in new if key[0] >= 0}
            yield one
            under_way.append((deeper, _in(one.path, deeper)))


def _in(folder: Path, within: frozenset[Key], pattern: str = "*") -> Iterator[_Seen]:
    """What is in a folder and matches, hidden names only where the pattern begins with a dot too."""
    try:
        listed = _listed(folder)
    except InputError as error:
        yield _Seen(folder, within, InputError(str(error)))  # without the frames of the one that was raised
        return
    for name, is_folder in listed:
        if (pattern.startswith(".") or not _hidden(name)) and fnmatch.fnmatch(name, pattern):
            yield _Seen(folder / name, within if is_folder else None)


def _split(pattern: str) -> tuple[Path, tuple[str, ...]]:
    """The folder that a pattern names, and the rest of it, without ``**`` twice in a row."""
    parts = Path(pattern).parts
    fixed = next(k for k, part in enumerate(parts) if glob.has_magic(part))
    rest = [part for k, part in enumerate(parts) if k >= fixed and parts[k - 1 : k + 1] != ("**", "**")]
    return Path(*parts[:fixed]), tuple(rest)


def _matching(folder: Path, parts: tuple[str, ...], above: frozenset[Key]) -> Iterator[_Seen]:
    """What the parts of a pattern match below a folder; in any order, and more than once."""
    part, rest = parts[0], parts[1:]
    if not os.path.isdir(folder):
        return
    if part == "**":
        found: Iterable[_Seen] = _below(folder, above)
        if rest:
            yield from _matching(folder, rest, above)
    elif glob.has_magic(part):
        found = _in(folder, _with(folder, above), part)
    else:
        path = folder / part
        found = [_Seen(path, _with(folder, above) if os.path.isdir(path) else None)]
    for one in found:
        if one.error is not None or (not rest and one.above is None):
            yield one
        elif rest and one.above is not None:
            yield from _matching(one.path, rest, one.above)
