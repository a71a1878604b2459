"""Runtimes: what prepares the networks of a stage, and then computes them. Each is one file here.

An engine's thumbnails, crops, exits and queue are its own; a runtime takes the encoders, and the layers of
the policy and the classifier that hold most weights.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from gfnet_fast.errors import DeviceError, shown

Run = TypeVar("Run", bound=Callable[..., Any])


class PreparedEncoder(Protocol):
    """``[n, 3, P, P]`` in channels-last memory -> ``(map [n, C, h, w], vector [n, F])``.

    Both may be memory that the next call with as many rows writes to.

    Attributes
    ----------
    layout : torch.memory_format
        How the map lies.
    """

    layout: torch.memory_format

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]: ...


class Runtime(ABC):
    """A way to compute networks; one object each, without a state that predictions change.

    Attributes
    ----------
    name : what it is called
    trial : seconds of work in sight at which it is worth being prepared, to see how fast it is
    """

    name: ClassVar[str]
    trial: ClassVar[float]

    @abstractmethod
    def missing(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why it cannot compute in `dtype` on `device` here; None where it can."""

    def version(self) -> str:
        """Of what its speed depends on."""
        return torch.__version__

    def kept(self, dtype: torch.dtype) -> torch.dtype:
        """The type of what goes in and comes out, and so of crops, maps and memories."""
        return dtype

    def preparing(self) -> AbstractContextManager[Any]:
        """Round the building of an engine."""
        return nullcontext()

    @abstractmethod
    def encoder(
        self,
        encoder: Any,
        size: tuple[int, int],
        rows: int,
        dtype: torch.dtype,
        layout: torch.memory_format | None,
    ) -> PreparedEncoder:
        """An encoder on a copy of the weights, for images of `size`, height and width.

        `encoder` is an :class:`~gfnet_fast.model.backbones.Encoder`, or with int8 a
        :class:`~gfnet_fast.model.quantised.Graph`; `layout` is the map's where the runtime leaves that open,
        and measured on `rows` rows without it.
        """

    @abstractmethod
    def layer(self, layer: Any, dtype: torch.dtype, *shapes: tuple[int, ...]) -> nn.Module:
        """A module, or a Graph, on weights of its own, of inputs ``[n, *shape]`` each, maps channels-last."""

    def whole(self, run: Run) -> Run:
        """Several prepared networks and what lies between, as one function of one shape a bucket."""
        return run


@lru_cache(maxsize=1)
def runtimes() -> dict[str, Runtime]:
    """All by name, those that take the least to be prepared first."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    found = [importlib.import_module(f"{__name__}.{name}").RUNTIME for name in names]
    return {runtime.name: runtime for runtime in sorted(found, key=lambda runtime: runtime.trial)}


def usable(device: torch.device, dtype: torch.dtype) -> Runtime:
    """The one that takes the least to be prepared; DeviceError, with what each lacks, where there is none."""
    reasons: dict[str, list[str]] = {}
    for name, runtime in runtimes().items():
        reason = runtime.missing(device, dtype)
        if reason is None:
            return runtime
        reasons.setdefault(reason, []).append(name)
    got = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    raise DeviceError(f"dtype: expected one that can be computed here, got {dtype} ({got})")


def runtime_of(name: str, device: torch.device, dtype: torch.dtype) -> Runtime:
    """A runtime by its name; DeviceError where it is not known, or cannot compute that here."""
    check_name(name)
    runtime = runtimes()[name]
    if reason := runtime.missing(device, dtype):
        raise DeviceError(f"runtime {name}: {reason}")
    return runtime


def check_name(name: object, *others: str) -> None:
    """Raise DeviceError unless there is a runtime of this name, or it is one of `others`."""
    names = *others, *runtimes()
    if not isinstance(name, str) or name not in names:
        raise DeviceError(f"runtime: expected one of {', '.join(names)}, got {shown(name)}")
