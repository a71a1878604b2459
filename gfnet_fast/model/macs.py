"""Multiply-adds, counted by torch over convolutions, linear layers and GRUs."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from gfnet_fast.model.classifiers import RecurrentClassifier

if TYPE_CHECKING:
    from gfnet_fast.model.gfnet import GFNet


def count_macs(model: GFNet) -> tuple[int, ...]:
    """Multiply-adds of one image that exits at step 1, 2, ..., T; nothing is computed.

    A policy call counts towards the step that it prepares. As in the published figures, a classifier's
    linear layer counts at the glance too where the glance's logits are the encoder's own (1.0 of 118
    million for RegNetY-600MF). `torch.utils.flop_counter` counts two operations for a multiply-add.
    """
    shadow = copy.deepcopy(model).to("meta").eval()
    size = model.config.patch_size
    patch = torch.empty(1, 3, size, size, device="meta")
    costs = []
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            _, state = shadow.first_step(patch)
        costs.append(counter.get_total_flops() // 2)
        if isinstance(shadow.classifier, RecurrentClassifier) and model.config.glance_head:
            costs[0] += shadow.classifier.fc.weight.numel()
        for step in range(2, model.config.steps + 1):
            with FlopCounterMode(display=False) as counter:
                _, state = shadow.look(state)
                _, state = shadow.next_step(patch, state, step)
            costs.append(costs[-1] + counter.get_total_flops() // 2)
    return tuple(costs)
