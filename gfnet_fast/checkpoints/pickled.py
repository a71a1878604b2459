"""What torch.save wrote, read without running anything, in memory that the file's own size bounds.

A pickle is a small program for a stack machine. This one knows the few instructions that build plain values
and tensors, and no others: names of functions are compared with a list, never imported. Both containers are
read: the zip archive, and what came before it (torch < 1.6). Torch's own ``weights_only`` is not used, since
it takes sizes at their word: tensors whose strides are 0, ``bytearray(n)``, deflated records.
"""

from __future__ import annotations

import io
import math
import os
import pickletools
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from gfnet_fast.checkpoints.beginnings import what_else
from gfnet_fast.errors import CheckpointError, reason, shown
from gfnet_fast.files import open_regular

MAX_PICKLE = 8 * 2**20
"""Bytes of the pickle, which holds everything but the tensors' numbers."""

MAX_OPERATIONS = 2**20
"""Instructions of the pickle; a tensor takes some forty."""

MAX_DIRECTORY = 8 * 2**20
"""Bytes of the archive's list of records."""

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

_STORAGES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
    "torch ComplexFloatStorage": torch.complex64,
    "torch ComplexDoubleStorage": torch.complex128,
    "torch.storage UntypedStorage": torch.uint8,
}
_SCALARS = {kind: np.dtype(f"<{kind}") for kind in ("f4", "f8", "i4", "i8")}
_KEYS = (str, int, float, bytes, type(None))  # what hashes at once


class Refused(Exception):
    """The pickle asks for something that is not a plain value or a tensor."""


@dataclass(frozen=True)
class Unusable:
    """Stands for what torch could build and no model needs: a sparse tensor, a tensor without numbers."""

    kind: str


@dataclass(frozen=True)
class _Global:
    """A name in the file, "module name"; nothing is imported for it."""

    name: str


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    memory: bytearray

    def __len__(self) -> int:
        return len(self.memory) // self.dtype.itemsize


class _Mark:
    """Where on the stack an open list, tuple or table begins."""


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

        return _Machine(storage).run(io.BytesIO(read(pickles[0])))


def _from_stream(file: BinaryIO, head: bytes) -> Any:
    """The older container: five pickles, then the storages in the order that the last of them says."""
    if words := what_else(head):
        raise CheckpointError(words)
    whole = os.fstat(file.fileno()).st_size
    pickles = io.BytesIO(file.read(MAX_PICKLE))
    found: dict[str, tuple[bytearray, int]] = {}

    def storage(key: str, size: int) -> bytearray:
        if key not in found:
            if size + sum(len(memory) for memory, _ in found.values()) > whole:
                raise ValueError(f"storage {key}: expected at most the file's {whole} bytes, got {size}")
            found[key] = bytearray(size), size
        if len(found[key][0]) != size:
            raise ValueError(f"storage {key}: expected one size, got {size} and {len(found[key][0])}")
        return found[key][0]

    machine = _Machine(storage)
    if machine.run(pickles) != _MAGIC or machine.run(pickles) != _PROTOCOL:
        raise CheckpointError("a pickle of another kind")
    system = machine.run(pickles)
    _check_order(isinstance(system, dict) and system.get("little_endian") is True)
    content, order = machine.run(pickles), machine.run(pickles)
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(found):
        raise ValueError("expected a list of all its storages, got another")
    file.seek(pickles.tell())
    for key in order:
        memory = found[key][0]
        count = int.from_bytes(file.read(8), "little")
        if count * machine.types[key].itemsize != len(memory) or file.readinto(memory) != len(memory):  # type: ignore[attr-defined]
            raise ValueError(f"storage {key}: expected {len(memory)} bytes, got others")
    return content


def _check_order(little: bool) -> None:
    if not little or sys.byteorder != "little":
        raise CheckpointError("one in another byte order")


