"""Policies that need no training take the crops that their names say."""

from __future__ import annotations

import pytest
import torch

from gfnet_fast.model.gfnet import crop_origins
from gfnet_fast.training.evaluate import (
    fixed_crops,
    oracle_crops,
    random_crops,
    saliency_crops,
    step_logits,
)
from gfnet_fast.training.unroll import unroll
from tests.conftest import random_images, tiny_model

SIZE, PATCH = 80, 32


@pytest.fixture(scope="module")
def model():
    return tiny_model("recurrent")


def origins(actions):
    return crop_origins(actions, (SIZE, SIZE), PATCH)


def test_centre_then_corners():
    maps, choose = torch.zeros(3, 8, 4, 4), fixed_crops()
    expected = [(24, 24), (0, 0), (0, 48), (48, 0), (48, 48), (24, 24)]
    for step, at in enumerate(expected, start=2):
        assert origins(choose(maps, step)).tolist() == [list(at)] * 3
    centre = fixed_crops(centre_only=True)
    assert all(origins(centre(maps, step)).tolist() == [[24, 24]] * 3 for step in range(2, 8))


def test_random_crops_are_uniform_and_the_same_for_a_seed():
    maps = torch.zeros(4000, 1, 1, 1)
    choose, again, other = random_crops(3), random_crops(3), random_crops(4)
    first, second = choose(maps, 2), choose(maps, 3)
    assert torch.equal(first, again(maps, 2))
    assert torch.equal(second, again(maps, 3))
    assert not torch.equal(first, second)
    assert not torch.equal(first, other(maps, 2))
    for column in first.T:
        counts = torch.histc(column, 10, 0, 1)
        assert counts.sum() == 4000
        assert (counts - 400).abs().max() < 5 * 19  # five standard deviations


def test_random_crops_leave_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    random_crops(1)(torch.zeros(2, 1, 1, 1), 2)
    assert torch.equal(torch.rand(3), expected)


def test_saliency_looks_at_the_strongest_cell_first(model):
    """A 4 x 4 map over 80 pixels: cell (r, c) is centred on pixel (20 r + 10, 20 c + 10)."""
    maps = torch.rand(2, 8, 4, 4) * 0.1
    maps[0, 3, 1, 2] = -9.0  # energy: the sign does not matter
    maps[0, :, 3, 0] = 2.0  # 8 x 4 = 32 < 81
    maps[1, 0, 0, 0] = 5.0
    choose = saliency_crops(model)
    first = origins(choose(maps, 2))
    # Centres (30, 50) and (10, 10), less half a patch; the second is clamped to the image.
    assert first.tolist() == [[14, 34], [0, 0]]
    # Later steps go by the glance's map, not by the crop's.
    assert origins(choose(torch.rand(2, 8, 4, 4), 3))[0].tolist() == [48, 0]
    one_cell = saliency_crops(model)
    for step in (2, 3, 4):
        assert origins(one_cell(torch.rand(2, 8, 1, 1), step)).tolist() == [[24, 24]] * 2


def test_the_oracle_s_crop_holds_the_box(model):
    generator = torch.Generator().manual_seed(0)
    side = 2 + torch.rand(500, 2, generator=generator) * (PATCH - 2)
    top_left = torch.rand(500, 2, generator=generator) * (SIZE - side)
    boxes = torch.cat([top_left, top_left + side], 1)
    choose = oracle_crops(boxes, model)
    action = choose(torch.zeros(500, 1, 1, 1), 2)
    assert torch.equal(choose(torch.zeros(500, 1, 1, 1), 4), action)
    assert action.min() >= 0
    assert action.max() <= 1
    at = origins(action)
    spare = torch.minimum(boxes[:, :2] - at, at + PATCH - boxes[:, 2:])
    assert (spare[side <= PATCH - 2] >= 0).all()
    assert spare.min() >= -1  # origins are whole pixels
    # A box that is larger than the crop: its middle.
    large = oracle_crops(torch.tensor([[10.0, 20.0, 60.0, 80.0]]), model)(torch.zeros(1, 1, 1, 1), 2)
    assert origins(large).tolist() == [[19, 34]]


def test_step_logits_gives_each_batch_its_chooser(model):
    images = random_images(7, SIZE)
    boxes = torch.tensor([[8.0 * k, 4.0 * k, 8.0 * k + 12, 4.0 * k + 12] for k in range(7)])
    asked = []

    def chooser(seen):
        asked.append(seen)
        return oracle_crops(boxes[seen : seen + 3], model)

    model.train()
    got = step_logits(model, images.split(3), chooser)
    assert asked == [0, 3, 6]
    assert not model.training
    with torch.no_grad():
        expected = unroll(model, images, oracle_crops(boxes, model)).logits
    assert got.shape == (4, 7, 7)
    assert not got.requires_grad
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
