"""A model in int8: all its networks, the thresholds found anew, and what that changed."""

from __future__ import annotations

import importlib.metadata
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gfnet_fast.engine.runtimes.openvino import imported
from gfnet_fast.evaluation import Steps
from gfnet_fast.exits import Calibration, exit_steps
from gfnet_fast.exits.path import position_of
from gfnet_fast.intervals import paired
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.quantised import Graph, Quantised, Shapes, shapes_of
from gfnet_fast.quantisation.layers import quantise, quantiser
from gfnet_fast.quantisation.views import networks_of, views_of

TOLERANCE = 0.06
"""Most that int8 may change a network's output: norm of the change by its norm."""

RANGES, JUDGED = 256, 128
"""Inputs of each network that its ranges are found on, and others that it is judged by."""


def quantised_model(
    model: GFNet,
    ranges: Iterable[Tensor],
    judged: Iterable[Tensor],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    say: Callable[[str], object] = lambda text: None,
) -> Quantised:
    """The int8 form of a model on a CPU, without thresholds; `about` has what was measured.

    Parameters
    ----------
    model : GFNet
    ranges, judged : batches of uint8 ``[n, H, W, 3]``
        Images whose views the ranges are found on, and others that the networks are judged by.
    tolerance : float
        What a network loses more than keeps its worst layers out of int8.
    seed : of which views
    say : is told what is going on

    Raises
    ------
    DeviceError
        Where OpenVINO or NNCF is not there.
    """
    quantiser()
    seen, other = views_of(model, ranges, RANGES, seed), views_of(model, judged, JUDGED, seed + 1)
    found = {}
    for name, network in networks_of(model).items():
        say(f"quantising {name}")
        products = not name.endswith("encoder")
        found[name] = quantise(network, seen[name], other[name], tolerance, products=products)
    versions = {name: importlib.metadata.version(name) for name in ("openvino", "nncf")}
    shapes = shapes_of(model)
    graphs = {name: graph_of(layers.graph, shapes[name]) for name, layers in found.items()}
    kept = {name: layers.kept for name, layers in found.items()}
    measured = {
        name: {"error": layers.error, "all_int8": layers.before, "layers": layers.layers}
        for name, layers in found.items()
    }
    about = {"versions": versions, "tolerance": tolerance, "networks": measured}
    return Quantised(graphs, model.weights_digest(), kept, about)


def whole(model: GFNet, images: Tensor) -> Graph:
    """The local backbone in int8 for whole images, uint8 ``[n, H, W, 3]``; all of its layers."""
    views = model.normalise(images[:RANGES])
    with torch.no_grad():
        outputs = tuple(tuple(found.shape[1:]) for found in model.local_encoder(views[:1]))
    shapes = Shapes((tuple(views.shape[1:]),), outputs)
    return graph_of(quantise(model.local_encoder, (views,), (views[:1],), math.inf).graph, shapes)


def graph_of(model: Any, shapes: Shapes) -> Graph:
    """An ov.Model in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "graph.xml")
        imported().save_model(model, os.fspath(path), compress_to_fp16=False)
        return Graph(path.read_bytes(), path.with_suffix(".bin").read_bytes(), shapes)


class Moved(NamedTuple):
    """What int8 changed: float32 at its default thresholds, and int8 at those of its own that cost the same.

    accuracy, cost : percent points, and percent of float32's mean multiply-adds, each with both ends of a
        95 % interval, on images that no thresholds were found on
    agreement : percent of the images that keep their class
    shares : of the images that leave at each step, in float32 and in int8, ``[T]`` each
    stale : accuracy and cost again, of int8 at float32's thresholds
    """

    accuracy: tuple[float, float, float]
    cost: tuple[float, float, float]
    agreement: float
    shares: tuple[list[float], list[float]]
    stale: tuple[tuple[float, float, float], tuple[float, float, float]]

    def loses(self, most: float) -> bool:
        """Whether it is more than `most` points, and not by chance: every loss in the interval is one."""
        change, _, high = self.accuracy
        return change < -most and high < 0


def moved(
    plain: Steps, int8: Steps, calibrations: Mapping[str, Calibration], macs: tuple[float, ...]
) -> Moved:
    """Of the same N images; `calibrations` of "float32" and "int8"."""
    before, after = calibrations["float32"], calibrations["int8"]
    assert before.mean_macs is not None
    assert after.mean_macs is not None
    row = before.thresholds[before.default_row]
    own = after.at(position_of(after.mean_macs, before.mean_macs[before.default_row]))
    price, count = np.array(macs), len(plain.labels)
    (exits, classes), (exits8, classes8), stale = (
        _left(plain, row), _left(int8, own), _left(int8, row)
    )  # fmt: skip

    def changed(exits8: Any, classes8: Any) -> tuple[Any, Any]:
        right, right8 = classes == plain.labels, classes8 == plain.labels
        cost = 100 * (price[exits8 - 1] - price[exits - 1]) / price[exits - 1].mean()
        return paired(100 * (right8.astype(float) - right)), paired(cost)

    shares = [np.bincount(e, minlength=len(macs) + 1)[1:] / count for e in (exits, exits8)]
    agreement = 100 * float((classes == classes8).mean())
    both = shares[0].tolist(), shares[1].tolist()
    return Moved(*changed(exits8, classes8), agreement, both, changed(*stale))


def _left(steps: Steps, row: Any) -> tuple[Any, Any]:
    """Steps and classes of N images at these thresholds."""
    exits = exit_steps(steps.confidences, row)
    return exits, steps.predictions[exits - 1, np.arange(len(exits))]


def with_calibration(quantised: Quantised, calibration: Calibration, **about: Any) -> Quantised:
    """The int8 form with thresholds of its own, and more that is known of it."""
    return replace(quantised, calibration=calibration, about={**quantised.about, **about})
