"""Cluttered digits: where they come from, and what a canvas holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gfnet_fast.data.digits import (
    SPLITS,
    ClutteredDigits,
    DigitsTask,
    draw_canvases,
    load_glyphs,
    split_glyphs,
)

TASKS = {
    "default": DigitsTask(),
    "mixed": DigitsTask(canvas=192, sizes=(14.0, 72.0), fragment_sizes=(10.0, 22.0)),
    "crowded": DigitsTask(canvas=96, sizes=(20.0, 60.0), fragments=30, fragment_sizes=(8.0, 30.0)),
}
COUNT = 60


@pytest.fixture(scope="module", params=list(TASKS))
def data(request):
    return ClutteredDigits("train", COUNT, seed=4, task=TASKS[request.param])


def only(plan, strokes):
    """The plan with the ink of some strokes only, and a plain dark ground."""
    ink = np.zeros_like(plan.ink)
    ink[:, strokes] = plan.ink[:, strokes]
    return plan._replace(ink=ink)


# --- the handwritten digits ---------------------------------------------------------------------------


def test_the_shipped_digits_are_scikit_learn_s():
    datasets = pytest.importorskip("sklearn.datasets")
    expected = datasets.load_digits()
    images, labels = load_glyphs()
    assert images.dtype == labels.dtype == np.uint8
    assert np.array_equal(images, expected.images)
    assert np.array_equal(labels, expected.target)


def test_splits_are_disjoint_and_complete():
    parts = {split: split_glyphs(split) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {
        "train": 1197,
        "validation": 200,
        "test": 400,
    }
    together = np.concatenate(list(parts.values()))
    assert np.array_equal(np.sort(together), np.arange(1797))
    labels = load_glyphs()[1]
    for part in parts.values():
        counts = np.bincount(labels[part], minlength=10) / len(part)
        assert counts.min() > 0.05
        assert counts.max() < 0.15


@pytest.mark.parametrize("split", list(SPLITS))
def test_a_split_draws_from_its_own_digits_only(split):
    data = ClutteredDigits(split, 300, seed=1)
    assert np.isin(data.plan.glyph, split_glyphs(split)).all()


# --- the same canvases for the same seed --------------------------------------------------------------


def test_composing_is_deterministic(data):
    again = ClutteredDigits("train", COUNT, seed=4, task=data.task)
    rows = [0, 7, 31]
    assert torch.equal(data.images(rows), again.images(rows))
    assert torch.equal(data.labels, again.labels)
    assert torch.equal(data.boxes, again.boxes)
    for split, seed in (("train", 5), ("test", 4)):
        other = ClutteredDigits(split, COUNT, seed=seed, task=data.task)
        assert not torch.equal(data.boxes, other.boxes)
        assert not torch.equal(data.images(rows), other.images(rows))


def test_epochs_are_new_canvases_that_come_back(data):
    images, boxes = data.images([3]), data.boxes
    data.set_epoch(1)
    assert not torch.equal(data.images([3]), images)
    assert not torch.equal(data.boxes, boxes)
    data.set_epoch(0)
    assert torch.equal(data.images([3]), images)
    assert torch.equal(data.boxes, boxes)


def test_a_canvas_does_not_depend_on_its_batch(data):
    """Products of another shape may add up in another order, which moves a rounded grey level by one."""
    together = data.images([5, 2, 9]).int()
    for at, row in enumerate([5, 2, 9]):
        apart = (data.images([row])[0].int() - together[at]).abs()
        assert apart.max() <= 1
        assert (apart > 0).float().mean() < 1e-3


def test_items_are_what_a_loader_needs(data):
    image, label = data[2]
    side = data.task.canvas
    assert image.shape == (side, side, 3)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image[..., 0], image[..., 1])
    assert torch.equal(image[..., 0], image[..., 2])
    assert label == data.labels[2]
    loader = torch.utils.data.DataLoader(data, batch_size=16)
    batches = list(loader)
    assert [len(images) for images, _ in batches] == [16, 16, 16, 12]
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.labels)
    assert len(data) == COUNT


# --- what a canvas holds ------------------------------------------------------------------------------


def test_labels_match_the_digits_and_classes_are_balanced():
    data = ClutteredDigits("train", 3000, seed=2)
    labels = load_glyphs()[1]
    assert data.labels.tolist() == labels[data.sources].tolist()
    uses = np.bincount(data.sources, minlength=1797)[split_glyphs("train")]
    assert uses.min() >= 2
    assert uses.max() <= 3
    shares = np.bincount(data.labels) / 3000
    assert shares.min() > 0.08
    assert shares.max() < 0.12


def test_sizes_are_within_bounds(data):
    plan, task = data.plan, data.task
    for side, (low, high) in ((plan.side[:, :1], task.sizes), (plan.side[:, 1:], task.fragment_sizes)):
        middle = np.sqrt(side.prod(-1))
        unclipped = side.max(-1) < task.canvas
        assert (middle[unclipped] >= low * 0.9999).all()
        assert (middle[unclipped] <= high * 1.0001).all()
        ratio = side.max(-1) / side.min(-1)
        assert ratio.max() <= np.exp(0.3) * 1.0001
    boxes = data.boxes
    assert torch.allclose(boxes[:, 2:] - boxes[:, :2], torch.from_numpy(plan.side[:, 0]), atol=1e-3)
    assert boxes.min() >= 0
    assert boxes.max() <= task.canvas * 1.0001
    # Even in the logarithm: about half lie below the geometric mean.
    many = ClutteredDigits("test", 2000, seed=3, task=task).plan.side[:, 0]
    below = (np.sqrt(many.prod(-1)) < np.sqrt(task.sizes[0] * task.sizes[1])).mean()
    assert 0.45 < below < 0.55


def difference(data, plan, other):
    rows = np.arange(COUNT)
    grey = draw_canvases(data.task, plan, rows).int() - draw_canvases(data.task, other, rows).int()
    return grey.abs().double()


def inside(data, margin):
    """Bool [N, S, S]: pixels whose centres lie in the box, widened by some of the digit's own pixels."""
    centres = torch.arange(data.task.canvas) + 0.5
    low, high = data.boxes[:, :2], data.boxes[:, 2:]
    slack = margin * (high - low) / 8
    low, high = (low - slack)[..., None], (high + slack)[..., None]
    held = (centres >= low) & (centres <= high)
    return held[:, 0, :, None] & held[:, 1, None, :]


