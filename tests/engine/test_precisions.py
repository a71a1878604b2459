"""A network computes in the precision that was asked for, or it is an error that says why not."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gfnet_fast as gf
from gfnet_fast.engine.runtimes import openvino as openvino_file
from gfnet_fast.engine.runtimes import runtime_of, runtimes, usable
from gfnet_fast.engine.runtimes.openvino import Network, converted
from gfnet_fast.errors import CheckpointError, DeviceError
from gfnet_fast.model.quantised import Graph, Shapes
from tests.conftest import random_images
from tests.engine.engine_helpers import small_model

CPU = torch.device("cpu")


@pytest.fixture
def openvino():
    return pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def images(model):
    return random_images(2, model.config.image_size, seed=8)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float16])
def test_a_precision_that_nothing_computes_says_what_each_lacks(model, monkeypatch, dtype):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(openvino_file.importlib.util, "find_spec", lambda _: None)
    said = f"dtype: expected one .* here, got {dtype} .torch, inductor: expected .*; openvino: expected "
    for asked in (dtype, str(dtype).removeprefix("torch.")):
        with pytest.raises(DeviceError, match=said):
            gf.Predictor(model, device="cpu", dtype=asked)
    with pytest.raises(DeviceError, match="runtime torch: expected"):
        gf.Predictor(model, device="cpu", dtype=dtype, runtime="torch")


def test_int8_without_a_quantised_model_is_no_float32(openvino, model, images):
    with pytest.raises(DeviceError, match="expected a model that `gfnet-fast quantize` has written"):
        gf.Predictor(model, device="cpu", dtype="int8").predict_batch(images)


def test_what_the_processor_can_decides_which_precisions_there_are(openvino, monkeypatch):
    runtime = runtimes()["openvino"]
    for can, lacking in (
        (["FP32"], {torch.bfloat16, torch.int8, torch.float16}),
        (["FP32", "INT8"], {torch.bfloat16, torch.float16}),
        (["FP32", "INT8", "BF16"], {torch.float16}),
        ([], {torch.float32, torch.bfloat16, torch.int8, torch.float16}),
    ):
        monkeypatch.setattr(openvino_file, "_capabilities", lambda can=can: can)
        said = {dtype: runtime.missing(CPU, dtype) for dtype in (*lacking, torch.float32)}
        assert {dtype for dtype, reason in said.items() if reason} == lacking
        assert all("expected a CPU that it computes" in said[dtype] for dtype in lacking)
    assert runtime.missing(torch.device("cuda"), torch.float32) == "expected a CPU, got cuda"
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(openvino_file, "_capabilities", lambda: ["BF16"])
    assert usable(CPU, torch.bfloat16) is runtime is runtime_of("openvino", CPU, torch.bfloat16)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        seen = self.layer(x)
        return seen, seen.mean((2, 3))


SHAPE = [(2, 3, 8, 8)]


def recording(monkeypatch, reported=None):
    """The precisions that networks are compiled for; they say to be of `reported` then, if that is given."""
    asked, core = [], openvino_file._core()

    def compile_model(graph, device, settings):
        asked.append(settings["INFERENCE_PRECISION_HINT"])
        compiled = core.compile_model(graph, device, {**settings, "INFERENCE_PRECISION_HINT": "f32"})
        known = {} if reported is None else {"INFERENCE_PRECISION_HINT": reported}
        return SimpleNamespace(
            create_infer_request=compiled.create_infer_request,
            outputs=compiled.outputs,
            get_property=lambda name: known.get(name) or compiled.get_property(name),
        )

    stub = SimpleNamespace(compile_model=compile_model, read_model=core.read_model)
    monkeypatch.setattr(openvino_file, "_core", lambda: stub)
    return asked


def test_the_precision_that_was_asked_for_or_none(openvino, monkeypatch):
    network = Small()
    images = torch.randn(5, 3, 8, 8)
    monkeypatch.setattr(openvino_file, "_capabilities", lambda: ["FP32", "BF16"])
    asked = recording(monkeypatch)
    Network(network, SHAPE, torch.float32)(images)
    with pytest.raises(DeviceError, match="runtime openvino: expected to compute in bf16, got f32"):
        Network(network, SHAPE, torch.bfloat16)(images)
    assert asked == ["f32", "bf16"], "float32 is no bfloat16 where that is faster"
    asked = recording(monkeypatch, openvino.Type.bf16)
    Network(network, SHAPE, torch.bfloat16)(images)
    with pytest.raises(DeviceError, match="runtime openvino: expected to compute in f32, got bf16"):
        Network(network, SHAPE, torch.float32)(images)


@pytest.mark.parametrize(("can", "rest"), [("BF16", "bf16"), ("FP32", "f32")])
def test_a_graph_in_memory_is_the_network(openvino, monkeypatch, tmp_path, can, rest):
    network, images = Small(), torch.randn(5, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    _, graph = converted(network, [torch.zeros(SHAPE[0])])
    openvino.serialize(graph, tmp_path / "a.xml", tmp_path / "a.bin")
    shapes = Shapes(((3, 8, 8),), ((4, 6, 6), (4,)))
    graph = Graph((tmp_path / "a.xml").read_bytes(), (tmp_path / "a.bin").read_bytes(), shapes)
    monkeypatch.setattr(openvino_file, "_capabilities", lambda: ["INT8", can])
    asked = recording(monkeypatch, getattr(openvino.Type, rest))
    found = Network(graph, SHAPE, torch.int8)(images)
    assert asked == [rest], "of what is not quantised"
    for one, other in zip(found, network(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(CheckpointError, match="int8: expected a network that OpenVINO reads, got one that "):
        Network(Graph(graph.topology[:99], graph.weights, shapes), SHAPE, torch.int8)
