"""What a predictor makes of the engine: one engine a user, in order, with errors in their places."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import gfnet_fast as gf
from gfnet_fast.engine.answers import PassError
from gfnet_fast.engine.engine import Engine
from gfnet_fast.engine.loop import Loop
from gfnet_fast.engine.runtimes.inductor import Inductor
from gfnet_fast.quiet import quiet
from gfnet_fast.sources import read_image
from tests.conftest import expected_exits, random_images, tiny_model
from tests.engine.engine_helpers import Wrapped, pretend, rows_of

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


def test_latency_answers_an_image_before_it_asks_for_the_next(model, frames):
    asked = []

    def camera():
        for number, frame in enumerate(frames):
            asked.append(number)
            yield frame

    for count, _ in enumerate(predictor_of(model, mode="latency").stream(camera()), 1):
        assert len(asked) == count


def test_bytes_and_floats_in_one_stream(model, frames, exact):
    floats = model.normalise(batch_of(model, frames)).numpy()
    for kinds in ("bbffb", "fb", "bf", "bbbbbbbbbf"):
        pick = itertools.cycle(kinds)
        mixed = [floats[k] if next(pick) == "f" else frames[k] for k in range(len(frames))]
        assert found(predictor_of(model).stream(mixed)) == exact


def test_errors_come_in_their_places_wherever_they_are(model, frames, exact):
    bad = np.zeros((3, 4), bool)
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
    assert len(predictor._pool._engines) == 2, "one for the stream and one for the batches"


def test_threads_share_a_predictor(model, frames, exact):
    predictor = predictor_of(model)
    with ThreadPoolExecutor(3) as pool:
        for results in pool.map(lambda _: list(predictor.stream(frames)), range(9)):
            assert found(results) == exact
    assert len(predictor._pool._engines) <= 3
    assert len(predictor._pool._idle) == len(predictor._pool._engines)


def test_a_stopped_stream_leaves_its_engine_empty(model, frames, exact):
    predictor = predictor_of(model)
    stream = predictor.stream(frames)
    next(stream)
    stream.close()
    assert len(predictor._pool._idle) == 1
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


def test_an_image_that_cannot_be_computed_is_an_error_in_its_place(model, frames, exact):
    predictor = predictor_of(model)
    predictor.predict_batch(batch_of(model, frames))
    (engine,) = predictor._pool._engines
    poisoned = {}

    class Poisoned(Wrapped):
        def start(self, stage, bucket, block):
            if poisoned["ticket"] in engine._told.ticket[rows_of(engine, stage, bucket, block)]:
                raise MemoryError("no room")
            self.inner.start(stage, bucket, block)

    Poisoned(engine)
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
    return pretend(monkeypatch, {"torch": 4e-3, "inductor": 1e-3})


def test_a_runtime_is_tried_when_there_is_work_enough(model, frames, exact, built, monkeypatch):
    predictor = predictor_of(model)
    assert found(predictor.stream(frames)) == exact
    assert built == ["torch"]
    assert predictor.runtime == "torch"
    (engine,) = predictor._pool._engines
    # enough for the 23 images that have been and ten more
    monkeypatch.setattr(Inductor, "trial", 33.5 * engine.seconds_an_image)
    assert found(predictor.stream(iter(frames))) == exact
    assert built == ["torch", "inductor"], "in the midst of the stream, and no image is lost"
    assert found(predictor.stream(frames)) == exact
    assert built == ["torch", "inductor"]
    assert len(predictor._pool._engines) == 1
    assert predictor.runtime == predictor.settings["runtime"] == "inductor"


def test_a_large_batch_is_work_in_sight(model, frames, built, monkeypatch):
    predictor = predictor_of(model)
    predictor.predict_batch(batch_of(model, frames[:5]))
    monkeypatch.setattr(Inductor, "trial", 20 * predictor._pool._engines[0].seconds_an_image)
    predictor.predict_batch(batch_of(model, frames))
    assert built == ["torch", "inductor"]


def test_an_engine_has_the_batch_sizes_that_there_are_images_for(model, frames, exact):
    """One image is not kept waiting until batches of 16 have been timed."""
    predictor = predictor_of(model, batch=16)

    def sizes():
        (engine,) = predictor._pool._engines
        return engine.buckets

    for frame in frames[:18]:
        predictor(frame)
    assert sizes() == (1,), "however many single images there are"
    assert found(predictor.stream(iter(frames[:3]))) == exact[:3]
    assert sizes() == (1, 2)
    assert found(predictor.stream(iter(frames))) == exact, "it grows in the midst of a stream"
    assert sizes() == (1, 2, 16)

    predictor = predictor_of(model, batch=16)
    for _ in range(2):
        predictor.predict_batch(batch_of(model, frames[:12]))
    assert sizes() == (1, 2, 16), "batches of 12, again and again"

    predictor = predictor_of(model, batch=16)
    assert found(predictor(list(frames))) == exact
    assert sizes() == (1, 2, 16), "a list says how many it has"


def test_a_runtime_that_is_named_is_the_one(model, frames, built, monkeypatch):
    monkeypatch.setattr(Inductor, "trial", 1e-9)
    predictor_of(model, runtime="torch").predict_batch(batch_of(model, frames))
    predictor_of(model, runtime="inductor").predict_batch(batch_of(model, frames[:1]))
    assert built == ["torch", "inductor"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "mode: expected 'throughput' or 'latency', got 'fast'"),
        ({"deadline_ms": 0}, "deadline_ms: expected a time above 0"),
        ({"deadline_ms": float("nan")}, "deadline_ms: expected a time above 0"),
        ({"deadline_ms": float("inf")}, "deadline_ms: expected a time above 0"),
        ({"batch": True}, "batch: expected a whole number of at least 1, got True"),
        ({"batch": 4.0}, "batch: expected a whole number of at least 1, got 4.0"),
        ({"deadline_ms": 5, "mode": "latency"}, "and mode 'throughput', got 5, 'latency'"),
    ],
)
def test_modes_that_are_not_there(model, options, message):
    with pytest.raises(gf.InputError, match=message):
        predictor_of(model, **options)


def test_one_pil_image_for_all_frames(model, frames, exact):
    def video():
        image = Image.fromarray(frames[0])
        for frame in frames:
            image.paste(Image.fromarray(frame))
            yield image

    assert found(predictor_of(model).stream(video())) == exact

    def files(tmp):
        for frame in frames:
            Image.fromarray(frame).save(tmp, "png")
            tmp.seek(0)
            with Image.open(tmp) as image:
                yield image
            tmp.seek(0)
            tmp.truncate()

    assert found(predictor_of(model).stream(files(io.BytesIO()))) == exact


def test_a_network_that_overflows_is_an_error_and_no_class(frames):
    model = tiny_model()
    model.labels = tuple("abcdefg")
    with torch.no_grad():
        model.classifier.fc.weight.mul_(1e38).mul_(1e3)
    results = list(predictor_of(model).stream(frames[:3], on_error="return"))
    assert all("expected finite numbers from the network" in result.error for result in results)


def test_an_engine_has_the_weights_it_was_built_with(tiny, frames):
    model = copy.deepcopy(tiny)
    predictor = predictor_of(model, budget=gf.Budget(max_steps=1))
    images = batch_of(model, frames)
    before = predictor.predict_batch(images).logits
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert torch.equal(predictor.predict_batch(images).logits, before)


def test_neither_autocast_nor_inference_mode_changes_anything(model, frames):
    images = batch_of(model, frames)
    expected = predictor_of(model).predict_batch(images).logits
    for around in (torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        predictor = predictor_of(model)
        with around:
            torch.testing.assert_close(predictor.predict_batch(images).logits, expected, rtol=1e-4, atol=1e-4)
            predictor.budget = gf.Budget(thresholds=THRESHOLDS)
        torch.testing.assert_close(predictor.predict_batch(images).logits, expected, rtol=1e-4, atol=1e-4)
        predictor.budget = gf.Budget(max_steps=2)
        assert predictor.predict_batch(images).exit_step.tolist() == [2] * len(frames)


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_a_stream_of_nothing_but_errors_goes_on(model, frames, mode):
    predictor = predictor_of(model, mode=mode)
    stream = predictor.stream(itertools.repeat("nothing.png"), on_error="return")
    assert all(result.error for result in itertools.islice(stream, 100))
    assert predictor._pool._engines == [], "nothing was there to compute"
    sources = itertools.chain(frames[:2], itertools.repeat("nothing.png"))
    results = list(itertools.islice(predictor.stream(sources, on_error="return"), 50))
    assert [bool(result.error) for result in results] == [False] * 2 + [True] * 48


def test_a_producer_that_raises_does_so_after_the_results_before(model, frames, exact):
    def broken():
        yield from frames[:9]
        raise RuntimeError("the camera fell")

    for on_error in ("raise", "return"):
        stream = predictor_of(model).stream(broken(), on_error=on_error)
        assert found(itertools.islice(stream, 9)) == exact[:9]
        with pytest.raises(RuntimeError, match="the camera fell"):
            next(stream)


def test_a_deadline_of_several_launches_is_met_by_a_stream(model, frames):
    """It asks for no more images than it has time for; the time is far above a busy machine's moods."""
    predictor = predictor_of(model, deadline_ms=20_000)
    predictor.predict_batch(batch_of(model, frames))
    (engine,) = predictor._pool._engines
    assert engine._at_once() == 4
    taken = []

    def camera():
        for number, frame in enumerate(frames):
            taken.append(number)
            yield frame

    for count, result in enumerate(predictor.stream(camera())):
        assert result.error is None
        assert len(taken) - count <= 4 * (2 + 3 * model.config.steps)
    engine.allowed = 1e-9
    assert engine._at_once() == 1


