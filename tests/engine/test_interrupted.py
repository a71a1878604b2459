"""What an engine gets over, and where it asks to be reset: interrupts, errors, calls out of turn."""

import itertools
import weakref
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from unittest import mock

import gfnet_kernels as gk
import pytest
import torch

from gfnet_fast._scheduler import Verdict
from gfnet_fast.engine.answers import Unsettled
from gfnet_fast.errors import GFNetError
from gfnet_fast.predictor import Predictor
from tests.conftest import random_images, tiny_model
from tests.engine.engine_helpers import FakeClock, Lagging, Wrapped, assert_as_trace, engine_of, in_order


class Endless(Exception):
    """A loop that does not end."""


def bounded(engine, most):
    """Raise Endless from the step after the most."""
    step, count = engine._step, itertools.count()

    def counted():
        if next(count) >= most:
            raise Endless
        return step()

    engine._step = counted
    return engine


def test_a_stream_of_easy_images_with_a_hard_one_ends():
    """The hard one waits for company until the window of tickets is full; then its answer waits for more."""
    model, images = tiny_model(steps=2), random_images(40, 80, 3)
    confidence = model.trace(model.normalise(images)).logits[0].softmax(-1).amax(-1)
    hard, easy = images[int(confidence.argmin())], images[int(confidence.argmax())]
    engine = bounded(engine_of(model, (4,), capacity=11), 200)
    engine.thresholds = torch.tensor([float(confidence.min() + confidence.max()) / 2, 0.0])
    assert len(list(engine.stream([hard, *[easy] * 40]))) == 41


@pytest.mark.parametrize("last", ["deliver", "settle"])
def test_a_launch_that_raises_while_it_settles_is_not_run_again(last):
    """Its states have moved: run again they would move twice."""
    model, images = tiny_model(), random_images(24, 80, 3)
    thresholds = torch.tensor([0.99, 0.6, 0.6, 0.0])
    engine, launches = engine_of(model, (4,)), itertools.count(1)
    run = getattr(engine.stages, last)

    def failing(*args):
        if next(launches) == 4:
            raise MemoryError
        return run(*args)

    setattr(engine.stages, last, failing)
    with pytest.raises(MemoryError):
        engine.submit(images)
    with pytest.raises(Unsettled, match="expected reset"):
        engine.drain()
    engine.reset()
    assert_as_trace(model, images, thresholds, engine.predict(images, thresholds))


def test_a_stream_of_what_is_no_iterable_leaves_the_engine_as_it_was():
    model = tiny_model()
    engine = engine_of(model)
    with pytest.raises(TypeError):
        next(engine.stream(5))
    engine.reset()
    engine.predict(random_images(2, 80))


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_a_drop_that_raises_is_no_endless_loop(mode):
    engine = bounded(engine_of(tiny_model(), (1,), mode=mode), 100)
    error = MemoryError("no room")
    engine.submit(random_images(3, 80))
    with (
        mock.patch.object(engine.stages, "run", side_effect=error),
        mock.patch.object(engine.stages, "drop", side_effect=error),
        pytest.raises(MemoryError),
    ):
        engine.drain()
    try:
        engine.drain()
    except GFNetError:
        return  # it says that it has to be reset
    assert in_order(engine, 3)


@pytest.mark.parametrize("launch", [1, 12])
def test_an_interrupt_just_after_a_launch_loses_no_image(launch):
    model, images = tiny_model(), random_images(40, 80, 3)
    engine = bounded(engine_of(model, (4,), capacity=40), 400)
    start, launches = engine._launches.start, itertools.count(1)

    def interrupted(*args):
        start(*args)
        if next(launches) == launch:
            raise KeyboardInterrupt

    engine._launches.start = interrupted
    engine.submit(images)
    with pytest.raises(KeyboardInterrupt):
        engine.drain()
    try:
        engine.drain()
    except GFNetError:
        return  # it says that it has to be reset
    assert_as_trace(model, images, model.default_thresholds(), in_order(engine, 40))


def test_an_interrupt_at_the_end_of_a_drain_leaves_an_engine_that_predicts():
    model, images = tiny_model(), random_images(4, 80)
    engine = engine_of(model)
    engine.submit(images)
    let_go = engine._let_go

    def interrupted():
        let_go()
        if engine.scheduler.occupancy().free == engine.capacity:
            raise KeyboardInterrupt

    engine._let_go = interrupted
    with pytest.raises(KeyboardInterrupt):
        engine.drain()
    engine._let_go = let_go
    with pytest.raises(Unsettled):
        engine.predict(images)
    engine.reset()
    engine.predict(images)


def test_reset_holds_memory_until_the_launch_that_reads_it_has_ended():
    clock = FakeClock()
    engine = engine_of(tiny_model(), (4,), capacity=8, mode="deadline", allowed=0.1, clock=clock, in_flight=2)
    images = [image.clone() for image in random_images(4, 80, 25)]
    refs = [weakref.ref(image) for image in images]
    engine.submit(images)
    del images
    lagging, alive = Lagging(engine, 3), []
    engine.step()
    clock.now = 0.05
    engine.submit(random_images(4, 80, 26))
    clock.now = 0.12
    engine.step()
    wait = lagging.wait
    lagging.wait = lambda block: alive.append([ref() is not None for ref in refs]) or wait(block)
    engine.reset()
    assert alive == [[True] * 4] * 2


