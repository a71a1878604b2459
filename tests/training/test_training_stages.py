"""Whole stages on a tiny model: the same under a seed, in bfloat16, and stage 0."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gfnet_fast.training.config import TrainConfig
from gfnet_fast.training.stages import (
    Sums,
    TrainingError,
    train_classifier,
    train_encoder,
    train_policy,
)
from gfnet_fast.training.unroll import Views
from gfnet_fast.training.updates import optimizer
from tests.conftest import random_images, tiny_model

CONFIG = TrainConfig(epochs=(1, 1, 1, 1), ppo_epochs=2, reward="contrast", seed=11)


def run_all(config, images, labels, rows=None):
    """One epoch of two batches of every stage; the weights, and what was reported (to `rows`)."""
    model, rows = tiny_model("recurrent", steps=3), [] if rows is None else rows
    torch.manual_seed(config.seed)

    def data(epoch):
        for at in torch.randperm(len(images)).split(len(images) // 2):
            yield images[at], labels[at]

    def thumbnails(epoch):
        return ((Views(model, x).thumbnail(), y) for x, y in data(epoch))

    train_encoder(
        model.global_encoder, thumbnails, config.epochs[0], config.thumbnail_lr, config, rows.append
    )
    train_classifier(model, data, 1, config, rows.append)
    train_policy(model, data, config, rows.append)
    train_classifier(model, data, 3, config, rows.append)
    return model.state_dict(), rows


@pytest.fixture(scope="module")
def canvases():
    return random_images(8, 80, seed=4), torch.arange(8) % 7


@pytest.fixture(scope="module")
def first_run(canvases):
    return run_all(CONFIG, *canvases)


def test_the_same_seed_ends_bit_equal(first_run, canvases):
    state, rows = run_all(CONFIG, *canvases)
    assert rows == first_run[1]
    assert all(torch.equal(value, first_run[0][name]) for name, value in state.items())


def test_another_seed_ends_elsewhere(first_run, canvases):
    state, _ = run_all(TrainConfig(**{**vars(CONFIG), "seed": 12}), *canvases)
    name = "local_encoder.backbone.conv1.weight"
    assert not torch.equal(state[name], first_run[0][name])


def test_reports(first_run):
    rows = first_run[1]
    assert [row["stage"] for row in rows] == [0, 1, 2, 3]
    assert [row["epoch"] for row in rows] == [0] * 4
    assert rows[0]["what"] == "thumbnails"
    assert isinstance(rows[0]["accuracy"], float)
    for row in rows[1:]:
        assert len(row["accuracy"]) == 3
        assert all(0 <= a <= 1 for a in row["accuracy"])
    assert len(rows[2]["reward"]) == 2


@pytest.mark.parametrize("amp", [True, False], ids=["bfloat16", "float32"])
def test_the_encoders_precision(canvases, monkeypatch, amp):
    """In every stage that of their first convolution's output; whatever it is, weights stay float32."""
    forward, seen, rows = torch.nn.Conv2d.forward, set(), []

    def recording(self, x):
        out = forward(self, x)
        if self.in_channels == 3 and not out.is_meta:
            seen.add((len(rows), out.dtype))
        return out

    monkeypatch.setattr(torch.nn.Conv2d, "forward", recording)
    state, _ = run_all(TrainConfig(**{**vars(CONFIG), "amp": amp}), *canvases, rows)
    assert seen == {(stage, torch.bfloat16 if amp else torch.float32) for stage in range(4)}
    assert all(torch.isfinite(value).all() for value in state.values())
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    assert all(isinstance(row["loss"], float) for row in rows)


def test_stage_1_takes_other_crops_where_told(canvases):
    """One chooser a batch, made when the batch is drawn; stage 3 asks the policy all the same."""
    model, made, drawn = tiny_model("cascaded", steps=3), [], []

    def data(epoch):
        for at in range(0, 8, 4):
            drawn.append(at)
            yield canvases[0][at : at + 4], canvases[1][at : at + 4]

    def crops():
        made.append((len(drawn), steps := []))

        def choose(feature_map, step):
            steps.append(step)
            return torch.zeros(4, 2)

        return choose

    train_classifier(model, data, 1, CONFIG, lambda row: None, crops)
    assert made == [(1, [2, 3]), (2, [2, 3])]
    train_classifier(model, data, 3, CONFIG, lambda row: None, crops)
    assert len(made) == 2


def test_metrics_are_means_over_images(canvases):
    """A smaller last batch counts less."""
    images, labels = canvases
    model, rows = tiny_model("cascaded", steps=3), []
    expected = tiny_model("cascaded", steps=3).train()
    batches = [(images[:6], labels[:6]), (images[6:], labels[6:])]
    config = TrainConfig(epochs=(0, 1, 0, 0), backbone_lr=0.0, classifier_lr=(0.0, 0.0), train_global=False)
    train_classifier(model, lambda epoch: batches, 1, config, rows.append)
    glance = expected.global_encoder.eval()
    with torch.no_grad():
        thumbnails = expected.thumbnail(expected.normalise(images))
        right = glance.backbone(thumbnails).argmax(1) == labels
    assert rows[0]["accuracy"][0] == pytest.approx(right.float().mean().item())


def test_sums_are_numbers_and_tensors_without_a_graph():
    """Of any device: they are added to those of a checkpoint and of other processes."""
    sums, value = Sums(), torch.tensor([1.0, 3.0], requires_grad=True)
    sums.add(2, loss=0.5, losses=value)
    sums.add(1, loss=2.0, losses=2 * value)
    assert not sums.totals["losses"].requires_grad
    assert sums.totals["losses"].device.type == "cpu"
    assert sums.means() == {"loss": 1.0, "losses": pytest.approx([4 / 3, 4.0])}


def test_sums_leave_their_device():
    class Elsewhere(torch.Tensor):
        """What says that it is not on the CPU until it is moved there."""

        def cpu(self):
            return self.as_subclass(torch.Tensor)

    sums = Sums()
    sums.add(3, accuracy=torch.ones(2).as_subclass(Elsewhere))
    assert type(sums.totals["accuracy"]) is torch.Tensor


def test_without_momentum():
    config = TrainConfig(momentum=0.0, weight_decay=0.0)
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    optimizer([([parameter], 0.5)], config).step()
    assert parameter.tolist() == [0.5, 0.0]


def test_one_update_of_an_encoder(canvases):
    images, labels = canvases
    model, expected, rows = tiny_model("recurrent"), tiny_model("recurrent"), []
    x = model.thumbnail(model.normalise(images))
    config = TrainConfig(weight_decay=0.01)
    network = expected.global_encoder.backbone.train()
    loss = F.cross_entropy(network(x), labels)
    loss.backward()
    torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True).step()
    train_encoder(model.global_encoder, lambda epoch: [(x, labels)], 1, 0.05, config, rows.append, "canvases")
    assert rows[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert rows[0]["what"] == "canvases"
    for (name, got), want in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, msg=name)
    with torch.no_grad():
        model.global_encoder.backbone.fc.bias[0] = torch.nan
    with pytest.raises(TrainingError, match="stage 0, epoch 0"):
        train_encoder(model.global_encoder, lambda epoch: [(x, labels)], 1, 0.05, config, rows.append)
