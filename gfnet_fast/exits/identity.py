"""What a calibration belongs to: a model, and the device its costs were measured on."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gfnet_fast.errors import BudgetError, shown
from gfnet_fast.exits.official import check_costs

MAX_NAME = 256  # characters
PRECISIONS = ("float32", "int8")


def device_name(device: Any) -> str | None:
    """What measured costs call a device: ``"cpu"`` -> ``"cpu: AMD EPYC, 2 threads"``.

    torch's names are looked up on this machine; another text is taken for such a name already, and None
    stays None.
    """
    name = None if device is None else str(device)
    if name is None or not re.fullmatch(r"(cpu|cuda)(:\d+)?", name):
        return name
    if name.startswith("cuda"):
        return f"cuda: {torch.cuda.get_device_name(name)}" if torch.cuda.is_available() else name
    threads = torch.get_num_threads()
    return f"cpu: {_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    """The processor's name, where Linux tells it; else its architecture."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.machine()


@dataclass(frozen=True)
class ModelIdentity:
    """The model a calibration belongs to.

    Attributes
    ----------
    name : str
    patch_size, steps : int
    macs : tuple of float
        Multiply-adds of exiting at step 1..T.
    weights : str, or None
        The digest of its weights (:meth:`GFNet.weights_digest`), 32 hexadecimal digits; None where it is not
        known.
    precision : "float32" or "int8"
        What its weights are held in. A predictor that computes in bfloat16 or float16 uses the thresholds of
        float32.
    """

    name: str
    patch_size: int
    steps: int
    macs: tuple[float, ...]
    weights: str | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        sizes = (self.patch_size, self.steps)
        named = isinstance(self.name, str) and len(self.name) <= MAX_NAME
        if not named or any(type(size) is not int or size < 1 for size in sizes):
            got = f"{shown(self.name)}, {shown(sizes)}"
            raise BudgetError(f"model: expected a name, and whole numbers of pixels and steps, got {got}")
        object.__setattr__(self, "macs", tuple(check_costs(self.macs, self.steps).tolist()))
        digest = self.weights
        if digest is not None and not (isinstance(digest, str) and re.fullmatch("[0-9a-f]{32}", digest)):
            raise BudgetError(f"weights: expected 32 hexadecimal digits, or none, got {shown(digest)}")
        if not isinstance(self.precision, str) or self.precision not in PRECISIONS:
            expected = " or ".join(map(repr, PRECISIONS))
            raise BudgetError(f"precision: expected {expected}, got {shown(self.precision)}")

    @classmethod
    def of(cls, model: Any, precision: str = "float32") -> ModelIdentity:
        """The identity of a :class:`~gfnet_fast.GFNet` with the weights that it has now, in a precision.

        It reads all of them, which takes about a fifth of the time that loading them takes.
        """
        c = model.config
        return cls(c.name, c.patch_size, c.steps, c.macs, weights=model.weights_digest(), precision=precision)


@dataclass(frozen=True)
class CostTable:
    """Measured costs: mean milliseconds an image that exits at step 1..T takes, on one named device.

    `device` is as :func:`device_name` has it. `settings` says how it was measured (precision, batch,
    versions), for people to read.
    """

    device: str
    milliseconds: tuple[float, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = isinstance(self.device, str) and len(self.device) <= MAX_NAME
        if not named or not isinstance(self.settings, dict):
            got = f"{shown(self.device)}, {type(self.settings).__name__}"
            raise BudgetError(f"cost table: expected a device's name and a table of settings, got {got}")
        costs = check_costs(self.milliseconds, len(self.milliseconds))
        object.__setattr__(self, "milliseconds", tuple(costs.tolist()))

    def other_settings(self, mine: Mapping[str, Any]) -> list[str]:
        """Those of `mine` that these costs were measured without, each as "batch 64 (here 16)"."""
        return [
            f"{name} {self.settings[name]} (here {value})"
            for name, value in mine.items()
            if name in self.settings and self.settings[name] != value
        ]