def test_a_sequence_that_makes_its_images_when_asked():
    model, images = tiny_model(), random_images(20, 80)

    class Lazy(Sequence):
        def __len__(self):
            return 20

        def __getitem__(self, place):
            if isinstance(place, slice):
                return [self[k] for k in range(*place.indices(20))]
            return images[range(20)[place]].clone()

    engine = engine_of(model, (4,))
    engine.submit(Lazy())
    engine.drain()
    assert_as_trace(model, images, model.default_thresholds(), in_order(engine, 20))


def test_images_submitted_while_a_stream_is_open_are_refused():
    """Otherwise their answers come out of the stream, of memory that nobody has written."""
    images = random_images(12, 80)
    engine = engine_of(tiny_model(), (4,))
    stream = engine.stream(iter(images))
    answers = [next(stream)]
    with suppress(GFNetError):
        engine.submit(images[:5])
    answers += stream
    assert len(answers) == 12


def test_a_reset_while_a_stream_is_open_ends_it():
    engine = bounded(engine_of(tiny_model(), (4,)), 100)
    stream = engine.stream(iter(random_images(20, 80)))
    next(stream)
    with suppress(GFNetError):
        engine.reset()
        list(stream)


def test_the_ring_holds_no_more_than_the_slots_in_deadline_mode():
    engine = engine_of(tiny_model(), (4,), mode="deadline", allowed=0.02, clock=FakeClock(1e-3), capacity=8)
    before = gk.set_debug(True)
    try:
        engine.predict(random_images(40, 80))
        head, tail = engine.arena.counters.tolist()
    finally:
        gk.set_debug(before)
    assert tail - head <= 8


def test_thresholds_that_could_not_be_told_are_told_at_the_next_step():
    model, images = tiny_model(), random_images(8, 80)
    engine = engine_of(model, (4,), capacity=8)
    engine.submit(images)
    assert [engine.step(), engine.step()] == [Verdict.LAUNCH] * 2
    engine.thresholds = torch.zeros(4)
    with mock.patch.object(engine, "_to_device", side_effect=MemoryError), pytest.raises(MemoryError):
        engine.step()
    engine.drain()
    assert (in_order(engine, 8).exit_step <= 3).all()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_a_reset_that_is_interrupted_leaves_an_engine_that_asks_for_another(model):
    engine = engine_of(model, (4,), in_flight=2)
    Lagging(engine, 3)
    engine.submit(random_images(4, 80))
    engine.step()
    with (
        mock.patch.object(engine.arena, "clear", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        engine.reset()
    with pytest.raises(GFNetError, match="reset"):
        engine.predict(random_images(2, 80))


def test_a_second_interrupt_does_not_spoil_a_predictor(model):
    images, predictor = random_images(4, 80), Predictor(model, "cpu", batch=4, runtime="torch")
    predictor.predict_batch(images)
    (engine,) = predictor._pool._engines
    with (
        mock.patch.object(engine.stages, "run", side_effect=KeyboardInterrupt),
        mock.patch.object(engine, "reset", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        predictor.predict_batch(images)
    predictor.predict_batch(images)


def test_thresholds_that_cannot_be_told_in_a_drain_leave_an_engine_that_takes_images(model):
    engine = engine_of(model, (4,), capacity=8)
    engine.submit(random_images(2, 80))
    engine.thresholds = torch.zeros(4)
    with mock.patch.object(engine, "_to_device", side_effect=MemoryError), pytest.raises(MemoryError):
        engine.drain()
    with suppress(GFNetError):  # or it asks for a reset
        engine.submit(random_images(2, 80))


def test_a_collect_that_raises_loses_no_answer(model):
    engine = engine_of(model, (4,))
    engine.submit(random_images(4, 80))
    engine.drain()
    with mock.patch.object(engine, "_rows_of", side_effect=MemoryError), pytest.raises(MemoryError):
        engine.collect()
    assert len(in_order(engine, 4).class_id) == 4


def test_no_images_leave_nothing_behind(model):
    engine = engine_of(model)
    for _ in range(100):
        assert engine.submit([]) == range(0)
        assert engine.collect() == []
    assert len(engine._batches) <= 1


def test_what_images_were_told_is_gone_with_them(model):
    engine = engine_of(model, (4,))
    engine.predict(random_images(40, 80))
    held = engine._incoming if engine._incoming.base is None else engine._incoming.base
    assert held.nbytes <= engine._words_told.nbytes


def test_focus_launches_are_timed_on_rows_with_two_steps_too():
    rows, take = [], gk.take

    def noted(*args, **options):
        slots, steps = take(*args, **options)
        rows.append(int((slots >= 0).sum()))
        return slots, steps

    with mock.patch.object(gk, "take", noted):
        engine_of(tiny_model(steps=2), (1, 4), costs=None, capacity=8)
    assert rows
    assert all(rows)


class Capturing(Wrapped):
    """Launches that run on padding first, as a capture does; there is no memory to settle the largest."""

    def prepare(self, stage, bucket, block):
        block.clear()
        error = mock.patch.object(self.engine.stages, "deliver", side_effect=MemoryError)
        with error if bucket == self.engine.buckets[-1] else nullcontext():
            self.inner.start(stage, bucket, block)


def test_a_capture_that_raises_while_it_settles_is_tried_in_a_smaller_bucket(model):
    images = random_images(9, 80)
    engine = engine_of(model, (1, 4))
    Capturing(engine)
    assert_as_trace(model, images, model.default_thresholds(), engine.predict(images))
