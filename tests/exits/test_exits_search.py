"""The joint search against the official one, out of sample, and the comparison that says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from exit_tasks import Task, make_task

from gfnet_fast.errors import BudgetError
from gfnet_fast.exits import (
    ModelIdentity,
    anytime_curve,
    calibrate,
    compare_paths,
    fit_costs,
    joint_search,
    official_shares,
    thresholds_for_shares,
)
from gfnet_fast.exits.official import correct_by_step
from gfnet_fast.exits.path import curve, is_nested

TASKS = {
    "even": {},
    "flat": {"accuracy": (0.75, 0.76)},
    "steep": {"accuracy": (0.5, 0.8)},
    "three steps": {"steps": 3, "accuracy": (0.6, 0.75)},
    "dull": {"noise": 0.0, "accuracy": (0.7, 0.72)},
}


def official_rows(task: Task) -> np.ndarray:
    shares = official_shares(len(task.costs))
    return np.stack([thresholds_for_shares(task.confidences, row) for row in shares])


@pytest.mark.parametrize("count", [1000, 4000])
@pytest.mark.parametrize("name", TASKS)
def test_joint_search_is_never_below_the_official_one_out_of_sample(name, count):
    seen, unseen = make_task(count, seed=3, **TASKS[name]), make_task(8000, seed=4, **TASKS[name])
    found = joint_search(seen.confidences, seen.correct, seen.costs, splits=2)
    result = compare_paths(
        found.thresholds, official_rows(seen), unseen.confidences, unseen.correct, unseen.costs, draws=200
    )
    assert (result.band_high >= 0).all(), result.difference.round(2)
    assert result.mean_high >= 0
    assert is_nested(found.thresholds)
    print(f"{name}, {count} images: {result.mean:+.2f} ({result.mean_low:+.2f} to {result.mean_high:+.2f})")
    if name in ("even", "flat", "steep") and count == 4000:
        assert result.mean_low > 0.2


def test_joint_search_is_not_below_the_official_one_on_the_official_fixture():
    with np.load(Path(__file__).parent / "data" / "thresholds_T5_N3000.npz") as stored:
        seen, unseen = stored["calibration_probabilities"], stored["test_probabilities"]
        right = correct_by_step(seen, stored["calibration_labels"])
        truth = correct_by_step(unseen, stored["test_labels"])
        official, costs = stored["thresholds"], stored["flops"]
    found = joint_search(seen.max(axis=2), right, costs)
    result = compare_paths(found.thresholds, official, unseen.max(axis=2), truth, costs, draws=200)
    assert (result.band_high >= 0).all()
    assert result.mean_low > 0


def test_where_confidence_says_nothing_the_search_finds_nothing():
    rng = np.random.default_rng(0)

    def task(count: int) -> Task:
        plain = make_task(count, seed=count)
        confidences = rng.random((5, count)).astype(np.float32)
        return plain._replace(confidences=confidences, correct=np.tile(rng.random(count) < 0.7, (5, 1)))

    seen, unseen = task(2000), task(5000)
    found = joint_search(seen.confidences, seen.correct, seen.costs, splits=1)
    assert found.gain == pytest.approx(0, abs=1e-9)
    result = compare_paths(
        found.thresholds, official_rows(seen), unseen.confidences, unseen.correct, unseen.costs, draws=20
    )
    np.testing.assert_allclose(result.difference, 0, atol=1e-3)


def test_reported_accuracy_is_that_of_unseen_images():
    seen, unseen = make_task(4000, seed=5), make_task(100_000, seed=6)
    made = calibrate(ModelIdentity("m", 96, 5, tuple(seen.costs)), seen.confidences, seen.correct)
    true = 100 * curve(unseen.confidences, made.thresholds, unseen.correct)[1]
    chance = 100 * np.sqrt(0.84 * 0.16 / 4000)
    assert np.abs(made.accuracy - true).max() < 4 * chance
    assert made.count == 4000


def test_too_few_images_get_the_official_shares_and_a_note():
    few = make_task(40, seed=0)
    found = joint_search(few.confidences, few.correct, few.costs)
    assert (found.mix == 0).all()
    assert np.isnan(found.accuracy).all()
    assert any("fewer than 200" in note and "missed by 10 %" in note for note in found.notes)
    assert any("rounds to no image" in note for note in found.notes)
    one = joint_search(few.confidences[:, :1], few.correct[:, :1], few.costs)
    assert is_nested(one.thresholds)


@pytest.mark.parametrize("steps", [3, 4, 5])
@pytest.mark.parametrize("count", [20, 199, 200, 300, 3000])
def test_a_calibrated_path_is_nested_from_everybody_exits_to_nobody(count, steps):
    cases = [(2, "least"), (1, None), (0, None), (3, "most")]
    for seed, tied in cases[: {200: 2, 300: 1, 3000: 1}.get(count)]:
        task = make_task(count, steps, seed)
        levels = task.confidences
        if tied == "least":
            levels = np.maximum(levels, np.quantile(levels, 0.15, axis=1, keepdims=True))
        elif tied == "most":
            levels = np.minimum(levels, np.quantile(levels, 0.8, axis=1, keepdims=True))
        model = ModelIdentity("m", 96, steps, tuple(task.costs))
        made = calibrate(model, levels.astype(np.float32), task.correct)
        assert made.nested
        assert (made.thresholds[0, :-1] == 0).all()
        assert (made.thresholds[-1, :-1] == np.float32(1e8)).all()
        np.testing.assert_allclose(made.mean_macs[[0, -1]], task.costs[[0, -1]])


def test_ties_are_noted():
    task = make_task(1000, seed=0)
    coarse = np.round(task.confidences * 4) / 4
    found = joint_search(coarse, task.correct, task.costs, splits=1)
    assert sum("tie" in note for note in found.notes) == 4
    assert is_nested(found.thresholds)


def test_the_same_seed_gives_the_same_path():
    task = make_task(500, seed=0)
    paths = [joint_search(task.confidences, task.correct, task.costs, splits=1, seed=s) for s in (1, 1, 2)]
    np.testing.assert_array_equal(paths[0].thresholds, paths[1].thresholds)
    assert (paths[0].thresholds != paths[2].thresholds).any()


def test_the_search_refuses_what_does_not_fit():
    task = make_task(300, seed=0)
    model = ModelIdentity("m", 96, 5, tuple(task.costs))
    with pytest.raises(BudgetError, match="correct"):
        joint_search(task.confidences, task.correct[:, 1:], task.costs)
    with pytest.raises(BudgetError, match="costs"):
        joint_search(task.confidences, task.correct, task.costs[::-1])
    with pytest.raises(BudgetError, match="NaN"):
        joint_search(np.where(task.confidences > 0.5, np.nan, 0.1), task.correct, task.costs)
    with pytest.raises(BudgetError, match="method"):
        calibrate(model, task.confidences, task.correct, method="best")  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match=r"\[4, N >= 1\]"):
        calibrate(ModelIdentity("m", 96, 4, (1, 2, 3, 4)), task.confidences, task.correct)


def test_a_path_compared_with_itself_differs_nowhere():
    task = make_task(1000, seed=0)
    rows = official_rows(task)
    result = compare_paths(rows, rows, task.confidences, task.correct, task.costs, draws=20)
    assert np.abs(result.difference).max() == 0
    assert np.abs(result.low).max() < 1e-9


def test_the_interval_covers_the_true_difference():
    rows = np.linspace(0.05, 1, 21)[:, None] * np.array([1, 1, 1, 1, 0]) - np.array([0, 0, 0, 0, 1])
    other = official_rows(make_task(2000, seed=9))
    population = make_task(50_000, seed=10)

    def interval(task: Task, draws: int):
        return compare_paths(rows, other, task.confidences, task.correct, task.costs, draws=draws)

    true = interval(population, 20).mean
    covered = 0
    for seed in range(30):
        part = np.random.default_rng(seed).integers(0, 50_000, 500)
        drawn = interval(Task(*(a[..., part] if a.shape[-1] > 5 else a for a in population)), 50)
        covered += drawn.mean_low <= true <= drawn.mean_high
    assert covered >= 25


def test_two_curves_without_a_common_cost_cannot_be_compared():
    task = make_task(100, seed=0)
    glance, never = [[0, 0, 0, 0, -1e8]], [[1e8, 1e8, 1e8, 1e8, -1e8]]
    with pytest.raises(BudgetError, match="in common"):
        compare_paths(glance, never, task.confidences, task.correct, task.costs)


def test_anytime_curve():
    np.testing.assert_array_equal(anytime_curve([[0, 1, 0, 0], [1, 1, 0, 1]]), [25, 75])
    with pytest.raises(BudgetError, match=r"\[T, N\]"):
        anytime_curve([0, 1])


def test_costs_are_found_from_runs():
    rng = np.random.default_rng(0)
    costs = np.array([1.0, 2.1, 3.2, 4.2, 5.3])
    shares = rng.dirichlet(np.ones(5), 12)
    found, error = fit_costs(shares, shares @ costs)
    np.testing.assert_allclose(found, costs, rtol=1e-6)
    assert error < 1e-6
    noisy = shares @ costs * (1 + 0.01 * rng.normal(size=12))
    found, error = fit_costs(shares, noisy)
    np.testing.assert_allclose(found, costs, rtol=0.06)
    assert 0.001 < error < 0.05
    falling, _ = fit_costs(shares, shares @ [1.0, 0.9, 0.8, 0.7, 0.6])
    assert (np.diff(falling) > 0).all()
    for bad in ((shares[:3], noisy[:3]), (shares, -noisy), (shares * 2, noisy), (shares, noisy[:3])):
        with pytest.raises(BudgetError, match="fit_costs"):
            fit_costs(*bad)
    with pytest.raises(BudgetError, match="milliseconds: expected numbers"):
        fit_costs(shares, "abc")
