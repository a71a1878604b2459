"""What torch.save wrote, read without running anything, in memory that the file's own size bounds.

Both containers are read: the zip archive, and what came before it (torch < 1.6). Torch's own ``weights_only``
is not used, since it takes sizes at their word: strides of 0, ``bytearray(n)``, packed records.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

from gfnet_fast.checkpoints.beginnings import what_else
from gfnet_fast.checkpoints.machine import Machine, Refused
from gfnet_fast.errors import CheckpointError, reason
from gfnet_fast.files import open_regular

MAX_PICKLE = 8 * 2**20
"""Bytes of the pickle, which holds everything but the tensors' numbers."""

MAX_DIRECTORY = 8 * 2**20
"""Bytes of the archive's list of records."""

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def unpickle(path: Path) -> Any:
    """The plain values and tensors in a file that torch.save wrote, in one of its two containers.

    Tensors are on the CPU, in memory of their own. CheckpointError says what else the file is, or what it
    asks for.
    """
    try:
        with open_regular(path) as file:
            head = file.read(1024)
            file.seek(0)
            return _from_archive(file) if head.startswith(b"PK\x03\x04") else _from_stream(file, head)
    except Refused as error:
        got = f"a file that cannot be read without running code ({error})"
        raise CheckpointError(f"{path}: expected only tensors and plain values, got {got}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: expected a file that torch.save wrote, got {error}") from None
    except Exception as error:  # a damaged file fails in whatever way its bytes lead to
        got = f"a damaged one ({reason(error)})"
        raise CheckpointError(f"{path}: expected a file that torch.save wrote, got {got}") from None


class _Directory:
    """A file whose reads are small while zipfile reads its directory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.opened = file, False
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if not self.opened and size > MAX_DIRECTORY:
            raise ValueError(f"expected a directory of at most {MAX_DIRECTORY} bytes, got {size}")
        return self._file.read(size)


def _from_archive(file: BinaryIO) -> Any:
    whole = os.fstat(file.fileno()).st_size
    directory = _Directory(file)
    with zipfile.ZipFile(directory) as archive:  # type: ignore[arg-type]
        directory.opened = True
        records = {info.filename: info for info in archive.infolist()}
        if any(info.compress_type or info.flag_bits & 1 for info in records.values()):
            raise CheckpointError("one with packed records")
        if len(records) != len(archive.infolist()) or sum(r.file_size for r in records.values()) > whole:
            raise CheckpointError("one whose records overlap")
        pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError(f"an archive with {len(pickles)} records NAME/data.pkl")
        folder = pickles[0].rpartition("/")[0]

        def read(name: str) -> bytearray:
            memory = bytearray(records[name].file_size)
            with archive.open(records[name]) as record:
                if cast(BinaryIO, record).readinto(memory) != len(memory):  # type: ignore[attr-defined]
                    raise ValueError(f"{name} is cut off")
            return memory

        if f"{folder}/byteorder" in records:
            _check_order(read(f"{folder}/byteorder")[:10] == b"little")
        if records[pickles[0]].file_size > MAX_PICKLE:
            raise CheckpointError(f"one with a pickle of {records[pickles[0]].file_size} bytes")
        found: dict[str, bytearray] = {}

        def storage(key: str, size: int) -> bytearray:
            if key not in found:
                found[key] = read(f"{folder}/data/{key}")
            if len(found[key]) < size:
                raise ValueError(f"data/{key}: expected {size} bytes, got {len(found[key])}")
            return found[key]

        return Machine(storage).run(io.BytesIO(read(pickles[0])))


def _from_stream(file: BinaryIO, head: bytes) -> Any:
    """The older container: five pickles, then the storages in the order that the last of them says."""
    if words := what_else(head):
        raise CheckpointError(words)
    left = os.fstat(file.fileno()).st_size
    pickles = io.BytesIO(file.read(MAX_PICKLE))
    found: dict[str, bytearray] = {}

    def storage(key: str, size: int) -> bytearray:
        nonlocal left
        if key not in found:
            if size > left:
                raise ValueError(f"storage {key}: expected at most the file's {left} bytes, got {size}")
            found[key], left = bytearray(size), left - size
        if len(found[key]) != size:
            raise ValueError(f"storage {key}: expected one size, got {size} and {len(found[key])}")
        return found[key]

    machine = Machine(storage)
    if machine.run(pickles) != _MAGIC or machine.run(pickles) != _PROTOCOL:
        raise CheckpointError("a pickle of another kind")
    system = machine.run(pickles)
    _check_order(isinstance(system, dict) and system.get("little_endian") is True)
    content, order = machine.run(pickles), machine.run(pickles)
    named = isinstance(order, list) and all(isinstance(key, str) for key in order)
    if not named or len(order) != len(found) or set(order) != set(found):
        raise ValueError("expected a list of all its storages, got another")
    file.seek(pickles.tell())
    for key in order:
        memory = found[key]
        count = int.from_bytes(file.read(8), "little")
        if count * machine.types[key].itemsize != len(memory) or file.readinto(memory) != len(memory):  # type: ignore[attr-defined]
            raise ValueError(f"storage {key}: expected {len(memory)} bytes, got others")
    return content


def _check_order(little: bool) -> None:
    if not little or sys.byteorder != "little":
        raise CheckpointError("one in another byte order")
