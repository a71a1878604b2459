"""Where a command writes: nothing that it reads, or that a model is made of, is destroyed by it."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import typer

from gfnet_fast.files import replacing
from gfnet_fast.hub import locate
from gfnet_fast.text import say

_STDOUT = ("-", "/dev/stdout")


def check_file(
    option: str,
    path: Path,
    *,
    images: Iterable[str] = (),
    files: Iterable[Path] = (),
    model: str | None = None,
) -> None:
    """Raise a usage error where `path` cannot be written, or is something that the command reads.

    `images` are files, folders and globs of images, `files` other files, and `model` is a
    checkpoint. Pipes and devices may be written to.
    """
    if _is_direct(path):
        return
    if path.is_dir():
        raise _refused(option, "a file to write", f"the folder {path}")
    _check_parent(option, path)
    sources = list(images)
    if _is_among(path, _read_by(path, sources)) or _is_among(path, files):
        raise _refused(option, "another file than those that are read", str(path))
    if _would_be_read(path, sources):
        raise _refused(option, "a file that is not read as an image", f"{path}, beside those that are")
    if model is not None:
        _check_model(option, path, model)


def check_new(option: str, path: Path, *, model: str, folder: str | None = None) -> None:
    """Raise a usage error unless `path` can be made: by nothing's name, outside `model` and `folder`."""
    if os.path.lexists(path):
        raise _refused(option, "a path where nothing is yet", f"{path}, which exists")
    _check_parent(option, path)
    _check_model(option, path, model)
    if folder is not None and _is_inside(path, Path(folder)):
        raise _refused(option, f"a path outside {folder}, which is read", str(path))


def check_folder(
    option: str, path: Path, *, images: Iterable[str], model: str, output: Path | None = None
) -> None:
    """Raise a usage error unless `path` is a folder to fill: new or empty, of which nothing is read.

    `images` are files, folders and globs of images, `model` is a checkpoint and `output` another file that is
    written.
    """
    from gfnet_fast.walking import is_folder_or_glob, may_find_in

    place = Path(os.path.realpath(path))  # where a link leads
    if any(may_find_in(source, place) for source in images if is_folder_or_glob(source)):
        raise _refused(option, "a folder that no image is read from", str(path))
    if os.path.lexists(path):
        if not path.is_dir():
            raise _refused(option, "a folder", f"{path}, which is none")
        if not os.access(path, os.W_OK):
            raise _refused(option, "a folder that may be written into", str(path))
        if any(path.iterdir()):
            raise _refused(option, "a folder that is new or empty", f"{path}, which has something in it")
    else:
        _check_parent(option, path)
    _check_model(option, place, model)
    if output is not None and _place(output) == place:
        raise _refused(option, "another path than the output's", str(path))


@contextmanager
def opened(path: Path | None, *, keep: bool = False) -> Iterator[TextIO]:
    """Text to write: stdout (None or "-"), a pipe or a device, or a file in UTF-8 that appears at the end.

    Where the block fails an earlier file stays as it was, and with `keep` a line on stderr says where what
    has been written is.
    """
    if path is None or str(path) in _STDOUT:
        yield sys.stdout
    elif _is_direct(path):
        with path.open("w", encoding="utf-8", errors="backslashreplace") as device:
            yield device
    else:
        draft = None
        try:
            with replacing(path, keep=keep) as file:
                draft = Path(os.fspath(file.name))
                text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="\n", write_through=True)
                try:
                    yield text
                finally:
                    text.detach()  # `replacing` closes the file
        except BaseException:
            if draft is not None and keep:
                _tell(draft)
            raise


def _tell(draft: Path) -> None:
    """Say that a draft was kept, if there is something in it."""
    with suppress(OSError):
        if draft.stat().st_size:
            say(f"the results so far are in {draft}")
        else:
            draft.unlink()


def _refused(option: str, expected: str, got: str) -> typer.BadParameter:
    return typer.BadParameter(f"{option}: expected {expected}, got {got}")


def _check_parent(option: str, path: Path) -> None:
    if not path.parent.is_dir():
        raise _refused(option, "a folder that exists to write into", str(path.parent))
    if not os.access(path.parent, os.W_OK):
        raise _refused(option, "a folder that may be written into", str(path.parent))


def _check_model(option: str, path: Path, model: str) -> None:
    place = locate(model)
    inside = list(place.iterdir()) if place.is_dir() else [place]
    if _is_among(path, inside) or (place.is_dir() and _is_inside(path, place)):
        raise _refused(option, f"a path outside the model {model}", str(path))


def _is_direct(path: Path) -> bool:
    """Whether there is no file to replace: stdout, a pipe, a device."""
    if str(path) in _STDOUT:
        return True
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _read_by(path: Path, sources: list[str]) -> Iterator[Path]:
    """The files that sources of images are; folders are looked through only for a `path` that exists."""
    from gfnet_fast.walking import find, is_folder_or_glob

    for source in sources:
        if not is_folder_or_glob(source):
            yield Path(source)
        elif path.exists():
            yield from (found for found in find(source) if isinstance(found, Path))


def _would_be_read(path: Path, sources: list[str]) -> bool:
    """Whether a folder or a glob among `sources` takes in a file of that name."""
    from gfnet_fast.pictures import SUFFIXES
    from gfnet_fast.walking import is_folder_or_glob

    many = [source for source in sources if is_folder_or_glob(source)]
    return path.suffix.lower() in SUFFIXES and any(
        not os.path.isdir(source) or _is_inside(path, Path(source)) for source in many
    )


def _is_among(path: Path, others: Iterable[Path]) -> bool:
    """Whether one of `others` is the same file, by whatever name or link, or would be."""
    mine, place = _identity(path), _place(path)
    return any(_identity(other) == mine if mine else _place(other) == place for other in others)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _is_inside(path: Path, folder: Path) -> bool:
    return _place(path).is_relative_to(os.path.realpath(folder))


def _place(path: Path) -> Path:
    """Where a file of that name is made: links in its folder's path are followed, its own is replaced."""
    return Path(os.path.realpath(path.parent), path.name)
