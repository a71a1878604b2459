"""Registration of the ops with torch, and the checks they share."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
PLAIN = (Tensor, torch.nn.Parameter)
STRIDED = torch.strided
LEAST, MOST = 1e-18, 1e18  # of std, and of std and mean: float32 holds their quotients

_LIBRARY = torch.library.Library("gfnet_kernels", "DEF")
_debug = os.environ.get("GFNET_KERNELS_DEBUG", "0") == "1"


def set_debug(on: bool) -> bool:
    """Switch the checks of tensors' values on or off; returns the former setting.

    Each check waits for the device, so the switch is for tests and for hunting a bug, never for CUDA graph
    capture; buffers that overlap are looked for too. The environment variable ``GFNET_KERNELS_DEBUG=1`` sets
    it at import. On the CPU glance and crop check values whatever the switch says: they read by address
    there, and it costs no wait.
    """
    global _debug
    before, _debug = _debug, on
    return before


def register(name: str, arguments: str, *, cpu: Callable, cuda: Callable, values: Callable) -> Callable:
    """Define an op that writes into its caller's buffers, and return what calls it.

    The call goes through torch's dispatcher, except on the CPU where nobody would see it pass: there the
    dispatcher takes longer than many a small op.

    Parameters
    ----------
    name, arguments
        The op's name and its schema's arguments; written buffers are marked ``Tensor(a!)``.
    cpu, cuda
        Plain torch, and the launcher of the Triton kernel.
    values
        Raises ValueError for bad values; runs first under the debug switch.
    """

    parts = [part.split() for part in arguments.split(", ")]
    names = [(called, "!" in kind) for kind, called in parts]
    read = [not written for _, written in names]

    def run_cpu(*args: Any) -> None:
        if _debug:
            _expect_apart(names, args)
            values(*args)
        if torch.is_grad_enabled():
            with torch.no_grad():
                cpu(*args)
        else:
            cpu(*args)

    def run_cuda(*args: Any) -> None:
        if _debug:
            _expect_apart(names, args)
            values(*args)
        first = args[0][0] if isinstance(args[0], list) else args[0]
        with torch.cuda.device(first.device):
            cuda(*args)

    _LIBRARY.define(f"{name}({arguments}) -> ()")
    _LIBRARY.impl(name, run_cpu, "CPU")
    _LIBRARY.impl(name, run_cuda, "CUDA")
    torch.library.register_fake(f"gfnet_kernels::{name}", lambda *args: None, lib=_LIBRARY)
    dispatched = getattr(torch.ops.gfnet_kernels, name).default

    def call(*args: Any) -> None:
        if _unseen(args):
            run_cpu(*map(_shown, args, read))
        else:
            dispatched(*args)

    return call


def _unseen(args: tuple[Any, ...]) -> bool:
    """Whether all tensors are plain ones on the CPU, and no compiler, trace, transform or mode looks on."""
    if (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
    ):
        return False
    for arg in args:
        for tensor in arg if isinstance(arg, list) else (arg,):
            if isinstance(tensor, Tensor) and not (tensor.is_cpu and type(tensor) in PLAIN):
                return False
    return True


def _shown(arg: Any, read: bool) -> Any:
    """What an op reads, its sign taken where it is negated when it is read: addresses do not say so."""
    if isinstance(arg, list):
        return [_shown(one, read) for one in arg]
    return arg.resolve_neg() if read and isinstance(arg, Tensor) and arg.is_neg() else arg


def _expect_apart(names: Sequence[tuple[str, bool]], args: tuple[Any, ...]) -> None:
    """Raise ValueError where what is written overlaps something else, of what is contiguous."""
    spans = []
    for (name, written), arg in zip(names, args, strict=True):
        for tensor in arg if isinstance(arg, list) else [arg]:
            if isinstance(tensor, Tensor) and tensor.numel() and tensor.is_contiguous():
                begin = tensor.data_ptr()
                spans.append((name, written, begin, begin + tensor.numel() * tensor.element_size()))
    for place, (name, written, begin, end) in enumerate(spans):
        for other, (beside, _, first, last) in enumerate(spans):
            apart = not written or other == place or last <= begin or end <= first
            expect(apart, name, f"a buffer apart from {beside}", "one that overlaps it")


def expect(ok: bool, what: str, expected: object, got: object) -> None:
    """Raise ValueError naming the argument, what was expected and what came."""
    if not ok:
        raise ValueError(f"{what}: expected {expected}, got {got}")


def expect_dense(what: str, tensor: Tensor) -> None:
    """Check that a tensor is torch's own and strided, or one that torch traces with.

    Others hold their values elsewhere, or more than values. Where the sign is taken when they are read, an op
    does so first, or torch's dispatcher.
    """
    if type(tensor) in PLAIN and tensor.layout is STRIDED and not tensor.is_nested:
        return
    expect(isinstance(tensor, Tensor), what, "a tensor", type(tensor).__name__)
    expect(tensor.layout is STRIDED and not tensor.is_nested, what, "a dense tensor", _layout(tensor))
    own = type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    traces = isinstance(tensor, (FakeTensor, FunctionalTensor))
    expect(traces or not own, what, "a plain tensor", type(tensor).__name__)


def _layout(tensor: Tensor) -> str:
    return "a nested one" if tensor.is_nested else str(tensor.layout)


def expect_contiguous(what: str, tensor: Tensor) -> None:
    """Check that values lie one after the other."""
    if not tensor.is_contiguous():
        expect(False, what, "a contiguous tensor", f"strides {tensor.stride()}")


def expect_rows_apart(what: str, arena: Tensor) -> None:
    """Check that no two rows, columns adjacent, share memory: they are written side by side."""
    if arena.is_contiguous():
        return
    extent = arena.shape[-1]
    for stride, length in sorted(zip(arena.stride()[:-1], arena.shape[:-1], strict=True)):
        apart = stride >= extent or length < 2
        expect(apart, what, "rows apart from each other", f"strides {arena.stride()}")
        extent += stride * (length - 1)


def expect_tensor(
    what: str,
    tensor: Tensor,
    shape: tuple[int | None, ...],
    dtypes: tuple[torch.dtype, ...],
    device: torch.device,
) -> None:
    """Check a tensor's kind, rank, extents (None: any), dtype and device; none of it waits for the device."""
    expect_dense(what, tensor)
    got = tensor.shape
    if tensor.dtype in dtypes and tensor.device == device and (got == shape or _fits(got, shape)):
        return
    wanted = ", ".join("any" if extent is None else str(extent) for extent in shape)
    expect(_fits(tensor.shape, shape), f"{what}.shape", f"({wanted})", tuple(tensor.shape))
    expect(tensor.dtype in dtypes, f"{what}.dtype", " or ".join(map(str, dtypes)), tensor.dtype)
    expect(False, f"{what}.device", device, tensor.device)


