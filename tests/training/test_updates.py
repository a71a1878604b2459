"""One update of each stage, worked out a second time here, from the published description.

The second working uses timm's own networks and the model's layers, but none of `gfnet_fast.training`: plain
slices and `F.interpolate`, `torch.distributions` for densities, loops for returns, `torch.optim` for steps.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from gfnet_fast.training.config import TrainConfig
from gfnet_fast.training.ppo import collect, ppo_loss, returns
from gfnet_fast.training.stages import TrainingError, train_classifier, train_policy
from tests.conftest import random_images, tiny_model

BATCH, SIZE, PATCH, STEPS, CLASSES = 8, 80, 48, 3, 7
KINDS = {
    "recurrent": {"policy": "linear", "policy_hidden": 20},
    "recurrent-glance-head": {"classifier": "recurrent", "glance_head": True, "glance_filter": "bilinear"},
    "cascaded": {"classifier": "cascaded"},
}
# Relative to a tensor's largest value, or to the length of an update; the two workings add up in
# different orders.
LOSS, GRADIENT, VALUE, UPDATE = 5e-5, 5e-4, 5e-4, 2e-3


@pytest.fixture(params=list(KINDS))
def model(request):
    return make(request.param)


def make(kind: str, seed: int = 4):
    return tiny_model(seed=seed, patch_size=PATCH, image_size=SIZE, steps=STEPS, **KINDS[kind])


class Numbers:
    """Fixed random numbers in torch's place: one table of uniform and one of normal draws, read in order."""

    def __init__(self, monkeypatch, calls: int = 12, seed: int = 3) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.uniform = torch.rand(calls, BATCH, 2, generator=generator)
        self.normal = torch.randn(calls, BATCH, 2, generator=generator)
        # Draws far outside 0..1, so that clamping is seen at both ends.
        self.normal[0::2, 0] = torch.tensor([30.0, -30.0])
        self.normal[1::2, 1] = torch.tensor([-30.0, 30.0])
        self.used = {"uniform": 0, "normal": 0}
        monkeypatch.setattr(torch, "rand", lambda *size, **_: self._take("uniform", size))
        monkeypatch.setattr(torch, "randn_like", lambda like, **_: self._take("normal", like.shape))

    def _take(self, kind: str, shape) -> torch.Tensor:
        assert tuple(shape) == (BATCH, 2)
        self.used[kind] += 1
        return getattr(self, kind)[self.used[kind] - 1].clone()


@pytest.fixture
def numbers(monkeypatch) -> Numbers:
    return Numbers(monkeypatch)


@pytest.fixture(scope="module")
def batch():
    images = random_images(BATCH, SIZE, seed=5)
    return images, torch.arange(BATCH) * 3 % CLASSES


def once(batch):
    return lambda epoch: [batch]


# --- the second working -------------------------------------------------------------------------------


def pixels(net, images):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (images.permute(0, 3, 1, 2) / 255.0 - mean) / std


def cut(x, actions):
    """P x P slices at floor(action * (S - P)); action 0 is the row, 1 the column."""
    out = []
    for image, (row, column) in zip(x, actions.tolist(), strict=True):
        i, j = (math.floor(torch.tensor(v).mul(SIZE - PATCH).item()) for v in (row, column))
        out.append(image[:, i : i + PATCH, j : j + PATCH])
    return torch.stack(out)


def encode(encoder, x):
    """Map, vector and own logits of a timm ResNet."""
    feature_map = encoder.backbone.forward_features(x)
    vector = feature_map.mean((2, 3))
    return feature_map, vector, F.linear(vector, encoder.backbone.fc.weight, encoder.backbone.fc.bias)


