"""Budgets, the calibration they resolve through, and its file."""

from __future__ import annotations

import json
import math
import pickle
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from exit_tasks import make_task

from gfnet_fast.errors import BudgetError
from gfnet_fast.exits import (
    Budget,
    BudgetWarning,
    Calibration,
    CostTable,
    ModelIdentity,
    calibrate,
    device_name,
    exit_steps,
    load_calibration,
    official_shares,
    resolve,
    save_calibration,
    thresholds_for_shares,
)
from gfnet_fast.exits.files import from_json, to_json
from gfnet_fast.exits.path import curve

TASK = make_task(20_000, seed=1)
MODEL = ModelIdentity("resnet50", 96, 5, tuple(TASK.costs))
MS = (1.0, 2.1, 3.2, 4.2, 5.3)


@pytest.fixture(scope="module")
def calibration():
    made = calibrate(MODEL, TASK.confidences, TASK.correct, data_hash="sha256:1")
    return made.with_cost(CostTable("cpu: test", MS, {"dtype": "float32"}))


@pytest.fixture(scope="module")
def official():
    return calibrate(MODEL, TASK.confidences, TASK.correct, method="official")


def test_a_budget_has_one_target_or_max_steps():
    assert Budget(macs=8e8, max_steps=3).target == "macs"
    assert Budget(max_steps=2).target is None
    assert Budget(thresholds=np.float32([0.5, -1e8])) == Budget(thresholds=(0.5, -1e8))
    assert pickle.loads(pickle.dumps(Budget(shares=(0.5, 0.5)))) == Budget(shares=[0.5, 0.5])
    assert str(Budget(macs=8e8)) == "Budget(macs=800000000.0)"


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"macs": 1, "latency_ms": 2}, {"macs": 0}, {"macs": math.nan}, {"macs": "much"},
        {"latency_ms": -1}, {"latency_ms": math.inf}, {"thresholds": [0.5, 0.5]}, {"thresholds": []},
        {"shares": [0.5, 0.4]}, {"max_steps": 0}, {"max_steps": 1.5}, {"max_steps": True},
    ],
)  # fmt: skip
def test_budgets_that_no_model_could_meet_are_refused(fields):
    with pytest.raises(BudgetError):
        Budget(**fields)


def test_some_budgets_need_no_calibration():
    np.testing.assert_array_equal(resolve(Budget(max_steps=2), 3), np.float32([1e8, -1e8, -1e8]))
    found = resolve(Budget(thresholds=(0.5, 0.6, -1e8), max_steps=2), 3)
    np.testing.assert_array_equal(found, np.float32([0.5, -1e8, -1e8]))
    with pytest.raises(BudgetError, match=r"needs a calibration.*gfnet-fast calibrate"):
        resolve(Budget(macs=1e9), 5)
    with pytest.raises(BudgetError, match="expected 3 numbers"):
        resolve(Budget(thresholds=(0.5, -1e8)), 3)
    with pytest.raises(BudgetError, match="expected 1 to 3"):
        resolve(Budget(max_steps=4), 3)


@pytest.mark.parametrize("which", ["calibration", "official"])
def test_requested_multiply_adds_are_realised(which, request):
    path = request.getfixturevalue(which)
    stream = make_task(50_000, seed=2)
    for wanted in np.linspace(TASK.costs[0] * 1.01, TASK.costs[-1] * 0.99, 30):
        row = path.resolve(Budget(macs=wanted))
        realised = [exit_shares(task, row) @ TASK.costs / wanted - 1 for task in (TASK, stream)]
        assert abs(realised[0]) < 0.003
        assert abs(realised[1]) < 0.02


def test_requested_milliseconds_are_realised(calibration):
    for wanted in np.linspace(1.02, 5.2, 30):
        row = calibration.resolve(Budget(latency_ms=wanted), device="cpu: test")
        assert abs(exit_shares(TASK, row) @ MS / wanted - 1) < 0.003


def test_requested_multiply_adds_are_realised_under_a_cap_of_steps(calibration):
    for wanted in np.linspace(TASK.costs[0], TASK.costs[2], 9):
        row = calibration.resolve(Budget(macs=wanted, max_steps=3))
        assert exit_steps(TASK.confidences, row).max() <= 3
        assert abs(exit_shares(TASK, row) @ TASK.costs / wanted - 1) < 0.003
    with pytest.raises(BudgetError, match=r"expected 760000000 .* to 2374000000 \(all take max_steps=3\)"):
        calibration.resolve(Budget(macs=TASK.costs[3], max_steps=3))