def _fits(got: Sequence[int], shape: tuple[int | None, ...]) -> bool:
    """Whether rank and extents are as wanted."""
    if len(got) != len(shape):
        return False
    for have, want in zip(got, shape):  # noqa: B905, SIM110  (a generator would take longer than the rest)
        if want is not None and have != want:
            return False
    return True


def expect_range(what: str, values: Tensor, low: int, high: int) -> None:
    """Check that every value lies in low..high, both included; waits for a GPU."""
    if values.numel():
        least, most = (int(v) for v in torch.aminmax(values))
        expect(low <= least and most <= high, what, f"{low}..{high}", f"{least}..{most}")


def expect_slots(slots: Tensor, count: int) -> None:
    """Check that every slot is -1 or one of count; waits for a GPU."""
    numbers = slots.tolist() or [-1]
    least, most = min(numbers), max(numbers)
    expect(least >= -1 and most < count, "slots", f"-1..{count - 1}", f"{least}..{most}")


def expect_pixels(
    mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, size: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Check what crop and glance share; mean and std as plain numbers."""
    mean, std = tuple(map(float, mean)), tuple(map(float, std))
    expect(len(mean) == 3 and len(std) == 3, "mean and std", "3 values each", (len(mean), len(std)))
    a, b, c = map(abs, std)
    # One sum tells of all six, without a loop: an infinity or NaN in it is not below MOST.
    if not (a >= LEAST and b >= LEAST and c >= LEAST and a + b + c + sum(map(abs, mean)) <= MOST):
        expect(False, "mean and std", f"up to {MOST:g}, and std from {LEAST:g}", (mean, std))
    expect(dtype in FLOAT_DTYPES, "dtype", FLOAT_DTYPES, dtype)
    expect(size >= 1, "size", "at least 1", size)
    return mean, std


def output(out: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The caller's buffer, checked, or a new one; four dimensions mean channels-last memory."""
    if out is None and len(shape) < 4:
        return torch.empty(shape, dtype=dtype, device=device)
    memory = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    if out is None:
        return torch.empty(shape, dtype=dtype, device=device, memory_format=memory)
    expect_tensor("out", out, shape, (dtype,), device)
    plain = len(shape) < 4 or torch.compiler.is_compiling() or not out.is_neg()
    expect(plain, "out", "pixels as they are in memory", "ones that are negated when read")
    dense = out.permute(0, 2, 3, 1) if len(shape) == 4 else out
    expect(dense.is_contiguous(), "out memory", memory, f"strides {out.stride()}")
    return out