def classify(net, vectors, own):
    """Logits of the newest step from all steps' vectors; the glance's may be the encoder's own."""
    step = len(vectors)
    if net.config.classifier == "cascaded":
        if step == 1:
            return own
        fc = getattr(net.classifier, f"fc_{step}")
        return torch.cat(vectors, 1) @ fc.weight.T + fc.bias
    hidden = torch.zeros(len(own), net.config.classifier_width)
    for vector in vectors:
        hidden = net.classifier.gru(vector, hidden)
    if step == 1 and net.config.glance_head:
        return own
    return hidden @ net.classifier.fc.weight.T + net.classifier.fc.bias


def act(net, maps):
    """The policy's mean and its critic's value after the maps so far, its memory starting at zero."""
    hidden = torch.zeros(len(maps[0]), net.config.policy_width)
    for seen in maps:
        layers = net.policy.state_encoder
        if net.config.policy == "linear":
            x = F.relu(layers[2](F.relu(layers[0](seen.reshape(len(seen), -1)))))
        else:
            x = F.conv2d(seen, layers[0].weight).relu().reshape(len(seen), -1)
            x = F.relu(layers[3](x))
        hidden = net.policy.gru(x, hidden)
    actor, critic = net.policy.actor[0], net.policy.critic
    mean = torch.sigmoid(hidden @ actor.weight.T + actor.bias)
    return mean, (hidden @ critic.weight.T + critic.bias)[:, 0]


class Played(NamedTuple):
    logits: list[torch.Tensor]
    own: list[torch.Tensor]
    maps: list[torch.Tensor]
    means: list[torch.Tensor]
    actions: list[torch.Tensor]
    contrast: list[torch.Tensor]


def play(net, images, *, uniform=None, normal=None, std=0.1, contrast=None) -> Played:
    """All steps, with uniform actions or the policy's mean plus std x normal, clamped to 0..1."""
    x = pixels(net, images)
    thumbnail = F.interpolate(x, size=[PATCH, PATCH], mode=net.config.glance_filter, align_corners=True)
    feature_map, vector, own = encode(net.global_encoder, thumbnail)
    played = Played([classify(net, [vector], own)], [own], [], [], [], [])
    vectors = [vector]
    for k in range(STEPS - 1):
        played.maps.append(feature_map.detach())
        if uniform is not None:
            action = uniform[k]
        else:
            with torch.no_grad():
                mean = act(net, played.maps)[0]
            played.means.append(mean)
            action = (mean + std * normal[k]).clamp(min=0.0, max=1.0)
        if contrast is not None:
            _, vector, own = encode(net.local_encoder, cut(x, contrast[k]))
            played.contrast.append(classify(net, [*vectors, vector], own))
        feature_map, vector, own = encode(net.local_encoder, cut(x, action))
        vectors.append(vector)
        played.actions.append(action)
        played.logits.append(classify(net, vectors, own))
        played.own.append(own)
    return played


def supervised_loss(played, labels, auxiliary):
    def entropies(steps):
        return sum(-logits.log_softmax(1)[torch.arange(BATCH), labels].mean() for logits in steps)

    return (entropies(played.logits) + auxiliary * entropies(played.own)) / STEPS


def chances(logits, labels):
    return logits.softmax(1)[torch.arange(len(labels)), labels]


def rewards_of(played, labels, kind):
    p = [chances(logits, labels) for logits in played.logits]
    if kind == "difference":
        return [p[k + 1] - p[k] for k in range(STEPS - 1)]
    return [p[k + 1] - chances(played.contrast[k], labels) for k in range(STEPS - 1)]


def normalised_returns(rewards, gamma):
    sums = []
    for k in range(len(rewards)):
        sums.append(sum(gamma ** (j - k) * rewards[j] for j in range(k, len(rewards))))
    flat = torch.cat(sums)
    return [(r - flat.mean()) / (flat.std() + 1e-5) for r in sums]


def densities(means, actions, std):
    return [
        torch.distributions.Normal(m, std).log_prob(a).sum(1) for m, a in zip(means, actions, strict=True)
    ]


