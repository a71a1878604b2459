"""Files as this package reads and writes them.

Read: regular files only, into memory of one's own, up to a limit that the reader names. Written: beside their
place, under a name that nobody can guess, and then renamed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

# Empty lists and tables take some forty times as much in memory.
MAX_JSON = 4 * 2**20

DRAFT = ".part"

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, open for reading; it never waits, as opening a pipe does. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a name with a zero byte, or one that no file system can hold
        raise OSError(f"expected the name of a file, got one that cannot be ({error})") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        got = next((words for is_kind, words in _KINDS if is_kind(mode)), "something else")
        raise OSError(f"expected a regular file, got {got}")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """All of a regular file; OSError where it is longer than `limit` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= limit else b""
        if len(content) > size:  # it has grown meanwhile, or is one of those that claim no size
            content += file.read(limit + 1 - len(content))
        if (size := max(size, len(content))) > limit:
            raise OSError(f"expected at most {limit} bytes, got {size}")
    return content


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Of a regular file, in hexadecimal digits; read a piece at a time. Raises OSError."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def read_text(path: str | os.PathLike[str], limit: int = MAX_JSON) -> str:
    """A text in UTF-8, whatever the locale says. Raises OSError, and ValueError where it is none."""
    return read_bytes(path, limit).decode("utf-8-sig")


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds. Raises OSError, and ValueError where it is not JSON."""
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """What a JSON text says; ValueError where it is none, NaN and what no float holds included."""
    try:
        return json.loads(text, parse_constant=_not_a_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("lists or tables nested too deeply") from None


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text[:20]} is more than a number can be")
    return number


def _not_a_number(name: str) -> None:
    raise ValueError(f"{name} is not a number here")


@contextmanager
def replacing(path: str | os.PathLike[str], *, keep: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends well, and is on the disk then.

    Until then it stands beside it as ``NAME.RANDOM.part``, made anew there, so that no link is followed and
    two writers do not meet. It has the permissions of the file whose place it takes, or the umask's. Where
    the block raises it is removed, or with `keep` left there (its path is the file's `name`).
    """
    path = Path(path)
    stem = os.fsdecode(os.fsencode(path.name)[:200])
    draft = path.with_name(f"{stem}.{secrets.token_hex(8)}{DRAFT}")
    try:
        with draft.open("xb") as file:  # fails at a link, whatever it points to
            try:
                before = path.stat(follow_symlinks=False)
                if stat.S_ISREG(before.st_mode):
                    os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            except FileNotFoundError:
                pass
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException as error:
        if not keep:
            draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise type(error)(error.errno, error.strerror, str(path)) from error  # of a write
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """A file that appears whole or not at all; see :func:`replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """A text in UTF-8; see :func:`replacing`."""
    write_bytes(path, text.encode())


def json_text(value: Any) -> str:
    """JSON with a line a value; ValueError for what it cannot say."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """JSON with a line a value; see :func:`replacing`."""
    write_text(path, json_text(value))
