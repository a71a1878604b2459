"""What belongs to a model in int8: its networks, and the thresholds that were found with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

NETWORKS = ("global_encoder", "local_encoder", "policy", "classifier")
"""Both encoders; the layers by which the policy reads a map; the GRU of a recurrent classifier."""


class Shapes(NamedTuple):
    """Of a network's inputs and outputs, without the rows."""

    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]


def shapes_of(model: Any) -> dict[str, Shapes]:
    """Of the networks that an int8 form of a GFNet has, by name."""
    c, mapped, feature = model.config, tuple(model.map_shape), (model.feature_dim,)
    encoder = Shapes(((3, c.patch_size, c.patch_size),), (mapped, feature))
    seen = (math.prod(mapped),) if model.policy.flattens_first else mapped
    found = [encoder, encoder, Shapes((seen,), ((c.policy_width,),))]
    if c.classifier == "recurrent":
        state = (c.classifier_width,)
        found.append(Shapes((feature, state), (state,)))
    return dict(zip(NETWORKS, found, strict=False))


@dataclass(frozen=True)
class Graph:
    """A network with its weights: OpenVINO's intermediate representation, in memory.

    `shapes` are those that it has to have: a stranger's file may say others.
    """

    topology: bytes
    weights: bytes
    shapes: Shapes


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
