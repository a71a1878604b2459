"""What crosses the border between Python and the scheduler: arrays, refusals, errors, threads."""

import threading
import time

import numpy as np
import pytest

from gfnet_fast._scheduler import CostTable, Mode, Reason, Scheduler, Stage, Verdict, capacity_without_waits

COSTS = CostTable([(1, 1.0), (4, 1.6), (16, 3.0)], [(1, 1.0), (4, 1.6), (16, 3.0)])


def record(slots, steps, reason=Reason.EXITED):
    """Images that leave, [k, 3]."""
    return np.stack(np.broadcast_arrays(slots, steps, reason.value), axis=1).astype(np.int32)


@pytest.mark.parametrize("mode", [Mode.THROUGHPUT, Mode.LATENCY], ids=lambda mode: mode.name)
def test_a_loop_from_admission_to_departure(mode):
    scheduler = Scheduler(COSTS, capacity=64, steps=3, mode=mode)
    slots = scheduler.admit(20, 0.0)
    assert slots.dtype == np.int32
    assert sorted(slots) == list(range(20))
    scheduler.close()
    steps = np.zeros(64, dtype=np.int32)
    ready = []  # on the device, in the order in which they became so
    while (plan := scheduler.plan(0.0)).verdict is not Verdict.DONE:
        assert plan.verdict == Verdict.LAUNCH
        assert plan.slots.dtype == plan.steps.dtype == np.int32
        if mode is Mode.THROUGHPUT and plan.stage is Stage.FOCUS:
            assert plan.slots.shape == plan.steps.shape == (0,)
            rows, ready = np.array(ready[: plan.count]), ready[plan.count :]
        else:
            assert plan.slots.shape == plan.steps.shape == (plan.bucket,)
            assert (plan.stage == Stage.GLANCE) == (plan.steps[0] == 1)
            assert np.array_equal(plan.slots == -1, np.arange(plan.bucket) >= plan.count)
            rows = plan.slots[: plan.count]
            assert np.array_equal(plan.steps[: plan.count], steps[rows] + 1)
        steps[rows] += 1
        exited, last = rows[rows % 2 == 0], rows[(rows % 2 == 1) & (steps[rows] == 3)]
        ready += sorted(set(rows.tolist()) - set(exited.tolist()) - set(last.tolist()))
        left = [record(exited, steps[exited]), record(last, 3, Reason.LAST_STEP)]
        scheduler.complete(plan.id, np.concatenate(left), 0.0)
    left = scheduler.collect()
    assert len(left) == 20
    assert sorted(left.slots) == sorted(slots)
    assert np.array_equal(left.steps, np.where(left.slots % 2 == 0, 1, 3))
    expected = np.where(left.slots % 2 == 0, Reason.EXITED.value, Reason.LAST_STEP.value)
    assert np.array_equal(left.reasons, expected)
    statistics = scheduler.statistics()
    assert (statistics.admitted, statistics.passes) == (20, 10 + 3 * 10)
    assert statistics.departed == [10, 10, 0, 0, 0]
    assert scheduler.occupancy().free == 64


def test_a_record_is_an_array_of_integers_in_any_layout():
    rows = np.array([[2, 1, Reason.CANCELLED.value], [0, 1, Reason.EXITED.value]], np.int32)
    unaligned = np.frombuffer(b"x" + rows.tobytes(), np.uint8)[1:].view(np.int32).reshape(2, 3)
    wide = np.zeros((4, 6), np.int32)
    wide[::2, ::2] = rows
    frozen = rows.copy()
    frozen.flags.writeable = False
    layouts = [np.asfortranarray(rows), unaligned, wide[::2, ::2], rows.astype(">i4"), frozen]
    for given in [rows, *layouts, *(rows.astype(one) for one in ("u1", "i8", "u8"))]:
        scheduler = Scheduler(COSTS, capacity=64, steps=3, linger=0.0)
        scheduler.admit(3, 0.0)
        plan = scheduler.plan(0.0)
        assert (plan.bucket, plan.count) == (4, 3)
        scheduler.complete(plan.id, given, 0.0)
        left = scheduler.collect()
        assert np.array_equal(np.stack([left.slots, left.steps, left.reasons], axis=1), rows)
        assert scheduler.occupancy().ready == 1


def test_what_is_empty_is_shared_and_cannot_be_written():
    scheduler = Scheduler(COSTS, capacity=64, steps=3)
    left, plan = scheduler.collect(), scheduler.plan(0.0)
    assert len(left) == 0
    assert plan.slots is plan.steps is left.slots
    assert not plan.slots.flags.writeable


def test_refusals_and_errors():
    scheduler = Scheduler(COSTS, capacity=4, steps=2)
    assert len(scheduler.admit(10**12, 0.0)) == 4  # costs no memory beyond the capacity
    assert len(scheduler.admit(1, 0.0)) == 0
    with pytest.raises(ValueError, match="count: expected 0 or more images, got -1"):
        scheduler.admit(-1, 0.0)
    with pytest.raises(ValueError, match="id: expected a launch in flight, got 7"):
        scheduler.complete(7, record([], 1), 0.0)
    plan = scheduler.plan(0.0)
    with pytest.raises(ValueError, match="left: expected at most the 4 rows of the launch, got 5"):
        scheduler.complete(plan.id, record(range(5), 1), 0.0)
    with pytest.raises(ValueError, match=r"left: expected shape \[k, 3\]"):
        scheduler.complete(plan.id, np.zeros((4, 1), int), 0.0)
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
    scheduler.complete(plan.id, record([], 1), 0.0)
    scheduler.plan(0.0)
    del scheduler
    assert np.array_equal(plan.slots, before)


def test_threads_share_a_scheduler():
    scheduler = Scheduler(COSTS, capacity=capacity_without_waits(COSTS), steps=2, linger=0.0)
    images, collected, ready = 5000, [], np.zeros(0, int)

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
            named = len(plan.slots) > 0
            steps = 1 if named else 2
            rows, ready = (plan.slots[: plan.count], ready) if named else np.split(ready, [plan.count])
            leaves = (rows % 3 == 0) | (steps == 2)
            ready = np.append(ready, rows[~leaves])
            scheduler.complete(plan.id, record(rows[leaves], steps), 0.0)
        else:
            time.sleep(0)
        collected.append(len(scheduler.collect()))
    producer.join()
    assert scheduler.occupancy().free == scheduler.capacity
