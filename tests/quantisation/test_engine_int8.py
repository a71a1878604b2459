"""Predictors in int8: the decisions of the int8 model's trace, by thresholds of its own."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from gfnet_fast.errors import CheckpointError, DeviceError
from gfnet_fast.exits import Budget, BudgetWarning
from gfnet_fast.predictor import Predictor
from tests.conftest import expected_exits

openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")

from openvino import opset13 as ops  # noqa: E402

from gfnet_fast.engine.int8 import in_int8  # noqa: E402
from gfnet_fast.engine.runtimes import openvino as runtime  # noqa: E402
from gfnet_fast.model.quantised import Shapes  # noqa: E402
from gfnet_fast.quantisation.model import graph_of  # noqa: E402
from tests.quantisation.int8_helpers import KINDS, int8_model, pictures, small_model  # noqa: E402


@pytest.fixture(params=KINDS)
def model(request):
    return int8_model(request.param)


def middling(model, images):
    """Thresholds that let about a third of the images go at each step, as far as can be from any of them."""
    confidence = in_int8(model).trace(model.normalise(images)).confidence[:-1].sort(1).values
    widest = (confidence[:, 1:] - confidence[:, :-1])[:, len(images) // 3 : -len(images) // 3].argmax(1)
    place = (len(images) // 3 + widest)[:, None]
    row = (confidence.gather(1, place) + confidence.gather(1, place + 1)) / 2
    return torch.cat([row[:, 0], torch.tensor([-1e8])])


def test_decisions_are_those_of_the_int8_trace(model):
    images = pictures(17, 4)
    thresholds = middling(model, images)
    predictor = Predictor(model, "cpu", "int8", Budget(thresholds=thresholds.tolist()), batch=4)
    found = predictor.predict_batch(images)
    label, step, origins = expected_exits(in_int8(model), images, thresholds)
    assert len(set(step.tolist())) > 1
    assert torch.equal(found.exit_step, step)
    assert torch.equal(found.class_id, label)
    assert torch.equal(found.origins, origins)
    logits = in_int8(model).trace(model.normalise(images)).logits[step - 1, torch.arange(17)]
    # A pixel's last bit may move a value by a step of int8.
    assert float((found.logits - logits).norm() / logits.norm()) < 0.005
    assert predictor.runtime == "openvino"
    assert predictor.settings["dtype"] == "int8"
    # and they are another network's than the float32 model's, by a little
    exact = model.trace(model.normalise(images)).logits[step - 1, torch.arange(17)]
    assert 1e-3 < float((logits - exact).norm() / exact.norm()) < 0.1


def test_the_int8_model_shares_its_weights_and_leaves_the_other_alone(model):
    before, images = model.weights_digest(), model.normalise(pictures(3))
    wanted = model.trace(images).logits
    other = in_int8(model)
    first, second = other.trace(images).logits, other.trace(images).logits
    assert torch.equal(first, second)  # nothing lies in memory that the next call writes to
    assert torch.equal(model.trace(images).logits, wanted)
    assert model.weights_digest() == before
    assert other.policy.gru is model.policy.gru
    assert other.policy.state_encoder is not model.policy.state_encoder


def test_thresholds_are_those_found_in_int8(model):
    own = model.quantised.calibration
    with warnings.catch_warnings():
        warnings.simplefilter("error", BudgetWarning)
        predictor, plain = (Predictor(model, "cpu", dtype) for dtype in ("int8", "float32"))
    assert np.array_equal(predictor.thresholds, own.thresholds[own.default_row])
    assert torch.equal(plain.thresholds, model.thresholds[model.default_row])
    assert not torch.equal(predictor.thresholds, plain.thresholds)
    assert predictor.calibration is own
    assert plain.calibration is model.calibration
    budget = Budget(macs=float(own.mean_macs[len(own.mean_macs) // 2]))
    predictor.budget = plain.budget = budget
    table = {tuple(row) for row in own.thresholds.tolist()}
    assert tuple(predictor.thresholds.tolist()) in table
    assert tuple(plain.thresholds.tolist()) not in table
    predictor.budget = None
    assert np.array_equal(predictor.thresholds, own.thresholds[own.default_row])


def test_thresholds_of_float32_are_used_with_a_warning():
    model = int8_model()
    model.quantised = int8_model(calibrated=False).quantised
    with pytest.warns(BudgetWarning) as said:
        predictor = Predictor(model, "cpu", "int8")
    assert [str(warning.message) for warning in said] == [
        "dtype int8: the thresholds were found in float32, and a budget may be missed; "
        "use `gfnet-fast calibrate --dtype int8`"
    ]
    assert said[0].filename == __file__
    assert torch.equal(predictor.thresholds, model.thresholds[model.default_row])


def test_what_has_no_int8_form():
    for use in (lambda: Predictor(small_model(), "cpu", "int8"), lambda: in_int8(small_model())):
        with pytest.raises(DeviceError) as raised:
            use()
        assert str(raised.value) == (
            "dtype int8: expected a model that `gfnet-fast quantize` has written, got another"
        )


@pytest.mark.parametrize("name", ["torch", "inductor"])
def test_other_runtimes_do_not_compute_in_int8(name):
    with pytest.raises(DeviceError) as raised:
        Predictor(int8_model(), "cpu", "int8", runtime=name)
    assert str(raised.value).startswith(f"runtime {name}: ")
    assert "int8" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_value_that_would_take_all_memory():
    """Of the right inputs and outputs; what lies between is more than there is."""
    seen = ops.parameter([-1, 3, 16, 16], np.float32)
    large = ops.tile(seen, np.array([1, 1, 5000, 5000]))
    found = openvino.Model([ops.reduce_mean(large, np.array([2, 3]))], [seen])
    graph = graph_of(found, Shapes(((3, 16, 16),), ((3,),)))
    with pytest.raises(CheckpointError, match="expected a network with at most 268435456 numbers in a value"):
        runtime.read(graph)