def test_requested_shares_are_realised(calibration):
    shares = np.array([0.4, 0.2, 0.1, 0.1, 0.2])
    row = calibration.resolve(Budget(shares=shares))
    np.testing.assert_allclose(exit_shares(TASK, row), shares, atol=0.02)
    with pytest.raises(BudgetError, match="expected 5 numbers"):
        calibration.resolve(Budget(shares=(0.5, 0.5)))


def test_shares_that_cannot_be_met_turn_no_exit_off_and_are_said():
    levels = np.stack([np.linspace(0, 1.25, 1000).clip(0, 1)] + [np.linspace(0, 0.9, 1000)] * 3)
    path = Calibration.from_confidences(ModelIdentity("m", 8, 4, (1, 2, 3, 4)), [[0.5] * 3 + [-1e8]], levels)

    def realised(shares, **more):
        row = path.resolve(Budget(shares=shares, **more))
        return row, np.bincount(exit_steps(levels, row), minlength=5)[1:] / 1000

    with pytest.warns(BudgetWarning, match=r"asked for 0.1, 0.9, 0, 0; realised 0.2, 0.8, 0, 0"):
        row, found = realised((0.1, 0.9, 0, 0))
    np.testing.assert_allclose(found, [0.2, 0.8, 0, 0])
    assert row[2] == np.float32(1e8)
    with pytest.warns(BudgetWarning, match=r"asked for 0.1, 0.9, 0, 0; realised 0.2, 0.8, 0, 0"):
        realised((0.1, 0.2, 0.3, 0.4), max_steps=2)
    with pytest.warns(BudgetWarning, match=r"asked for 0.5, 0.0005, 0.5, 0; realised 0.5, 0, 0.499, 0.001"):
        realised((0.5, 0.0005, 0.4995, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(realised((0.4, 0.3, 0.2, 0.1))[1], [0.4, 0.3, 0.2, 0.1], atol=2e-3)
        realised((0.4, 0.6, 0, 0))


def test_the_joint_path_is_nested_and_ends_at_the_ends(calibration):
    assert calibration.nested
    assert (np.diff(calibration.mean_macs) >= -1e-3).all()
    assert calibration.mean_macs[0] == pytest.approx(MODEL.macs[0])
    assert calibration.mean_macs[-1] == pytest.approx(MODEL.macs[-1])
    steps = exit_steps(TASK.confidences[:, :500], calibration.thresholds)
    assert (np.diff(steps, axis=0) >= 0).all()
    good = calibration.accuracy >= calibration.accuracy.max() - 0.5
    assert calibration.default_row == good.argmax()
    np.testing.assert_array_equal(calibration.at(3.0), calibration.thresholds[3])


def test_on_few_images_the_default_lets_nobody_go_whom_later_steps_would_get_right():
    """By chance the glance is right on one image more; nine that it has wrong, step 2 has right."""
    count = 200
    glance, later = np.ones((2, count), bool)
    glance[:9], later[9:19] = False, False
    confidences = np.float32([np.linspace(0.3, 0.9, count), np.full(count, 0.95)])
    confidences[0, 9:19] = np.linspace(0.95, 0.99, 10)
    model = ModelIdentity("few", 32, 2, (1, 2))
    rows = np.float32([[level, -1e8] for level in np.linspace(0.3, 1, 40)])
    few = Calibration.from_confidences(model, rows, confidences, [glance, later])
    chosen = few.thresholds[few.default_row]
    steps = exit_steps(confidences, chosen)
    assert (few.harm[0], few.harm[-1]) == (4.5, 0)
    assert few.harm[few.default_row] == 100 * (steps[:9] == 1).mean() * 9 / count == 0.5
    assert few.harm[few.default_row - 1] > 0.5
    many = [np.tile(part, (1, 10)) for part in (confidences, [glance, later])]
    enough = Calibration.from_confidences(model, rows, *many)
    assert enough.default_row == (enough.accuracy >= enough.accuracy.max() - 0.5).argmax()


def test_budgets_out_of_range_say_the_range(calibration):
    for macs in (7e8, 5e9):
        with pytest.raises(BudgetError, match=r"760000000 .*to 3988000000"):
            calibration.resolve(Budget(macs=macs))
    for milliseconds in (0.9, 5.4):
        with pytest.raises(BudgetError, match=r"latency_ms: expected 1 .*to 5.3"):
            calibration.resolve(Budget(latency_ms=milliseconds), device="cpu: test")


def test_costs_are_asked_for_by_name_and_steps_there_are(calibration):
    for steps in (0, 9, 1.5):
        with pytest.raises(BudgetError, match="max_steps: expected 1 to 5"):
            calibration.costs(max_steps=steps)
    with pytest.raises(BudgetError, match="'foo'"):
        calibration.costs("foo")


def test_time_needs_the_costs_of_this_device(calibration, official):
    with pytest.raises(BudgetError, match="got none; use `gfnet-fast calibrate --time`"):
        official.resolve(Budget(latency_ms=2), device="cpu: test")
    for device in ("cuda: other", None):
        with pytest.raises(BudgetError, match="'cpu: test'"):
            calibration.resolve(Budget(latency_ms=2), device=device)


def test_a_device_is_named_with_its_processor_and_threads():
    name = device_name("cpu")
    assert name.startswith("cpu: ")
    assert name.endswith(("1 thread", " threads"))
    assert device_name(torch.device("cpu")) == device_name(name) == name
    assert (device_name("cuda: other"), device_name(None)) == ("cuda: other", None)
    path = Calibration.from_confidences(MODEL, [[0.5] * 4 + [-1e8]], TASK.confidences)
    timed = path.with_cost(CostTable(name, MS))
    np.testing.assert_array_equal(
        timed.resolve(Budget(latency_ms=2), device="cpu"), timed.resolve(Budget(latency_ms=2), device=name)
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        with pytest.raises(BudgetError, match=r"expected costs measured on 'cpu: .* threads', got 'cpu: "):
            timed.resolve(Budget(latency_ms=2), device="cpu")
    finally:
        torch.set_num_threads(before)


def test_ties_are_reported_and_never_overshoot():
    levels = np.stack([np.repeat([0.2, 0.6, 0.9], 1000), np.full(3000, 0.5)])
    path = Calibration.from_confidences(ModelIdentity("m", 8, 2, (1, 2)), [[0.6, -1e8]], levels)
    with pytest.warns(BudgetWarning, match="tie"):
        row = path.resolve(Budget(macs=1.5))
    assert (exit_steps(levels, row) == 2).mean() == pytest.approx(1 / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path.resolve(Budget(macs=4 / 3))


def test_ties_are_reported_however_few_the_images():
    levels = np.float32([[0.2, 0.2, 0.2, 0.9], *[[0.5] * 4] * 4])
    path = Calibration.from_confidences(MODEL, [[0.6] * 4 + [-1e8]], levels)
    with pytest.warns(BudgetWarning, match="tie"):
        path.resolve(Budget(macs=1.2e9))


def test_without_ties_few_images_are_no_reason_to_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed, count in enumerate((3, 5, 8, 12, 20, 50)):
            task = make_task(count, seed=seed)
            made = calibrate(MODEL, task.confidences, task.correct)
            for macs in np.linspace(*MODEL.macs[:: MODEL.steps - 1], 20):
                made.resolve(Budget(macs=macs))


@pytest.mark.parametrize(("count", "error"), [(100, 0.04), (1000, 0.004)])
def test_how_well_budgets_are_met_on_the_images_of_the_calibration(count, error):
    task = make_task(count, seed=4)
    made = calibrate(MODEL, task.confidences, task.correct)
    for macs in np.linspace(*MODEL.macs[:: MODEL.steps - 1], 30):
        assert abs(exit_shares(task, made.resolve(Budget(macs=macs))) @ TASK.costs / macs - 1) < error


def test_an_official_table_with_its_curve_meets_budgets_at_its_rows():
    rows = np.stack([thresholds_for_shares(TASK.confidences, row) for row in official_shares(5)])
    means = curve(TASK.confidences, rows)[0] @ TASK.costs
    path = Calibration.from_table(MODEL, rows, means, np.linspace(60, 70, 39))
    assert path.thresholds.shape == (41, 5)
    np.testing.assert_allclose(path.resolve(Budget(macs=means[20])), rows[20], rtol=1e-5)
    np.testing.assert_array_equal(path.resolve(Budget(macs=MODEL.macs[-1])), np.float32([1e8] * 4 + [-1e8]))
    for macs in (means.min() - 1e6, means.max() + 1e8):
        with pytest.warns(BudgetWarning, match=r"between .* this table says nothing.*gfnet-fast calibrate"):
            path.resolve(Budget(macs=macs))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for macs in (*MODEL.macs[:: MODEL.steps - 1], *means, 0.4 * means[20] + 0.6 * means[21]):
            path.resolve(Budget(macs=macs))
    with pytest.raises(BudgetError, match="are not known"):
        path.with_cost(CostTable("cpu: test", MS)).resolve(Budget(latency_ms=2), device="cpu: test")
    with pytest.raises(BudgetError, match="no held-out confidences"):
        path.resolve(Budget(shares=(0.2,) * 5))
    with pytest.raises(BudgetError, match="not known"):
        Calibration.from_table(MODEL, rows).resolve(Budget(macs=1e9))
    with pytest.raises(BudgetError, match="mean_macs: expected"):
        Calibration.from_table(MODEL, rows, means * 2)
    with pytest.raises(BudgetError, match="39 numbers each"):
        Calibration.from_table(MODEL, rows, means[:-1])


def test_another_model_or_number_of_steps_is_refused(calibration):
    for change in ({"name": "resnet18"}, {"patch_size": 128}, {"macs": (1, 2, 3, 4, 5)}):
        other = ModelIdentity(**{**vars(MODEL), **change})
        with pytest.raises(BudgetError, match=next(iter(change))):
            calibration.check_model(other)
    named = ModelIdentity(**{**vars(MODEL), "weights": "ab" * 16})
    for known, other in ((calibration, named), (replace(calibration, model=named), MODEL)):
        known.check_model(other)  # one of the two digests is not known
    message = "weights cdcdcdcd.., got one for abababab..; calibrate anew with `gfnet-fast calibrate`"
    with pytest.raises(BudgetError, match=re.escape(message)):
        replace(calibration, model=named).check_model(replace(named, weights="cd" * 16))
    with pytest.raises(BudgetError, match=r"precision 'int8', got one for 'float32'; calibrate anew"):
        calibration.check_model(replace(MODEL, precision="int8"))
    with pytest.raises(BudgetError, match="expected one for 3 steps, got one for 5"):
        resolve(Budget(macs=1e9), 3, calibration)


def test_a_calibration_comes_back_from_its_file_bit_equal(calibration, tmp_path):
    path = tmp_path / "thresholds.json"
    save_calibration(calibration, path)
    again = load_calibration(path, MODEL)
    for name in ("thresholds", "mean_macs", "shares", "accuracy", "harm", "sample"):
        np.testing.assert_array_equal(getattr(again, name), getattr(calibration, name))
    for name in ("model", "count", "data_hash", "source", "cost", "notes"):
        assert getattr(again, name) == getattr(calibration, name)
    assert [p.name for p in tmp_path.iterdir()] == ["thresholds.json"]
    assert path.stat().st_size < 400_000
    with pytest.raises(BudgetError, match="patch_size"):
        load_calibration(path, ModelIdentity("resnet50", 128, 5, MODEL.macs))
    with pytest.raises(BudgetError, match="make one with `gfnet-fast calibrate`"):
        load_calibration(tmp_path / "absent.json")


def test_an_official_table_comes_back_from_its_file():
    rows = np.float32([[0.5, 0.5, 0.5, 0.5, -1e8], [0.7, 0.7, 0.7, 0.7, -1e8]])
    again = from_json(to_json(Calibration.from_table(MODEL, rows, [1e9, 2e9])))
    assert np.isnan(again.accuracy).all()
    assert again.shares is None
    assert from_json(to_json(Calibration.from_table(MODEL, rows))).mean_macs is None
    bare = json.dumps({"schema_version": 1, "default_row": 1, "thresholds": rows.tolist()})
    np.testing.assert_array_equal(from_json(bare, MODEL).thresholds, rows)
    with pytest.raises(BudgetError, match="model"):
        from_json(bare)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema_version=2), "schema_version 1, got 2"),
        (lambda c: c.pop("notes"), "not a calibration"),
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c["thresholds"][3].pop(), "not a calibration|expected"),
        (lambda c: c["thresholds"][3].__setitem__(0, math.nan), "NaN"),
        (lambda c: c["thresholds"][3].__setitem__(0, "high"), "thresholds: expected numbers"),
        (lambda c: c["mean_macs"].pop(), "mean_macs"),
        (lambda c: c["harm"].pop(), "harm"),
        (lambda c: c["harm"].__setitem__(0, None), "harm: expected"),
        (lambda c: c["shares"][0].__setitem__(0, 0.5), "sum to 1"),
        (lambda c: c["cost"].update(milliseconds=[1, 2]), "cost table"),
        (lambda c: c["cost"].update(milliseconds=[5, 4, 3, 2, 1]), "increasing"),
        (lambda c: c["model"].update(steps=4), "expected 4"),
        (
            lambda c: c["model"].update(weights="xy"),
            "weights: expected 32 hexadecimal digits, or none, got 'xy'",
        ),
        (lambda c: c["model"].update(precision=None), "precision: expected 'float32' or 'int8', got None"),
        (lambda c: c.update(sample="!"), "not a calibration"),
    ],
)
def test_a_damaged_file_is_refused(calibration, change, message):
    content = json.loads(to_json(calibration))
    change(content)
    with pytest.raises(BudgetError, match=message):
        from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_text_that_is_no_calibration_is_refused(text):
    with pytest.raises(BudgetError):
        from_json(text)


def exit_shares(task, row):
    return curve(task.confidences, row[None])[0][0]
