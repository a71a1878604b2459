"""What only a GPU can show: graphs, pinned flags and events, two launches in flight."""

import pytest
import torch

from gfnet_fast.engine.engine import Engine
from tests.conftest import random_images, tiny_model
from tests.engine.engine_helpers import MODES, assert_as_trace
from tests.engine.test_eager import random_thresholds

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="expected a CUDA GPU, got none"),
]


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("classifier", ["recurrent", "cascaded"])
def test_graphs_equal_the_trace(classifier, mode):
    model = tiny_model(classifier).cuda()
    engine = Engine(model, buckets=(1, 8, 16), mode=mode)
    for seed in range(3):
        images = random_images(100, 80, seed).cuda()
        thresholds = random_thresholds(model, images, seed).cpu()
        out = engine.predict(images, thresholds)
        cpu = type(out)(*(t.cpu() for t in out))
        assert_as_trace(tiny_model(classifier), images.cpu(), thresholds, cpu)


def test_two_launches_are_in_flight_and_nothing_waits():
    model = tiny_model().cuda()
    engine = Engine(model, buckets=(8,))
    images = random_images(200, 80).cuda()
    engine.predict(images, model.default_thresholds())
    statistics = engine.scheduler.statistics()
    assert engine.in_flight == 2
    assert statistics.waits <= model.config.steps + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_to_the_bit_in_any_company(dtype):
    engine = Engine(tiny_model().cuda(), buckets=(16,), invariance="batch", dtype=dtype)
    images = random_images(40, 80).cuda()
    expected = engine.predict(images)
    for rows in (torch.tensor([7]), torch.arange(40).flip(0), torch.arange(17)):
        out = engine.predict(images[rows.cuda()])
        assert all(torch.equal(a, b[rows.cuda()]) for a, b in zip(out, expected, strict=True))
