"""What the recipes on composed canvases show to whom: windows and half of stage 1's crops hold the object."""

from __future__ import annotations

import pytest
import torch

from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training import recipe
from gfnet_fast.training.config import TrainConfig
from gfnet_fast.training.recipe import Pool, Recipe, calibrate, evaluate
from gfnet_fast.training.unroll import Views
from tests.conftest import tiny_config

CANVAS, SIDE, COUNT = 128, 8, 96


class Squares:
    """A white square on black."""

    classes = ("even", "odd")

    def __init__(self, split, count, seed) -> None:
        generator = torch.Generator().manual_seed(seed)
        corner = torch.randint(0, CANVAS - SIDE + 1, (count, 2), generator=generator)
        self.boxes = torch.cat([corner, corner + SIDE], 1).float()
        self.labels = torch.arange(count) % 2
        self.split = split

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows):
        out = torch.zeros(len(rows), CANVAS, CANVAS, 3, dtype=torch.uint8)
        for image, row in zip(out, rows, strict=True):
            top, left, bottom, right = self.boxes[row].int().tolist()
            image[top:bottom, left:right] = 255
        return out


MODEL = tiny_config("recurrent", backbone_args={"channels": [16] * 4}, image_size=CANVAS, classes=2, steps=3)
RECIPE = Recipe(MODEL, TrainConfig(batch=32), Squares, COUNT, window_epochs=4, window_lr=0.5, jitter=8)


def white(x):
    """White pixels of each normalised image."""
    return (x[:, 0] > 2).flatten(1).sum(1)


def test_who_sees_what(monkeypatch):
    calls = []

    def train_encoder(encoder, views, epochs, rate, config, report, name="thumbnails"):
        calls.append((name, epochs, rate))
        batches = list(views(0))
        assert [len(labels) for _, labels in batches] == [32] * 3
        seen = torch.cat([x for x, _ in batches])
        assert seen.shape == (COUNT, 3, 32, 32)
        if name == "windows":
            assert bool((white(seen) == SIDE * SIDE).all())
        with torch.no_grad():
            next(encoder.parameters()).add_(1)

    def train_classifier(model, data, stage, config, report, crops=None):
        calls.append(stage)
        if stage == 3:
            assert crops is None
            return
        held = []
        for images, labels in data(0):
            choose = crops()
            patch = Views(model, images).patch(choose(torch.zeros(len(labels), 1), 2))
            held.append(white(patch) == SIDE * SIDE)
        assert 0.4 < torch.cat(held).float().mean() < 0.75

    def train_policy(model, data, config, report):
        calls.append(2)
        one, other = (next(e.parameters()).detach() for e in (model.global_encoder, model.local_encoder))
        assert (one - other).mean().item() == pytest.approx(1, abs=1e-4)
        assert all(len(batch) == 2 for batch in data(0))

    for stub in (train_encoder, train_classifier, train_policy):
        monkeypatch.setattr(recipe, stub.__name__, stub)
    recipe.train(RECIPE, print)
    rate = RECIPE.training.thumbnail_lr
    assert calls == [("windows", 4, 0.5), ("thumbnails", 0, rate), 1, 2, 3]


def test_figures_and_thresholds():
    """From the split that each is of; the oracle's crops hold the object."""
    torch.manual_seed(0)
    model = GFNet(MODEL).eval()
    calibrate(RECIPE, model, count=40)
    assert model.labels == ("even", "odd")
    assert model.calibration.count == 40
    assert model.calibration.data_hash == Pool(Squares("validation", 40, 100)).digest
    found = evaluate(RECIPE, model, count=30)
    assert (found["count"], found["seed"]) == (30, 200)
    names = ["learned", "random", "centre", "centre, then corners", "saliency", "oracle"]
    assert list(found["policies"]) == names
    trace = model.trace(model.normalise(Squares("test", 30, 200).images(range(30))))
    right = trace.logits.argmax(-1) == torch.arange(30) % 2
    accuracies = [step["accuracy"] for step in found["policies"]["learned"]]
    assert accuracies == pytest.approx(right.float().mean(1).tolist())
    assert found["exits"]["all_steps"] == pytest.approx(accuracies[-1])
    assert sum(found["exits"]["shares"]) == pytest.approx(1)
