"""Compile a launcher's kernel ahead of time, with no GPU, and read what the machine code uses."""

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Usage:
    """Registers a thread, bytes of stack, bytes spilled, the widths of global accesses in bits, the code."""

    registers: int
    stack: int
    local: int
    loads: tuple[int, ...]
    stores: tuple[int, ...]
    cubin: bytes = field(repr=False)


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


class Card:
    """A driver that only says what card there is: what the JIT asks before it compiles."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability  # each has a cache of its own

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_launch(kernel: Any, recorder: Recorder, capability: int) -> Usage:
    """Have the JIT compile a launch for sm_<capability>, as it would on such a card."""
    active = driver._active
    driver.set_active(Card(capability))
    try:
        made = kernel.warmup(*recorder.arguments, grid=(1,), **recorder.keywords).asm
    finally:
        driver._active = active
    usage = tool("cuobjdump", made["cubin"], "-res-usage")
    number = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    loads, stores = (
        tuple(width(found) for found in re.findall(rf"\b{access}\.global((?:\.[\w:]+)+)", made["ptx"]))
        for access in ("ld", "st")
    )
    return Usage(number["REG"], number["STACK"], number["LOCAL"], loads, stores, made["cubin"])


def width(modifiers: str) -> int:
    """Bits that an access of the assembler's moves: .v4.b32 moves 128."""
    count, bits = re.fullmatch(r".*?(?:\.v(\d))?\.[a-z]+(\d+)", modifiers).groups(default="1")  # type: ignore[union-attr]
    return int(count) * int(bits)


def tool(name: str, cubin: bytes, *options: str) -> str:
    """What one of the CUDA tools that triton's wheel carries says of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [TOOLS / name, *options, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def machine_widths(cubin: bytes) -> tuple[set[int], set[int]]:
    """Widths in bits of the machine code's global loads and stores. It takes half a second."""
    code = tool("nvdisasm", cubin, "-c")
    names = {"128": 128, "64": 64, "U16": 16, "S16": 16, "U8": 8, "S8": 8}
    loads, stores = (
        {
            next((names[name] for name in found.split(".") if name in names), 32)
            for found in re.findall(rf"\b{instruction}((?:\.\w+)*)", code)
        }
        for instruction in ("LDG", "STG")
    )
    return loads, stores
