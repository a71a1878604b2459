"""The engine says what the trace and the thresholds say, whatever the load looks like."""

import pytest
import torch

from gfnet_fast._scheduler import Reason, Verdict
from gfnet_fast.engine.engine import Engine
from gfnet_fast.errors import InputError
from tests.conftest import expected_exits, needs_bfloat16, random_images, tiny_model
from tests.engine.engine_helpers import (
    MODES,
    FakeClock,
    Lagging,
    affine,
    assert_as_trace,
    assert_on_trace,
    engine_of,
    in_order,
)
from tests.engine.test_eager import random_thresholds


def test_official_configurations_equal_the_trace(fixture, official_model):
    for seed, mode in enumerate(MODES):
        engine = engine_of(official_model, (1, 3), capacity=5, mode=mode)
        thresholds = random_thresholds(official_model, fixture.images, seed)
        label, step, origins = expected_exits(official_model, fixture.images, thresholds)
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        out = engine.predict(fixture.images[order], thresholds)
        assert torch.equal(out.exit_step, step[order])
        assert torch.equal(out.class_id, label[order])
        assert torch.equal(out.origins, origins[order])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("capacity", [1, 2, 3, 7, 33])
def test_every_capacity_equals_the_trace(tiny, capacity, mode):
    for seed, buckets in enumerate([(4,), (1, 2, 8)]):
        engine = engine_of(tiny, buckets, capacity=capacity, mode=mode)
        images = random_images(25, 80, seed + 10 * capacity)
        thresholds = random_thresholds(tiny, images, seed)
        assert_as_trace(tiny, images, thresholds, engine.predict(images, thresholds))
        assert engine.scheduler.occupancy().free == capacity


@pytest.mark.parametrize("seed", range(8))
def test_any_arrivals_in_any_mode_equal_the_trace(tiny, seed):
    generator = torch.Generator().manual_seed(seed)
    images = random_images(60, 80, seed)
    thresholds = random_thresholds(tiny, images, seed)
    engine = engine_of(
        tiny, (1, 2, 8), capacity=int(torch.randint(1, 30, (), generator=generator)), mode=MODES[seed % 3]
    )
    engine.thresholds = thresholds
    begin = 0
    while begin < len(images):
        count = int(torch.randint(1, 12, (), generator=generator))
        engine.submit(images[begin : begin + count])
        for _ in range(int(torch.randint(0, 4, (), generator=generator))):
            engine.step()
        begin += count
    engine.drain()
    assert_as_trace(tiny, images, thresholds, in_order(engine, 60))


@pytest.mark.parametrize("mode", MODES)
def test_stream_is_in_order_whatever_leaves_first(tiny, mode):
    images = random_images(70, 80, 3)
    thresholds = random_thresholds(tiny, images, 3)
    engine = engine_of(tiny, (1, 8), mode=mode)
    engine.thresholds = thresholds
    label, step, origins = expected_exits(tiny, images, thresholds)
    answers = list(engine.stream(iter(images)))
    assert [a.class_id for a in answers] == label.tolist()
    assert [a.exit_step for a in answers] == step.tolist()
    assert torch.equal(torch.stack([a.origins for a in answers]), origins)
    assert {a.reason for a in answers} <= {Reason.EXITED, Reason.LAST_STEP}


def test_layouts_dtypes_and_lists_give_the_same(tiny):
    images = random_images(9, 80, 4)
    thresholds = random_thresholds(tiny, images, 4)
    planar = images.permute(0, 3, 1, 2).contiguous()
    engine = engine_of(tiny)
    padded = torch.zeros(18, 80, 90, 3, dtype=torch.uint8)
    padded[::2, :, 5:85] = images
    for same in (
        images,
        planar,
        tiny.normalise(images),
        list(images),
        [*images[:4], *planar[4:]],
        padded[::2, :, 5:85],
    ):
        assert_as_trace(tiny, images, thresholds, engine.predict(same, thresholds))


def test_images_of_other_sizes_are_looked_at_all_over(tiny):
    sizes = [(80, 80), (64, 100), (32, 32), (41, 33)]
    images = [random_images(1, max(size), k)[0, : size[0], : size[1]] for k, size in enumerate(sizes)]
    out = engine_of(tiny).predict(images, tiny.default_thresholds())
    expected = engine_of(tiny).predict(images[:1], tiny.default_thresholds())
    torch.testing.assert_close(out.logits[:1], expected.logits, rtol=1e-4, atol=1e-4)
    room = torch.tensor(sizes)[:, None] - tiny.config.patch_size
    assert (out.origins >= 0).all()
    assert (out.origins <= room).all()
    assert out.origins[2].eq(0).all()


def test_thresholds_and_steps_change_between_launches(tiny):
    images = random_images(40, 80, 6)
    engine = engine_of(tiny, (4,), capacity=24)
    generator = torch.Generator().manual_seed(6)
    rows = [random_thresholds(tiny, images, seed) for seed in range(6)]
    engine.submit(images[:20])
    for k in range(12):
        engine.thresholds = rows[k % 6]
        engine.max_steps = int(torch.randint(1, 5, (), generator=generator))
        engine.step()
        if k == 4:
            engine.submit(images[20:])
    engine.max_steps = 2
    engine.drain()
    out = in_order(engine, 40)
    assert len(set(out.exit_step.tolist())) > 2
    assert_on_trace(tiny, images, out)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_max_steps_is_kept(tiny, steps):
    images = random_images(10, 80, 7)
    engine = engine_of(tiny)
    engine.max_steps = steps
    out = engine.predict(images, tiny.default_thresholds())
    assert out.exit_step.tolist() == [steps] * 10
    assert_on_trace(tiny, images, out)


