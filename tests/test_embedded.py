"""The model that comes with the package is as good as is said of it."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from gfnet_fast.checkpoints import load
from gfnet_fast.data.digits import ClutteredDigits
from gfnet_fast.predictor import Predictor
from gfnet_fast.training.digits import CONFIG, TASK, evaluate

ASSET = Path(str(files("gfnet_fast") / "assets" / "digits"))


@pytest.fixture(scope="module")
def stated():
    return json.loads((ASSET / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def model():
    return load(ASSET)


@pytest.fixture(scope="module")
def measured(model):
    """On canvases that nobody has measured before: another seed than the stated figures'."""
    return evaluate(model, count=1000, seed=301)


def test_it_is_small_and_of_the_recipe(model):
    assert sum(path.stat().st_size for path in ASSET.rglob("*") if path.is_file()) <= 5_000_000
    assert model.config == CONFIG.replace(macs=model.config.macs)
    assert model.labels == tuple("0123456789")


def test_stated_figures_hold(stated, measured):
    assert stated["count"] >= 2000
    for name, steps in stated["policies"].items():
        for ours, theirs in zip(measured["policies"][name], steps, strict=True):
            assert ours["interval"][0] <= theirs["interval"][1], name
            assert theirs["interval"][0] <= ours["interval"][1], name


def test_the_learned_policy_is_worth_fifteen_points(stated, measured):
    for found in (stated, measured):
        learned, random = (found["policies"][name][-1]["accuracy"] for name in ("learned", "random"))
        assert learned - random >= 0.15
        assert found["policies"]["oracle"][-1]["accuracy"] >= learned


def test_a_quarter_leaves_at_the_glance_without_loss(stated, measured):
    for found in (stated, measured):
        exits = found["exits"]
        assert exits["shares"][0] >= 0.25
        assert min(exits["shares"]) > 0
        assert exits["accuracy"] >= exits["all_steps"] - 0.01


def test_the_predictor_says_the_same(model, measured):
    data = ClutteredDigits("test", 300, seed=9, task=TASK)
    out = Predictor(model, device="cpu").predict_batch(data.images(range(300)))
    accuracy = (out.class_id == data.labels).float().mean().item()
    assert accuracy == pytest.approx(measured["exits"]["accuracy"], abs=0.06)
    steps = out.exit_step.float().mean().item()
    assert steps == pytest.approx(measured["exits"]["mean_steps"], abs=0.25)
    taken = (out.origins >= 0).all(-1).sum(1)
    assert torch.equal(taken, out.exit_step - 1)
