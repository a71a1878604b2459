"""The controller on a recorded drift, on a steady stream, and beyond the path's ends."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from exit_tasks import make_task

from gfnet_fast.errors import BudgetError
from gfnet_fast.exits import (
    Budget,
    BudgetWarning,
    Calibration,
    Controller,
    CostTable,
    ModelIdentity,
    calibrate,
    exit_steps,
)

MS = np.array([1.0, 2.1, 3.2, 4.2, 5.3])
CHUNK = 64


@pytest.fixture(scope="module")
def calibration():
    task = make_task(8000, seed=1)
    made = calibrate(ModelIdentity("m", 96, 5, tuple(task.costs)), task.confidences, task.correct)
    return made.with_cost(CostTable("cpu: test", tuple(MS)))


@pytest.fixture(scope="module")
def drift():
    with np.load(Path(__file__).parent / "data" / "drift.npz") as stored:
        confidences = stored["confidences"].astype(np.float32) / 65535
        return np.concatenate([confidences, confidences[:1]]), stored["slowdown"].astype(np.float64)


def play(controller, confidences, slowdown, lag=0):
    """Run a stream with `lag` images in flight: each image's cost, and where the controller aimed."""
    waiting = [controller.thresholds] * (lag // CHUNK)
    means = controller.calibration.costs("latency_ms", device="cpu: test")
    costs, aims = [], []
    for start in range(0, confidences.shape[1], CHUNK):
        waiting.append(controller.thresholds)
        part = slice(start, start + CHUNK)
        cost = MS[exit_steps(confidences[:, part], waiting.pop(0)) - 1] * slowdown[part]
        controller.observe(float(cost.sum()), len(cost))
        costs.append(cost)
        aims.append(float(np.interp(controller.position, range(len(means)), means)))
    return np.concatenate(costs), np.array(aims)


@pytest.mark.parametrize("lag", [0, 256])
@pytest.mark.parametrize("target", [1.6, 2.2, 3.0])
def test_a_target_is_held_through_a_recorded_drift(calibration, drift, target, lag):
    confidences, slowdown = drift
    controller = Controller(calibration, latency_ms=target, device="cpu: test", lag=lag)
    costs, aims = play(controller, confidences, slowdown, lag)
    fixed = (
        MS[exit_steps(confidences, calibration.resolve(Budget(latency_ms=target), device="cpu: test")) - 1]
        * slowdown
    )
    windows, adrift = (c.reshape(-1, 2000).mean(axis=1) / target for c in (costs, fixed))
    settled = [0, 1, 2, 7, 10, 11, 14, 15]
    print(f"mean {costs.mean() / target:.4f}, {controller.moves} moves,", windows.round(3))
    assert abs(costs.mean() / target - 1) < 0.03
    assert np.abs(windows[settled] - 1).max() < 0.06
    assert np.abs(adrift[settled] - 1).max() > 0.12
    moves = np.diff(aims)
    assert np.abs(moves).max() <= 0.1 * (MS[-1] - MS[0]) + 1e-9
    assert controller.moves <= 25
    turns = np.sign(moves[moves != 0])
    assert (turns[1:] != turns[:-1]).sum() <= 12
    assert controller.held


def test_on_a_steady_stream_it_settles_and_stays(calibration):
    stream = make_task(40_000, seed=77).confidences
    controller = Controller(calibration, latency_ms=2.2, device="cpu: test", lag=256)
    costs, aims = play(controller, stream, np.full(40_000, 1.1), lag=256)
    assert controller.moves <= 8
    assert abs(costs[8000:].mean() / 2.2 - 1) < 0.02
    assert aims[200:].std() / aims.mean() < 0.02


def test_images_per_second_is_the_same_target(calibration):
    a = Controller(calibration, images_per_second=500, device="cpu: test")
    b = Controller(calibration, latency_ms=2, device="cpu: test")
    assert a.target == b.target == 2
    np.testing.assert_array_equal(a.thresholds, b.thresholds)
    np.testing.assert_array_equal(b.thresholds, calibration.resolve(Budget(latency_ms=2), device="cpu: test"))


def test_a_target_beyond_the_path_is_said_once(calibration):
    controller = Controller(calibration, latency_ms=1.2, device="cpu: test")
    with pytest.warns(BudgetWarning, match="cheapest end of the path; 1.2 cannot be held") as caught:
        assert [controller.observe(2.0 * 128, 128) for _ in range(50)][-1] is False
    assert len(caught) == 1
    assert not controller.held
    assert controller.position == 0
    for _ in range(100):
        controller.observe(1.2 * 128, 128)
    assert controller.held


def test_a_capped_controller_never_takes_more_steps(calibration):
    controller = Controller(calibration, macs=1.2e9, max_steps=2)
    assert (controller.thresholds[1:] == np.float32(-1e8)).all()


def test_the_controller_refuses_what_does_not_fit(calibration):
    for fields, message in (
        ({}, "expected one of"), ({"macs": 1e9, "latency_ms": 2}, "expected one of"),
        ({"latency_ms": 9}, "expected a target in"), ({"macs": 1e6}, "expected a target in"),
        ({"latency_ms": math.nan}, "latency_ms"), ({"macs": 1e9, "gain": 0}, "gain"),
        ({"macs": 1e9, "max_step": 2}, "max_step"),
        ({"macs": "much"}, "macs"), ({"macs": 1e9, "max_steps": 99}, "max_steps: expected 1 to 5"),
        ({"macs": 1e9, "lag": -5}, "lag: .* at least 0"), ({"macs": 1e9, "lag": 1.5}, "lag"),
        ({"macs": 1e9, "min_images": 0}, "min_images: .* at least 1"),
        ({"latency_ms": 2, "device": "cuda"}, "measured on 'cuda'"),
    ):  # fmt: skip
        with pytest.raises(BudgetError, match=message):
            Controller(calibration, **{"device": "cpu: test", **fields})
    rows = [[0.5, 0.9, 0.1, 0.1, -1e8], [0.6, 0.5, 0.1, 0.1, -1e8]]
    crooked = Calibration(calibration.model, np.float32(rows), shares=np.full((2, 5), 0.2))
    with pytest.raises(BudgetError, match="nested"):
        Controller(crooked, macs=1e9)
    table = Calibration.from_table(calibration.model, [[0.9] * 4 + [-1e8]], [2e9])
    with pytest.raises(BudgetError, match="known shares"):
        Controller(table, macs=2e9)
    controller = Controller(calibration, macs=1e9)
    assert not controller.observe(0.0, 0)
    with pytest.raises(BudgetError, match="observe"):
        controller.observe(math.nan, 4)
