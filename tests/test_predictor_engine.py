"""What a predictor makes of the engine: one engine a user, in order, with errors in their places."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import gfnet_fast as gf
from gfnet_fast import predictor as predictor_module
from gfnet_fast.engine.answers import PassError
from gfnet_fast.engine.loop import Loop
from gfnet_fast.sources import read_image
from tests.conftest import expected_exits, random_images, tiny_model

THRESHOLDS = (0.55, 0.75, 0.75, -1e8)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def frames(model):
    return list(random_images(23, model.config.image_size, seed=8).numpy())


@pytest.fixture(scope="module")
def exact(model, frames):
    label, step, _ = expected_exits(model, batch_of(model, frames), torch.tensor(THRESHOLDS))
    assert len(set(step.tolist())) > 2, "the thresholds should spread the exits"
    return list(zip(label.tolist(), step.tolist(), strict=True))


def predictor_of(model, **options):
    options = {"budget": gf.Budget(thresholds=THRESHOLDS), "batch": 4, **options}
    return gf.Predictor(model, device="cpu", **options)


def batch_of(model, frames):
    """Resized and cut as the predictor does it."""
    return torch.stack([read_image(frame, model.config) for frame in frames])


def found(results):
    return [(result.class_id, result.exit_step) for result in results]


@pytest.mark.parametrize("mode", ["throughput", "latency"])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_stream_s_results_are_the_trace_s_in_order(model, frames, exact, mode, batch):
    assert found(predictor_of(model, mode=mode, batch=batch).stream(iter(frames))) == exact


def test_latency_answers_an_image_before_it_asks_for_the_one_after_the_next(model, frames):
    asked = []

    def camera():
        for number, frame in enumerate(frames):
            asked.append(number)
            yield frame

    for count, _ in enumerate(predictor_of(model, mode="latency").stream(camera()), 1):
        assert len(asked) <= count + 1, "one is decoded ahead"


def test_bytes_and_floats_in_one_stream(model, frames, exact):
    floats = model.normalise(batch_of(model, frames)).numpy()
    for kinds in ("bbffb", "fb", "bf", "bbbbbbbbbf"):
        pick = itertools.cycle(kinds)
        mixed = [floats[k] if next(pick) == "f" else frames[k] for k in range(len(frames))]
        assert found(predictor_of(model).stream(mixed)) == exact


def test_errors_come_in_their_places_wherever_they_are(model, frames, exact):
    bad = np.zeros((3, 4), np.uint8)
    for places in ([0], [22], [0, 1, 2], [5, 22], list(range(23))):
        sources = [bad if k in places else frame for k, frame in enumerate(frames)]
        results = list(predictor_of(model).stream(sources, on_error="return"))
        assert [k for k, result in enumerate(results) if result.error] == places
        assert found(r for r in results if not r.error) == [e for k, e in enumerate(exact) if k not in places]
    stream = predictor_of(model).stream([*frames[:6], bad, *frames[6:]])
    assert found(itertools.islice(stream, 6)) == exact[:6], "the results before it come first"
    with pytest.raises(gf.InputError, match="expected uint8"):
        next(stream)


def test_a_predictor_can_be_used_while_its_stream_is_open(model, frames, exact):
    predictor = predictor_of(model)
    images = batch_of(model, frames)
    stream, results = predictor.stream(frames), []
    for result in stream:
        results.append(result)
        out = predictor.predict_batch(images[:3])
        assert list(zip(out.class_id.tolist(), out.exit_step.tolist(), strict=True)) == exact[:3]
    assert found(results) == exact
    assert len(predictor._engines) == 2, "one for the stream and one for the batches"


def test_threads_share_a_predictor(model, frames, exact):
    predictor = predictor_of(model)
    with ThreadPoolExecutor(3) as pool:
        for results in pool.map(lambda _: list(predictor.stream(frames)), range(9)):
            assert found(results) == exact
    assert len(predictor._engines) <= 3
    assert len(predictor._idle) == len(predictor._engines)


def test_a_stopped_stream_leaves_its_engine_empty(model, frames, exact):
    predictor = predictor_of(model)
    stream = predictor.stream(frames)
    next(stream)
    stream.close()
    assert len(predictor._idle) == 1
    assert found(predictor.stream(frames)) == exact


def test_a_budget_takes_effect_in_an_open_stream(model, frames):
    predictor = predictor_of(model, budget=gf.Budget(max_steps=4))
    stream = predictor.stream(itertools.cycle(frames))
    assert next(stream).exit_step == 4
    predictor.budget = gf.Budget(max_steps=1)
    steps = [result.exit_step for result in itertools.islice(stream, 100)]
    in_flight_or_answered = 4 * 3 * model.config.steps
    assert set(steps[in_flight_or_answered:]) == {1}
    stream.close()


def test_a_deadline_that_has_passed_leaves_the_newest_prediction_or_an_error(model, frames):
    late = predictor_of(model, deadline_ms=1e-6)
    results = list(late.stream(frames, on_error="return"))
    assert len(results) == 23
    for result in results:
        assert result.error is not None or result.exit_step < 4
    assert any(result.error and "expected a prediction within" in result.error for result in results)
    with pytest.raises(PassError, match="within"):
        list(late.stream(frames))
    early = predictor_of(model, deadline_ms=1e6, budget=gf.Budget(max_steps=3))
    assert {result.exit_step for result in early.stream(frames)} == {3}


def test_an_image_that_cannot_be_computed_is_an_error_in_its_place(model, frames, exact, monkeypatch):
    predictor = predictor_of(model)
    predictor.predict_batch(batch_of(model, frames[:1]))
    (engine,) = predictor._engines
    run, poisoned = engine.stages.run, {}

    def failing(stage, slots, steps):
        for slot in slots.tolist():
            if slot >= 0 and engine._tickets[slot] == poisoned["ticket"]:
                raise MemoryError("no room")
        return run(stage, slots, steps)

    monkeypatch.setattr(engine.stages, "run", failing)
    poisoned["ticket"] = engine._next + 7
    results = list(predictor.stream(frames, on_error="return"))
    assert [k for k, result in enumerate(results) if result.error] == [7]
    assert "ndarray 7: MemoryError: no room" in results[7].error
    assert found(r for r in results if not r.error) == exact[:7] + exact[8:]
    poisoned["ticket"] = engine._next + 2
    with pytest.raises(PassError, match="ndarray 2: MemoryError"):
        list(predictor.stream(frames))
    poisoned["ticket"] = engine._next + 1
    with pytest.raises(PassError, match="1 of 23 images failed; image 1"):
        predictor.predict_batch(batch_of(model, frames))


@pytest.fixture
def built(monkeypatch):
    """Whether each engine was to be compiled; none is, for that takes long."""
    asked = []
    original = Loop.__init__

    def recording(self, model, *, compile=False, **options):
        asked.append(compile)
        original(self, model, **options)
        self.compiled = compile

    monkeypatch.setattr(Loop, "__init__", recording)
    return asked


def test_compiling_waits_until_there_is_work_enough(model, frames, exact, built, monkeypatch):
    predictor = predictor_of(model)
    assert found(predictor.stream(frames)) == exact
    assert built == [False]
    (engine,) = predictor._engines
    # enough for the 23 images that have been and ten more
    monkeypatch.setattr(predictor_module, "COMPILE_AFTER", 33.5 * engine.seconds_an_image)
    assert found(predictor.stream(frames)) == exact
    assert built == [False, True], "in the midst of the stream, and no image is lost"
    assert found(predictor.stream(frames)) == exact
    assert built == [False, True]
    assert len(predictor._engines) == 1

    predictor = predictor_of(model)
    predictor.predict_batch(batch_of(model, frames[:5]))
    monkeypatch.setattr(predictor_module, "COMPILE_AFTER", 20 * predictor._engines[0].seconds_an_image)
    predictor.predict_batch(batch_of(model, frames))
    assert built == [False, True, False, True], "a large batch is work in sight"


def test_compiling_never_and_always(model, frames, built, monkeypatch):
    monkeypatch.setattr(predictor_module, "COMPILE_AFTER", 0.0)
    predictor_of(model, compile="never").predict_batch(batch_of(model, frames))
    predictor_of(model, compile="always").predict_batch(batch_of(model, frames[:1]))
    assert built == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "mode: expected 'throughput' or 'latency', got 'fast'"),
        ({"deadline_ms": 0}, "deadline_ms: expected more than 0"),
        ({"deadline_ms": float("nan")}, "deadline_ms: expected more than 0"),
        ({"deadline_ms": 5, "mode": "latency"}, "and mode 'throughput', got 5, 'latency'"),
    ],
)
def test_modes_that_are_not_there(model, options, message):
    with pytest.raises(gf.InputError, match=message):
        predictor_of(model, **options)