def policy_loss(net, played, before, targets, config):
    """-(clipped surrogate) + value_weight x squared error - entropy_weight x entropy; and the ratios."""
    terms, ratios = [], []
    for k in range(STEPS - 1):
        mean, value = act(net, played.maps[: k + 1])
        normal = torch.distributions.Normal(mean, config.action_std)
        ratio = (normal.log_prob(played.actions[k]).sum(1) - before[k]).exp()
        gain = targets[k] - value.detach()
        # The clip by cases: a good action's ratio counts up to 1 + clip, a bad one's down to 1 - clip.
        counted = torch.where(gain >= 0, ratio.clamp(max=1 + config.clip), ratio.clamp(min=1 - config.clip))
        error = config.value_weight * (targets[k] - value) ** 2
        terms.append(-counted * gain + error - config.entropy_weight * normal.entropy().sum(1))
        ratios.append(ratio.detach())
    return torch.cat(terms).mean(), torch.stack(ratios)


# --- comparing ----------------------------------------------------------------------------------------


def assert_near(got, expected, bound, name=""):
    scale = max(expected.abs().max().item(), 1e-3)
    assert (got - expected).abs().max().item() <= bound * scale, name


def assert_same_gradients(net, expected, of=""):
    wanted = {n: p.grad for n, p in expected.named_parameters() if n.startswith(of)}
    got = dict(net.named_parameters())
    compared = 0
    for name, gradient in wanted.items():
        if gradient is None:
            assert got[name].grad is None, name
        else:
            assert_near(got[name].grad, gradient, GRADIENT, name)
            compared += gradient.abs().max() > 1e-6
    assert compared > 5


def assert_same_state(net, expected):
    """All weights and batch-norm statistics."""
    for (name, got), want in zip(net.state_dict().items(), expected.state_dict().values(), strict=True):
        if got.is_floating_point():
            assert_near(got, want, VALUE, name)
        else:
            assert torch.equal(got, want), name


def assert_same_way(net, expected, start):
    """Where several updates led, part by part: rounding differences grow from one to the next."""
    parts = {name.split(".")[0] for name, _ in net.named_parameters()}
    for part in parts:
        states = ((v for k, v in m.named_parameters() if k.startswith(part)) for m in (net, expected, start))
        got, want, origin = (torch.cat([v.detach().flatten() for v in state]) for state in states)
        assert (got - want).norm() <= UPDATE * (want - origin).norm(), part


def moved(before, net):
    """Names of the parameters and buffers that are not bit-equal to a former state."""
    return {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}


