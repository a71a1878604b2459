"""Thresholds belong to weights: which are taken for a model's own, refused, written, or left out."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pytest
import torch

from gfnet_fast.checkpoints import load, official_checkpoint
from gfnet_fast.errors import BudgetError
from gfnet_fast.exits import BudgetWarning, ModelIdentity, calibrate, load_calibration
from gfnet_fast.training.evaluate import Scores, find_exits
from tests.cli.cli_runner import run
from tests.conftest import tiny_model
from tests.model.test_released import any_weights

REMEDY = "calibrate anew with `gfnet-fast calibrate`"
NO_DIGEST = (
    "the digest of the weights it belongs to, got none; it is taken for that of these: "
    f"{REMEDY} if they were trained since, or else save the model once more"
)


@pytest.fixture(autouse=True)
def no_other_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", BudgetWarning)
        yield


@pytest.fixture
def model():
    model = tiny_model()
    drawn = torch.rand(2, model.config.steps, 50, generator=torch.Generator().manual_seed(0))
    find_exits(model, Scores(drawn[0], drawn[1] < drawn[0]), "made up")
    return model


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def trained_on(model):
    """The same model after a step of SGD."""
    model.train()(torch.randn(2, 3, 80, 80)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1e-2).step()
    return model.eval()


def of_others(model, digest):
    """How a model refuses what is known to be of weights with another digest."""
    mine = model.weights_digest()
    return f"expected one for the weights {mine[:8]}.., got one for {digest[:8]}..; {REMEDY}"


def rewritten(folder, **changes):
    """The folder, with other facts about the model in its thresholds; None takes one away."""
    content = json.loads((folder / "thresholds.json").read_text())
    facts = {**content["model"], **changes}
    content["model"] = {name: value for name, value in facts.items() if value is not None}
    (folder / "thresholds.json").write_text(json.dumps(content))
    return folder


def test_a_folder_says_whose_thresholds_it_holds(model, folder):
    written = json.loads((folder / "thresholds.json").read_text())["model"]
    assert (written["weights"], written["precision"]) == (model.weights_digest(), "float32")
    again = load(folder)
    assert again.calibration.model == model.calibration.model == ModelIdentity.of(again)
    assert torch.equal(again.thresholds, model.thresholds)


def test_thresholds_of_weights_that_were_trained_on_are_refused(model, folder, tmp_path):
    before = model.weights_digest()
    model.calibration = model.thresholds = None
    trained_on(model).save_pretrained(tmp_path / "other")
    (tmp_path / "other/model.safetensors").replace(folder / "model.safetensors")
    message = of_others(model, before)
    path = folder / "thresholds.json"
    for read in (lambda: load(folder), lambda: load_calibration(path, ModelIdentity.of(model))):
        with pytest.raises(BudgetError) as raised:
            read()
        assert str(raised.value) == f"{path}: calibration: {message}"


def test_copies_in_half_precision_keep_their_thresholds(model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "half", half=True)
    half = load(tmp_path / "half")
    assert not torch.equal(half.classifier.fc.weight, model.classifier.fc.weight)
    assert half.calibration.model == model.calibration.model
    for name, *options in (("back",), ("again", "--half")):
        assert run(capsys, "convert", tmp_path / "half", tmp_path / name, *options).status == 0
        assert load(tmp_path / name).calibration.model == model.calibration.model


@pytest.mark.parametrize("precision", [None, "float32"])
def test_a_file_without_a_digest_is_taken_for_its_folder_s(model, folder, tmp_path, precision):
    rewritten(folder, weights=None, precision=precision)
    path = folder / "thresholds.json"
    with pytest.warns(BudgetWarning) as said:
        old = load(folder)
    assert [str(warning.message) for warning in said] == [f"{path}: expected {NO_DIGEST}"]
    assert said[0].filename == __file__
    assert torch.equal(old.thresholds, model.thresholds)
    assert old.calibration.model == ModelIdentity.of(old)
    with pytest.warns(BudgetWarning) as said:
        found = load_calibration(path, ModelIdentity.of(model))
    assert [str(warning.message) for warning in said] == [f"{path}: expected {NO_DIGEST}"]
    assert said[0].filename == __file__
    assert found.model == model.calibration.model
    assert load_calibration(path).model.weights is None
    old.save_pretrained(tmp_path / "new")  # what the warning says helps
    assert load(tmp_path / "new").calibration.model == model.calibration.model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "int8"}, "calibration: expected one for precision 'float32', got one for 'int8'; cal"),
        ({"precision": "float8"}, "precision: expected 'float32' or 'int8', got 'float8'"),
        ({"precision": ["int8"]}, "precision: expected 'float32' or 'int8', got ['int8']"),
        ({"weights": 5}, "weights: expected 32 hexadecimal digits, or none, got 5"),
        ({"weights": ["a" * 32]}, "weights: expected 32 hexadecimal digits, or none, got ['aaa"),
        ({"weights": "A" * 32}, "weights: expected 32 hexadecimal digits, or none, got 'AAA"),
        ({"weights": "a" * 31 + "\n"}, "weights: expected 32 hexadecimal digits, or none, got 'aaa"),
        ({"weights": "a" * 32 + "\n"}, "weights: expected 32 hexadecimal digits, or none, got 'aaa"),
        ({"weights": "a" * 4_000_000}, "weights: expected 32 hexadecimal digits, or none, got 'aaa"),
        ({"weights": "", "precision": ""}, "weights: expected 32 hexadecimal digits, or none, got ''"),
    ],
)  # fmt: skip
def test_what_names_no_weights_or_no_precision(folder, change, message):
    rewritten(folder, **change)
    with pytest.raises(BudgetError) as raised:
        load(folder)
    said = str(raised.value)
    assert said.startswith(f"{folder / 'thresholds.json'}: {message}")
    assert len(said) < 400
    assert "\n" not in said


def test_a_digest_of_ten_megabytes(folder):
    rewritten(folder, weights="a" * 10 * 2**20)
    for read in (lambda: load(folder), lambda: load_calibration(folder / "thresholds.json")):
        with pytest.raises(ValueError, match="expected at most 4194304 bytes, got") as raised:
            read()
        assert len(str(raised.value)) < 400


def test_a_bare_table_is_that_of_the_weights_beside_it(model, folder):
    path = folder / "thresholds.json"
    path.write_text('{"schema_version": 1, "default_row": 0, "thresholds": [[0.5, 0.5, 0.5, -1e8]]}')
    assert load(folder).calibration.model == ModelIdentity.of(model)
    assert load_calibration(path, ModelIdentity.of(model)).model.weights == model.weights_digest()


def test_official_forms_keep_the_digest_and_take_it_for_their_table(small, tmp_path):
    model = any_weights(small)
    model.thresholds = torch.tensor([[0.5, 0.4, -1e8], [0.7, 0.6, -1e8]])
    for form in ("released", "training"):
        torch.save(official_checkpoint(model, form), tmp_path / form)
        again = load(tmp_path / form)
        assert again.weights_digest() == model.weights_digest()
        assert form == "training" or again.calibration.model.weights == model.weights_digest()
        again.save_pretrained(tmp_path / f"{form}-native", half=True)
        assert load(tmp_path / f"{form}-native").weights_digest() == model.weights_digest()


def test_what_is_saved_after_more_training_has_no_thresholds(model, folder):
    digest = model.weights_digest()
    trained_on(model)
    with pytest.warns(BudgetWarning) as said:
        model.save_pretrained(folder)
    message = f"thresholds are left out: calibration: {of_others(model, digest)}"
    assert [str(warning.message) for warning in said] == [message]
    assert said[0].filename == __file__
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert load(folder).weights_digest() == model.weights_digest()
    assert load(folder).thresholds is None
    found = calibrate(ModelIdentity.of(model), torch.rand(4, 50), torch.rand(4, 50) < 0.5)
    model.calibration = found
    model.save_pretrained(folder)
    assert load(folder).calibration.model == found.model


def test_a_table_of_one_s_own_is_saved_with_any_weights(model, tmp_path):
    model.calibration, model.thresholds, model.default_row = None, torch.tensor([[0.5, 0.5, 0.5, -1e8]]), 0
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    with torch.no_grad():
        again.classifier.fc.bias.add_(1)
    with pytest.warns(BudgetWarning, match="thresholds are left out: .*; calibrate anew"):
        again.save_pretrained(tmp_path)
    assert not (tmp_path / "thresholds.json").exists()
    again.calibration = None
    again.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path).thresholds, model.thresholds)


def test_an_official_file_after_more_training_has_no_thresholds(small):
    model = any_weights(small)
    model.thresholds = torch.tensor([[0.5, 0.4, -1e8]])
    model.calibration = calibrate(ModelIdentity.of(model), torch.rand(3, 50), torch.rand(3, 50) < 0.5)
    assert "dynamic_threshold" in official_checkpoint(model)
    with torch.no_grad():
        model.classifier.fc_2.bias.add_(1)
    with pytest.warns(BudgetWarning, match="thresholds are left out") as said:
        assert "dynamic_threshold" not in official_checkpoint(model)
    assert said[0].filename == __file__
    model.calibration = replace(model.calibration, model=ModelIdentity.of(model))
    assert "dynamic_threshold" in official_checkpoint(model)
