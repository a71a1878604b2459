"""Shapes and multiply-adds of a network, found without computing it.

Multiply-adds are counted by torch over convolutions, linear layers and GRUs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gfnet_fast.model.classifiers import RecurrentClassifier

if TYPE_CHECKING:
    from gfnet_fast.model.gfnet import GFNet

Value = TypeVar("Value")
Module = TypeVar("Module", bound=nn.Module)


def shadow(module: Module) -> Module:
    """A copy of `module` on the meta device that keeps its shapes and its multiply-adds.

    Batch norms, which count nothing and change no shape, are left out: torch decomposes them on the meta
    device, which takes fifteen times as long as all the rest of a ResNet-50.
    """
    tensors = (*module.parameters(), *module.buffers())
    copied = copy.deepcopy(module, {id(t): _empty_like(t) for t in tensors}).eval()
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    return copied


def _empty_like(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def count_macs(model: GFNet) -> tuple[int, ...]:
    """Multiply-adds of one image that exits at step 1, 2, ..., T; nothing is computed.

    A policy call counts towards the step that it prepares. As in the published figures, a classifier's
    linear layer counts at the glance too where the glance's logits are the encoder's own (1.0 of 118
    million for RegNetY-600MF).
    """
    network = shadow(model)
    size = model.config.patch_size
    patch = torch.empty(1, 3, size, size, device="meta")
    glance, (_, state) = _counted(lambda: network.first_step(patch))
    if isinstance(network.classifier, RecurrentClassifier) and model.config.glance_head:
        glance += network.classifier.fc.weight.numel()
    look, (_, state) = _counted(lambda: network.look(state))
    encode, (_, feature) = _counted(lambda: network.local_encoder(patch))
    costs, memory = [glance], state.classifier
    for step in range(2, model.config.steps + 1):
        classify, (_, memory) = _counted(partial(network.classifier, feature, memory, step))
        costs.append(costs[-1] + look + encode + classify)
    return tuple(costs)


def _counted(run: Callable[[], Value]) -> tuple[int, Value]:
    """Multiply-adds of `run`, and its result; the counter counts two operations for each."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        value = run()
    return counter.get_total_flops() // 2, value


def static_macs(model: GFNet) -> int:
    """Multiply-adds of the backbone alone on one full image, its own linear layer included."""
    encoder = shadow(model.local_encoder)
    image = torch.empty(1, 3, *model.config.canvas, device="meta")
    return _counted(lambda: encoder.head(encoder(image)[1]))[0]