def frozen_copy(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


# --- stages 1 and 3 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("train_global", [True, False], ids=["train-global", "global-frozen"])
@pytest.mark.parametrize("stage", [1, 3])
def test_one_update_of_encoders_and_classifier(model, numbers, batch, stage, train_global):
    config = TrainConfig(
        epochs=(0, 1, 1, 1),
        backbone_lr=0.02,
        classifier_lr=(0.1, 0.03),
        weight_decay=0.01,
        auxiliary=5.0,
        train_global=train_global,
    )
    images, labels = batch
    expected, before = copy.deepcopy(model), frozen_copy(model)

    expected.train()
    if not train_global:
        expected.global_encoder.eval().requires_grad_(False)
    draws = {"uniform": numbers.uniform} if stage == 1 else {"normal": numbers.normal}
    played = play(expected, images, **draws, std=config.action_std)
    loss = supervised_loss(played, labels, 5.0)
    loss.backward()
    groups = [
        {"params": expected.local_encoder.parameters(), "lr": 0.02},
        {"params": expected.classifier.parameters(), "lr": 0.1 if stage == 1 else 0.03},
    ]
    if train_global:
        groups.append({"params": expected.global_encoder.parameters(), "lr": 0.02})
    torch.optim.SGD(groups, momentum=0.9, weight_decay=0.01, nesterov=True).step()

    rows = []
    train_classifier(model, once(batch), stage, config, rows.append)

    (row,) = rows
    assert (row["stage"], row["epoch"]) == (stage, 0)
    assert row["loss"] == pytest.approx(loss.item(), rel=LOSS)
    right = [(logits.argmax(1) == labels).float().mean().item() for logits in played.logits]
    assert row["accuracy"] == pytest.approx(right)
    assert numbers.used == {"uniform": 2 * (stage == 1), "normal": 2 * (stage == 3)}
    if stage == 3:
        flat = torch.stack(played.actions)
        assert flat.min() == 0
        assert flat.max() == 1
    assert_same_gradients(model, expected)
    assert_same_state(model, expected)

    changed = moved(before, model)
    parts = ("local_encoder", "classifier") + ("global_encoder",) * train_global
    assert {name.split(".")[0] for name in changed} == set(parts)
    assert all(any(name.startswith(f"{part}.") and "running_mean" in name for name in changed)
               for part in parts if part != "classifier")  # fmt: skip
    assert not model.training


def test_momentum_and_cosine_over_epochs(numbers, batch, monkeypatch):
    model = make("cascaded")
    config = TrainConfig(epochs=(0, 4, 0, 0), backbone_lr=0.02, classifier_lr=(0.1, 0.01), weight_decay=1e-4)
    expected = copy.deepcopy(model).train()
    groups = [{"params": part.parameters(), "lr": 0.0} for part in (
        expected.local_encoder, expected.global_encoder, expected.classifier)]  # fmt: skip
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-4, nesterov=True)
    shares = [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]
    for epoch, share in enumerate(shares[:2]):
        for group, peak in zip(optimizer.param_groups, (0.02, 0.02, 0.1), strict=True):
            group["lr"] = peak * share
        optimizer.zero_grad()
        played = play(expected, batch[0], uniform=numbers.uniform[2 * epoch :])
        supervised_loss(played, batch[1], 1.0).backward()
        optimizer.step()

    rates, states, step = [], [], torch.optim.SGD.step

    def recording(self, *args, **kwargs):
        rates.append([group["lr"] for group in self.param_groups])
        step(self, *args, **kwargs)
        states.append(copy.deepcopy(model))

    monkeypatch.setattr(torch.optim.SGD, "step", recording)
    train_classifier(model, once(batch), 1, config, lambda row: None)

    assert len(rates) == 4
    for got, share in zip(rates, shares, strict=True):
        assert sorted(got) == pytest.approx(sorted([0.02 * share, 0.02 * share, 0.1 * share]))
    assert_same_way(states[1], expected, make("cascaded"))


def test_random_crops_do_not_ask_the_policy(numbers, batch):
    model = make("cascaded")
    model.policy.register_forward_pre_hook(lambda *_: pytest.fail("the policy was asked"))
    train_classifier(model, once(batch), 1, TrainConfig(epochs=(0, 1, 0, 0)), lambda row: None)


def test_a_frozen_global_encoder_gets_no_gradient(numbers, batch):
    model = make("recurrent")
    config = TrainConfig(epochs=(0, 1, 0, 1), train_global=False)
    for stage in (1, 3):
        train_classifier(model, once(batch), stage, config, lambda row: None)
    assert all(p.grad is None for p in model.global_encoder.parameters())
    assert all(p.requires_grad for p in model.parameters())


