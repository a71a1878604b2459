"""One network in int8: its ranges found, what loses too much left as it is, layer by layer.

Weights are symmetric with a scale a channel, activations with one a tensor: their largest and least values on
all inputs, since means over single inputs clip those that hold more than others. Weights take half of int8's
range, but for those of depthwise convolutions: processors without VNNI add pairs of products in 16 bits, and
would overflow.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from gfnet_fast.engine.runtimes.openvino import converted, imported
from gfnet_fast.errors import DeviceError
from gfnet_fast.quiet import quiet

BETWEEN = ("Add", "Subtract", "Multiply", "Sigmoid", "Tanh")
INSTALL = "pip install 'gfnet-fast[quantize]'"


class Layers(NamedTuple):
    """A network in int8.

    graph : ov.Model
    kept : names of the layers that are not in int8
    error : of its last output on the judged inputs: norm of the difference by the norm
    before : the same with all layers in int8
    layers : how many there are
    """

    graph: Any
    kept: tuple[str, ...]
    error: float
    before: float
    layers: int


def quantise(
    network: nn.Module,
    ranges: tuple[Tensor, ...],
    judged: tuple[Tensor, ...],
    tolerance: float,
    *,
    products: bool = False,
) -> Layers:
    """`network` in int8, with as many layers as it takes kept out of it for an error of at most `tolerance`.

    Which those are is measured: each layer alone in int8, the worst first. `products`: only its matrix
    products and convolutions, not sums and what lies between.
    """
    apart = BETWEEN if products else ()
    held, plain = converted(network, [column[:2] for column in ranges])  # what is held is the memory of it
    exact = _outputs(plain, judged)
    graph = _quantised(plain, ranges, (), apart)
    names = _quantised_layers(graph, plain)
    before = error = _error(graph, judged, exact)
    kept: tuple[str, ...] = ()
    if error > tolerance:
        raw = _quantised(plain, ranges, (), apart, correct=False)  # or corrected biases would count as errors
        alone = {name: _error(_only(raw, plain, names, name), judged, exact) for name in names}
        worst = sorted(names, key=alone.__getitem__, reverse=True)
        count = _enough([alone[name] for name in worst], tolerance)
        while error > tolerance and len(kept) < len(names):
            kept = tuple(worst[:count])
            graph = _quantised(plain, ranges, kept, apart)
            error, count = _error(graph, judged, exact), count + max(1, count // 4)
    found = Layers(graph, kept, error, before, len(names))
    del held
    return found


def _enough(alone: list[float], tolerance: float) -> int:
    """How many of the worst to keep, where errors add as independent ones do."""
    squares = np.array(alone) ** 2
    left = squares.sum() - np.cumsum(squares)
    return int((left > tolerance**2).sum()) + 1


def _quantised(
    plain: Any,
    ranges: tuple[Tensor, ...],
    kept: Collection[str],
    apart: Collection[str] = (),
    *,
    correct: bool = True,
) -> Any:
    nncf = quantiser()
    parameters = nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix.ENABLE,
        disable_bias_correction=not correct,
        activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX,
    )
    rows = [tuple(column[row : row + 1].numpy() for column in ranges) for row in range(len(ranges[0]))]
    data = [row[0] if len(row) == 1 else dict(enumerate(row)) for row in rows]
    # Its bars, and what torch says where it finds a CUDA toolkit and no GPU when NNCF imports its extensions.
    with quiet(), redirect_stdout(io.StringIO()), _mute("torch.utils.cpp_extension"):
        return nncf.quantize(
            plain,
            nncf.Dataset(data),
            subset_size=len(data),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=list(kept), types=list(apart), validate=False),
            advanced_parameters=parameters,
        )


def _quantised_layers(graph: Any, plain: Any) -> list[str]:
    """Names of the operations of `plain` that take int8 in `graph`: convolutions, sums, means."""
    known = {node.get_friendly_name(): node for node in plain.get_ops()}
    constant, found = _constants(graph), []
    for node in graph.get_ops():
        name = node.get_friendly_name()
        ports = zip(node.inputs(), known[name].inputs(), strict=True) if name in known else ()
        for port, before in ports:
            source, exact = (each.get_source_output().get_node() for each in (port, before))
            kind = source.get_type_name()
            if kind != exact.get_type_name() if source.get_name() in constant else kind == "FakeQuantize":
                found.append(name)
                break
    return found


def _only(graph: Any, plain: Any, names: Collection[str], name: str) -> Any:
    """`graph` with all layers of `names` but one as they are in `plain`."""
    mixed, exact = graph.clone(), plain.clone()
    constant, known = _constants(exact), {node.get_friendly_name(): node for node in exact.get_ops()}
    for node in mixed.get_ops():
        if node.get_friendly_name() not in names or node.get_friendly_name() == name:
            continue
        for port, source in zip(node.inputs(), known[node.get_friendly_name()].inputs(), strict=True):
            before, own = port.get_source_output().get_node(), source.get_source_output()
            if own.get_node().get_name() in constant:
                port.replace_source_output(own)
            elif before.get_type_name() == "FakeQuantize":
                port.replace_source_output(before.input(0).get_source_output())
    return mixed


def _constants(graph: Any) -> set[str]:
    """Unique names of the operations that no input of the network changes."""
    found: set[str] = set()
    for node in graph.get_ordered_ops():
        sources = (port.get_source_output().get_node() for port in node.inputs())
        if node.get_type_name() != "Parameter" and all(source.get_name() in found for source in sources):
            found.add(node.get_name())
    return found


def _error(graph: Any, inputs: tuple[Tensor, ...], exact: np.ndarray) -> float:
    found = _outputs(graph, inputs)
    return float(np.linalg.norm(found - exact) / max(float(np.linalg.norm(exact)), 1e-30))


def _outputs(graph: Any, inputs: tuple[Tensor, ...]) -> np.ndarray:
    """The last output, computed in float32 but for what is int8."""
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = imported().Core().compile_model(graph, "CPU", settings)
    found = compiled([column.numpy() for column in inputs])
    return np.array(found[len(compiled.outputs) - 1])


@contextmanager
def _mute(logger: str) -> Iterator[None]:
    found = logging.getLogger(logger)
    before, found.disabled = found.disabled, True
    try:
        yield
    finally:
        found.disabled = before


def quantiser() -> Any:
    """The module `nncf`, without what tells its makers that it is used; DeviceError where it is not there."""
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        with quiet():
            imported()
            import nncf
            import nncf.quantization.range_estimator
    except ImportError as error:
        raise DeviceError(f"quantize: expected OpenVINO and NNCF, got {error}; {INSTALL}") from None
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before
    nncf.set_log_level(logging.ERROR)
    return nncf
