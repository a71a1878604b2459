"""What crosses the border between Python and the scheduler: arrays, refusals, errors, threads."""

import threading
import time

import numpy as np
import pytest

from gfnet_fast._scheduler import CostTable, Mode, Reason, Scheduler, Stage, Verdict, capacity_without_waits

COSTS = CostTable([(1, 1.0), (4, 1.6), (16, 3.0)], [(1, 1.0), (4, 1.6), (16, 3.0)])


def test_a_loop_from_admission_to_departure():
    scheduler = Scheduler(COSTS, capacity=64, steps=3)
    slots = scheduler.admit(20, 0.0)
    assert slots.dtype == np.int32
    assert sorted(slots) == list(range(20))
    scheduler.close()
    steps = np.zeros(64, dtype=int)
    while (plan := scheduler.plan(0.0)).verdict is not Verdict.DONE:
        assert plan.verdict == Verdict.LAUNCH
        assert plan.slots.dtype == plan.steps.dtype == np.int32
        assert plan.slots.shape == plan.steps.shape == (plan.bucket,)
        assert (plan.stage == Stage.GLANCE) == (plan.steps[0] == 1)
        assert np.array_equal(plan.slots == -1, np.arange(plan.bucket) >= plan.count)
        rows = plan.slots[: plan.count]
        steps[rows] += 1
        assert np.array_equal(plan.steps[: plan.count], steps[rows])
        scheduler.complete(plan.id, rows % 2 == 0, 0.0)
    left = scheduler.collect()
    assert len(left) == 20
    assert sorted(left.slots) == sorted(slots)
    assert np.array_equal(left.steps, np.where(left.slots % 2 == 0, 1, 3))
    expected = np.where(left.slots % 2 == 0, Reason.EXITED.value, Reason.LAST_STEP.value)
    assert np.array_equal(left.reasons, expected)
    statistics = scheduler.statistics()
    assert (statistics.admitted, statistics.passes) == (20, 10 + 3 * 10)
    assert statistics.departed == [10, 10, 0, 0]
    assert scheduler.occupancy().free == 64


def test_flags_may_cover_the_padding_and_be_bools_or_integers():
    strided = np.array([True, True, False, True, True])[::2]
    for flags in ([True, False, True, False], np.array([1, 0, 1], np.uint8), (-5, 0, 2**40), strided):
        scheduler = Scheduler(COSTS, capacity=64, steps=3, linger=0.0)
        scheduler.admit(3, 0.0)
        plan = scheduler.plan(0.0)
        assert (plan.bucket, plan.count) == (4, 3)
        scheduler.complete(plan.id, flags, 0.0)
        assert len(scheduler.collect()) == 2


def test_refusals_and_errors():
    scheduler = Scheduler(COSTS, capacity=4, steps=2)
    assert len(scheduler.admit(10**12, 0.0)) == 4  # costs no memory beyond the capacity
    assert len(scheduler.admit(1, 0.0)) == 0
    with pytest.raises(ValueError, match="count: expected 0 or more images, got -1"):
        scheduler.admit(-1, 0.0)
    with pytest.raises(ValueError, match="id: expected a launch in flight, got 7"):
        scheduler.complete(7, np.zeros(4, bool), 0.0)
    plan = scheduler.plan(0.0)
    with pytest.raises(ValueError, match=r"one flag per row, 4 \(or 4 with padding\), got 3"):
        scheduler.complete(plan.id, np.zeros(3, bool), 0.0)
    with pytest.raises(ValueError, match="shape"):
        scheduler.complete(plan.id, np.zeros((4, 1), bool), 0.0)
    with pytest.raises(ValueError, match="deadline"):
        scheduler.admit(1, 0.0, [1.0])
    scheduler.close()
    with pytest.raises(RuntimeError, match="closed"):
        scheduler.admit(1, 0.0)
    with pytest.raises(ValueError, match="glance: expected every size once, got 1 twice"):
        CostTable([(1, 1.0), (1, 2.0)], [(1, 1.0)])
    with pytest.raises(ValueError, match="capacity: expected 1 to 262144, got 0"):
        Scheduler(COSTS, capacity=0, steps=2)


def test_deadlines():
    scheduler = Scheduler(COSTS, capacity=64, steps=3, mode=Mode.DEADLINE)
    scheduler.admit(2, 0.0, deadlines=np.array([0.5, 9.0]))
    plan = scheduler.plan(0.0)
    assert plan.count == 1
    left = scheduler.collect()
    assert list(left.steps) == [0]
    assert list(left.reasons) == [Reason.DEADLINE.value]
    pause = scheduler.plan(0.0)
    assert (pause.verdict, pause.wake_at) == (Verdict.WAIT, 9.0)


def test_a_plan_outlives_its_launch():
    scheduler = Scheduler(COSTS, capacity=64, steps=3)
    scheduler.admit(16, 0.0)
    plan = scheduler.plan(0.0)
    before = plan.slots.copy()
    scheduler.complete(plan.id, np.zeros(16, bool), 0.0)
    scheduler.plan(0.0)
    del scheduler
    assert np.array_equal(plan.slots, before)


def test_threads_share_a_scheduler():
    scheduler = Scheduler(COSTS, capacity=capacity_without_waits(COSTS), steps=3, linger=0.0)
    images, collected = 5000, []

    def produce():
        left = images
        while left:
            got = len(scheduler.admit(left, 0.0))
            left -= got
            if not got:
                time.sleep(0)

    producer = threading.Thread(target=produce)
    producer.start()
    while sum(collected) < images:
        plan = scheduler.plan(0.0)
        if plan.verdict == Verdict.LAUNCH:
            scheduler.complete(plan.id, plan.slots[: plan.count] % 3 == 0, 0.0)
        else:
            time.sleep(0)
        collected.append(len(scheduler.collect()))
    producer.join()
    assert scheduler.occupancy().free == scheduler.capacity
