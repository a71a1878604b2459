"""The steps as training runs them, on uint8 canvases, against the model's own trace."""

from __future__ import annotations

import pytest
import torch

from gfnet_fast.training.evaluate import fixed_crops, learned, step_logits
from gfnet_fast.training.unroll import TrainingError, Views, step_loss, unroll
from tests.conftest import random_images, tiny_model

KINDS = {
    "recurrent": {},
    "recurrent-linear-policy": {"policy": "linear", "policy_hidden": 20, "glance_filter": "bilinear"},
    "glance-head": {"glance_head": True},
    "cascaded": {"classifier": "cascaded"},
}


@pytest.fixture(params=list(KINDS))
def model(request):
    """A policy that takes each image's crops somewhere else."""
    net = tiny_model(seed=6, patch_size=48, **KINDS[request.param])
    with torch.no_grad():
        for layer in (net.policy.state_encoder[0], net.policy.state_encoder[-2], net.policy.actor[0]):
            layer.weight.mul_(5)
    return net


@pytest.fixture(scope="module")
def images():
    return random_images(9, 80, seed=1)


def recorded(choose, actions):
    def chooser(feature_map, step):
        actions.append(choose(feature_map, step))
        return actions[-1]

    return chooser


def test_the_learned_policy_s_steps_are_the_trace(model, images):
    trace = model.trace(model.normalise(images))
    actions = []
    with torch.no_grad():
        out = unroll(model, images, recorded(learned(model), actions))
    assert out.logits.dtype == torch.float32
    torch.testing.assert_close(torch.stack(actions), trace.actions, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.logits, trace.logits, rtol=1e-4, atol=1e-4)
    assert (trace.origins.amax((0, 1)) - trace.origins.amin((0, 1))).min() >= 4
    batches = [images[:4], images[4:]]
    torch.testing.assert_close(step_logits(model, batches), trace.logits, rtol=1e-4, atol=1e-4)


def test_views_are_the_model_s_own_pixels(model, images):
    views = Views(model, images)
    whole = model.normalise(images)
    torch.testing.assert_close(views.thumbnail(), model.thumbnail(whole), rtol=1e-5, atol=1e-5)
    actions = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.26]] * 3)
    patch = views.patch(actions)
    for row, (top, left) in enumerate([(0, 32), (32, 0), (16, 8)] * 3):
        expected = whole[row, :, top : top + 48, left : left + 48]
        torch.testing.assert_close(patch[row], expected, rtol=1e-5, atol=1e-5)


def test_grey_canvases_need_no_copy(model):
    grey = random_images(3, 80)[..., :1]
    with torch.no_grad():
        spread = unroll(model, grey.expand(-1, -1, -1, 3), fixed_crops())
        copied = unroll(model, grey.repeat(1, 1, 1, 3), fixed_crops())
    assert torch.equal(spread.logits, copied.logits)


def test_auxiliary_logits_are_the_encoders_own(model, images):
    own = []
    for encoder in (model.global_encoder, model.local_encoder):
        encoder.backbone.get_classifier().register_forward_hook(lambda m, args, out: own.append(out))
    with torch.no_grad():
        out = unroll(model, images, fixed_crops())
    assert torch.equal(out.auxiliary, torch.stack(own[: model.config.steps]))
    assert torch.equal(out.logits[0], out.auxiliary[0]) == model.config.glance_head
    assert not torch.equal(out.logits[1], out.auxiliary[1])


def test_choosers_get_no_gradient_and_each_step_once(model, images):
    seen = []

    def choose(feature_map, step):
        seen.append(step)
        assert not feature_map.requires_grad
        assert feature_map.shape == (9, *model.map_shape)
        return torch.full((9, 2), 0.25)

    out = unroll(model, images, choose)
    assert seen == [2, 3, 4]
    assert out.logits.requires_grad
    step_loss(out, torch.zeros(9, dtype=torch.long), 1.0).backward()
    assert all(p.grad is None for p in model.policy.parameters())
    assert all(p.grad is not None for p in model.global_encoder.parameters())


def test_loss_by_hand():
    model = tiny_model("cascaded")
    out = unroll(model, random_images(2, 80), fixed_crops())
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]]))
    out = out._replace(logits=torch.stack([logits] * 4), auxiliary=torch.zeros(4, 2, 3))
    labels = torch.tensor([0, 2])
    # Every step: (ln 2 + ln 8) / 2 = 2 ln 2; the own heads know nothing: ln 3.
    expected = 2 * torch.tensor(2.0).log() + 5 * torch.tensor(3.0).log()
    torch.testing.assert_close(step_loss(out, labels, 5.0), expected)


def test_bfloat16_encoders_leave_actions_and_losses_in_float32(images):
    model = tiny_model("recurrent", seed=2, patch_size=48)
    dtypes = []

    def choose(feature_map, step):
        dtypes.append(feature_map.dtype)
        action = model.policy(feature_map, None)[0]
        dtypes.append(action.dtype)
        return action

    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        out = unroll(model, images, choose)
    assert set(dtypes) == {torch.float32}
    assert out.logits.dtype == torch.float32
    exact = model.trace(model.normalise(images)).logits[0]
    assert 0 < (out.logits[0] - exact).abs().max() < 0.1 * exact.abs().max()


def test_actions_that_are_not_numbers(images):
    views = Views(tiny_model("cascaded"), images)
    actions = torch.rand(9, 2)
    actions[4, 1] = float("nan")
    with pytest.raises(TrainingError, match="1 of 9"):
        views.patch(actions)