def test_a_runtime_that_fails_is_a_warning_once(model, frames, exact, built, monkeypatch):
    monkeypatch.setattr(Inductor, "trial", 1e-9)
    original = Loop.__init__

    def failing(self, model, *, runtime, **options):
        if runtime == "inductor":
            raise RuntimeError("no compiler")
        original(self, model, runtime=runtime, **options)

    monkeypatch.setattr(Loop, "__init__", failing)
    predictor = predictor_of(model)
    with pytest.warns(RuntimeWarning, match="inductor failed, going on without: RuntimeError: no compiler"):
        assert found(predictor.stream(frames)) == exact
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(predictor.stream(frames)) == exact
    assert len(predictor._pool._idle) == len(predictor._pool._engines) == 1


def test_cameras_and_deadlines_do_not_wait_for_a_runtime(model, frames, built, monkeypatch):
    monkeypatch.setattr(Inductor, "trial", 1e-9)
    list(predictor_of(model, mode="latency").stream(frames))
    list(predictor_of(model, deadline_ms=1e6).stream(frames))
    assert built == ["torch", "torch"]


def test_copies_build_engines_of_their_own(model, frames, exact):
    predictor = predictor_of(model)
    assert found(predictor.stream(frames)) == exact
    for other in (copy.deepcopy(predictor), copy.copy(predictor), pickle.loads(pickle.dumps(predictor))):
        assert other._pool._engines == []
        assert found(other.stream(frames)) == exact
        assert other.budget == predictor.budget
    assert len(predictor._pool._engines) == 1


