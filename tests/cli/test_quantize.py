"""`gfnet-fast quantize`: a copy of a model with both forms, what it says, and when it refuses."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace

import pytest
import torch
from cli_runner import Done, run, save_by_class
from PIL import Image

from gfnet_fast.checkpoints import load
from gfnet_fast.cli import main, quantize
from gfnet_fast.data.digits import ClutteredDigits
from gfnet_fast.predictor import Predictor
from gfnet_fast.training.digits import TASK

pytest.importorskip("openvino")
pytest.importorskip("nncf")

from gfnet_fast.engine.int8 import in_int8
from gfnet_fast.quantisation import model as quantisation
from gfnet_fast.quantisation.views import views_of
from tests.quantisation.int8_helpers import int8_model, pictures, small_model

NAMES = [f"class {letter}" for letter in "abcde"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The folder of a quantised model, and what was said. No layer is looked for that loses much."""
    out, texts = tmp_path_factory.mktemp("quantize") / "int8", (io.StringIO(), io.StringIO())
    arguments = ("quantize", "digits", "--data", "digits", "-o", out, "--images", 200, "-q", "--max-loss", 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gfnet-fast", *map(str, arguments)])
        for name, value in (("TOLERANCE", 1.0), ("RANGES", 48), ("JUDGED", 16)):
            patch.setattr(quantisation, name, value)
        patch.setattr(quantize, "RANGE_IMAGES", 24)
        with redirect_stdout(texts[0]), redirect_stderr(texts[1]), pytest.raises(SystemExit) as left:
            main()
    return out, Done(left.value.code or 0, *(text.getvalue() for text in texts))


@pytest.fixture
def labelled(tmp_path):
    """A small model, saved, and images of which it gets all right."""
    model = small_model()
    model.labels = tuple(NAMES)
    model.save_pretrained(tmp_path / "model")
    images = pictures(24, 7)
    classes = model.trace(model.normalise(images)).logits[-1].argmax(-1).tolist()
    save_by_class(tmp_path / "images", images, classes, NAMES)
    return tmp_path / "model", tmp_path / "images"


def test_a_folder_with_both_forms(capsys, digits, tmp_path):
    folder, done = digits
    assert (done.status, done.err) == (0, "")
    head, *lines = [line for line in done.out.splitlines() if line.strip() and "─" not in line]
    assert head.split() == ["layers", "in", "int8", "error,", "%", "float"]
    assert [line.split()[0] for line in lines[:4]] == [
        "global_encoder",
        "local_encoder",
        "policy",
        "classifier",
    ]
    assert "on 100 images kept aside" in lines[4]
    for words in ("accuracy ", "mean multiply-adds ", "same class ", "leaving at each step", "thresholds: "):
        assert words in done.out
    model, before = load(folder), load("digits")
    assert all(torch.equal(value, before.state_dict()[n]) for n, value in model.state_dict().items())
    assert model.calibration.model == before.calibration.model
    assert model.quantised.calibration.count == 100
    assert set(model.quantised.about) == {"versions", "tolerance", "networks", "moved"}
    image = ClutteredDigits("test", 1, 0, TASK).images([0])[0]
    Image.fromarray(image.numpy()).save(tmp_path / "digit.png")
    done = run(capsys, "predict", tmp_path / "digit.png", "-m", folder, "--dtype", "int8", "-f", "jsonl")
    assert done.status == 0, done.err
    found = Predictor(model, "cpu", "int8").predict_batch(image[None])
    assert json.loads(done.out)["exit_step"] == int(found.exit_step)


def test_int8_computes_nearly_the_same(digits):
    """Ranges by means, say, lose four times as much as this allows."""
    model, data = load(digits[0]), ClutteredDigits("test", 60, 0, TASK)
    images = data.images(list(range(60)))
    other, normalised = in_int8(model), model.normalise(images)
    exact, found = model.trace(normalised), other.trace(normalised)
    assert float((found.logits[0] - exact.logits[0]).norm() / exact.logits[0].norm()) < 0.1
    assert float((found.logits.argmax(-1) == exact.logits.argmax(-1)).float().mean()) > 0.9
    (crops,) = views_of(model, [images], 100, seed=0)["local_encoder"]
    with torch.no_grad():
        wanted, features = model.local_encoder(crops)[1], other.local_encoder(crops)[1]
    assert float((features - wanted).norm() / wanted.norm()) < 0.12
    for name, bound in (("policy", 0.04), ("classifier", 0.03)):
        assert model.quantised.about["networks"][name]["error"] < bound


def test_paths_and_images_that_cannot_be(capsys, labelled, tmp_path):
    model, images = labelled
    few = tmp_path / "few"
    save_by_class(few, pictures(3), [0, 1, 2], NAMES)
    for status, args, message in (
        (2, (model, "--data", images, "-o", model), "expected a path where nothing is yet"),
        (2, (model, "--data", images, "-o", model / "in"), "expected a path outside the model"),
        (2, (model, "--data", images, "-o", images / "in"), "which is read"),
        (2, (model, "--data", images, "-o", tmp_path / "new", "--images", 3), "'--images'"),
        (2, (model, "--data", images, "-o", tmp_path / "new", "--max-loss", "nan"), "'--max-loss'"),
        (2, (model, "--data", images, "-o", tmp_path / "new", "--max-loss", -1), "'--max-loss'"),
        (1, (model, "--data", few, "-o", tmp_path / "new"), "expected at least 4 images, got 3"),
        (1, (model, "--data", "digits", "-o", tmp_path / "new"), "for the digits"),
        (1, (tmp_path / "no", "--data", images, "-o", tmp_path / "new"), "got nothing there"),
    ):
        done = run(capsys, "quantize", *args, "-q")
        assert (done.status, message in done.err, done.err.count("\n")) == (status, True, 1), done.err
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("high", [-0.1, 0.1])
def test_a_loss_that_is_too_large(capsys, labelled, tmp_path, monkeypatch, high):
    """It is one where not even the best of the interval is a gain."""
    model, images = labelled
    made, tolerances, moved = int8_model().quantised, [], quantisation.moved

    def quantised_model(network, ranges, judged, *, tolerance, **_):
        tolerances.append(tolerance)
        return replace(made, weights=network.weights_digest(), calibration=None)

    def unlucky(*arguments):
        return moved(*arguments)._replace(accuracy=(-0.75, -1.5, high))

    monkeypatch.setattr(quantisation, "quantised_model", quantised_model)
    monkeypatch.setattr(quantisation, "moved", unlucky)
    arguments = "quantize", model, "--data", images, "-o", tmp_path / "new", "--max-loss", 0.5
    if high > 0:
        done = run(capsys, *arguments)
        assert (done.status, tolerances) == (0, [0.06]), done.err
        assert "12 images are too few to say that at most 0.5 points are lost" in done.err
        return
    done = run(capsys, *arguments, "--quiet")
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1), done.err
    assert f"{model}: expected a loss of at most 0.5 points, got one of " in done.err
    assert " on 12 images; see --max-loss" in done.err
    assert tolerances == [0.06, 0.03, 0.015, 0.0075]
    assert not (tmp_path / "new").exists()


def test_what_is_not_installed(capsys, labelled, tmp_path, monkeypatch):
    model, images = labelled
    monkeypatch.setitem(sys.modules, "nncf", None)
    done = run(capsys, "quantize", model, "--data", images, "-o", tmp_path / "new")
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1), done.err
    assert "pip install 'gfnet-fast[quantize]'" in done.err
    assert not (tmp_path / "new").exists()


def test_what_it_takes(capsys):
    done = run(capsys, "quantize", "--help")
    assert (done.status, done.err) == (0, "")
    for option in ("--data", "--output", "--part", "--max-loss", "--images", "--seed", "--quiet"):
        assert option in done.out
    assert "gfnet-fast quantize folder/" in done.out
