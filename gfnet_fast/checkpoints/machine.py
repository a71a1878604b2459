"""The instructions of a pickle that build plain values and tensors, and no others.

A pickle is a small program for a stack machine. Names of functions are compared with a list, never imported.
Values are shared, so that one instruction can copy, print or hash many of them: each is charged for what it
copies, and nothing that a file says is printed or hashed before its size is known.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfnet_fast.errors import shown

MAX_OPERATIONS = 2**20
"""Instructions of the pickle, and items that they copy; a tensor takes some forty."""

MAX_NAME = 256
"""Characters of a function's name."""

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
    memory: bytearray = field(repr=False)

    def __len__(self) -> int:
        return len(self.memory) // self.dtype.itemsize


_VIEWS = ((), (None,))  # of a storage in another: none is read


class _Mark:
    """Where on the stack an open list, tuple or table begins."""


class Machine:
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
                if len(_expect(module, str)) + len(_expect(attribute, str)) > MAX_NAME:
                    raise ValueError("a function's name that is too long")
                stack.append(_Global(f"{module} {attribute}"))
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
            self._charge(1)
            yield instruction

    def _charge(self, count: int) -> None:
        """Of values that are shared one instruction can copy many."""
        self._count += count
        if self._count > MAX_OPERATIONS:
            raise ValueError(f"expected a pickle of at most {MAX_OPERATIONS} instructions, got more")

    def _open(self, identity: Any) -> _Storage:
        if (
            not 5 <= len(_expect(identity, tuple)) <= 6
            or identity[0] != "storage"
            or identity[5:] not in _VIEWS
        ):
            raise Refused(f"a reference to {shown(identity)}")
        _, storage, key, _, count = identity[:5]
        dtype = _STORAGES.get(_expect(storage, _Global).name)
        if dtype is None:
            raise ValueError(f"a storage of {shown(storage.name)}")
        count = _whole(count)
        if len(_expect(key, str)) > MAX_NAME:
            raise ValueError("a storage's name that is too long")
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
            (pairs,) = arguments or ((),)
            self._charge(len(_expect(pairs, (list, tuple))))
            return _table(pairs)
        if name == "torch Size":
            return tuple(_short(arguments[0]))
        if name == "_codecs encode":
            text, encoding = arguments
            if encoding != "latin1":
                raise ValueError("bytes in another encoding")
            self._charge(len(_expect(text, str)))
            return text.encode("latin1")
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
            layout = arguments[0]
            return Unusable(layout if isinstance(layout, str) and len(layout) < 40 else "a sparse one")
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


def _short(sizes: Any) -> Any:
    """A list or tuple of no more items than a tensor has dimensions."""
    if len(_expect(sizes, (list, tuple))) > 16:
        raise ValueError(f"{len(sizes)} dimensions")
    return sizes


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise ValueError(f"expected a size, got {shown(value)}")
    return value


def _fill(table: dict[Any, Any], items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, _KEYS) or (isinstance(key, int) and key.bit_length() > 64):
            raise ValueError(f"a {type(key).__name__} as a name")
        table[key] = value


def _table(pairs: Any) -> dict[Any, Any]:
    table: dict[Any, Any] = {}
    for pair in pairs:
        if len(_expect(pair, (list, tuple))) != 2:
            raise ValueError("a table of what are no pairs")
        _fill(table, list(pair))
    return table


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    """A tensor that lies within its storage and has no more numbers: strides of 0 cost no memory, yet."""
    sizes, steps = [[_whole(n) for n in _short(part)] for part in (shape, strides)]
    count, available = math.prod(sizes), len(_expect(storage, _Storage))
    if len(sizes) != len(steps) or count > available:
        raise ValueError(f"expected a tensor of at most its {available} numbers, got one of {count}")
    last = _whole(offset) + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    if count and last >= available:
        raise ValueError(f"expected a tensor within its {available} numbers, got one that ends at {last}")
    if not count:
        return torch.empty(sizes, dtype=storage.dtype, device="cpu")
    return torch.frombuffer(storage.memory, dtype=storage.dtype).as_strided(sizes, steps, offset)
