"""Faults that are known and not mended yet: each test fails for the reason given, and passes when it is."""

from contextlib import nullcontext, suppress
from unittest import mock

import gfnet_kernels as gk
import pytest
import torch

from gfnet_fast.errors import GFNetError
from gfnet_fast.predictor import Predictor
from tests.conftest import random_images, tiny_model
from tests.engine.engine_helpers import Lagging, Wrapped, assert_as_trace, engine_of, in_order


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.xfail(strict=True, reason="reset() counts as done before it is: the scheduler is the former one")
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


@pytest.mark.xfail(strict=True, reason="an engine that is to be reset goes back to the idle ones")
def test_a_second_interrupt_does_not_spoil_a_predictor(model):
    images, predictor = random_images(4, 80), Predictor(model, "cpu", batch=4, compile="never")
    predictor.predict_batch(images)
    (engine,) = predictor._engines
    with (
        mock.patch.object(engine.stages, "run", side_effect=KeyboardInterrupt),
        mock.patch.object(engine, "reset", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        predictor.predict_batch(images)
    predictor.predict_batch(images)


@pytest.mark.xfail(strict=True, raises=RuntimeError, reason="the scheduler stays closed, and nothing says so")
def test_thresholds_that_cannot_be_told_in_a_drain_leave_an_engine_that_takes_images(model):
    engine = engine_of(model, (4,), capacity=8)
    engine.submit(random_images(2, 80))
    engine.thresholds = torch.zeros(4)
    with mock.patch.object(engine, "_to_device", side_effect=MemoryError), pytest.raises(MemoryError):
        engine.drain()
    with suppress(GFNetError):  # or it asks for a reset
        engine.submit(random_images(2, 80))


@pytest.mark.xfail(strict=True, reason="answers are taken out before they have been read")
def test_a_collect_that_raises_loses_no_answer(model):
    engine = engine_of(model, (4,))
    engine.submit(random_images(4, 80))
    engine.drain()
    with mock.patch.object(engine, "_rows_of", side_effect=MemoryError), pytest.raises(MemoryError):
        engine.collect()
    assert len(in_order(engine, 4).class_id) == 4


@pytest.mark.xfail(strict=True, reason="a Batch of none is kept until other images are collected")
def test_no_images_leave_nothing_behind(model):
    engine = engine_of(model)
    for _ in range(100):
        assert engine.submit([]) == range(0)
        assert engine.collect() == []
    assert len(engine._batches) <= 1


@pytest.mark.xfail(strict=True, reason="what the images of a call were told is held by the rest of none")
def test_what_images_were_told_is_gone_with_them(model):
    engine = engine_of(model, (4,))
    engine.predict(random_images(40, 80))
    held = engine._incoming if engine._incoming.base is None else engine._incoming.base
    assert held.nbytes <= engine._words_told.nbytes


@pytest.mark.xfail(strict=True, reason="with two steps all leave at the first launch, the rest is padding")
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


@pytest.mark.xfail(strict=True, raises=MemoryError, reason="`settling` does not tell rows from padding")
def test_a_capture_that_raises_while_it_settles_is_tried_in_a_smaller_bucket(model):
    images = random_images(9, 80)
    engine = engine_of(model, (1, 4))
    Capturing(engine)
    assert_as_trace(model, images, model.default_thresholds(), engine.predict(images))
