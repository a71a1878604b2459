"""A stage that raises, a consumer that stops, a producer that fails: nothing is lost and nothing stays."""

import gc
import itertools
import threading
import weakref
from contextlib import nullcontext
from unittest import mock

import pytest
import torch

from gfnet_fast._scheduler import Reason, Stage
from gfnet_fast.engine.answers import Full, PassError
from tests.conftest import random_images
from tests.engine.engine_helpers import (
    MODES,
    Wrapped,
    assert_as_trace,
    assert_on_trace,
    engine_of,
    in_order,
    rows_of,
)
from tests.engine.test_eager import random_thresholds


class Failing(Wrapped):
    """Raises as told, after the arithmetic and so as late as can be."""

    def __init__(self, engine, when):
        super().__init__(engine)
        self.when, self.launches = when, []

    def start(self, stage, bucket, block):
        self.launches.append((stage, bucket))
        tickets = {int(self.engine._told.ticket[slot]) for slot in rows_of(self.engine, stage, bucket, block)}
        fails, error = self.when(stage, tickets, len(self.launches)), MemoryError("no room for this launch")
        with mock.patch.object(self.engine.stages, "keep", side_effect=error) if fails else nullcontext():
            self.inner.start(stage, bucket, block)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stage", [Stage.GLANCE, Stage.FOCUS])
def test_poisoned_images_are_errors_one_by_one_and_the_rest_come_out_right(tiny, stage, mode):
    images = random_images(30, 80, 1)
    thresholds = tiny.default_thresholds()
    engine = engine_of(tiny, (1, 2, 8), mode=mode)
    bad = {3, 4, 17, 29}
    Failing(engine, lambda at, tickets, launch: at is stage and bool(tickets & bad))
    with pytest.raises(PassError, match="4 of 30 images failed; image 3: MemoryError: no room") as caught:
        engine.predict(images, thresholds)
    assert set(caught.value.errors) == bad
    good = torch.tensor([k for k in range(30) if k not in bad])
    prediction = caught.value.prediction
    assert_as_trace(tiny, images[good], thresholds, type(prediction)(*(t[good] for t in prediction)))
    assert prediction.exit_step[list(bad)].tolist() == [0 if stage is Stage.GLANCE else 1] * 4
    assert engine.scheduler.occupancy().free == engine.capacity


def test_a_launch_that_fails_now_and_then_costs_no_image(tiny):
    images = random_images(40, 80, 2)
    thresholds = random_thresholds(tiny, images, 2)
    engine = engine_of(tiny, (1, 2, 8))
    stages = Failing(engine, lambda at, tickets, launch: launch % 3 == 0 and len(tickets) > 1)
    assert_as_trace(tiny, images, thresholds, engine.predict(images, thresholds))
    assert engine.scheduler.statistics().failures > 3
    assert {rows for _, rows in stages.launches} >= {2, 8}


def test_out_of_memory_above_a_size_ends_in_smaller_buckets(tiny):
    images = random_images(40, 80, 3)
    thresholds = random_thresholds(tiny, images, 3)
    engine = engine_of(tiny, (1, 2, 8))
    Failing(engine, lambda at, tickets, launch: len(tickets) > 2)
    assert_as_trace(tiny, images, thresholds, engine.predict(images, thresholds))


def test_a_stream_reports_errors_in_their_place(tiny):
    images = random_images(20, 80, 4)
    engine = engine_of(tiny, (1, 4))
    Failing(engine, lambda at, tickets, launch: 5 in tickets)
    answers = list(engine.stream(iter(images)))
    assert [a.ticket for a in answers] == list(range(20))
    assert [a.ticket for a in answers if a.error] == [5]
    assert answers[5].reason is Reason.ERROR
    assert answers[5].class_id == -1


def test_not_a_number_hurts_nobody_else(tiny):
    images = tiny.normalise(random_images(12, 80, 5))
    poisoned = images.clone()
    poisoned[4] = float("nan")
    thresholds = tiny.default_thresholds()
    engine = engine_of(tiny, (4,))
    clean, out = engine.predict(images, thresholds), engine.predict(poisoned, thresholds)
    others = torch.arange(12) != 4
    for a, b in zip(clean, out, strict=True):
        torch.testing.assert_close(a[others], b[others], rtol=1e-5, atol=1e-5)
    assert out.class_id[4] == -1
    assert out.confidence[4].isnan()
    again = engine.predict(images, thresholds)
    assert all(torch.equal(a, b) for a, b in zip(clean, again, strict=True)), "no slot remembers it"


def nothing_stays(engine, images):
    gc.collect()
    assert engine.scheduler.occupancy().free == engine.capacity
    assert not engine.collect()
    assert all(image() is None for image in images)


def watched(images, refs):
    for image in images:
        image = image.clone()
        refs.append(weakref.ref(image))
        yield image
        del image


@pytest.mark.parametrize("mode", MODES)
def test_a_consumer_that_stops_leaves_nothing(tiny, mode):
    engine, refs, threads = engine_of(tiny, mode=mode), [], threading.active_count()
    stream = engine.stream(watched(random_images(60, 80, 6), refs))
    assert [a.ticket for a in itertools.islice(stream, 3)] == [0, 1, 2]
    stream.close()
    nothing_stays(engine, refs)
    assert threading.active_count() == threads
    assert len(refs) < 60
    images = random_images(9, 80, 7)
    assert_as_trace(tiny, images, tiny.default_thresholds(), engine.predict(images))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_producer_that_raises_leaves_nothing(tiny, error):
    engine, refs = engine_of(tiny), []

    def produce():
        yield from watched(random_images(14, 80, 8), refs)
        raise error("broken")

    with pytest.raises(error, match="broken"):
        list(engine.stream(produce()))
    nothing_stays(engine, refs)


def test_an_interrupt_in_a_launch_leaves_nothing(tiny):
    engine = engine_of(tiny)
    run, calls = engine.stages.run, itertools.count()

    def interrupted(*args):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return run(*args)

    engine.stages.run = interrupted
    images = random_images(20, 80, 9)
    with pytest.raises(KeyboardInterrupt):
        engine.predict(images)
    assert engine.scheduler.occupancy().free == engine.capacity
    assert_as_trace(tiny, images, tiny.default_thresholds(), engine.predict(images))


def test_submit_beyond_capacity_waits_or_refuses(tiny):
    engine = engine_of(tiny, (4,), capacity=8)
    images = random_images(20, 80, 10)
    assert engine.submit(images[:6], wait=False) == range(6)
    with pytest.raises(Full, match="at most 2 images, got 3"):
        engine.submit(images[6:9], wait=False)
    assert engine.scheduler.occupancy().free == 2, "a refusal takes none"
    assert engine.submit(images[6:], wait=True) == range(6, 20)
    assert engine.scheduler.occupancy().free < 8
    engine.drain()
    assert_on_trace(tiny, images, in_order(engine, 20))


def test_memory_is_that_of_the_capacity(tiny):
    """Neither the number of images nor that of answered ones adds to the arena."""
    engine = engine_of(tiny, (8,), capacity=24)
    size, most, refs = engine.arena.bytes, 0, []
    images = random_images(24, 80, 11)
    for count, _ in enumerate(engine.stream(watched((images[k % 24] for k in range(1500)), refs))):
        if count % 100 == 0:
            most = max(most, sum(image() is not None for image in refs))
    assert engine.arena.bytes == size
    assert most <= 24 + 1