def test_the_box_holds_the_digit(data):
    """Drawn with and without it: the canvases differ in the box, by the digit's ink, and nowhere else.

    The spline reaches one and a half of the digit's pixels past its box.
    """
    change = difference(data, data.plan, only(data.plan, slice(1, None)))
    total = change.sum((1, 2))
    assert (change * ~inside(data, 1.6)).max() <= 1  # rounding
    assert ((change * inside(data, 0)).sum((1, 2)) > 0.8 * total).all()
    assert (change.amax((1, 2)) > 60).all()
    # And it is that digit: the mean over each of its 8 x 8 cells follows the handwritten one.
    glyphs = load_glyphs()[0][data.sources]
    for row in range(0, COUNT, 6):
        top, left, bottom, right = data.boxes[row].tolist()
        grid = torch.nn.functional.adaptive_avg_pool2d(
            change[row, round(top) : round(bottom), round(left) : round(right)][None], 8
        )
        assert np.corrcoef(grid.flatten().numpy(), glyphs[row].flatten())[0, 1] > 0.8


def test_no_fragment_overlaps_the_box(data):
    """Only the faint outermost lobe of a piece's spline (a sixteenth of its ink) may reach in."""
    change = difference(data, data.plan, only(data.plan, slice(0, 1)))
    assert (change > 40).any(2).any(1).float().mean() > 0.9  # there are pieces
    within = change * inside(data, 0)
    assert within.max() <= 0.0625 * 170 + 1.5
    assert (within > 2).double().mean() < 0.01


def test_pieces_are_half_a_digit_in_each_direction(data):
    keep = data.plan.keep
    assert keep[:, 0].all()
    assert (keep[:, 1:].sum((2, 3)) == 16).all()
    rows, columns = keep[:, 1:].any(3), keep[:, 1:].any(2)
    assert (rows.sum(2) == 4).all()
    assert (columns.sum(2) == 4).all()
    # In one piece.
    assert (np.diff(rows.astype(int), axis=2) == 1).sum(2).max() <= 1
    assert (keep[:, 1:] == rows[..., :, None] & columns[..., None, :]).all()


def test_left_out_pieces_are_those_that_would_touch(data):
    plan = data.plan
    shown = plan.ink[:, 1:] > 0
    assert shown.mean() > 0.3
    assert (~shown).any()
    unit = plan.side / 8
    for row, stroke in np.argwhere(shown):
        kept = np.argwhere(plan.keep[row, stroke + 1])
        first = plan.top_left[row, stroke + 1] + kept.min(0) * unit[row, stroke + 1]
        last = plan.top_left[row, stroke + 1] + (kept.max(0) + 1) * unit[row, stroke + 1]
        box = data.boxes[row].numpy()
        assert (last <= box[:2]).any() or (first >= box[2:]).any()


def test_without_pieces():
    data = ClutteredDigits("test", 5, task=DigitsTask(canvas=64, sizes=(20.0, 40.0), fragments=0))
    images = data.images(range(5)).float()
    assert images.shape == (5, 64, 64, 3)
    assert images.std() > 5
