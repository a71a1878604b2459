"""One network in int8: which layers stay float, the errors that are told, the ranges, what is left alone."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from gfnet_fast.errors import DeviceError

openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")

from gfnet_fast.engine.runtimes.openvino import converted  # noqa: E402
from gfnet_fast.quantisation.layers import _constants, quantise, quantiser  # noqa: E402

SPOILED = "__module.spoiled/aten::_convolution/Convolution"


class Net(nn.Module):
    """With a sum and a depthwise convolution; what `spoiled` reads is `factor` times larger in a channel."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.spoiled = nn.Conv2d(16, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last = nn.Conv2d(16, 24, 1)
        with torch.no_grad():  # the same function for any factor
            self.first.weight[0].mul_(factor)
            self.first.bias[0].mul_(factor)
            self.spoiled.weight[:, 0].div_(factor)

    def forward(self, x):
        x = self.spoiled(self.first(x).relu()).relu()
        x = self.last(x + self.deep(x).relu())
        return x, x.mean((2, 3))


def drawn(count, seed):
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def outputs(graph, inputs):
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [np.array(value) for value in compiled([inputs.numpy()]).values()]


@torch.no_grad()
def error_of(graph, network, judged):
    exact = network(judged)[-1].numpy().astype(np.float64)
    return np.sqrt(((outputs(graph, judged)[-1] - exact) ** 2).sum() / (exact**2).sum())


def test_all_layers_where_nothing_is_lost():
    network, judged = Net().eval(), drawn(24, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = quantise(network, (drawn(16, 0),), (judged,), 0.1)
    assert (found.kept, found.layers, found.before) == ((), 6, found.error)
    assert found.error == pytest.approx(error_of(found.graph, network, judged), rel=1e-3)
    assert 0 < found.error < 0.03
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    constants = [node for node in found.graph.get_ops() if node.get_type_name() == "Constant"]
    weights = [np.array(node.data) for node in constants if node.get_element_type() == openvino.Type.i8]
    largest = {value.shape: int(np.abs(value.astype(int)).max()) for value in weights}
    assert largest.pop((16, 1, 1, 3, 3)) <= 127  # depthwise
    assert set(largest) == {(16, 3, 3, 3), (16, 16, 3, 3), (24, 16, 1, 1)}
    assert max(largest.values()) <= 64  # half of int8's range
    # any number of rows, and as many answers
    assert [value.shape for value in outputs(found.graph, judged[:5])] == [(5, 24, 12, 12), (5, 24)]


def test_the_layer_that_loses_most_stays_float():
    network, judged = Net(1000.0).eval(), drawn(24, 1)
    found = quantise(network, (drawn(16, 0),), (judged,), 0.05)
    assert found.before > 0.1
    assert found.kept == (SPOILED,)
    assert found.error == pytest.approx(error_of(found.graph, network, judged), rel=1e-3)
    assert found.error <= 0.05


def test_ranges_are_those_of_the_largest_input():
    """Of views that are mostly blank the mean range is a sixteenth of what the other needs."""
    network, judged = Net().eval(), drawn(16, 1)
    ranges = torch.cat([torch.full((15, 3, 12, 12), 0.01), drawn(1, 0)])
    found = quantise(network, (ranges,), (judged,), 1.0)
    (first,) = (
        node for node in found.graph.get_ops()
        if node.get_type_name() == "FakeQuantize"
        and node.input_value(0).get_node().get_type_name() == "Parameter"
    )  # fmt: skip
    low, high = (float(first.input_value(port).get_node().data) for port in (1, 2))
    assert low == pytest.approx(float(ranges.min()), rel=0.03)
    assert high == pytest.approx(float(ranges.max()), rel=0.03)
    assert error_of(found.graph, network, judged) < 0.1


QUIET = """
import os, sys
sys.path.insert(0, {root!r})
os.environ.pop("NNCF_CI", None)
import torch
from tests.quantisation.test_layers import Net, drawn
from gfnet_fast.quantisation.layers import quantise
found = quantise(Net().eval(), (drawn(4, 0),), (drawn(4, 1),), 1.0)
assert found.layers == 6
assert "NNCF_CI" not in os.environ
assert "openvino_telemetry" not in sys.modules or sys.modules["openvino_telemetry"] is not None
"""


def test_it_says_nothing_and_leaves_the_environment_alone():
    """In a process of its own: what a library says when it is imported it says once."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    done = subprocess.run(
        [sys.executable, "-c", QUIET.format(root=root)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("before", [None, "0"])
def test_the_environment_is_as_it_was(monkeypatch, before):
    monkeypatch.delenv("NNCF_CI", raising=False)
    if before is not None:
        monkeypatch.setenv("NNCF_CI", before)
    quantiser()
    assert os.environ.get("NNCF_CI") == before


@pytest.mark.parametrize("missing", ["nncf", "openvino"])
def test_what_to_install_where_it_is_missing(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DeviceError) as raised:
        quantise(Net(), (drawn(4, 0),), (drawn(4, 1),), 1.0) if missing == "nncf" else quantiser()
    said = str(raised.value)
    assert said.startswith("quantize: expected OpenVINO and NNCF, got ")
    assert said.endswith("; pip install 'gfnet-fast[quantize]'")
    assert missing in said
    assert "\n" not in said
    assert "NNCF_CI" not in os.environ


class Deep(nn.Module):
    """Deeper than Python calls functions, each sum with two ways to it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        x = self.first(x)
        for _ in range(300):
            x = x.abs() + x
        return x


def test_networks_deeper_than_the_stack():
    held, graph = converted(Deep(), [torch.zeros(2, 3, 4, 4)])
    constant, depth = _constants(graph), len(graph.get_ops())
    assert depth > 600
    assert {node.get_type_name() for node in graph.get_ops() if node.get_name() in constant} <= {
        "Constant",
        "Convert",
        "Reshape",
        "ShapeOf",
    }
    del held