def test_a_result_holds_its_own_logits_only(model, frames):
    for result in predictor_of(model).stream(frames):
        assert result.logits.untyped_storage().nbytes() == 4 * model.config.classes


def test_an_engine_with_an_open_stream_refuses_other_work(model, frames):
    engine = Engine(model, buckets=(4,))
    images = batch_of(model, frames)
    stream = engine.stream(iter(images))
    next(stream)
    for _ in stream:
        if not engine._left and engine.scheduler.occupancy().free == engine.capacity:
            break
    row = engine.thresholds
    with pytest.raises(gf.InputError, match="expected no open stream"):
        engine.predict(images, torch.tensor(THRESHOLDS))
    assert torch.equal(engine.thresholds, row), "what is refused changes nothing"
    stream.close()
    assert len(engine.predict(images).class_id) == len(images)


def test_audited_images_take_all_steps_as_well(model, frames, exact):
    """All of them here; the loss is another class after all steps than at the exit."""
    images = batch_of(model, frames)
    final = model.trace(model.normalise(images)).logits[-1].argmax(-1).tolist()
    losses = sum(label != last for (label, _), last in zip(exact, final, strict=True))
    assert 0 < losses < len(frames)
    floats = model.normalise(images).numpy()
    mixed = [floats[k] if k % 3 else frames[k] for k in range(len(frames))]
    for source in (frames, mixed, images, images.permute(0, 3, 1, 2)):
        audit = gf.Audit(0.999, share=1.0)
        predictor = predictor_of(model, audit=audit)
        if torch.is_tensor(source):
            predictor.predict_batch(source)
        else:
            assert found(predictor.stream(source)) == exact
        assert (audit.count, audit.losses) == (len(frames), losses)
    some = gf.Audit(0.999, share=0.3)
    twin = gf.Audit(0.999, share=0.3)
    predictor_of(model, audit=some).predict_batch(images)
    assert some.count == twin.choose(len(frames)).sum()


