"""A network made ready for inference: folded batch norms, the faster layout, the precision, the compiler."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.fx import Node, Tracer

from gfnet_fast.errors import DeviceError

Run = TypeVar("Run", bound=Callable[..., Any])

# What a stage computes in; exits, the policy's last layer and its floor are float32 whatever it is.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class _Tracer(Tracer):
    """Traces a network down to its convolutions and batch norms, timm's norm-act layers among them."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, (nn.Conv2d, nn.BatchNorm2d)) or super().is_leaf_module(
            module, qualified_name
        )


def fold_batch_norms(network: nn.Module) -> int:
    """Fold, in place and in float64, each batch norm that follows a convolution; how many those were.

    A batch norm is folded where it alone reads a plain convolution's output and both are called once. What
    a norm-act layer does after its norm stays. A norm before its convolution (DenseNet has one in each
    layer) has nothing to go into and stays too.

    Parameters
    ----------
    network : module in evaluation mode that `torch.fx` can trace.
    """
    pairs = list(_pairs(network))  # all found before any is changed
    for convolution, norm_name in pairs:
        norm = network.get_submodule(norm_name)
        _fold(convolution, cast(nn.BatchNorm2d, norm))
        parent, _, name = norm_name.rpartition(".")
        after = [module for module in (getattr(norm, "drop", None), getattr(norm, "act", None)) if module]
        setattr(network.get_submodule(parent), name, nn.Sequential(*after))
    return len(pairs)


def _pairs(network: nn.Module) -> Iterator[tuple[nn.Conv2d, str]]:
    """Convolutions, each with the name of the batch norm that can go into it."""
    tracer = _Tracer()
    graph = tracer.trace(network)
    calls = Counter(id(network.get_submodule(str(n.target))) for n in graph.nodes if n.op == "call_module")

    def called(node: Any) -> nn.Module | None:
        once = isinstance(node, Node) and node.op == "call_module"
        module = network.get_submodule(str(node.target)) if once else None
        return module if calls[id(module)] == 1 else None

    for node in graph.nodes:
        norm = called(node)
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.training:
            continue
        before = node.args[0]
        convolution = called(before)
        plain = isinstance(convolution, nn.Conv2d) and type(convolution).forward is nn.Conv2d.forward
        if plain and len(before.users) == 1:
            yield cast(nn.Conv2d, convolution), str(node.target)


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
    """A copy of an encoder, folded, in `dtype`, in the layout that is faster for ``[batch, 3, size, size]``.

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
        size: int,
        batch: int,
        dtype: torch.dtype,
        layout: torch.memory_format | None = None,
    ) -> None:
        """`layout`: measured without it."""
        super().__init__()
        encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
        self.folded = fold_batch_norms(encoder)
        self.encoder = encoder.to(dtype)
        self._set_layout(layout or self._faster_layout(size, batch, dtype))

    def _faster_layout(self, size: int, batch: int, dtype: torch.dtype) -> torch.memory_format:
        device = next(self.encoder.parameters()).device
        images = torch.zeros(batch, 3, size, size, dtype=dtype, device=device)
        times: dict[torch.memory_format, float] = {}
        for layout in (torch.contiguous_format, torch.channels_last):
            self._set_layout(layout)
            times[layout] = best_time(lambda: self(images.to(memory_format=torch.channels_last)), device)
        return min(times, key=lambda layout: times[layout])

    def _set_layout(self, layout: torch.memory_format) -> None:
        self.layout = layout
        for parameter in self.encoder.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=layout)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(images.contiguous(memory_format=self.layout))


def compiled(run: Run) -> Run:
    """`run` through torch.compile for the one shape that it will be called with, its weights frozen on a CPU.

    Freezing keeps a second copy of the weights, packed. Call the result first under :func:`compiling`, in
    the mode (no_grad or inference) that it will be called in.
    """
    frozen = not torch.cuda.is_available()
    options: dict[str, Any] = {"freezing": True} if frozen else {"max_autotune_conv_backends": "ATEN"}
    return cast(Run, torch.compile(run, dynamic=False, fullgraph=True, options=options))


def compiling() -> Any:
    """While the buckets compile: each is a new shape of one function, and none may fall back to eager."""
    return torch._dynamo.config.patch(recompile_limit=1024, accumulated_recompile_limit=1 << 16)


def check_dtype(dtype: torch.dtype, device: torch.device) -> None:
    """Raise DeviceError where `device` does not compute in `dtype`."""
    if dtype not in DTYPES:
        raise DeviceError(f"dtype: expected one of {DTYPES}, got {dtype}")
    if dtype == torch.float16 and device.type == "cpu":
        raise DeviceError("dtype: expected float32 or bfloat16 on a CPU, got torch.float16")
    if dtype == torch.bfloat16 and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise DeviceError(
            "dtype: expected a CPU with AVX-512 for torch.bfloat16, got one without; use torch.float32"
        )


@torch.no_grad()
def best_time(run: Callable[[], object], device: torch.device, seconds: float = 0.05) -> float:
    """Least seconds of a call after one that warms up: two calls, and more while they fit into `seconds`."""

    def once() -> float:
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    once()
    samples = [once()]
    while len(samples) < 2 or (sum(samples) < seconds and len(samples) < 20):
        samples.append(once())
    return min(samples)
