"""Hidden textures: where they come from, and what a canvas holds."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from gfnet_fast.data import textures
from gfnet_fast.data.textures import SPLITS, HiddenTextures, TexturesTask, load_photographs, regions
from gfnet_fast.errors import InputError

COUNT = 64


@pytest.fixture(scope="module")
def data():
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    return HiddenTextures("train", COUNT, seed=3)


def test_the_same_arguments_give_the_same_canvases(data):
    again = HiddenTextures("train", COUNT, seed=3)
    assert torch.equal(data.images([5, 60]), again.images([5, 60]))
    assert torch.equal(data.images(range(4))[2], data.images([2])[0])
    for other in (HiddenTextures("train", COUNT, seed=4), HiddenTextures("test", COUNT, seed=3)):
        assert not torch.equal(data.images([5]), other.images([5]))


def test_form(data):
    images = data.images([0, 1, 2])
    assert (images.dtype, images.shape) == (torch.uint8, (3, 192, 192, 3))
    assert torch.equal(images[..., 0], images[..., 2])
    assert torch.bincount(data.labels).tolist() == [COUNT // 8] * 8
    side = data.boxes[:, 2:] - data.boxes[:, :2]
    assert torch.equal(side[:, 0], side[:, 1])
    assert side.min() >= 16
    assert side.max() <= 72
    assert data.boxes.min() >= 0
    assert data.boxes.max() <= 192


def test_the_box_holds_the_texture_and_nothing_else_does(data):
    """Without distractors there is fine contrast in the box only."""
    plain = HiddenTextures("train", COUNT, seed=3, task=TexturesTask(distractors=0))
    for row in range(0, COUNT, 9):
        image = plain.images([row])[0, ..., 0].float()
        top, left, bottom, right = plain.boxes[row].int().tolist()
        inside = image[top:bottom, left:right].std()
        image[top:bottom, left:right] = torch.nan
        fine = (image[:, 1:] - image[:, :-1]).abs()
        assert inside > 12
        assert fine[~fine.isnan()].quantile(0.99) < 20


def test_classes_do_not_differ_in_brightness_or_contrast(data):
    """The texture itself has mean 0 and deviation 1, whatever the photograph."""
    rng = np.random.default_rng(0)
    for label in range(len(data.classes)):
        piece = data._texture(label, 40, rng)
        assert piece.shape == (40, 40)
        assert abs(piece.mean()) < 1e-4
        assert piece.std() == pytest.approx(1, abs=1e-3)


def test_the_parts_of_a_photograph_do_not_overlap(data):
    whole = load_photographs()
    parts = [regions(split) for split in SPLITS]
    for label, photograph in enumerate(whole.values()):
        axis = int(photograph.shape[1] >= photograph.shape[0])
        assert np.array_equal(np.concatenate([part[label] for part in parts], axis), photograph)
        assert min(side for part in parts for side in part[label].shape) >= 72


def test_without_the_photographs(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    textures.load_photographs.cache_clear()
    with pytest.raises(InputError, match=r"textures: expected scikit-image and scikit-learn, got no skimage"):
        load_photographs()
