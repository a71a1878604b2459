"""What OpenVINO computes is what the trace says; what is not there, and what it cannot do, is one line."""

import copy
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

import gfnet_fast as gf
from gfnet_fast.engine.runtimes import check_name, runtimes
from gfnet_fast.engine.runtimes import openvino as openvino_file
from gfnet_fast.engine.runtimes.openvino import OpenVINO
from gfnet_fast.errors import DeviceError
from gfnet_fast.model.backbones import Encoder
from gfnet_fast.model.gfnet import GFNet
from tests.conftest import CONFIGS, expected_exits, random_images, tiny_config, tiny_model
from tests.engine.engine_helpers import Wrapped, engine_of, near, rows_of, small_model
from tests.engine.test_eager import random_thresholds

CPU = torch.device("cpu")
SIZE = 80


def assert_where_sure(model, images, thresholds, out, *, most=0.2):
    """Class, exit step and origins are the trace's, but for images that rounding may change: see `near`."""
    sure = ~near(model, images, thresholds)
    assert 1 - sure.float().mean() <= most
    label, step, origins = expected_exits(model, images, thresholds)
    assert torch.equal(out.exit_step[sure], step[sure])
    assert torch.equal(out.class_id[sure], label[sure])
    assert torch.equal(out.origins[sure], origins[sure])


@pytest.fixture
def openvino():
    return pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def images(model):
    return random_images(23, SIZE, seed=8)


FAST = "mobilenetv3_large_100_96_T3"


@pytest.mark.parametrize(
    "fixture",
    [pytest.param(name, marks=() if name == FAST else pytest.mark.slow) for name in CONFIGS],
    indirect=True,
)
def test_official_configurations_equal_the_trace_under_openvino(openvino, fixture, official_model):
    images = fixture.images[:3]
    thresholds = random_thresholds(official_model, images, 0)
    out = engine_of(official_model, (2,), runtime="openvino").predict(images, thresholds)
    assert_where_sure(official_model, images, thresholds, out, most=0.7)


@pytest.mark.parametrize(
    ("classifier", "policy", "mode"),
    [
        ("recurrent", "linear", "throughput"),
        ("recurrent", "conv", "deadline"),
        ("cascaded", "linear", "latency"),
        ("cascaded", "conv", "throughput"),
    ],
)
def test_classifiers_policies_and_modes_equal_the_trace(openvino, classifier, policy, mode):
    model = small_model(classifier, policy=policy)
    images = random_images(25, SIZE, 1)
    thresholds = random_thresholds(model, images, 1)
    engine = engine_of(model, (1, 3), runtime="openvino", mode=mode, capacity=5)
    assert_where_sure(model, images, thresholds, engine.predict(images, thresholds))
    floats = model.normalise(images).flip(0)
    assert_where_sure(model, images.flip(0), thresholds, engine.predict(floats, thresholds))


@pytest.mark.parametrize("backbone", ["timm/mobilenetv3_small_050", "torchvision/shufflenet_v2_x0_5"])
def test_backbones_equal_the_trace(openvino, backbone):
    """Random ones look at few places, and many images are near a pixel's edge: they all take all steps."""
    model = tiny_model(backbone=backbone, backbone_args={}, steps=3)
    images, thresholds = random_images(12, SIZE, 2), torch.full((3,), 2.0)
    out = engine_of(model, (5,), runtime="openvino").predict(images, thresholds)
    assert_where_sure(model, images, thresholds, out, most=1.0)
    sure = ~near(model, images, thresholds)
    logits = model.trace(model.normalise(images)).logits[-1]
    torch.testing.assert_close(out.logits[sure], logits[sure], rtol=1e-3, atol=1e-3)
    assert (out.origins >= 0).all()


def test_images_of_other_sizes_are_what_torch_makes_of_them(openvino, model):
    sizes = [(80, 80), (64, 100), (32, 32), (41, 33)]
    images = [random_images(1, max(size), k)[0, : size[0], : size[1]] for k, size in enumerate(sizes)]
    expected = engine_of(model).predict(images, torch.full((4,), 2.0))
    out = engine_of(model, (3,), runtime="openvino").predict(images, torch.full((4,), 2.0))
    assert torch.equal(out.origins, expected.origins)
    torch.testing.assert_close(out.logits, expected.logits, rtol=1e-3, atol=1e-3)


