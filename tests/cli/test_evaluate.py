"""`gfnet-fast eval`: the numbers are those of the trace, and what a checkpoint states stands beside them."""

import json

import numpy as np
import pytest
import torch
from cli_runner import run, save_by_class

import gfnet_fast as gf
from gfnet_fast.checkpoints import official_checkpoint
from gfnet_fast.data.labelled import LabelledFolder
from gfnet_fast.exits import evaluate_budgets
from gfnet_fast.model.gfnet import GFNet
from tests.conftest import expected_exits, random_images, tiny_model

NAMES = [f"n{number:02}" for number in range(7)]
COUNT = 28


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    save_by_class(folder, random_images(COUNT, 224, seed=8), [i % 7 for i in range(COUNT)], NAMES)
    return folder


@pytest.fixture(scope="module")
def official(tmp_path_factory, folder):
    """An official file whose stated figures are those of these images."""
    torch.manual_seed(0)
    model = GFNet(gf.released("mobilenetv3_large_100", 96).replace(classes=7)).eval()
    for tensor in (model.global_encoder.backbone.classifier.weight, model.classifier.fc_2.weight):
        tensor.data *= 40
    data = LabelledFolder(folder, model.config)
    probabilities = torch.cat(
        [model.trace(model.normalise(data.images([row]))).logits.softmax(-1) for row in range(COUNT)], 1
    )
    row = torch.linspace(0.16, 0.6, 39)
    model.thresholds = torch.stack([row, row, torch.full((39,), -1e8)], 1)
    curve = evaluate_budgets(probabilities, data.labels, model.thresholds, model.config.macs)
    assert len(set(curve.mean_cost)) > 10
    right = (probabilities.argmax(-1) == data.labels).float().mean(1)
    content = official_checkpoint(model)
    content["anytime_classification"] = (100 * right).tolist()
    content["budgeted_batch_classification"] = [curve.mean_cost.tolist(), curve.accuracy.tolist()]
    path = tmp_path_factory.mktemp("official") / "model.pth.tar"
    torch.save(content, path)
    return path


def test_the_figures_of_an_official_file_are_found_again(capsys, official, folder):
    done = run(capsys, "eval", official, "--data", folder, "-f", "json", "--check", 1e-3)
    assert done.status == 0, done.err
    facts = json.loads(done.out)
    assert facts["images"] == COUNT
    rows = [row for row in facts["budgeted"] if row["stated"] is not None]
    assert len(rows) == 39
    assert [row["stated"] for row in facts["anytime"]] == pytest.approx(
        [row["accuracy"] for row in facts["anytime"]], abs=1e-4
    )
    for row in rows:
        assert row["macs"] == pytest.approx(row["stated_macs"], rel=1e-6)
    done = run(capsys, "eval", official, "--data", folder)
    assert "at most 0.00 percent points off" in done.out


def test_figures_that_are_not_found_fail_the_check(capsys, official, folder, tmp_path):
    content = torch.load(official, weights_only=True)
    content["anytime_classification"][1] += 2.5
    content["budgeted_batch_classification"][1][1] -= 3.5
    path = tmp_path / "other.pth.tar"
    torch.save(content, path)
    for limit, count in ((2, 2), (3, 1)):
        done = run(capsys, "eval", path, "--data", folder, "--check", limit, "--images", 100)
        assert (done.status, f"got {count} of 42 farther off" in done.err) == (1, True), done.err


def test_a_native_model_s_rows_are_those_of_the_trace(capsys, tmp_path):
    model = tiny_model()
    model.thresholds = torch.tensor([[0.3, 0.35, 0.3, -1e8], [0.6, 0.5, 0.5, -1e8]])
    model.save_pretrained(tmp_path / "model")
    save_by_class(tmp_path / "data", random_images(14, 80, seed=2), [i % 7 for i in range(14)], NAMES)
    data = LabelledFolder(tmp_path / "data", model.config)
    images = data.images(range(14))
    done = run(capsys, "eval", tmp_path / "model", "--data", tmp_path / "data", "-f", "json")
    facts = json.loads(done.out)
    for found, row in zip(facts["budgeted"], model.thresholds, strict=True):
        label, step, _ = expected_exits(model, images, row)
        assert found["accuracy"] == pytest.approx(100 * (label == data.labels).float().mean().item())
        assert found["shares"] == pytest.approx([(step == k).float().mean().item() for k in range(1, 5)])
        assert found["macs"] == pytest.approx(np.mean([model.config.macs[k - 1] for k in step]), rel=1e-6)
        assert found["stated"] is None
    done = run(capsys, "eval", tmp_path / "model", "--data", tmp_path / "data", "--check", 50)
    assert (done.status, "got a model that states none" in done.err) == (1, True)
    (tmp_path / "model" / "thresholds.json").unlink()
    done = run(capsys, "eval", tmp_path / "model", "--data", tmp_path / "data")
    assert "make some with `gfnet-fast calibrate`" in done.out