# --- stage 2 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", ["difference", "contrast"])
def test_one_update_of_the_policy(model, numbers, batch, reward):
    config = TrainConfig(epochs=(0, 0, 1, 0), policy_lr=0.01, reward=reward)
    images, labels = batch
    expected, before = copy.deepcopy(model), frozen_copy(model)

    with torch.no_grad():
        contrast = numbers.uniform if reward == "contrast" else None
        played = play(expected, images, normal=numbers.normal, std=0.1, contrast=contrast)
    rewards = rewards_of(played, labels, reward)
    targets = normalised_returns(rewards, 0.7)
    old = densities(played.means, played.actions, 0.1)
    loss, ratios = policy_loss(expected, played, old, targets, config)
    assert torch.allclose(ratios, torch.ones(()), atol=1e-5)
    loss.backward()
    torch.optim.Adam(expected.policy.parameters(), lr=0.01, betas=(0.9, 0.999)).step()

    rows = []
    train_policy(model, once(batch), config, rows.append)

    (row,) = rows
    assert (row["stage"], row["epoch"]) == (2, 0)
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert row["reward"] == pytest.approx([r.mean().item() for r in rewards], abs=1e-6)
    right = [(logits.argmax(1) == labels).float().mean().item() for logits in played.logits]
    assert row["accuracy"] == pytest.approx(right)
    assert_same_gradients(model, expected, of="policy")
    compare_adam(model, expected, 0.01)
    changed = moved(before, model)
    assert {name.split(".")[0] for name in changed} == {"policy"}
    for layer in ("actor.0.weight", "critic.weight", "gru.weight_ih"):
        assert f"policy.{layer}" in changed
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("policy"))


def compare_adam(model, expected, rate):
    """Adam's first step is its rate times the gradient's sign; that of a gradient near 0 is rounding's."""
    for (name, got), want in zip(model.policy.named_parameters(), expected.policy.parameters(), strict=True):
        if want.grad is None:
            continue
        certain = want.grad.abs() > 1e-3 * want.grad.abs().max()
        difference = (got - want).abs()
        assert difference[certain | (want.grad == 0)].max().item() <= 1e-2 * rate, name
        assert difference.max().item() <= 2.1 * rate, name


@pytest.mark.parametrize("reward", ["difference", "contrast"])
def test_episodes(model, numbers, batch, reward):
    images, labels = batch
    config = TrainConfig(reward=reward, action_std=0.25)
    with torch.no_grad():
        contrast = numbers.uniform if reward == "contrast" else None
        played = play(model, images, normal=numbers.normal, std=0.25, contrast=contrast)
    episodes = collect(model, images, labels, config)
    actions = torch.stack(played.actions)
    assert actions.min() == 0
    assert actions.max() == 1
    assert_near(episodes.actions, actions, VALUE)
    assert torch.equal(episodes.actions == 1, actions == 1)
    assert_near(episodes.maps, torch.stack(played.maps), VALUE)
    # The density is that of the action taken, after clamping.
    old = torch.stack(densities(played.means, played.actions, 0.25))
    assert_near(episodes.log_probs, old, VALUE)
    assert_near(episodes.rewards, torch.stack(rewards_of(played, labels, reward)), VALUE)
    assert torch.equal(episodes.correct, torch.stack([p.argmax(1) == labels for p in played.logits]))
    if reward == "difference":
        gained = chances(played.logits[-1], labels) - chances(played.logits[0], labels)
        assert_near(episodes.rewards.sum(0), gained, VALUE)


def test_returns_are_discounted_and_normalised():
    rewards = torch.tensor([[1.0, 0.0], [2.0, -1.0], [4.0, 0.5]])
    # By hand with gamma = 1/2: 1 + 2/2 + 4/4 = 3; 2 + 4/2 = 4; 4, and 0 - 1/2 + .5/4; -1 + .5/2; .5.
    plain = torch.tensor([[3.0, -0.375], [4.0, -0.75], [4.0, 0.5]])
    got = returns(rewards, 0.5)
    torch.testing.assert_close(got, (plain - plain.mean()) / (plain.std() + 1e-5))
    assert got.mean().item() == pytest.approx(0, abs=1e-6)
    assert got.std().item() == pytest.approx(1, abs=1e-4)
    listed = normalised_returns(list(torch.randn(4, 5)), 0.7)
    assert torch.cat(listed).std().item() == pytest.approx(1, abs=1e-4)


