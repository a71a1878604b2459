"""What belongs to a model in int8: its networks, and the thresholds that were found with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NETWORKS = ("global_encoder", "local_encoder", "policy", "classifier")
"""Both encoders; the layers by which the policy reads a map; the GRU of a recurrent classifier."""


@dataclass(frozen=True)
class Graph:
    """A network with its weights: OpenVINO's intermediate representation, in memory."""

    topology: bytes
    weights: bytes


@dataclass(frozen=True, eq=False)
class Quantised:
    """The int8 form of a model.

    Attributes
    ----------
    graphs : by name, of :data:`NETWORKS`; a cascaded classifier has none
    weights : digest of the float32 weights that they were made of
    kept : by the graph's name, its layers that are not in int8
    about : versions, and what was measured when they were made
    calibration : Calibration, or None
        Of these networks: thresholds of float32 are others'.
    """

    graphs: Mapping[str, Graph]
    weights: str
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    calibration: Any = None
