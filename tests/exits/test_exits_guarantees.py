"""Certificates hold at their level; the audit rarely cries wolf and sees drift."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from exit_tasks import make_task

from gfnet_fast.errors import BudgetError
from gfnet_fast.exits import Audit, AuditWarning, ModelIdentity, calibrate, certify, disagreement, harm
from gfnet_fast.exits.guarantees import binomial_p_values, hoeffding_bentkus_p_values
from gfnet_fast.exits.path import curve


def exact_cdf(losses: int, count: int, epsilon: float) -> Fraction:
    p = Fraction(epsilon)
    return sum(math.comb(count, k) * p**k * (1 - p) ** (count - k) for k in range(losses + 1))


@pytest.mark.parametrize("count", [1, 7, 200])
@pytest.mark.parametrize("epsilon", [0.001, 0.05, 0.5, 0.9])
def test_binomial_p_values_are_exact(count, epsilon):
    losses = sorted({0, 1, count // 20, count // 2, count - 1, count})
    expected = [float(exact_cdf(k, count, epsilon)) for k in losses]
    np.testing.assert_allclose(binomial_p_values(losses, count, epsilon), expected, rtol=1e-10)


def test_binomial_p_values_hold_for_many_images():
    stats = pytest.importorskip("scipy.stats")
    losses = np.array([0, 900, 1000, 1100])
    found = binomial_p_values(losses, 100_000, 0.01)
    np.testing.assert_allclose(found, stats.binom.cdf(losses, 100_000, 0.01), rtol=1e-7)


def test_hoeffding_bentkus_p_values_bound_the_exact_ones():
    means = np.array([0, 0.01, 0.03, 0.05, 0.2, 1])
    found = hoeffding_bentkus_p_values(means, 400, 0.05)
    assert (found >= binomial_p_values(np.rint(means * 400), 400, 0.05) - 1e-12).all()
    assert found[0] == pytest.approx(0.95**400)
    np.testing.assert_array_equal(found[3:], 1)
    assert (np.diff(found) >= 0).all()


ROWS = np.concatenate([np.repeat(np.linspace(0.1, 1.001, 60)[:, None], 3, axis=1), -np.ones((60, 1))], axis=1)


def test_the_guarantee_holds_at_its_level_over_1000_tasks():
    """Share of tasks whose certified row truly loses more than epsilon: at most delta."""
    rng = np.random.default_rng(0)
    delta, violations, naive, trivial = 0.1, 0, 0, 0
    for population in range(25):
        shape = {"noise": rng.uniform(0.2, 1), "accuracy": (rng.uniform(0.5, 0.75), 0.78)}
        task = make_task(20_000, steps=4, seed=1000 + population, **shape)
        losses = harm(task.correct)
        true = curve(task.confidences, ROWS.astype(np.float32), losses)[1]
        for _ in range(40):
            count, epsilon = int(rng.integers(200, 3000)), rng.choice([0.01, 0.02, 0.05])
            drawn = rng.integers(0, 20_000, count)
            seen, lost = task.confidences[:, drawn], losses[:, drawn]
            found = certify(ROWS, seen, lost, epsilon=epsilon, delta=delta)
            truth = np.append(true, 0)[found.row]
            violations += truth > epsilon
            trivial += found.row >= len(ROWS) - 1
            observed = curve(seen, ROWS.astype(np.float32), lost)[1]
            naive += true[np.flatnonzero(observed <= epsilon)[0]] > epsilon
    upper = next(p for p in np.arange(0, 1, 1e-3)[1:] if binomial_p_values([violations], 1000, p)[0] < 0.025)
    print(f"{violations} violations, {naive} without a test, {trivial} all steps, upper bound {upper:.3f}")
    assert violations <= 1000 * delta
    assert violations >= 20, "the test is far too careful"
    assert naive > 300, "the simulation would not show a broken test"
    assert trivial < 300


def test_losses_between_0_and_1_use_hoeffding_bentkus():
    task = make_task(5000, steps=4, seed=1)
    soft = harm(task.correct) * 0.5
    hard = certify(ROWS, task.confidences, harm(task.correct), epsilon=0.02)
    found = certify(ROWS, task.confidences, soft, epsilon=0.02)
    assert found.row < hard.row
    assert found.p_value <= 0.05


def test_running_all_steps_is_what_remains():
    task = make_task(30, steps=4, seed=1)
    for rows, row in ((ROWS, len(ROWS) - 1), (ROWS[:30], 30)):
        found = certify(rows, task.confidences, harm(task.correct), epsilon=0.01)
        assert (found.row, found.loss, found.p_value) == (row, 0, 0)
        assert (found.thresholds[:-1] > 1).all()


def test_a_calibration_is_certified_on_other_images():
    seen, fresh = make_task(4000, seed=1), make_task(4000, seed=2)
    made = calibrate(
        ModelIdentity("m", 96, 5, tuple(seen.costs)),
        seen.confidences,
        seen.correct,
        method="official",
        data_hash="a",
    )
    found = certify(made, fresh.confidences, harm(fresh.correct), epsilon=0.02, data_hash="b")
    assert 0 < found.row < len(made.thresholds) - 1
    assert made.mean_macs[found.row] < 0.8 * made.mean_macs[-1]
    assert "at most 0.02 (95 % confidence, 4000 images" in str(found)
    with pytest.raises(BudgetError, match="other images"):
        certify(made, seen.confidences, harm(seen.correct), epsilon=0.02, data_hash="a")


def test_disagreement_is_at_least_harm():
    task = make_task(1000, seed=1)
    assert (disagreement(task.predictions) >= harm(task.correct)).all()
    assert not disagreement(task.predictions)[-1].any()


@pytest.mark.parametrize("values", [[0, 1, 1], 1, np.zeros((3, 0)), np.zeros((2, 2, 2))])
def test_losses_of_exits_need_steps_and_images(values):
    for loss in (harm, disagreement):
        with pytest.raises(BudgetError, match=r"\[T, N\]"):
            loss(values)


def test_certify_refuses_what_does_not_fit():
    task = make_task(100, steps=4, seed=1)
    losses = harm(task.correct)
    for change, message in (
        ({"epsilon": 0}, "epsilon"), ({"epsilon": 1.5}, "epsilon"), ({"delta": math.nan}, "delta"),
        ({"losses": losses[:, 1:]}, "losses"), ({"losses": losses * 2.0}, "0..1"),
        ({"losses": ~losses}, "last step"), ({"path": ROWS[:, 1:]}, "thresholds"),
    ):  # fmt: skip
        values = {"path": ROWS, "confidences": task.confidences, "losses": losses, "epsilon": 0.02, **change}
        with pytest.raises(BudgetError, match=message):
            certify(**values)


def test_the_audit_rarely_cries_wolf_and_sees_drift():
    false, seen, tasks = 0, 0, 80
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AuditWarning)
        for seed in range(tasks):
            rng = np.random.default_rng(seed)
            audit = Audit(0.02, 0.05)
            false += audit.observe_losses(rng.random(1500) < 0.02)
            audit = Audit(0.02, 0.05)
            audit.observe_losses(rng.random(500) < 0.01)
            seen += audit.observe_losses(rng.random(1000) < 0.06)
    print(f"{false} false alarms and drift seen {seen} times of {tasks}")
    assert false <= 0.05 * tasks
    assert seen >= 0.95 * tasks


def test_the_audit_warns_once_and_resets():
    audit = Audit(0.02, share=0.25)
    with pytest.warns(AuditWarning, match="past 0.02, after") as caught:
        audit.observe([1] * 1000, [2] * 1000)
    assert len(caught) == 1
    assert audit.alarmed
    assert (audit.count, audit.losses) == (1000, 1000)
    audit.reset()
    assert not audit.observe([1, 2, 3], [1, 3, 3], labels=[1, 2, 3])
    assert audit.losses == 0
    assert not audit.observe([1, 2], [1, 3], labels=[1, 3])
    assert audit.losses == 1
    assert 0.2 < audit.choose(10_000).mean() < 0.3
    for bad in ((0, 0.05, 0.1), (0.1, 1, 0.1), (0.1, 0.1, 0)):
        with pytest.raises(BudgetError):
            Audit(bad[0], bad[1], share=bad[2])
    for bad in ("a", None, math.nan):
        with pytest.raises(BudgetError, match="epsilon: expected a number between 0 and 1"):
            Audit(bad)
    for bad in ([2], [[0, 1]], "a"):
        with pytest.raises(BudgetError, match="losses: expected numbers"):
            audit.observe_losses(bad)
    for classes in (([1], np.arange(5)), ([1, 2], [1, 2], [1])):
        with pytest.raises(BudgetError, match="as many classes"):
            audit.observe(*classes)
