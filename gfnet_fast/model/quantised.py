"""Networks in int8 that belong to a model, as OpenVINO keeps a graph."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Graph:
    """A network with its weights: OpenVINO's intermediate representation, in memory."""

    topology: bytes
    weights: bytes
