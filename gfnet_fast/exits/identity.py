"""What a calibration belongs to: a model, and the device its costs were measured on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gfnet_fast.exits.official import check_costs


@dataclass(frozen=True)
class ModelIdentity:
    """The model a calibration belongs to; `macs` are the multiply-adds of exiting at step 1..T."""

    name: str
    patch_size: int
    steps: int
    macs: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "macs", tuple(check_costs(self.macs, self.steps).tolist()))

    @classmethod
    def of(cls, config: Any) -> ModelIdentity:
        """The identity of a :class:`~gfnet_fast.config.GFNetConfig` with its ``macs`` filled in."""
        return cls(config.name, config.patch_size, config.steps, config.macs)


@dataclass(frozen=True)
class CostTable:
    """Measured costs: mean milliseconds an image that exits at step 1..T takes, on one named device.

    `settings` says how it was measured (precision, batch, versions), for people to read.
    """

    device: str
    milliseconds: tuple[float, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        costs = check_costs(self.milliseconds, len(self.milliseconds))
        object.__setattr__(self, "milliseconds", tuple(costs.tolist()))
