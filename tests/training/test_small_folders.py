"""Fine-tuning on few images: what stays as it was, soft targets, and which recipe a folder gets."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gfnet_fast.errors import InputError
from gfnet_fast.training.config import TrainConfig
from gfnet_fast.training.stages import train_classifier, train_encoder
from gfnet_fast.training.start import begin_from_global
from gfnet_fast.training.updates import freeze, mixed, mixup_share, optimizer, targets
from tests.conftest import random_images, tiny_model

FINE = TrainConfig(
    epochs=(1, 1, 0, 0),
    optimizer="adamw",
    backbone_lr=0.01,
    freeze=0.5,
    batch_norm="running",
    smoothing=0.1,
    mixup=0.4,
)


def test_the_first_tensors_and_all_statistics_stay_as_they_are():
    model, labels = tiny_model("cascaded", steps=3), torch.arange(8) % 7
    before = copy.deepcopy(model)
    canvases = random_images(8, 80, seed=4)
    train_classifier(model, lambda epoch: [(canvases, labels)], 1, FINE, lambda row: None)
    for name in ("local_encoder", "global_encoder"):
        old, new = getattr(before, name), getattr(model, name)
        moved = [not torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True)]
        half = round(len(moved) / 2)
        assert not any(moved[:half])
        assert sum(moved[half:]) > 0.8 * (len(moved) - half)  # a few have no gradient here
        assert all(torch.equal(a, b) for a, b in zip(old.buffers(), new.buffers(), strict=True))
        assert all(parameter.requires_grad for parameter in new.parameters())  # whoever goes on trains all
        assert not new.training


def test_running_statistics_move_where_they_may():
    model, labels = tiny_model("recurrent"), torch.arange(8) % 7
    x = model.thumbnail(model.normalise(random_images(8, 80, seed=4)))
    config = TrainConfig(freeze=0.5)
    norms = [m for m in model.global_encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    freeze(model.global_encoder, 0.5)
    frozen = [not any(p.requires_grad for p in norm.parameters()) for norm in norms]
    train_encoder(model.global_encoder, lambda epoch: [(x, labels)], 1, 0.01, config, lambda row: None)
    same = [torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)]
    assert same == frozen
    assert 0 < sum(frozen) < len(frozen)


def test_targets_and_pixels_of_a_mixture_by_hand():
    images = torch.tensor([0, 100, 200], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 2, 2, 3)
    assert mixed(images, 0.75)[:, 0, 0, 0].tolist() == [50, 100, 150]
    assert mixed(images, 1.0) is images
    config = TrainConfig(smoothing=0.4)
    labels = torch.tensor([0, 1, 3])
    found = targets(labels, 4, 0.75, config)
    by_hand = [[0.7 * 0.75 + 0.1 * 0.25, 0.1, 0.1, 0.7 * 0.25 + 0.1 * 0.75]]
    torch.testing.assert_close(found[:1], torch.tensor(by_hand))
    torch.testing.assert_close(found[1], torch.tensor([0.1, 0.7, 0.1, 0.1]))
    torch.testing.assert_close(found.sum(1), torch.ones(3))
    torch.manual_seed(0)
    shares = [mixup_share(TrainConfig(mixup=1.0)) for _ in range(200)]
    assert 0.5 <= min(shares) < 0.52
    assert 0.98 < max(shares) <= 1


def test_a_model_begins_as_its_global_encoder_and_the_mean_of_the_heads():
    model, x = tiny_model("cascaded", steps=3), torch.randn(2, 3, 48, 48)
    begin_from_global(model)
    glance, state = model.first_step(x)
    second, state = model.next_step(x.flip(3), state, 2)
    own = model.global_encoder.head(model.global_encoder(x.flip(3))[1])
    torch.testing.assert_close(second, (glance + own) / 2)
    third, _ = model.next_step(x, state, 3)
    torch.testing.assert_close(third, (2 * glance + own) / 3)


def test_adamw_decays_the_weight_apart_from_its_step():
    config = TrainConfig(optimizer="adamw", weight_decay=0.1)
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    optimizer([([parameter], 0.5)], config).step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([1 - 0.5 * 0.1 - 0.5]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("optimizer", "adam"), ("batch_norm", ""), ("freeze", 1.0), ("smoothing", -0.1), ("mixup", -1.0)],
)
def test_settings_that_make_no_sense(name, value):
    with pytest.raises(InputError, match=f"^{name}: expected"):
        TrainConfig(**{name: value})
