"""Multiply-adds, counted by torch over convolutions, linear layers and GRUs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from gfnet_fast.model.classifiers import RecurrentClassifier

if TYPE_CHECKING:
    from gfnet_fast.model.gfnet import GFNet

Value = TypeVar("Value")


def count_macs(model: GFNet) -> tuple[int, ...]:
    """Multiply-adds of one image that exits at step 1, 2, ..., T; nothing is computed.

    A policy call counts towards the step that it prepares. As in the published figures, a classifier's
    linear layer counts at the glance too where the glance's logits are the encoder's own (1.0 of 118
    million for RegNetY-600MF).
    """
    shadow = copy.deepcopy(model).to("meta").eval()
    size = model.config.patch_size
    patch = torch.empty(1, 3, size, size, device="meta")
    glance, (_, state) = _counted(lambda: shadow.first_step(patch))
    if isinstance(shadow.classifier, RecurrentClassifier) and model.config.glance_head:
        glance += shadow.classifier.fc.weight.numel()
    look, (_, state) = _counted(lambda: shadow.look(state))
    encode, (_, feature) = _counted(lambda: shadow.local_encoder(patch))
    costs, memory = [glance], state.classifier
    for step in range(2, model.config.steps + 1):
        classify, (_, memory) = _counted(lambda step=step, memory=memory: shadow.classifier(feature, memory, step))
        costs.append(costs[-1] + look + encode + classify)
    return tuple(costs)


def _counted(run: Callable[[], Value]) -> tuple[int, Value]:
    """Multiply-adds of `run`, and its result; the counter counts two operations for each."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        value = run()
    return counter.get_total_flops() // 2, value


def static_macs(model: GFNet) -> int:
    """Multiply-adds of the backbone alone on one full S x S image, its own linear layer included."""
    shadow = copy.deepcopy(model.local_encoder).to("meta").eval()
    size = model.config.image_size
    image = torch.empty(1, 3, size, size, device="meta")
    return _counted(lambda: shadow.head(shadow(image)[1]))[0]
