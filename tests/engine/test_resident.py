"""What each slot carries, the order of the queue, and what the memory of images and answers is held by."""

import gc
import math
import os
import random
import weakref
from collections import deque

import gfnet_kernels as gk
import numpy as np
import pytest
import torch

from gfnet_fast._scheduler import CostTable, Reason, Scheduler, Stage, Verdict
from gfnet_fast.engine.arena import Arena
from gfnet_fast.engine.runtimes import runtimes
from gfnet_fast.engine.stages import Look, Stages
from gfnet_fast.errors import InputError
from tests.conftest import expected_exits, random_images, tiny_model
from tests.engine.engine_helpers import MODES, FakeClock, Lagging, assert_on_trace, engine_of, in_order
from tests.engine.test_eager import random_thresholds


def told(engine):
    """What the slots of images that wait for their glance are going to be told, by ticket."""
    order = engine._told.ticket.argsort()[-(engine.capacity - engine.scheduler.occupancy().free) :]
    return engine._told, order


@pytest.mark.parametrize("mode", MODES)
def test_each_slot_has_thresholds_and_a_limit_of_its_own(tiny, mode):
    images = random_images(24, 80, 21)
    engine = engine_of(tiny, (1, 2, 8), capacity=24, mode=mode)
    engine.submit(images)
    engine._apply()
    own, slots = told(engine)
    rows = torch.stack([random_thresholds(tiny, images, seed) for seed in range(24)])
    limits = torch.arange(24) % 4 + 1
    own.thresholds[slots], own.limit[slots] = rows.numpy(), limits[:, None].numpy()
    engine.drain()
    answers = engine.collect()
    reasons = dict(zip(answers[0].tickets.tolist(), answers[0].reasons, strict=True))
    order = answers[0].tickets.argsort()
    out = type(answers[0].prediction)(*(column[order] for column in answers[0].prediction))
    assert_on_trace(tiny, images, out)
    for place, (row, limit) in enumerate(zip(rows, limits.tolist(), strict=True)):
        _, step, _ = expected_exits(tiny, images[place : place + 1], row)
        assert out.exit_step[place] == min(int(step), limit)
        assert reasons[place] is (Reason.EXITED if int(step) <= limit else Reason.LAST_STEP)


@pytest.mark.parametrize("mode", MODES)
def test_who_is_cancelled_leaves_with_what_it_has(tiny, mode):
    images = random_images(30, 80, 22)
    engine = engine_of(tiny, (8,), capacity=30, mode=mode)
    engine.submit(images)
    engine.cancel([1, 2, 900])  # before anything has been launched
    for _ in range(3):
        engine.step()
    engine.cancel(range(4, 20))
    engine.drain()
    engine.cancel([0, 3])  # too late
    (answers,) = engine.collect()
    assert sorted(answers.tickets.tolist()) == list(range(30))
    cancelled = {t for t, r in zip(answers.tickets, answers.reasons, strict=True) if r is Reason.CANCELLED}
    assert {1, 2} <= cancelled <= {1, 2, *range(4, 20)}
    assert len(cancelled) > 10
    steps = dict(zip(answers.tickets.tolist(), answers.prediction.exit_step.tolist(), strict=True))
    assert steps[1] == steps[2] == 0
    assert all(steps[ticket] == 4 for ticket in range(20, 30))
    rows = torch.from_numpy(answers.tickets)
    answered = answers.prediction.exit_step > 0
    found = type(answers.prediction)(*(column[answered] for column in answers.prediction))
    assert_on_trace(tiny, images[rows[answered]], found)
    assert engine.predict(images[:3]).exit_step.tolist() == [4] * 3, "a slot forgets it"


def test_a_slot_whose_time_is_up_leaves_in_throughput_mode_too(tiny):
    images, clock = random_images(8, 80, 23), FakeClock()
    engine = engine_of(tiny, (4,), capacity=8, clock=clock)
    engine.submit(images)
    own, slots = told(engine)
    own.deadline[slots[::2]] = 0.5
    for _ in range(2):
        assert engine.step() is Verdict.LAUNCH
    clock.now = 0.5
    engine.drain()
    out = in_order(engine, 8)
    assert out.exit_step.tolist() == [2, 4, 2, 4, 0, 4, 0, 4], "one glance and one focus launch of four"
    answered = out.exit_step > 0
    assert_on_trace(tiny, images[answered], type(out)(*(column[answered] for column in out)))


