"""The five invariants under random use through the binding: nothing lost, nothing twice, steps in order,
capacity kept, nobody starves. The C++ fuzz run checks these and the rules of each mode on many more calls."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gfnet_fast._scheduler import CostTable, Mode, Objective, Reason, Scheduler, Stage, Verdict, cover

buckets = st.lists(
    st.tuples(st.integers(1, 12), st.floats(0.05, 2.0)),
    min_size=1,
    max_size=4,
    unique_by=lambda bucket: bucket[0],
)


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        glance=buckets,
        focus=buckets,
        capacity=st.integers(1, 24),
        steps=st.integers(1, 5),
        mode=st.sampled_from([Mode.THROUGHPUT, Mode.LATENCY, Mode.DEADLINE]),
        in_flight=st.integers(1, 3),
        patience=st.integers(1, 8),
        linger=st.sampled_from([0.0, 1.0, float("inf")]),
    )
    def start(self, glance, focus, capacity, steps, mode, in_flight, patience, linger):
        self.scheduler = Scheduler(
            CostTable(glance, focus),
            capacity=capacity,
            steps=steps,
            mode=mode,
            in_flight=in_flight,
            patience=patience,
            linger=linger,
        )
        self.sizes = {Stage.GLANCE: [b for b, _ in glance], Stage.FOCUS: [b for b, _ in focus]}
        self.capacity, self.steps, self.mode, self.in_flight = capacity, steps, mode, in_flight
        self.patience = patience
        self.now = 0.0
        self.taken = {}  # slot -> steps taken, for every slot that has an image
        self.deadline = {}
        self.since = {}  # slot -> launches since it was queued
        self.flight = {}  # launch -> slots; of a counted one, how many
        self.ready = []  # slots in the device's ring
        self.left = set()  # departed while in flight
        self.admitted = self.departed = self.failures = 0
        self.closed = False

    @rule(count=st.integers(0, 30), allowed=st.floats(0.1, 20.0))
    def admit(self, count, allowed):
        if self.closed:
            self.scheduler.open()
            self.closed = False
        deadlines = np.full(count, self.now + allowed) if self.mode == Mode.DEADLINE else None
        free = self.scheduler.occupancy().free
        slots = self.scheduler.admit(count, self.now, deadlines)
        assert len(slots) == min(count, free)
        for slot in slots.tolist():
            assert 0 <= slot < self.capacity
            assert slot not in self.taken
            self.taken[slot] = self.since[slot] = 0
            self.deadline[slot] = self.now + allowed
        self.admitted += len(slots)

    @rule()
    def plan(self):
        plan = self.scheduler.plan(self.now)
        self.collect()
        if plan.verdict != Verdict.LAUNCH:
            if plan.verdict == Verdict.WAIT:
                assert self.flight
            return
        assert plan.bucket in self.sizes[plan.stage]
        assert 1 <= plan.count <= plan.bucket
        if self.mode == Mode.THROUGHPUT and plan.stage == Stage.FOCUS:
            assert len(plan.slots) == len(plan.steps) == 0
            counted = sum(rows for rows in self.flight.values() if isinstance(rows, int))
            rows = self.ready[counted : counted + plan.count]
            assert len(rows) == plan.count
            self.flight[plan.id] = plan.count
        else:
            assert (plan.slots[plan.count :] == -1).all()
            rows = plan.slots[: plan.count].tolist()
            assert len(set(rows)) == len(rows)
            flying = self.flying()
            for slot, step in zip(rows, plan.steps.tolist(), strict=False):
                assert slot not in flying
                assert step == self.taken[slot] + 1
                assert (step == 1) == (plan.stage == Stage.GLANCE)
            self.flight[plan.id] = rows
        for slot in rows:
            if self.mode == Mode.THROUGHPUT and not self.failures:
                assert self.since[slot] <= self.patience + self.capacity
        for slot in self.since:
            self.since[slot] += 1
        assert len(self.flight) <= self.in_flight

    def flying(self):
        """Slots in launches that name their rows."""
        return {slot for rows in self.flight.values() if isinstance(rows, list) for slot in rows}

    @precondition(lambda self: self.flight)
    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def land(self, data, fails):
        launch = data.draw(st.sampled_from(sorted(self.flight)))
        rows = self.flight[launch]
        count = rows if isinstance(rows, int) else len(rows)
        if fails and count > 1:
            self.failures += 1
            self.scheduler.fail(launch, self.now)
            del self.flight[launch]
            self.left -= set() if isinstance(rows, int) else set(rows)
            return self.collect()
        reasons = data.draw(
            st.lists(
                st.sampled_from([None, None, Reason.EXITED, Reason.CANCELLED]), min_size=count, max_size=count
            )
        )
        return self.end(launch, [Reason.ERROR] if fails else reasons)

    def end(self, launch, reasons):
        """Complete a launch; the reasons why its rows leave, where they do."""
        rows = self.flight.pop(launch)
        if isinstance(rows, int):
            rows, self.ready = self.ready[:rows], self.ready[rows:]
        left = []
        for slot, reason in zip(rows, reasons, strict=True):
            if slot not in self.taken:
                continue
            self.taken[slot] += reason is not Reason.ERROR
            self.since[slot] = 0
            if reason is None and self.taken[slot] == self.steps:
                reason = Reason.LAST_STEP
            if reason is not None:
                left.append((slot, self.taken[slot], reason.value))
            elif self.mode == Mode.THROUGHPUT:
                self.ready.append(slot)
        self.scheduler.complete(launch, np.array(left, np.int32).reshape(-1, 3), self.now)
        self.left -= set(rows)
        self.collect()

    def collect(self):
        left = self.scheduler.collect()
        flying = self.flying()
        for slot, steps, reason in zip(
            left.slots.tolist(), left.steps.tolist(), left.reasons.tolist(), strict=True
        ):
            assert self.taken.pop(slot) == steps  # KeyError: it had left before
            del self.since[slot]
            if reason == Reason.DEADLINE.value:
                assert self.mode == Mode.DEADLINE
            if slot in flying:
                self.left.add(slot)
            self.departed += 1

    @rule(tick=st.floats(0.0, 3.0))
    def time_passes(self, tick):
        self.now += tick
        self.scheduler.expire(self.now)
        self.collect()
        if self.mode == Mode.DEADLINE:
            assert all(self.deadline[slot] >= self.now for slot in self.taken)

    @rule()
    def close(self):
        self.scheduler.close()
        self.closed = True

    @invariant()
    def every_image_is_somewhere(self):
        if not hasattr(self, "scheduler"):
            return
        places = self.scheduler.occupancy()
        assert places.free == self.capacity - len(self.taken) - len(self.left)
        assert self.admitted == self.departed + len(self.taken)

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        self.close()
        for _ in range(10_000):
            if self.flight:
                launch, rows = next(iter(self.flight.items()))
                self.end(launch, [None] * (rows if isinstance(rows, int) else len(rows)))
            self.plan()
            if not self.flight:
                break
        assert self.admitted == self.departed
        assert self.scheduler.occupancy().free == self.capacity


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)


def cheapest(sizes, rows, objective):
    if rows <= 0:
        return 0.0
    delayed = rows if objective == Objective.MEAN_WAIT else 1
    return min(delayed * cost + cheapest(sizes, rows - size, objective) for size, cost in sizes)


@settings(max_examples=100, deadline=None)
@given(
    sizes=buckets,
    rows=st.integers(0, 9),
    objective=st.sampled_from([Objective.DEVICE_TIME, Objective.MEAN_WAIT]),
)
def test_the_cover_is_the_best_there_is(sizes, rows, objective):
    pieces, value = cover(sizes, rows, objective)
    assert sum(pieces) >= rows
    np.testing.assert_allclose(value, cheapest(sizes, rows, objective), rtol=1e-12)
