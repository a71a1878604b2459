"""Compile a launcher's kernel ahead of time, with no GPU, and read what the machine code uses."""

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTERS = {
    torch.uint8: "*u8",
    torch.bool: "*i1",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
}


@dataclass(frozen=True)
class Usage:
    """Registers a thread, bytes of stack, bytes spilled, and the widths of global accesses in bits."""

    registers: int
    stack: int
    local: int
    loads: tuple[int, ...]
    stores: tuple[int, ...]


class Recorder:
    """Stands where a kernel stood and keeps the arguments of its launch."""

    def __init__(self) -> None:
        self.arguments: tuple[Any, ...] = ()
        self.keywords: dict[str, Any] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self.keep

    def keep(self, *arguments: Any, **keywords: Any) -> None:
        self.arguments, self.keywords = arguments, keywords


@contextlib.contextmanager
def recorded(module: Any, kernel: str) -> Iterator[Recorder]:
    """Replace module.kernel, so that a launcher can be called on the CPU without running anything."""
    recorder = Recorder()
    with mock.patch.object(module, kernel, recorder):
        yield recorder


def compile_launch(kernel: Any, recorder: Recorder, capability: int) -> Usage:
    """Compile for sm_<capability> with the types and attributes the JIT infers from the arguments."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    keywords = dict(recorder.keywords)
    options = {name: keywords.pop(name) for name in ("num_warps", "enable_fp_fusion") if name in keywords}
    values = dict(zip(kernel.arg_names, recorder.arguments, strict=False)) | keywords
    for index, name in enumerate(kernel.arg_names):
        value = values[name]
        if kernel.params[index].is_constexpr or value is None or (type(value) is int and value == 1):
            signature[name], constants[(index,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
            if value.data_ptr() % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    cubin = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = tool("cuobjdump", "-res-usage", file.name)
        code = tool("nvdisasm", "-c", file.name)
    number = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return Usage(number["REG"], number["STACK"], number["LOCAL"], widths("LDG", code), widths("STG", code))


def tool(name: str, *arguments: str) -> str:
    """Run one of the CUDA tools that triton's wheel carries."""
    return subprocess.run([TOOLS / name, *arguments], check=True, capture_output=True, text=True).stdout


def widths(instruction: str, code: str) -> tuple[int, ...]:
    """Width in bits of every global load or store, in order."""
    found = re.findall(rf"\b{instruction}((?:\.\w+)*)", code)
    return tuple(width(modifiers.split(".")) for modifiers in found)


def width(modifiers: list[str]) -> int:
    """Bits that an access with these modifiers moves; 32 where none says otherwise."""
    for name, bits in (("128", 128), ("64", 64), ("U16", 16), ("S16", 16), ("U8", 8), ("S8", 8)):
        if name in modifiers:
            return bits
    return 32