class Plain:
    """A queue in plain Python beside the scheduler, the ring and the records; holds tickets."""

    def __init__(self, draw, buckets, capacity, in_flight):
        costs = CostTable([(b, 1e-3 + 1e-4 * b) for b in buckets], [(b, 1e-3 + 9e-5 * b) for b in buckets])
        self.scheduler = Scheduler(costs, capacity=capacity, steps=5, in_flight=in_flight, linger=0.0)
        self.draw, self.numbers = draw, np.random.default_rng(draw.randrange(1 << 30))
        self.queue, self.taken = (torch.zeros(capacity, dtype=torch.int32) for _ in range(2))
        self.counters = torch.zeros(2, dtype=torch.int64)
        self.tickets = np.zeros(capacity, np.int64)
        self.waiting, self.ready, self.expected = deque(), deque(), deque()
        self.flights = deque()
        self.next = self.rows = 0

    def admit(self, count):
        slots = self.scheduler.admit(count, 0.0)
        self.tickets[slots] = np.arange(self.next, self.next + len(slots))
        self.waiting.extend(range(self.next, self.next + len(slots)))
        self.next += len(slots)

    def turn(self, fails):
        plan = self.scheduler.plan(0.0)
        if plan.verdict is Verdict.LAUNCH:
            self.launch(plan, fails)
        while self.flights and (plan.verdict is Verdict.WAIT or len(self.flights) > self.draw.randrange(4)):
            number, record = self.flights.popleft()
            self.scheduler.complete(number, record[2 : 2 + 3 * record[0]].reshape(-1, 3), 0.0)
            if plan.verdict is Verdict.WAIT:
                break
        left = self.scheduler.collect()
        assert self.tickets[left.slots].tolist() == [self.expected.popleft() for _ in range(len(left))]
        return plan.verdict

    def launch(self, plan, fails):
        glance = plan.stage is Stage.GLANCE
        line = self.waiting if glance else self.ready
        count, bucket = plan.count, plan.bucket
        if glance:
            slots, steps = torch.from_numpy(plan.slots.copy()), torch.from_numpy(plan.steps.copy())
        else:
            wanted = torch.tensor([count], dtype=torch.int32)
            slots, steps = gk.take(self.queue, self.counters, wanted, self.taken, bucket)
        here = [line.popleft() for _ in range(count)]
        assert self.tickets[slots[:count].numpy()].tolist() == here
        assert (slots[count:] == -1).all()
        if fails and count > 1 and self.draw.random() < 0.1:
            self.scheduler.fail(plan.id, 0.0)
            line.extendleft(reversed(here))
            return
        live = slots[:count].long()
        self.taken[live] = steps[:count]
        leaves = (self.numbers.random(bucket) < 0.45) | (steps >= 5).numpy()
        reason = torch.from_numpy(np.where(leaves, gk.EXITED, gk.STAYS).astype(np.int32))
        record = torch.zeros(2 + 3 * bucket, dtype=torch.int32)
        gk.compact(slots, reason, steps, self.queue, self.counters, record, took=not glance)
        for ticket, gone in zip(here, leaves.tolist(), strict=False):
            (self.expected if gone else self.ready).append(ticket)
        self.flights.append((plan.id, record.numpy()))
        self.rows += count


@pytest.mark.parametrize("fails", [False, True])
def test_compaction_and_leaving_are_in_the_order_of_a_plain_queue(fails):
    """Rows by GFNET_QUEUE_ROWS: ten million take minutes."""
    wanted, draw = int(os.environ.get("GFNET_QUEUE_ROWS", "100000")), random.Random(3 + fails)
    rows = 0
    while rows < wanted:
        buckets = sorted(draw.sample((1, 3, 8, 50, 128, 512), 3))
        plain = Plain(draw, buckets, draw.randint(1, 3 * buckets[-1]), draw.randint(1, 3))
        for _ in range(600):
            plain.admit(draw.randint(0, buckets[-1]))
            plain.turn(fails)
        plain.scheduler.close()
        while plain.turn(fails) is not Verdict.DONE:
            pass
        assert not plain.waiting
        assert not plain.ready
        assert not plain.expected
        assert plain.counters[0] == plain.counters[1]
        rows += plain.rows


def test_images_that_are_refused_take_no_slot(tiny):
    engine = engine_of(tiny, capacity=8)
    good, places = list(random_images(3, 80, 24)), engine.scheduler.occupancy()
    for bad in (good[0][:20], good[0].to_sparse(), torch.empty(80, 80, 3, dtype=torch.uint8, device="meta")):
        with pytest.raises(InputError):
            engine.submit([*good, bad])
        assert engine.scheduler.occupancy().free == places.free
    assert engine.submit(good) == range(3)
    engine.drain()
    assert_on_trace(tiny, torch.stack(good), in_order(engine, 3))


def test_an_image_is_held_until_the_launch_that_reads_it_has_ended(tiny):
    """Though it has been answered before, since its time was up."""
    clock = FakeClock()
    engine = engine_of(tiny, (4,), capacity=8, mode="deadline", allowed=0.1, clock=clock, in_flight=2)
    images = [image.clone() for image in random_images(4, 80, 25)]
    refs = [weakref.ref(image) for image in images]
    engine.submit(images)
    del images
    Lagging(engine, 3)
    assert engine.step() is Verdict.LAUNCH
    clock.now = 0.05
    engine.submit(random_images(4, 80, 26))
    clock.now = 0.12
    assert engine.step() is Verdict.LAUNCH
    (answers,) = engine.collect()
    assert answers.reasons == [Reason.DEADLINE] * 4
    assert answers.prediction.exit_step.tolist() == [0] * 4
    gc.collect()
    assert all(image() is not None for image in refs)
    engine.drain()
    gc.collect()
    assert all(image() is None for image in refs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels"])
@pytest.mark.parametrize("policy", ["linear", "conv"])
def test_the_map_is_kept_as_it_is_made(policy, layout):
    """And the policy sees the same in it."""
    model = tiny_model(policy=policy)
    config, map_shape = model.config, model.map_shape
    width = math.prod(map_shape)
    arena = Arena(
        2, patch=32, steps=4, classes=7, widths=(width, config.policy_width, 1), dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip
    stages = Stages(
        model,
        arena,
        2,
        runtime=runtimes()["torch"],
        dtype=torch.float32,
        fixed=False,
        queued=True,
        layout=layout,
    )
    made = torch.randn(5, *map_shape).contiguous(memory_format=layout)
    kept = stages.stored(made)
    assert kept.data_ptr() == made.data_ptr(), "no copy"
    state, room = torch.randn(5, config.policy_width), torch.full((5, 2), 1000.0)
    with torch.no_grad():
        action, expected = model.policy(made, state)
        origins, found = Look(model, layout).eval()(kept, state, room)
    torch.testing.assert_close(found, expected)
    assert (origins - action * 1000).abs().max() <= 1.01