class _Machine:
    """Runs pickles; `storage` gives the memory behind a key, checked to be of at least so many bytes."""

    def __init__(self, storage: Callable[[str, int], bytearray]) -> None:
        self._storage = storage
        self.types: dict[str, torch.dtype] = {}
        self._count = 0

    def run(self, stream: io.BytesIO) -> Any:
        """The value of the pickle that begins where the stream is; leaves the stream at its end."""
        stack: list[Any] = []
        memo: dict[int, Any] = {}
        mark = _Mark()

        def since_mark() -> list[Any]:
            at = len(stack) - 1
            while stack[at] is not mark:
                at -= 1
                if at < 0:
                    raise ValueError("a list that was never opened")
            found = stack[at + 1 :]
            del stack[at:]
            return found

        for opcode, argument, _ in self._instructions(stream):
            name = opcode.name
            if name in _PUSHED:
                stack.append(argument)
            elif name in ("BINGET", "GET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name in ("BINPUT", "PUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name]())
            elif name == "MARK":
                stack.append(mark)
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                size = int(name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            elif name == "TUPLE":
                stack.append(tuple(since_mark()))
            elif name == "LIST":
                stack.append(since_mark())
            elif name == "APPEND":
                _expect(stack[-2], list).append(stack.pop())
            elif name == "APPENDS":
                items = since_mark()
                _expect(stack[-1], list).extend(items)
            elif name in ("SETITEM", "SETITEMS", "DICT"):
                items = since_mark() if name != "SETITEM" else [stack.pop(-2), stack.pop()]
                if name == "DICT":
                    stack.append({})
                _fill(_expect(stack[-1], dict), items)
            elif name == "GLOBAL":
                stack.append(_Global(argument))
            elif name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_Global(f"{_expect(module, str)} {_expect(attribute, str)}"))
            elif name == "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(function, _expect(arguments, tuple)))
            elif name == "BUILD":
                self._build(stack)
            elif name == "BINPERSID":
                stack.append(self._open(stack.pop()))
            elif name == "STOP":
                (value,) = stack
                return value
            elif name not in ("PROTO", "FRAME"):
                raise Refused(f"the instruction {name}")
        raise ValueError("a pickle without an end")

    def _instructions(self, stream: io.BytesIO) -> Iterator[tuple[Any, Any, Any]]:
        for instruction in pickletools.genops(stream):
            self._count += 1
            if self._count > MAX_OPERATIONS:
                raise ValueError(f"expected a pickle of at most {MAX_OPERATIONS} instructions, got more")
            yield instruction

    def _open(self, identity: Any) -> _Storage:
        kind = _expect(identity, tuple)[:1]
        if kind != ("storage",) or len(identity) < 5 or any(extra is not None for extra in identity[5:]):
            raise Refused(f"a reference to {shown(identity)}")
        _, storage, key, _, count = identity[:5]
        dtype = _STORAGES.get(_expect(storage, _Global).name)
        if dtype is None:
            raise ValueError(f"a storage of {shown(storage.name)}")
        key, count = str(_expect(key, str)), _whole(count)
        if self.types.setdefault(key, dtype) != dtype:
            raise ValueError(f"storage {key}: of two types")
        return _Storage(dtype, self._storage(key, count * dtype.itemsize))

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        name = _expect(function, _Global).name
        if name in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"):
            return _tensor(*arguments[:4])
        if name == "torch._utils _rebuild_parameter":
            return arguments[0]
        if name == "collections OrderedDict":
            return _table(*arguments)
        if name in ("torch Size", "__builtin__ tuple", "builtins tuple"):
            return tuple(_expect(arguments[0], (list, tuple)))
        if name == "_codecs encode":
            text, encoding = arguments
            if encoding != "latin1":
                raise ValueError("bytes in another encoding")
            return _expect(text, str).encode("latin1")
        if name == "numpy dtype":
            return _SCALARS[_expect(arguments[0], str)]
        if name in ("numpy._core.multiarray scalar", "numpy.core.multiarray scalar"):
            dtype, raw = arguments
            if len(_expect(raw, bytes)) != _expect(dtype, np.dtype).itemsize:
                raise ValueError("a number of another size")
            return np.frombuffer(raw, dtype)[0]
        if name == "torch.serialization _get_layout":
            return _expect(arguments[0], str)
        if name == "torch._utils _rebuild_sparse_tensor":
            return Unusable(str(arguments[0])[:40])
        if name == "torch._utils _rebuild_meta_tensor_no_storage":
            return Unusable("a tensor without any numbers")
        if name in _ODD:
            return Unusable(f"one of {name.rpartition(' ')[2]}")
        raise Refused(f"the function {shown(name.replace(' ', '.'))}")

    @staticmethod
    def _build(stack: list[Any]) -> None:
        """Attributes: those of a state dictionary are of no use, those of a number say its byte order."""
        state, built = stack.pop(), stack[-1]
        if isinstance(built, np.dtype):
            if not isinstance(state, tuple) or len(state) < 2 or state[1] != "<":
                raise ValueError("a number in another byte order")
        elif not isinstance(built, dict):
            raise Refused(f"attributes of a {type(built).__name__}")


_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
}
_ODD = {
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_qtensor",
    "torch._utils _rebuild_nested_tensor",
    "torch._utils _rebuild_wrapper_subclass",
    "torch._tensor _rebuild_from_type_v2",
    "torch device",
}


def _expect(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} in the place of another value")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise ValueError(f"expected a size, got {shown(value)}")
    return value


def _fill(table: dict[Any, Any], items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, _KEYS):
            raise ValueError(f"a {type(key).__name__} as a name")
        table[key] = value


def _table(pairs: Any = ()) -> dict[Any, Any]:
    table: dict[Any, Any] = {}
    for pair in _expect(pairs, (list, tuple)):
        _fill(table, list(_expect(pair, (list, tuple))))
    return table


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    """A tensor that lies within its storage and has no more numbers: strides of 0 cost no memory, yet."""
    sizes, steps = [[_whole(n) for n in _expect(part, (list, tuple))] for part in (shape, strides)]
    count, available = math.prod(sizes), len(_expect(storage, _Storage))
    if len(sizes) != len(steps) or len(sizes) > 16 or count > available:
        raise ValueError(f"expected a tensor of at most its {available} numbers, got one of {count}")
    last = _whole(offset) + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    if count and last >= available:
        raise ValueError(f"expected a tensor within its {available} numbers, got one that ends at {last}")
    if not count:
        return torch.empty(sizes, dtype=storage.dtype, device="cpu")
    return torch.frombuffer(storage.memory, dtype=storage.dtype).as_strided(sizes, steps, offset)
