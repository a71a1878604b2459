"""The official search and evaluation: bit-equal to the fixtures, equal to a plain loop, fast, strict."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gfnet_fast.errors import BudgetError
from gfnet_fast.exits import (
    check_thresholds,
    evaluate_budgets,
    exit_steps,
    find_thresholds,
    official_shares,
    thresholds_for_shares,
)
from gfnet_fast.exits.official import evaluate_rows

DATA = Path(__file__).parent / "data"


@pytest.fixture(params=["T3_N40", "T5_N3000"])
def fixture(request):
    with np.load(DATA / f"thresholds_{request.param}.npz") as stored:
        return dict(stored)


def test_official_search_and_evaluation_are_bit_equal_to_the_fixtures(fixture):
    shares = official_shares(len(fixture["flops"]))
    found = np.stack([find_thresholds(fixture["calibration_probabilities"], row) for row in shares])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, fixture["thresholds"])
    curve = evaluate_budgets(fixture["test_probabilities"], fixture["test_labels"], found, fixture["flops"])
    np.testing.assert_array_equal(curve.accuracy, fixture["accuracy"])
    np.testing.assert_array_equal(curve.mean_cost, fixture["mean_flops"])
    np.testing.assert_allclose(curve.shares @ fixture["flops"], fixture["mean_flops"], rtol=1e-6)


def test_tensors_give_tensors_with_the_same_numbers(fixture):
    row = official_shares(len(fixture["flops"]))[19]
    array = find_thresholds(fixture["calibration_probabilities"], row)
    tensor = find_thresholds(torch.from_numpy(fixture["calibration_probabilities"]), torch.from_numpy(row))
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, torch.from_numpy(array))


def test_tensors_in_half_precision_are_taken():
    probabilities = torch.rand(3, 50, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    for half in (probabilities, probabilities.half()):
        found = find_thresholds(half, [0.3, 0.3, 0.4])
        assert torch.equal(found, find_thresholds(half.float(), [0.3, 0.3, 0.4]))


def test_exit_steps_need_thresholds(fixture):
    confidences = fixture["test_probabilities"].max(axis=2)
    for bad in (np.zeros((0, len(confidences))), "high", None, 0.5):
        with pytest.raises(BudgetError, match="thresholds"):
            exit_steps(confidences, bad)


def test_exit_steps_are_those_of_a_plain_loop(fixture):
    confidences = fixture["test_probabilities"].max(axis=2)
    steps = exit_steps(confidences, fixture["thresholds"])
    for row, found in zip(fixture["thresholds"][::13], steps[::13], strict=True):
        loop = [next(k for k, t in enumerate(row, 1) if image[k - 1] >= t) for image in confidences.T]
        np.testing.assert_array_equal(found, loop)
    assert steps.dtype == np.int64
    np.testing.assert_array_equal(steps[3], exit_steps(confidences, fixture["thresholds"][3]))


@pytest.mark.parametrize("seed", range(20))
def test_search_equals_a_count_image_by_image(seed):
    rng = np.random.default_rng(seed)
    steps, count = int(rng.integers(2, 7)), int(rng.integers(1, 60))
    confidences = (rng.integers(0, 12, (steps, count)) / 12).astype(np.float32)
    shares = rng.dirichlet(np.ones(steps)).astype(np.float32)
    expected, gone = [], set()
    for k in range(steps - 1):
        left = sorted((confidences[k, i] for i in range(count) if i not in gone), reverse=True)
        wanted = math.floor(np.float32(count) * shares[k])
        expected.append(left[wanted - 1] if 1 <= wanted <= len(left) else np.float32(1e8))
        gone |= {i for i in range(count) if confidences[k, i] >= expected[k]}
    np.testing.assert_array_equal(thresholds_for_shares(confidences, shares), [*expected, np.float32(-1e8)])


def test_ties_leave_together_and_empty_shares_turn_an_exit_off():
    confidences = np.array([[0.9, 0.5, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5]])
    found = thresholds_for_shares(confidences, [0.5, 0.25, 0.25])
    np.testing.assert_array_equal(found, np.float32([0.5, 1e8, -1e8]))
    np.testing.assert_array_equal(exit_steps(confidences, found), [1, 1, 1, 1])
    np.testing.assert_array_equal(
        thresholds_for_shares(confidences, [0.2, 0.3, 0.5])[:2], np.float32([1e8, 0.4])
    )


def test_200000_images_of_5_steps_take_well_under_a_second():
    confidences = np.random.default_rng(0).random((5, 200_000), dtype=np.float32)
    start = time.process_time()
    thresholds_for_shares(confidences, official_shares(5)[19])
    one = time.process_time() - start
    rows = np.stack([thresholds_for_shares(confidences, row) for row in official_shares(5)])
    all_rows = time.process_time() - start - one
    evaluate_rows(confidences, confidences > 0.5, rows, [1, 2, 3, 4, 5])
    evaluation = time.process_time() - start - one - all_rows
    assert one < 0.25, one
    assert all_rows < 2, all_rows
    assert evaluation < 2, evaluation


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, -1e8], "expected 3 numbers"),
        ([0.5, math.nan, -1e8], "finite"),
        ([0.5, math.inf, -1e8], "finite"),
        ([0.5, 0.6, 0.7], "-1e8 for the last step, .* got 0.7"),
        ("high", "numbers"),
    ],
)
def test_thresholds_are_checked(values, message):
    with pytest.raises(BudgetError, match=message):
        check_thresholds(values, 3)


def test_a_last_threshold_that_all_reach_takes_its_agreed_form():
    np.testing.assert_array_equal(check_thresholds([0.5, 0.0], 2), np.float32([0.5, -1e8]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": np.full((3, 4, 2), np.nan)}, "NaN"),
        ({"probabilities": np.full((3, 4, 2), 1.5)}, "outside"),
        ({"probabilities": np.zeros((3, 4))}, "shape"),
        ({"probabilities": np.zeros((3, 0, 2))}, "shape"),
        ({"labels": [0, 1, 2, 1]}, "expected 0..1, got 0..2"),
        ({"labels": [0, 1, -1, 1]}, "expected 0..1, got -1..1"),
        ({"labels": [0, 1]}, "expected 4 whole numbers"),
        ({"labels": [0.0, 1.0, 1.0, 0.0]}, "whole numbers"),
        ({"thresholds": [[0.5, -1e8]]}, "expected 3 numbers"),
        ({"thresholds": []}, "expected a table"),
        ({"thresholds": 0.5}, "expected a table"),
        ({"thresholds": None}, "expected a table"),
        ({"thresholds": [[0.5, 0.5, -1e8], [0.5]]}, "expected numbers"),
        ({"costs": "abc"}, "expected numbers"),
        ({"costs": [1, 2]}, "expected 3 increasing"),
        ({"costs": [1, 3, 2]}, "expected 3 increasing"),
        ({"costs": [1, 2, math.nan]}, "expected 3 increasing"),
    ],
)
def test_the_evaluation_refuses_what_does_not_fit(change, message):
    good = {
        "probabilities": np.full((3, 4, 2), 0.5),
        "labels": np.array([0, 1, 1, 0]),
        "thresholds": [[0.5, 0.5, -1e8]],
        "costs": [1, 2, 3],
    }
    evaluate_budgets(**good)
    with pytest.raises(BudgetError, match=message):
        evaluate_budgets(**{**good, **change})


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.5, 0.6, 0.5], [-0.1, 0.6, 0.5], [math.nan, 0.5, 0.5]])
def test_shares_are_checked(shares):
    with pytest.raises(BudgetError, match="shares"):
        find_thresholds(np.full((3, 4, 2), 0.5), shares)
