"""Early exit is real, and says what the trace says."""

import copy
import itertools

import pytest
import torch

from gfnet_fast.engine.eager import EagerEngine
from gfnet_fast.predictor import Predictor
from tests.conftest import expected_exits, random_images


def random_thresholds(model, images, seed):
    """Thresholds drawn between the confidences that the images have, so that exits spread."""
    generator = torch.Generator().manual_seed(seed)
    confidence = model.trace(model.normalise(images)).logits.softmax(-1).amax(-1)
    quantiles = torch.rand(len(confidence), generator=generator).tolist()
    row = torch.stack([c.quantile(q) for c, q in zip(confidence, quantiles, strict=True)])
    row[-1] = -1e8
    # Half-way to the next confidence: at the edge itself, rounding decides.
    return row + torch.tensor([1e-4] * (len(row) - 1) + [0.0])


def calls_of(encoder):
    """Batch sizes of an encoder's calls from now on."""
    sizes = []
    encoder.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    return sizes


@pytest.mark.parametrize("seed", range(4))
def test_encoder_calls_are_the_survivors(tiny, seed):
    images = random_images(33, tiny.config.image_size, seed)
    thresholds = random_thresholds(tiny, images, seed)
    _, step, _ = expected_exits(tiny, images, thresholds)
    model = copy.deepcopy(tiny)  # the hooks stay on it
    glances, focuses = calls_of(model.global_encoder), calls_of(model.local_encoder)
    EagerEngine(model).predict(images, thresholds)
    survivors = [int((step > k).sum()) for k in range(1, tiny.config.steps)]
    assert len(set(step.tolist())) > 1
    assert glances == [33]
    assert focuses == [count for count in survivors if count]


@pytest.mark.parametrize("size", range(1, 34))
def test_every_batch_size_and_order_equals_the_trace(tiny, size):
    images = random_images(size, tiny.config.image_size, size)
    thresholds = random_thresholds(tiny, images, size)
    label, step, origins = expected_exits(tiny, images, thresholds)
    orders = [torch.arange(size), torch.arange(size).flip(0)]
    orders += [torch.randperm(size, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    if size <= 4:
        orders = [torch.tensor(order) for order in itertools.permutations(range(size))]
    for order, batch in itertools.product(orders, {size, max(1, size // 3)}):
        out = EagerEngine(tiny, batch).predict(images[order], thresholds)
        assert torch.equal(out.class_id, label[order])
        assert torch.equal(out.exit_step, step[order])
        assert torch.equal(out.origins, origins[order])


def test_official_configurations_equal_the_trace(fixture, official_model):
    thresholds = random_thresholds(official_model, fixture.images, 0)
    label, step, origins = expected_exits(official_model, fixture.images, thresholds)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    out = EagerEngine(official_model, 3).predict(fixture.images[order], thresholds)
    assert torch.equal(out.class_id, label[order])
    assert torch.equal(out.exit_step, step[order])
    assert torch.equal(out.origins, origins[order])


def test_confidence_and_logits_are_those_of_the_exit(tiny):
    images = random_images(9, tiny.config.image_size, 5)
    predictor = Predictor(tiny, device="cpu")
    out = predictor.predict_batch(images)
    trace = tiny.trace(tiny.normalise(images))
    assert out.exit_step.tolist() == [tiny.config.steps] * 9
    torch.testing.assert_close(out.logits, trace.logits[-1])
    torch.testing.assert_close(out.confidence, trace.logits[-1].softmax(-1).amax(-1))
