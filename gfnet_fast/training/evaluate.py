"""How good is each step: accuracy with the learned policy and with others, for comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gfnet_fast.config import GFNetConfig
from gfnet_fast.exits import ModelIdentity, calibrate, exit_steps
from gfnet_fast.intervals import wilson
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training.unroll import Chooser, unroll

# Centre, then the corners (row, column), and round again: needs no training.
_CENTRE_THEN_CORNERS = [(0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]


def learned(model: GFNet) -> Chooser:
    """The policy's mean actions, as in inference; one chooser for each batch, as it remembers."""
    memory: Tensor | None = None

    def choose(feature_map: Tensor, step: int) -> Tensor:
        nonlocal memory
        action, memory = model.policy(feature_map, memory)
        return action

    return choose


def random_crops(seed: int = 0) -> Chooser:
    """Uniform actions."""
    generator = torch.Generator().manual_seed(seed)
    return lambda feature_map, step: torch.rand(len(feature_map), 2, generator=generator).to(
        feature_map.device
    )


def fixed_crops(centre_only: bool = False) -> Chooser:
    """The centre, then the four corners; or the centre only."""

    def choose(feature_map: Tensor, step: int) -> Tensor:
        at = _CENTRE_THEN_CORNERS[0 if centre_only else (step - 2) % 5]
        return torch.tensor(at, device=feature_map.device).expand(len(feature_map), 2)

    return choose


def actions_at(centres: Tensor, config: GFNetConfig) -> Tensor:
    """Actions ``[B, 2]`` whose crops have these centres, (row, column) in pixels, or lie at the edge."""
    free = [max(side - config.patch_size, 1) for side in config.canvas]
    corner = (centres - config.patch_size / 2).unbind(1)
    return torch.stack([at / most for at, most in zip(corner, free, strict=True)], 1).clamp(0, 1)


def saliency_crops(model: GFNet) -> Chooser:
    """Where the glance's feature map is strongest; step by step the next strongest cell.

    The map's energy (the sum of squares over channels) of the thumbnail names cells; a crop is centred
    on a cell. No training.
    """
    config = model.config
    order: Tensor | None = None
    rows = columns = 0

    def choose(feature_map: Tensor, step: int) -> Tensor:
        nonlocal order, rows, columns
        if order is None:
            rows, columns = feature_map.shape[2:]
            order = (feature_map**2).sum(1).flatten(1).argsort(1, descending=True)
        cell = order[:, min(step - 2, order.shape[1] - 1)]
        height, width = config.canvas
        centre = [(cell // columns + 0.5) * (height / rows), (cell % columns + 0.5) * (width / columns)]
        return actions_at(torch.stack(centre, 1), config)

    return choose


def oracle_crops(boxes: Tensor, model: GFNet) -> Chooser:
    """The crop centred on the object; `boxes` ``[B, 4]``: top, left, bottom, right in pixels."""
    action = actions_at((boxes[:, :2] + boxes[:, 2:]) / 2, model.config)
    return lambda feature_map, step: action.to(feature_map.device)


@torch.no_grad()
def step_logits(
    model: GFNet, batches: Iterable[Tensor], chooser: Callable[[int], Chooser] | None = None
) -> Tensor:
    """``[T, N, K]`` logits of every step, by default with the learned policy.

    Parameters
    ----------
    batches : uint8 ``[B, H, W, 3]`` tensors
    chooser : called with the number of images before a batch; gives the batch's chooser
    """
    model.eval()
    parts, seen = [], 0
    for images in batches:
        choose = learned(model) if chooser is None else chooser(seen)
        parts.append(unroll(model, images, choose).logits)
        seen += len(images)
    return torch.cat(parts, 1)


class Scores(NamedTuple):
    """confidence : float32 ``[T, N]``, largest softmax probability; right : bool ``[T, N]``."""

    confidence: Tensor
    right: Tensor


@torch.no_grad()
def step_scores(
    model: GFNet, batches: Iterable[tuple[Tensor, Tensor]], chooser: Callable[[int], Chooser] | None = None
) -> Scores:
    """How sure and how right every step is, on the CPU; batches are of images and labels.

    Otherwise as :func:`step_logits`.
    """
    model.eval()
    steps, seen = model.config.steps, 0
    confidences, rights = [torch.empty(steps, 0)], [torch.empty(steps, 0, dtype=torch.bool)]
    for images, labels in batches:
        choose = learned(model) if chooser is None else chooser(seen)
        confidence, label = unroll(model, images, choose).logits.softmax(-1).max(-1)
        confidences.append(confidence.cpu())
        rights.append((label == labels).cpu())
        seen += len(images)
    return Scores(torch.cat(confidences, 1), torch.cat(rights, 1))


def find_exits(model: GFNet, heldout: Scores, data_hash: str) -> None:
    """Give `model` its thresholds and their calibration, found on held-out images."""
    identity = ModelIdentity.of(model)
    found = calibrate(identity, heldout.confidence.numpy(), heldout.right.numpy(), data_hash=data_hash)
    model.calibration = found
    model.thresholds = torch.from_numpy(found.thresholds.copy())
    model.default_row = found.default_row


def summary(model: GFNet, by_policy: Mapping[str, Scores]) -> dict[str, Any]:
    """Accuracy by step of each policy, with 95 % intervals, and what "learned" does with early exit."""
    out: dict[str, Any] = {"policies": {}}
    for name, scores in by_policy.items():
        count = scores.right.shape[1]
        out["policies"][name] = [
            {"accuracy": total / count, "interval": wilson(total, count)}
            for total in scores.right.sum(1).tolist()
        ]
    confidence, right = by_policy["learned"]
    steps = torch.from_numpy(exit_steps(confidence, model.default_thresholds()))
    hits = right[steps - 1, torch.arange(len(steps))]
    at = [steps == k for k in range(1, model.config.steps + 1)]
    assert model.config.macs is not None
    out["exits"] = {
        "thresholds": model.default_thresholds().tolist(),
        "accuracy": hits.float().mean().item(),
        "interval": wilson(int(hits.sum()), len(hits)),
        "all_steps": right[-1].float().mean().item(),
        "shares": [here.float().mean().item() for here in at],
        "accuracies": [hits[here].float().mean().item() if here.any() else None for here in at],
        "mean_steps": steps.float().mean().item(),
        "mean_macs": sum(model.config.macs[k - 1] for k in steps.tolist()) / len(steps),
    }
    return out
