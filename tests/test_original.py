"""Where canvases and crops come from, by pictures whose values are their own coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import gfnet_fast as gf
from gfnet_fast.original import Original
from gfnet_fast.sources import prepare, read_image, take
from tests.conftest import tiny_config, tiny_model

SIZES = ((90, 84), (61, 257), (300, 77), (17, 15), (80, 80), (399, 401), (33, 500))  # height, width
FORMS = {
    "official": {},
    "square, all of it": {"crop_ratio": None},
    "no ratio lost": {"crop_ratio": 1.0},
    "wide, all of it": {"image_size": (48, 112), "crop_ratio": None},
    "tall, its centre": {"image_size": (96, 48), "crop_ratio": 0.7},
}


def ramps(height: int, width: int) -> Image.Image:
    """Red is the column, green the row, 0 to 255, rounded up or down by chance: right in the mean."""
    pixels = np.zeros((height, width, 3))
    pixels[..., 0] = np.arange(width) * 255 / (width - 1)
    pixels[..., 1] = np.arange(height)[:, None] * 255 / (height - 1)
    chance = np.random.default_rng(0).random(pixels.shape)
    return Image.fromarray(np.floor(pixels + chance).clip(0, 255).astype(np.uint8))


def assert_linear(values, begin, end, side):
    """A ramp of `side` pixels, seen from `begin` to `end`, is where it should be, edges aside."""
    scale = (end - begin) / len(values)
    where = begin + (np.arange(len(values)) + 0.5) * scale - 0.5
    inner = (where > 2 * max(scale, 1)) & (where < side - 1 - 2 * max(scale, 1))
    wrong, a_value = (values * (side - 1) / 255 - where)[inner], (side - 1) / 255  # pixels, a value's pixels
    assert inner.sum() > 2
    assert np.abs(wrong).max() < 0.05 + 1.1 * a_value
    assert abs(wrong.mean()) < 0.05 + 0.3 * a_value


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_canvas_and_crops_are_of_the_pixels_that_are_said(size, form, filter):
    config = tiny_config(resize_filter=filter, **FORMS[form])
    canvas, original = prepare(take(ramps(*size), config), config)
    assert (original.size, original.path) == (size, None)
    rows, columns = config.canvas
    side = config.patch_size
    corner = (rows - side, columns - side)
    glance, *crops = original.boxes([(0, 0), corner, (5, 7)], config)
    assert glance == original.shown
    places = [(0, 0, rows, columns), (0, 0, side, side), (*corner, side, side), (5, 7, side, side)]
    for (left, top, right, bottom), (y, x, high, wide) in zip((glance, *crops), places, strict=True):
        assert 0 <= left < right <= size[1]
        assert 0 <= top < bottom <= size[0]
        part = canvas.numpy()[y : y + high, x : x + wide].astype(float)
        assert_linear(part[..., 0].mean(0), left, right, size[1])
        assert_linear(part[..., 1].mean(1), top, bottom, size[0])
    if config.crop_ratio is None:
        assert glance == (0, 0, size[1], size[0])


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_padded(form):
    """The resized picture covers the canvas, so that the region is within the picture."""
    config = tiny_config(**FORMS[form])
    sides = (1, 2, 3, 7, 79, 80, 81, 97, 1000, 4096, 99_991)
    for height in sides:
        for width in sides:
            rows, columns = config.resized(height, width)
            assert rows >= config.canvas[0]
            assert columns >= config.canvas[1]
            left, top, right, bottom = Original.resized(height, width, config).shown
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


def test_a_marked_square_is_what_the_crop_sees():
    """White where the second step looked: it fills the crop, and nothing else of the canvas."""
    config = tiny_config(crop_ratio=0.8)
    origin, side = (13, 40), config.patch_size
    black = np.zeros((333, 517, 3), np.uint8)
    left, top, right, bottom = map(round, Original.resized(333, 517, config).boxes([origin], config)[1])
    black[top:bottom, left:right] = 255
    seen = read_image(black, config)[..., 0].float()
    inside = torch.zeros_like(seen, dtype=torch.bool)
    inside[origin[0] + 1 : origin[0] + side - 1, origin[1] + 1 : origin[1] + side - 1] = True
    around = torch.ones_like(inside)
    around[origin[0] - 1 : origin[0] + side + 1, origin[1] - 1 : origin[1] + side + 1] = False
    assert seen[inside].min() == 255
    assert seen[around].max() == 0


def test_results_say_what_was_looked_at(tmp_path):
    model = tiny_model()
    config = model.config
    predictor = gf.Predictor(model, device="cpu", budget=gf.Budget(max_steps=config.steps))
    picture = ramps(120, 200)
    picture.save(tmp_path / "a.png")
    normalised = model.normalise(read_image(picture, config)[None])[0]
    results = predictor([picture, tmp_path / "a.png", np.array(picture), normalised])
    for result in results[:3]:
        original = Original.resized(120, 200, config)
        assert result.size == (120, 200)
        assert result.boxes == original.boxes(result.origins, config)
        assert len(result.boxes) == result.exit_step == result.steps
        assert result.to_dict()["size"] == [120, 200]
        assert result.to_dict()["boxes"] == [[round(side, 1) for side in box] for box in result.boxes]
    assert [result.path for result in results] == [None, str(tmp_path / "a.png"), None, None]
    last, side = results[3], config.patch_size
    assert last.size == config.canvas, "of a canvas the original is the canvas"
    assert last.boxes[0] == (0, 0, *config.canvas[::-1])
    assert last.boxes[1:] == tuple((c, r, c + side, r + side) for r, c in last.origins)