def test_the_clip_clips_on_the_second_pass(model, numbers, batch):
    images, labels = batch
    config = TrainConfig(epochs=(0, 0, 1, 0), policy_lr=0.02, ppo_epochs=2, clip=0.2)
    expected = copy.deepcopy(model)
    with torch.no_grad():
        played = play(expected, images, normal=numbers.normal * 0.5, std=0.1)
    numbers.normal.mul_(0.5)
    targets = normalised_returns(rewards_of(played, labels, "difference"), 0.7)
    old = densities(played.means, played.actions, 0.1)
    optimizer = torch.optim.Adam(expected.policy.parameters(), lr=0.02, betas=(0.9, 0.999))
    for _ in range(2):
        loss, ratios = policy_loss(expected, played, old, targets, config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (ratios < 0.8).any()
    assert (ratios > 1.2).any()

    start, unclipped, rows = copy.deepcopy(model), copy.deepcopy(model), []
    train_policy(model, once(batch), config, rows.append)
    assert rows[0]["loss"] == pytest.approx(loss.item(), rel=1e-2)
    got = torch.cat([p.grad.flatten() for p in model.policy.parameters()])
    want = torch.cat([p.grad.flatten() for p in expected.policy.parameters()])
    assert_near(got, want, 1e-2)
    assert_same_way(model, expected, start)

    numbers.used = {"uniform": 0, "normal": 0}
    train_policy(unclipped, once(batch), TrainConfig(**{**vars(config), "clip": 1e9}), rows.append)
    other = torch.cat([p.grad.flatten() for p in unclipped.policy.parameters()])
    assert (other - want).abs().max() > 0.05 * want.abs().max()


def test_a_clipped_action_has_no_gradient():
    """Past the clip in the direction of its advantage, an action no longer moves the actor."""
    model = make("recurrent")
    images, labels = random_images(BATCH, SIZE), torch.zeros(BATCH, dtype=torch.long)
    config = TrainConfig(value_weight=0.0, entropy_weight=0.0)
    torch.manual_seed(0)
    episodes = collect(model, images, labels, config)
    targets = torch.full_like(episodes.rewards, 100.0)  # every action is better than the critic expects
    for shift, clipped in ((-1.0, True), (1.0, False)):  # the ratio is e or 1 / e
        model.zero_grad()
        shifted = episodes._replace(log_probs=episodes.log_probs + shift)
        ppo_loss(model, shifted, targets, config).backward()
        norm = model.policy.actor[0].weight.grad.norm().item()
        assert (norm == 0) == clipped


# --- what must not happen -----------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_stops(batch):
    """Before the step: no weight has moved."""
    for stage in (1, 3):
        model = make("cascaded")
        with torch.no_grad():
            model.classifier.fc_3.bias[0] = math.nan
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        with pytest.raises(TrainingError, match=rf"stage {stage}, epoch 0.*nan"):
            train_classifier(model, once(batch), stage, TrainConfig(), lambda row: None)
        for name, p in model.named_parameters():
            assert torch.equal(p.nan_to_num(7.0), before[name].nan_to_num(7.0)), name
    model = make("cascaded")
    with torch.no_grad():
        model.policy.critic.bias[0] = math.inf
    with pytest.raises(TrainingError, match=r"stage 2, epoch 0.*inf"):
        train_policy(model, once(batch), TrainConfig(), lambda row: None)


@pytest.mark.parametrize("part", ["policy.actor.0.bias", "global_encoder.backbone.conv1.weight"])
def test_actions_that_are_not_numbers_stop(batch, part):
    """Weights that have diverged give actions that are no place to cut a crop at."""
    for run in (
        lambda model: train_classifier(model, once(batch), 3, TrainConfig(), lambda row: None),
        lambda model: train_policy(model, once(batch), TrainConfig(), lambda row: None),
    ):
        model = make("recurrent")
        with torch.no_grad():
            model.get_parameter(part).view(-1)[0] = math.nan
        with pytest.raises(TrainingError, match="finite"):
            run(model)
