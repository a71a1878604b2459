"""With invariance="batch" an image's answer is the same to the bit, whatever it shares its launches with."""

import pytest
import torch

from tests.conftest import needs_bfloat16, random_images
from tests.engine.engine_helpers import MODES, engine_of, in_order
from tests.engine.test_eager import random_thresholds

BUCKET = (1, 16)


def equal_to_the_bit(out, expected, rows):
    return all(torch.equal(a, b[rows]) for a, b in zip(out, expected, strict=True))


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)], ids=str
)
def test_batch_size_position_order_and_company(tiny, dtype):
    images = random_images(48, 80, 1)
    thresholds = random_thresholds(tiny, images, 1)
    engine = engine_of(tiny, BUCKET, invariance="batch", dtype=dtype)
    assert engine.buckets == (16,)
    expected = engine.predict(images, thresholds)
    assert len(set(expected.exit_step.tolist())) > 1
    generator = torch.Generator().manual_seed(1)
    for count in (1, 2, 3, 7, 15, 16, 17, 33, 48):
        rows = torch.randperm(48, generator=generator)[:count]
        assert equal_to_the_bit(engine.predict(images[rows]), expected, rows)
    for row in range(0, 48, 7):
        alone = torch.tensor([row])
        assert equal_to_the_bit(engine.predict(images[alone]), expected, alone)
        crowd = torch.zeros_like(images[:16])
        for place in (0, 5, 15):
            crowd[:] = 255 - images[row]
            crowd[place] = images[row]
            out = engine.predict(crowd)
            assert equal_to_the_bit(type(out)(*(t[place : place + 1] for t in out)), expected, alone)


@pytest.mark.parametrize("mode", MODES)
def test_mode_capacity_and_arrivals(tiny, mode):
    images = random_images(40, 80, 2)
    thresholds = random_thresholds(tiny, images, 2)
    expected = engine_of(tiny, BUCKET, invariance="batch").predict(images, thresholds)
    for capacity in (1, 5, 32):
        engine = engine_of(tiny, BUCKET, invariance="batch", mode=mode, capacity=capacity)
        engine.thresholds = thresholds
        for begin in range(0, 40, 8):
            engine.submit(images[begin : begin + 8])
            engine.step()
        engine.drain()
        assert equal_to_the_bit(in_order(engine, 40), expected, torch.arange(40))


def test_a_failure_and_its_retries_change_nothing(tiny):
    images = random_images(32, 80, 3)
    expected = engine_of(tiny, BUCKET, invariance="batch").predict(images)
    engine = engine_of(tiny, BUCKET, invariance="batch")
    run, calls = engine.stages.run, []

    def sometimes(*args):
        calls.append(args)
        if len(calls) % 3 == 0:
            raise MemoryError("now and then")
        return run(*args)

    engine.stages.run = sometimes
    assert equal_to_the_bit(engine.predict(images), expected, torch.arange(32))


def test_official_configuration(tmp_path):
    from gfnet_fast.checkpoints import load
    from tests.conftest import conformance_fixture

    fixture = conformance_fixture("mobilenetv3_large_100_96_T3", tmp_path)
    engine = engine_of(load(fixture.path), (8,), invariance="batch")
    expected = engine.predict(fixture.images)
    for rows in (torch.tensor([5]), torch.tensor([7, 0, 3]), torch.arange(8).flip(0)):
        assert equal_to_the_bit(engine.predict(fixture.images[rows]), expected, rows)