def test_torch_s_defaults_change_nothing_under_openvino(openvino, model, images):
    expected = engine_of(model, (4,), runtime="openvino").predict(images)
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            out = engine_of(model, (4,), runtime="openvino").predict(images)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(out, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_an_engine_keeps_the_weights_it_was_built_with(openvino, images):
    model = small_model()
    engine = engine_of(model, (4,), runtime="openvino")
    before = engine.predict(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert all(torch.equal(a, b) for a, b in zip(engine.predict(images), before, strict=True))


def test_threads_copies_and_pickles_are_right_under_openvino(openvino, model, images):
    thresholds = (0.55, 0.75, 0.75, -1e8)
    label, step, _ = expected_exits(model, images, torch.tensor(thresholds))
    sure = ~near(model, images, torch.tensor(thresholds))
    budget = gf.Budget(thresholds=thresholds)
    predictor = gf.Predictor(model, device="cpu", runtime="openvino", batch=4, budget=budget)

    def right(one):
        out = one.predict_batch(images)
        return torch.equal(out.class_id[sure], label[sure]) and torch.equal(out.exit_step[sure], step[sure])

    others = [copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, [predictor, *others, predictor]))
    assert predictor.runtime == others[0].runtime == "openvino"
    with pytest.raises(TypeError, match="made anew, not copied"):
        copy.deepcopy(predictor._pool._engines[0].stages.encode_glance)


def test_an_image_that_cannot_be_computed_is_an_error_in_its_place(openvino, model, images):
    predictor = gf.Predictor(model, device="cpu", runtime="openvino", batch=4, budget=gf.Budget(max_steps=3))
    expected = predictor.predict_batch(images)
    (engine,) = predictor._pool._engines
    bad = engine._next + 7

    class Poisoned(Wrapped):
        def start(self, stage, bucket, block):
            if bad in engine._told.ticket[rows_of(engine, stage, bucket, block)]:
                raise MemoryError("no room")
            self.inner.start(stage, bucket, block)

    Poisoned(engine)
    results = list(predictor.stream(list(images.numpy()), on_error="return"))
    assert [k for k, result in enumerate(results) if result.error] == [7]
    others = [k for k in range(23) if k != 7]
    assert [results[k].class_id for k in others] == expected.class_id[others].tolist()


class Odd(Encoder):
    """Not to be converted: OpenVINO's frontend has no rule for the operation."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3, stride=4)

    def forward(self, x):
        seen = torch.special.bessel_j0(self.layer(x))
        return seen, seen.mean((2, 3))

    def head(self, vector):
        return vector[:, :7]


class Counting(Odd):
    """Nor this one, which is traced as a network for two images."""

    def forward(self, x):
        seen = self.layer(x)
        return seen, seen.mean((2, 3)).reshape(len(x), -1)


def odd_model(encoder, monkeypatch):
    gf.register_backbone("test-odd", lambda classes: encoder())
    return GFNet(tiny_config(backbone="test-odd", backbone_args={})).eval()


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (Odd, "a network that it can convert, got No conversion rule found for .*: aten::special_bessel_j0$"),
        (Counting, r"a network that gives a row for each image, 4, got \[2,16\]$"),
    ],
)
def test_a_network_that_cannot_be_converted(openvino, images, monkeypatch, encoder, said):
    model = odd_model(encoder, monkeypatch)
    expected = gf.Predictor(model, device="cpu", runtime="torch", batch=4).predict_batch(images)
    with pytest.raises(DeviceError, match=f"^runtime openvino: expected {said}"):
        gf.Predictor(model, device="cpu", runtime="openvino", batch=4).predict_batch(images)
    monkeypatch.setattr(OpenVINO, "trial", 1e-9)
    predictor = gf.Predictor(model, device="cpu", batch=4)
    with pytest.warns(RuntimeWarning, match="openvino failed, going on without: DeviceError: ") as caught:
        out = predictor.predict_batch(images)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = predictor.predict_batch(images)
    torch.testing.assert_close(out.logits, expected.logits)
    assert torch.equal(out.origins, expected.origins)
    assert predictor.runtime == "torch"


def no_spec(monkeypatch):
    monkeypatch.setattr(openvino_file.importlib.util, "find_spec", lambda _: None)


def broken(monkeypatch):
    def raising():
        raise OSError("libtbb.so.12: cannot open\nshared object file")

    monkeypatch.setattr(openvino_file.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(openvino_file, "_core", raising)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_spec, r"runtime openvino: expected OpenVINO, got none; pip install 'gfnet-fast\[openvino\]'$"),
        (
            broken,
            "runtime openvino: expected an OpenVINO that works, got OSError: libtbb.so.12: cannot",
        ),
    ],
)
def test_a_machine_without_openvino(model, images, monkeypatch, spoil, said):
    spoil(monkeypatch)
    with pytest.raises(DeviceError, match=said):
        gf.Predictor(model, device="cpu", runtime="openvino")
    monkeypatch.setattr(OpenVINO, "trial", 1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor = gf.Predictor(model, device="cpu", batch=4)
        predictor.predict_batch(images)
        gf.Predictor(model, device="cpu", mode="latency").warm_up()
    assert predictor.runtime == "torch"


def test_what_is_not_here_is_looked_for_once(model, images, monkeypatch):
    looked = []
    monkeypatch.setattr(OpenVINO, "missing", lambda *_: looked.append(1) or "expected OpenVINO, got none")
    monkeypatch.setattr(OpenVINO, "trial", 1e-9)
    list(gf.Predictor(model, device="cpu", batch=4).stream(list(images.numpy())))
    assert looked == [1]


@pytest.mark.parametrize("name", ["", "Torch", "auto ", "onnx", None, 3, ["torch"], "x" * 999], ids=repr)
def test_runtimes_that_are_not_known(name):
    with pytest.raises(
        DeviceError, match=r"^runtime: expected one of torch, openvino, inductor, got .{,250}$"
    ):
        check_name(name)
    with pytest.raises(DeviceError, match="runtime: expected one of auto, torch, openvino, inductor, got "):
        gf.Predictor(tiny_model(), runtime=name)
    assert [runtime.trial for runtime in runtimes().values()] == [0.0, 20.0, 60.0]


def test_an_openvino_that_is_imported_already_is_left_alone(openvino, monkeypatch):
    mark = object()
    monkeypatch.setitem(sys.modules, "openvino_telemetry", mark)
    assert openvino_file.imported() is openvino is sys.modules["openvino"]
    assert sys.modules["openvino_telemetry"] is mark


FORK = f"""
import importlib.util, os, signal, sys, warnings
os.register_at_fork(after_in_child=lambda: signal.alarm(60))
warnings.simplefilter("error")
import torch
torch.set_num_threads(2)
import gfnet_fast as gf
model = gf.load({str(Path(gf.__file__).parent / "assets" / "digits")!r})
images = torch.randint(0, 256, (9, 192, 192, 3), dtype=torch.uint8)
auto = gf.Predictor(model, device="cpu", batch=4)
expected = auto.predict_batch(images).class_id.tolist()
predictor = gf.Predictor(model, device="cpu", runtime="openvino", batch=4)
assert predictor.predict_batch(images).class_id.tolist() == expected
assert "openvino_telemetry" not in sys.modules
if importlib.util.find_spec("openvino_telemetry"):
    import openvino_telemetry
import openvino
assert openvino.Core().available_devices
child = os.fork()
if not child:
    try:
        predictor.predict_batch(images)
    except gf.DeviceError as error:
        assert "openvino: expected the process that used it first, got one that forked from it" in str(error)
        auto._pool.images = 10**9  # work enough for anything
        auto._pool._out.add("inductor")  # which would compile for a while
        assert auto.predict_batch(images).class_id.tolist() == expected
        assert auto.runtime == "torch"
        sys.exit(7)  # through the ends of all libraries
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert predictor.predict_batch(images).class_id.tolist() == expected
"""


def test_a_fork_goes_on_with_torch_and_nobody_is_told(openvino):
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=150)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
