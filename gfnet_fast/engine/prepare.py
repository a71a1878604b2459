"""A network made ready for inference in torch: folded batch norms, the faster layout, the precision."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gfnet_fast.engine.capture import captured
from gfnet_fast.errors import DeviceError, shown

# What a stage computes in; exits, the policy's last layer and its floor are float32 whatever it is.
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)


class _Readers(TorchDispatchMode):
    """Counts the operations that read each tensor, by its id; unlike a symbolic trace, in one thread only."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.read((args, kwargs))
        return func(*args, **(kwargs or {}))

    def read(self, values: Any) -> None:
        self.count.update(id(leaf) for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def fold_batch_norms(network: nn.Module, images: Tensor) -> int:
    """Fold, in place and in float64, each batch norm that follows a convolution; how many those were.

    A batch norm is folded where it alone reads a plain convolution's output and both are called once. What
    a norm-act layer does after its norm stays. A norm before its convolution (DenseNet has one in each
    layer) has nothing to go into and stays too.

    Parameters
    ----------
    network : module in evaluation mode
    images : what it is called with once, to see who reads what
    """
    pairs = _pairs(network, images)  # all found before any is changed
    for convolution, norm_name in pairs:
        norm = network.get_submodule(norm_name)
        _fold(convolution, cast(nn.BatchNorm2d, norm))
        parent, _, name = norm_name.rpartition(".")
        after = [module for module in (getattr(norm, "drop", None), getattr(norm, "act", None)) if module]
        setattr(network.get_submodule(parent), name, nn.Sequential(*after))
    return len(pairs)


@torch.no_grad()
def _pairs(network: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, str]]:
    """Convolutions, each with the name of the batch norm that can go into it."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # holds the tensors, so that their ids stay theirs
    follows: list[tuple[nn.Conv2d, Tensor, nn.Module]] = []
    calls: Counter[nn.Module] = Counter()
    names = {module: name for name, module in network.named_modules()}
    readers = _Readers()

    def after_convolution(convolution: nn.Module, _: Any, output: Tensor) -> None:
        calls[convolution] += 1
        made[id(output)] = cast(nn.Conv2d, convolution), output
        readers.count[id(output)] = 0

    def before_norm(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        calls[norm] += 1
        if id(arguments[0]) in made:
            follows.append((*made[id(arguments[0])], norm))

    hooks = []
    for module in names:
        if _is_convolution(module):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and not module.training:
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        with readers:
            readers.read(network(images))
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (convolution, names[norm])
        for convolution, output, norm in follows
        if calls[convolution] == calls[norm] == readers.count[id(output)] == 1
    ]


def _is_convolution(module: nn.Module) -> bool:
    """A plain one, or timm's that pad an image as TensorFlow does."""
    plain = type(module).forward is nn.Conv2d.forward or type(module).__module__ == "timm.layers.conv2d_same"
    return isinstance(module, nn.Conv2d) and plain


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    mean, var = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    scale = (var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    bias = -mean if convolution.bias is None else convolution.bias.double() - mean
    bias = bias * scale if norm.bias is None else bias * scale + norm.bias.double()
    weight = convolution.weight.double() * scale.view(-1, 1, 1, 1)
    convolution.weight = nn.Parameter(weight.to(convolution.weight.dtype), requires_grad=False)
    convolution.bias = nn.Parameter(bias.to(convolution.weight.dtype), requires_grad=False)


class Prepared(nn.Module):
    """A copy of an encoder, folded, in `dtype`, in the layout that is faster for ``[batch, 3, *size]``.

    Images come in channels-last memory; the copy brings them into its own layout.

    Attributes
    ----------
    folded : int
        Batch norms folded.
    layout : torch.memory_format
        The layout that was faster.
    """

    def __init__(
        self,
        encoder: nn.Module,
        size: tuple[int, int],
        batch: int,
        dtype: torch.dtype,
        layout: torch.memory_format | None = None,
    ) -> None:
        """`size`: height and width; `layout`: measured without it."""
        super().__init__()
        encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
        parameter = next(encoder.parameters())
        self.folded = fold_batch_norms(encoder, parameter.new_zeros(1, 3, *size))
        self.encoder = encoder.to(dtype)
        self._set_layout(layout or self._faster_layout(size, batch, dtype))

    def _faster_layout(self, size: tuple[int, int], batch: int, dtype: torch.dtype) -> torch.memory_format:
        device = next(self.encoder.parameters()).device
        images = torch.zeros(batch, 3, *size, dtype=dtype, device=device)
        images = images.to(memory_format=torch.channels_last)
        times = dict.fromkeys((torch.contiguous_format, torch.channels_last), float("inf"))
        for _ in range(2):  # in turn, so that a busy moment does not decide
            for layout in times:
                self._set_layout(layout)
                # On a GPU a replay, which is what will run: plain calls take as long as the host does.
                run = captured(partial(self, images), device)
                times[layout] = min(times[layout], best_time(run, device))
        return min(times, key=lambda layout: times[layout])

    def _set_layout(self, layout: torch.memory_format) -> None:
        self.layout = layout
        for parameter in self.encoder.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=layout)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(images.contiguous(memory_format=self.layout))


@contextmanager
def exact_float32() -> Iterator[None]:
    """TF32 off: float32 means float32. torch's default lets a GPU's convolutions round to 10 bits.

    What is captured meanwhile keeps it.
    """
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = flags


def lacks(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why torch does not compute networks in `dtype` on `device`; None where it does."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"expected float32, bfloat16 or float16, got {dtype}"
    if dtype == torch.float16 and device.type == "cpu":
        return "expected float32 or bfloat16 on a CPU, got torch.float16"
    if dtype == torch.bfloat16 and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "expected a CPU with AVX-512 for torch.bfloat16, got one without; use torch.float32"
    return None


def named_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A type by its name, "auto" for float32, or itself; DeviceError where it is none of :data:`DTYPES`."""
    names = {"auto": torch.float32} | {str(known).removeprefix("torch."): known for known in DTYPES}
    found = names.get(dtype) if isinstance(dtype, str) else dtype
    if found not in DTYPES:
        raise DeviceError(f"dtype: expected one of {', '.join(names)}, got {shown(dtype)}")
    return found


@torch.no_grad()
def best_time(
    run: Callable[[], object], device: torch.device, seconds: float = 0.05, *, warm_up: bool = True
) -> float:
    """Least seconds of a call: one, and more while they fit into `seconds`; one before that warms up."""

    def once() -> float:
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()  # the device's would break others' captures
        return time.perf_counter() - begin

    if warm_up:
        once()
    samples = [once()]
    while sum(samples) < seconds and len(samples) < 20:
        samples.append(once())
    return min(samples)
