"""The model computes what the official code computes."""

import numpy as np
import torch

from gfnet_fast.checkpoints import load


def test_trace_equals_the_official_code(fixture, official_model):
    trace = official_model.trace(official_model.normalise(fixture.images))
    np.testing.assert_array_equal(trace.origins.numpy(), fixture.arrays["origins"])
    np.testing.assert_allclose(trace.logits.numpy(), fixture.arrays["logits"], rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(trace.actions.numpy(), fixture.arrays["actions"], atol=1e-4)


def test_glance_equals_the_official_resize(fixture, official_model):
    thumbnail = official_model.thumbnail(official_model.normalise(fixture.images[:1]))
    np.testing.assert_allclose(thumbnail.numpy(), fixture.arrays["glance"], rtol=1e-6, atol=1e-6)


def test_multiply_adds_equal_the_checkpoint_s(fixture, official_model):
    np.testing.assert_allclose(official_model.config.macs, fixture.spec["flops"], rtol=1e-3)


def test_the_training_form_is_recognised_and_gives_the_same_network(fixture, official_model, tmp_path):
    """The official training script's files: no prefix before the encoders' names, and no metadata."""
    released = torch.load(fixture.path, weights_only=True)
    content = {name: released[name] for name in ("fc", "policy")}
    for part in ("model_state_dict", "model_prime_state_dict"):
        content[part] = {name.removeprefix("module."): value for name, value in released[part].items()}
    path = tmp_path / "training.pth.tar"
    torch.save({"epoch": 60, "acc": 0.0, "best_acc": 0.0, "optimizer": None, **content}, path)
    model = load(path)
    path.unlink()
    assert model.config == official_model.config
    ours, theirs = model.state_dict(), official_model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_planar_and_interleaved_images_are_the_same(official_model, fixture):
    planar = fixture.images.permute(0, 3, 1, 2).contiguous()
    assert torch.equal(official_model.normalise(planar), official_model.normalise(fixture.images))
