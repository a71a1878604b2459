"""Buffers with poisoned guard bands, and runs of a kernel in both program orders."""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

BAND = 64
POISON = {
    torch.uint8: (0, 255),
    torch.bool: (False, True),
    torch.int32: (-1, 1),
    torch.int64: (-1, 1),
    torch.float32: (float("nan"), 1e30),
    torch.float64: (float("nan"), 1e30),
    torch.float16: (float("nan"), 6e4),
    torch.bfloat16: (float("nan"), 1e30),
}

# One table for all ops: absolute and relative, against the reference in the same type. The interpreter
# rounds bfloat16 by up to one unit differently, which 1.6e-2 (two units) covers.
TOLERANCE = {
    torch.float32: {"rtol": 1.3e-6, "atol": 1e-5},
    torch.float16: {"rtol": 1e-3, "atol": 1e-4},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1e-4},
}

OPS = {
    "glance": ["glance"],
    "crop": ["crop"],
    "exits": ["exits"],
    "queue": ["take", "compact"],
    "deliver": ["deliver"],
    "state": ["gru"],
    "rows": ["gather", "scatter"],
}


class Guards:
    """Copies of tensors, same strides, in the middle of poisoned memory; nothing outside may change."""

    def __init__(self, variant: int) -> None:
        self.variant = variant
        self.buffers: list[tuple[Tensor, Tensor, Tensor]] = []

    def put(self, tensor: Tensor) -> Tensor:
        """An input: its memory may not change at all."""
        memory, view = self.place(tensor)
        view.copy_(tensor)
        self.buffers.append((memory, memory.clone(), torch.zeros_like(memory, dtype=torch.bool)))
        return view

    def out(self, tensor: Tensor, keep: bool = False) -> Tensor:
        """An output: poisoned inside too, unless its content counts."""
        memory, view = self.place(tensor)
        if keep:
            view.copy_(tensor)
        writable = torch.zeros_like(memory, dtype=torch.bool)
        writable.as_strided(view.shape, view.stride(), BAND).fill_(True)
        self.buffers.append((memory, memory.clone(), writable))
        return view

    def place(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        sizes = zip(tensor.shape, tensor.stride(), strict=True)
        extent = 1 + sum((size - 1) * stride for size, stride in sizes) if tensor.numel() else 0
        memory = torch.full((extent + 2 * BAND,), POISON[tensor.dtype][self.variant], dtype=tensor.dtype)
        return memory, memory.as_strided(tensor.shape, tensor.stride(), BAND)

    def check(self) -> None:
        for memory, before, writable in self.buffers:
            same = (memory == before) | ((memory != memory) & (before != before)) | writable
            assert bool(same.all()), f"{int((~same).sum())} values outside a {memory.dtype} buffer changed"


@contextlib.contextmanager
def kernels() -> Iterator[None]:
    """Have the public ops launch their Triton kernels, whatever the device."""
    with contextlib.ExitStack() as stack:
        for module_name, ops in OPS.items():
            module = importlib.import_module(f"gfnet_kernels.{module_name}")
            for op in ops:
                stack.enter_context(mock.patch.object(module, f"_{op}", getattr(module, f"{op}_launch")))
        yield


@contextlib.contextmanager
def program_order(reverse: bool) -> Iterator[None]:
    """Have the interpreter run the first grid axis from its end."""
    from triton.runtime.interpreter import interpreter_builder as builder

    set_index = builder.set_grid_idx

    def flipped(x: int, y: int, z: int) -> None:
        set_index(builder.grid_dim[0] - 1 - x if reverse else x, y, z)

    with mock.patch.object(builder, "set_grid_idx", flipped):
        yield


def every_way(run: Callable[[Guards], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Results of the kernels, equal in two runs that differ in poison and program order, guards untouched."""
    first: tuple[Tensor, ...] | None = None
    for variant, reverse in ((0, False), (1, True)):
        guards = Guards(variant)
        with kernels(), program_order(reverse):
            results = tuple(result.clone() for result in run(guards))
        guards.check()
        first = results if first is None else first
        for one, other in zip(first, results, strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=0, equal_nan=True)
    assert first is not None
    return first


def assert_near(actual: Tensor, expected: Tensor, **more: Any) -> None:
    """Within the one tolerance table; not a number nowhere but where expected."""
    torch.testing.assert_close(actual, expected, equal_nan=True, **(TOLERANCE[expected.dtype] | more))
