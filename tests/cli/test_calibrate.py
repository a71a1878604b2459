"""`gfnet-fast calibrate`: the thresholds are those of the search, and the costs those of the engine."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cli_runner import run, save_by_class

import gfnet_fast as gf
from gfnet_fast import evaluation
from gfnet_fast.data.labelled import LabelledFolder
from gfnet_fast.evaluation import BATCHES, in_step, measure_costs, shuffled, trace_steps
from gfnet_fast.exits import (
    Budget,
    BudgetWarning,
    CostTable,
    ModelIdentity,
    calibrate,
    device_name,
    exit_steps,
    load_calibration,
    save_calibration,
)
from tests.conftest import random_images, tiny_model

NAMES = [f"class {letter}" for letter in "abcdefg"]
COUNT = 260


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    save_by_class(folder, random_images(COUNT, 80, seed=5), [i % 7 for i in range(COUNT)], NAMES)
    return folder


@pytest.fixture
def model(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_thresholds_are_those_of_the_search_on_these_images(capsys, model, folder):
    done = run(capsys, "calibrate", model, "--data", folder, "--holdout", 0.2, "--seed", 3)
    assert done.status == 0, done.err
    network = gf.load(model)
    data = LabelledFolder(folder, network.config)
    rows = shuffled(COUNT, None, 3)[52:]
    images = torch.cat([data.images([row]) for row in rows])
    labels = data.labels[rows]
    confidence, label = network.trace(network.normalise(images)).logits.softmax(-1).max(-1)
    mine = calibrate(ModelIdentity.of(network), confidence, label == labels, seed=3)
    made = network.calibration
    np.testing.assert_allclose(made.thresholds, mine.thresholds, atol=1e-5)
    assert (made.count, made.source, made.notes) == (208, "joint", mine.notes)
    assert any("over the official one" in note for note in made.notes)
    pairs = zip(images.numpy(), labels.numpy(), strict=True)
    digests = sorted(hashlib.sha256(image.tobytes() + label.tobytes()).digest() for image, label in pairs)
    assert made.data_hash == hashlib.sha256(b"".join(digests)).hexdigest()
    assert "on 52 images held out" in done.out
    assert "over the official search" in done.out


def test_a_new_folder_for_what_has_none_to_write_into(capsys, model, folder, tmp_path):
    out = tmp_path / "new"
    done = run(
        capsys, "calibrate", model, "--data", folder, "-o", out, "--images", 50, "--method", "official"
    )
    assert (done.status, (model / "thresholds.json").exists()) == (0, False), done.err
    made, before = gf.load(out), gf.load(model)
    assert (made.calibration.source, made.calibration.count) == ("official", 50)
    assert all(torch.equal(made.state_dict()[name], t) for name, t in before.state_dict().items())
    for status, args, message in (
        (2, (model, "-o", out), "where nothing is yet"),
        (2, (model, "-o", tmp_path / "no" / "new"), "expected a folder that exists"),
        (2, (model, "-o", model / "new"), "expected a path outside the model"),
        (2, (model, "-o", folder / "new"), "which is read"),
        (2, (model, "--holdout", "nan"), "'--holdout'"),
        (2, (model, "--seed", -1), "'--seed'"),
        (1, ("digits",), "use --output"),
        (1, (model / "model.safetensors",), "use --output"),
    ):
        done = run(capsys, "calibrate", *args, "--data", folder)
        assert (done.status, message in done.err, done.err.count("\n")) == (status, True, 1), done.err


def test_measured_costs_make_budgets_in_time(capsys, model, folder):
    done = run(capsys, "calibrate", model, "--data", folder, "--time", "--time-images", 64, "--rounds", 3)
    assert done.status == 0, done.err
    predictor = gf.Predictor(gf.load(model), device="cpu")
    cost = predictor.model.calibration.cost
    assert cost.device == device_name("cpu")
    assert cost.settings["images"] == 64
    low, high = cost.milliseconds[0], cost.milliseconds[-1]
    predictor.budget = Budget(latency_ms=(low + high) / 2)
    with pytest.raises(gf.BudgetError, match="latency_ms: expected"):
        predictor.budget = Budget(latency_ms=2 * high)
    with pytest.warns(BudgetWarning, match=r"measured with batch \d+ \(here 5\); the budget may be missed"):
        gf.Predictor(predictor.model, batch=5).budget = Budget(latency_ms=(low + high) / 2)
    assert "ms realised" in done.out
    run(capsys, "calibrate", model, "--data", folder, "--images", 40)
    assert load_calibration(model / "thresholds.json").cost == cost


def test_after_more_training_a_folder_is_calibrated_anew_and_keeps_its_measured_costs(capsys, model, folder):
    network = gf.load(model)
    levels = torch.rand(2, network.config.steps, 50, generator=torch.Generator().manual_seed(0))
    found = calibrate(ModelIdentity.of(network), levels[0], levels[1] < levels[0])
    cost = CostTable("cpu: test", (1.0, 2.0, 3.0, 4.0))
    with torch.no_grad():
        network.classifier.fc.bias.add_(1)
    network.save_pretrained(model)
    save_calibration(found.with_cost(cost), model / "thresholds.json")
    shown = run(capsys, "info", model)
    assert (shown.status, "calibrate anew with `gfnet-fast calibrate`" in shown.err) == (1, True)
    done = run(capsys, "calibrate", model, "--data", folder, "--images", 40)
    assert (done.status, done.err.count("expected")) == (0, 0), done.err
    made = gf.load(model).calibration
    assert (made.model, made.cost, made.count) == (ModelIdentity.of(network), cost, 40)
    (model / "thresholds.json").write_text("no calibration")
    done = run(capsys, "calibrate", model, "--data", folder, "--images", 40)
    assert (done.status, gf.load(model).calibration.cost) == (0, None), done.err


class Clockwork:
    """A predictor whose images take known times by the step they leave at; some rounds are slower."""

    def __init__(self, confidences, costs, batch_ms):
        self.confidences, self.costs, self.batch_ms = confidences, costs, batch_ms
        self.config, self.device = SimpleNamespace(steps=len(costs)), torch.device("cpu")
        self.batch, self.settings = 16, {"dtype": "float32", "batch": 16, "runtime": "torch"}
        self.budget = Budget(max_steps=1)
        self.now, self.calls = 0.0, 0

    def predict_batch(self, images):
        steps = exit_steps(self.confidences[:, images[:, 0]], self.budget.thresholds)
        slow = 3.0 if 44 <= self.calls < 60 else 1.0  # a round and half of the next
        self.now += slow * (self.costs[steps - 1].sum() + self.batch_ms) / 1e3
        self.calls += 1
        return SimpleNamespace(exit_step=torch.from_numpy(steps))


def test_costs_are_found_from_whole_runs(monkeypatch):
    rng = np.random.default_rng(0)
    levels = rng.random((4, 2000)).astype(np.float32)
    right = rng.random((4, 2000)) < np.array([0.5, 0.6, 0.7, 0.8])[:, None]
    path = calibrate(ModelIdentity("m", 8, 4, (1.0, 2.0, 3.0, 4.0)), levels, right)
    costs = np.array([0.5, 1.25, 1.75, 2.75])
    predictor = Clockwork(levels, costs, batch_ms=1.0)
    monkeypatch.setattr(
        evaluation,
        "time",
        SimpleNamespace(process_time=lambda: predictor.now, perf_counter=lambda: predictor.now),
    )
    predictor.batch = 2000 // BATCHES + 1  # all images in a run
    found = measure_costs(predictor, torch.arange(2000)[:, None], path)
    np.testing.assert_allclose(found.table.milliseconds, costs, rtol=2e-3)
    np.testing.assert_allclose(found.realised, found.requested, rtol=3e-3)
    assert found.residual < 1e-3
    assert (found.table.settings["images"], predictor.budget) == (2000, Budget(max_steps=1))

    predictor.batch = 500 // BATCHES  # 448 in a run, four runs until the images come again
    found = measure_costs(predictor, torch.arange(2000)[:, None], path, rounds=20)
    np.testing.assert_allclose(found.table.milliseconds, costs, rtol=0.05)
    np.testing.assert_allclose(found.realised, found.requested, rtol=0.03)
    assert found.table.settings["images"] == 4 * 448


def test_a_slow_round_and_a_slow_run_drop_out():
    times = np.outer([1.0, 1.2, 1.4, 1.6, 1.8], [1.0, 2.0, 3.0])
    times[0, 0] *= 3
    np.testing.assert_allclose(in_step(times) / in_step(times)[0], [1, 2, 3])


def test_a_folder_whose_name_is_misspelt_does_not_move_the_others(folder):
    config = tiny_model().config
    assert LabelledFolder(folder, config, NAMES[::-1]).labels.tolist()[0] == 6
    assert LabelledFolder(folder, config, [*"tuvwxyz"]).labels.tolist()[0] == 0
    message = "expected folders that are all named as the model's labels, or none, got class g beside"
    with pytest.raises(gf.InputError, match=message):
        LabelledFolder(folder, config, [*NAMES[:-1], "class of g"])


def test_what_cannot_be_calibrated_on_is_refused(capsys, model, folder, tmp_path):
    (tmp_path / "empty" / "a").mkdir(parents=True)
    few = tmp_path / "few"
    save_by_class(few, random_images(2, 80), [0, 1], NAMES)
    broken = tmp_path / "broken"
    save_by_class(broken, random_images(7, 80), range(7), NAMES)
    (broken / NAMES[3] / "0003.png").write_bytes(b"\x89PNG")
    for data, message in (
        (tmp_path / "absent", "expected a folder with a folder of images for each class"),
        (tmp_path / "empty", "expected 7 class folders"),
        (few, "expected 7 class folders, or folders named as the model's labels, got 2"),
        (broken, "0003.png: expected"),
        ("digits", "expected a model of 192 px images and 10 classes"),
    ):
        done = run(capsys, "calibrate", model, "--data", data)
        assert (done.status, message in done.err) == (1, True), done.err
    assert not (model / "thresholds.json").exists()


def test_folders_named_as_labels_have_those_classes(folder, tmp_path):
    config = tiny_model().config
    backwards = LabelledFolder(folder, config, NAMES[::-1])
    assert [backwards.labels[i].item() for i in (0, COUNT - 1)] == [6, 0]
    save_by_class(tmp_path, random_images(2, 80), [0, 1], NAMES)
    assert LabelledFolder(tmp_path, config, NAMES).labels.tolist() == [0, 1]


def test_some_images_are_some_of_every_class():
    rows = shuffled(700, 60, 1)
    assert len(set(rows)) == 60
    assert {row // 100 for row in rows} == set(range(7))
    assert rows == shuffled(700, 60, 1) != shuffled(700, 60, 2)
    assert sorted(shuffled(700, None, 1)) == list(range(700))


def test_labels_and_probabilities_that_are_none():
    model = tiny_model()
    data = SimpleNamespace(labels=torch.tensor([0, 7]), images=lambda rows: random_images(len(rows), 80))
    with pytest.raises(gf.BudgetError, match=r"labels: expected 0\.\.6, got 0\.\.7"):
        trace_steps(model, data, [0, 1])
    with torch.no_grad():
        model.classifier.fc.bias[2] = float("nan")
    data.labels = torch.tensor([0, 1])
    with pytest.raises(gf.BudgetError, match=r"confidences: expected numbers in 0\.\.1, got 8 of 8"):
        trace_steps(model, data, [0, 1])
    with pytest.raises(gf.BudgetError, match="expected at least one"):
        trace_steps(model, data, [])


def test_copies_of_a_trained_model_know_its_split(capsys, folder, tmp_path):
    """Or `eval` of one would take training images without a word."""
    tiny_model().save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "split.csv").write_text("part,class,path,run\ntrain,a,a/gone.png,0\n")
    for verb, *more in (("convert",), ("calibrate", "--data", folder, "--images", 10, "-o")):
        source, target = tmp_path / "run", tmp_path / verb
        options = [source, target] if verb == "convert" else [source, *more, target]
        done = run(capsys, verb, *options)
        assert done.status == 0, done.err
        assert "a/gone.png" in (target / "split.csv").read_text()
