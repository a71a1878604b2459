"""PPO for the policy, with everything else frozen (Wang et al. 2020, section 3.3, stage 2).

Actions, log-probabilities and rewards are float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training.config import TrainConfig
from gfnet_fast.training.distributed import ALONE, Draws, World
from gfnet_fast.training.unroll import Views


class Episodes(NamedTuple):
    """One batch of episodes of T - 1 actions.

    maps : ``[T-1, B, C, h, w]``, what the policy saw; means, actions : ``[T-1, B, 2]``
    log_probs, rewards : ``[T-1, B]``; correct : ``[T, B]`` bool
    """

    maps: Tensor
    means: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    correct: Tensor


def log_prob(actions: Tensor, means: Tensor, std: float) -> Tensor:
    """Log-density of ``[..., 2]`` actions under independent normals."""
    return (-((actions - means) ** 2) / (2 * std * std) - math.log(std * math.sqrt(2 * math.pi))).sum(-1)


def normal_entropy(std: float) -> float:
    """Of the two independent normals that an action is drawn from."""
    return 2 * (0.5 + 0.5 * math.log(2 * math.pi) + math.log(std))


@torch.no_grad()
def collect(
    model: GFNet, images: Tensor, labels: Tensor, config: TrainConfig, draws: Draws | None = None
) -> Episodes:
    """Play one episode an image, uint8 ``[B, H, W, 3]``, with sampled actions, in evaluation mode."""
    draws = draws or Draws()
    views = Views(model, images)
    logits, state = model.first_step(views.thumbnail())
    scores = [_true(logits, labels)]
    correct = [logits.argmax(1) == labels]
    maps, means, actions, log_probs, rewards = [], [], [], [], []
    for step in range(2, model.config.steps + 1):
        state = state._replace(feature_map=state.feature_map.float())
        maps.append(state.feature_map)
        with torch.autocast(images.device.type, enabled=False):
            mean, state = model.look(state)
        action = (mean + config.action_std * draws.normal(mean)).clamp(0, 1)
        before = state
        logits, state = model.next_step(views.patch(action), before, step)
        scores.append(_true(logits, labels))
        correct.append(logits.argmax(1) == labels)
        if config.reward == "difference":
            baseline = scores[-2]
        else:
            baseline = _true(model.next_step(views.patch(draws.uniform(mean)), before, step)[0], labels)
        means.append(mean)
        actions.append(action)
        log_probs.append(log_prob(action, mean, config.action_std))
        rewards.append(scores[-1] - baseline)
    return Episodes(*(torch.stack(part) for part in (maps, means, actions, log_probs, rewards, correct)))


def _true(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.float().softmax(1).gather(1, labels[:, None]).squeeze(1)


def returns(rewards: Tensor, gamma: float, world: World = ALONE) -> Tensor:
    """Discounted sums of the rewards to come, ``[T-1, B]``, normalised over the whole world's batch."""
    total, sums = torch.zeros_like(rewards[0]), []
    for reward in rewards.flip(0):
        total = reward + gamma * total
        sums.append(total)
    stacked = torch.stack(sums).flip(0)
    everyones = world.gathered(stacked)
    return (stacked - everyones.mean()) / (everyones.std() + 1e-5)


def ppo_loss(model: GFNet, episodes: Episodes, targets: Tensor, config: TrainConfig) -> Tensor:
    """Clipped surrogate + value loss - entropy, averaged over actions; `targets` are the returns."""
    memory, means, values = None, [], []
    for feature_map in episodes.maps:
        mean, memory = model.policy(feature_map, memory)
        means.append(mean)
        values.append(model.policy.value(memory))
    value = torch.stack(values)
    ratio = (log_prob(episodes.actions, torch.stack(means), config.action_std) - episodes.log_probs).exp()
    advantage = targets - value.detach()
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    surrogate = torch.minimum(ratio * advantage, clipped * advantage)
    error = (value - targets) ** 2
    entropy = normal_entropy(config.action_std)
    return (-surrogate + config.value_weight * error).mean() - config.entropy_weight * entropy