@pytest.mark.parametrize("allowed", [0.004, 0.012, 0.05])
def test_deadlines_answer_with_the_newest_prediction(tiny, allowed):
    """Costs say 1 ms a launch and 0.1 ms a row; the clock moves 0.7 ms at a reading."""
    images = random_images(30, 80, 8)
    engine = engine_of(tiny, (1, 4), capacity=32, mode="deadline", allowed=allowed, clock=FakeClock(7e-4))
    engine.thresholds = tiny.default_thresholds()
    engine.submit(images)
    engine.drain()
    out = in_order(engine, 30)
    answered = out.exit_step > 0
    assert out.class_id[~answered].eq(-1).all()
    assert out.confidence[~answered].isnan().all()
    if allowed > 0.004:
        assert answered.any()
        assert_on_trace(tiny, images[answered], type(out)(*(t[answered] for t in out)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("in_flight", "looks"), [(2, 1), (2, 50), (3, 4)])
def test_outcomes_may_lag(tiny, mode, in_flight, looks):
    engine = engine_of(tiny, (1, 4), mode=mode, in_flight=in_flight)
    lagging = Lagging(engine, looks)
    images = random_images(50, 80, 9)
    thresholds = random_thresholds(tiny, images, 9)
    assert_as_trace(tiny, images, thresholds, engine.predict(images, thresholds))
    assert lagging.most == in_flight
    assert not lagging.left


@pytest.mark.parametrize(("mode", "early"), [("throughput", False), ("latency", True)])
def test_a_stream_waits_for_records_at_its_end_only(tiny, mode, early):
    """Or the next launch would come late; who asks for one image at a time waits for each."""
    engine = engine_of(tiny, (1, 4), mode=mode, in_flight=2)
    lagging = Lagging(engine, 2)
    images, waits = random_images(60, 80, 14), []

    def produce():
        for image in images:
            waits.append(lagging.waits)
            yield image

    engine.thresholds = torch.full((4,), -1e8)  # all leave at the glance: nothing has to be waited for
    answers = list(engine.stream(produce()))
    assert [answer.ticket for answer in answers] == list(range(60))
    assert [answer.class_id for answer in answers] == engine.predict(images).class_id.tolist()
    assert (waits[-1] > 50) == early


def test_an_image_whose_time_comes_in_flight_keeps_its_last_answer(tiny):
    """Its next step is being written while its answer is read."""
    clock = FakeClock()
    engine = engine_of(tiny, (4,), capacity=8, mode="deadline", allowed=0.1, clock=clock, in_flight=2)
    images = random_images(4, 80, 10)
    engine.submit(images)
    assert engine.step() is Verdict.LAUNCH
    Lagging(engine, 3)
    assert engine.step() is Verdict.LAUNCH
    clock.now = 0.2
    engine.step()
    out = in_order(engine, 4)
    assert out.exit_step.tolist() == [1] * 4
    assert_on_trace(tiny, images, out)
    engine.drain()
    assert engine.scheduler.occupancy().free == 8
    assert not engine.collect()


def test_measured_costs_and_defaults(tiny):
    engine = Engine(tiny)
    assert [rows for rows, _ in engine.costs.focus] == [1, 8, 64]
    assert all(seconds > 0 for _, seconds in engine.costs.glance + engine.costs.focus)
    assert engine.capacity == 192
    assert engine.stages.encode_glance.folded + engine.stages.encode_focus.folded == 42
    images = random_images(200, 80, 11)
    thresholds = random_thresholds(tiny, images, 11)
    out = engine.predict(images, thresholds)
    assert_as_trace(tiny, images, thresholds, out)
    assert engine.scheduler.statistics().passes == out.exit_step.sum(), "no image takes a step too many"


@needs_bfloat16
def test_bfloat16_is_close(tiny):
    images = random_images(16, 80, 12)
    engine = engine_of(tiny, (8,), dtype=torch.bfloat16)
    out = engine.predict(images, tiny.default_thresholds())
    exact = engine_of(tiny, (8,)).predict(images, tiny.default_thresholds())
    assert (out.origins - exact.origins).abs().max() <= 3
    assert (out.class_id == exact.class_id).float().mean() >= 0.75


@pytest.mark.slow
def test_compiled_stages_equal_the_trace():
    model = tiny_model()
    images = random_images(12, 80, 13)
    thresholds = random_thresholds(model, images, 13)
    engine = Engine(model, buckets=(2, 4), runtime="inductor")
    assert_as_trace(model, images, thresholds, engine.predict(images, thresholds))


def test_bad_arguments_say_what_was_expected(tiny):
    with pytest.raises(InputError, match="increasing"):
        engine_of(tiny, (4, 1))
    with pytest.raises(InputError, match=r"buckets \(1, 4\), got \(1, 8\)"):
        engine_of(tiny, costs=affine((1, 8)))
    engine = engine_of(tiny)
    image = random_images(1, 80)
    with pytest.raises(InputError, match=r"\[4\], got \[3\]"):
        engine.thresholds = torch.zeros(3)
    with pytest.raises(InputError, match=r"1\.\.4, got 5"):
        engine.max_steps = 5
    with pytest.raises(InputError, match="at least 32 pixels"):
        engine.predict(image[:, :20])
    with pytest.raises(InputError, match="one of"):
        engine.predict(image.int())
    with pytest.raises(InputError, match="one dtype"):
        engine.predict([image[0], image[0].float()])
    engine.submit(image)
    with pytest.raises(InputError, match="one dtype"):
        engine.submit(tiny.normalise(image))
    with pytest.raises(InputError, match="no images in flight"):
        engine.predict(image)
    engine.reset()
    assert engine.predict(image).exit_step.tolist() == [4]