def test_an_audit_warns_and_a_copy_has_its_own(model, frames):
    predictor = predictor_of(model, audit=gf.Audit(1e-4, share=1.0), budget=gf.Budget(max_steps=1))
    copied = pickle.loads(pickle.dumps(predictor))
    with pytest.warns(gf.AuditWarning, match="drifted past 0.0001"):
        list(predictor.stream(frames))
    assert predictor.audit.alarmed
    assert (copied.audit.count, copied.audit.alarmed) == (0, False)
    with pytest.raises(gf.InputError, match="audit: expected an Audit or None"):
        predictor_of(model, audit=0.01)


@pytest.mark.parametrize("options", [{}, {"mode": "latency"}, {"deadline_ms": 1e6}], ids=str)
def test_after_a_warm_up_the_first_image_builds_nothing(model, frames, exact, built, options):
    predictor = predictor_of(model, **options)
    assert predictor.warm_up() is None
    assert built == ["torch"]
    assert found(predictor.stream(frames)) == exact
    predictor.predict_batch(batch_of(model, frames))
    predictor.warm_up()
    assert built == ["torch"]


def test_a_warm_up_prepares_what_will_be(model, built):
    predictor_of(model, runtime="inductor").warm_up()
    assert built == ["inductor"]
    predictor_of(model, runtime="torch").warm_up(10**9)
    assert built == ["inductor", "torch"]
    predictor = predictor_of(model)
    predictor.warm_up(10)
    assert built == ["inductor", "torch", "torch"]
    predictor.warm_up(10**9)
    predictor.warm_up(10**9)
    assert built == ["inductor", "torch", "torch", "inductor"]
    for images in (-1, 1.5, True, ["a.jpg"]):
        with pytest.raises(gf.InputError, match="images: expected how many will come or None"):
            predictor.warm_up(images)


def test_threads_that_warm_up_together_build_one_engine(model, built):
    audit = gf.Audit(0.5, share=1.0)
    predictor = predictor_of(model, audit=audit)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: predictor.warm_up(), range(8)))
    assert built == ["torch"]
    assert (audit.count, predictor._pool.images) == (0, 0)


def test_what_is_not_shown_is_no_error_where_all_others_are():
    """Whoever has put a filter first meanwhile."""
    with quiet():
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet():
            warnings.warn("of a library", FutureWarning, stacklevel=1)
        with pytest.raises(FutureWarning):
            warnings.warn("of the user's", FutureWarning, stacklevel=1)
    with quiet():
        assert sum(one is warnings.filters[0] for one in warnings.filters) == 1
