"""What the networks of a model really see: their inputs at every step, on images of somebody's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gfnet_fast.engine.stages import Look
from gfnet_fast.model.classifiers import RecurrentClassifier
from gfnet_fast.model.gfnet import GFNet, crop_origins, crop_patches

Inputs = tuple[Tensor, ...]


class Gates(nn.Module):
    """A GRU cell of two linear layers, which can be quantised; an `nn.GRUCell` is one operation."""

    def __init__(self, cell: nn.GRUCell) -> None:
        super().__init__()
        self.width = width = cell.hidden_size
        self.feature = nn.Linear(cell.input_size, 3 * width)
        self.memory = nn.Linear(width, 3 * width)
        state = cell.state_dict()
        self.feature.load_state_dict({"weight": state["weight_ih"], "bias": state["bias_ih"]})
        self.memory.load_state_dict({"weight": state["weight_hh"], "bias": state["bias_hh"]})

    def forward(self, feature: Tensor, memory: Tensor) -> Tensor:
        """``[n, F]``, ``[n, W]`` -> ``[n, W]``."""
        reset, update, new = self.feature(feature).split(self.width, 1)
        reset_too, update_too, new_too = self.memory(memory).split(self.width, 1)
        update = torch.sigmoid(update + update_too)
        new = torch.tanh(new + torch.sigmoid(reset + reset_too) * new_too)
        return new + update * (memory - new)


def networks_of(model: GFNet) -> dict[str, nn.Module]:
    """The networks that are quantised, in float32, by their names; as an engine's stages call them.

    The encoders are the model's own.
    """
    look = Look(model, torch.channels_last)
    found: dict[str, nn.Module] = {
        "global_encoder": model.global_encoder,
        "local_encoder": model.local_encoder,
        "policy": look.state_encoder,
    }
    if isinstance(model.classifier, RecurrentClassifier):
        found["classifier"] = Gates(model.classifier.gru)
    return found


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode; what was in training mode is so again afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def views_of(model: GFNet, images: Iterable[Tensor], most: int, seed: int) -> dict[str, Inputs]:
    """At most so many inputs of each network, at random of all steps of all images.

    `images`: uint8 batches. Thumbnails for the one encoder, crops where the policy puts them for the other;
    the maps that the policy reads, channels-last where it flattens them; the vectors and the hidden states.
    """
    seen: dict[str, list[Inputs]] = {name: [] for name in networks_of(model)}
    with _evaluating(model):
        for batch in images:
            _see(model, batch, seen)
    generator = torch.Generator().manual_seed(seed)
    return {name: _some(parts, most, generator) for name, parts in seen.items()}


def _see(model: GFNet, batch: Tensor, seen: dict[str, list[Inputs]]) -> None:
    """Append what each network sees of a batch, at every step."""
    normalised = model.normalise(batch.to(model.device))
    view, state = model.thumbnail(normalised), None
    for step in range(1, model.config.steps + 1):
        encoder = model.global_encoder if step == 1 else model.local_encoder
        seen["global_encoder" if step == 1 else "local_encoder"].append((view,))
        feature_map, feature = encoder(view)
        if "classifier" in seen:
            width = model.config.classifier_width
            memory = feature.new_zeros(len(feature), width) if state is None else state.classifier
            seen["classifier"].append((feature, memory))
        _, state = model._classified((feature_map, feature), state, step)
        if step < model.config.steps:
            flat = model.policy.flattens_first
            seen["policy"].append((feature_map.permute(0, 2, 3, 1).flatten(1) if flat else feature_map,))
            action, state = model.look(state)
            origins = crop_origins(action, model.config.canvas, model.config.patch_size)
            view = crop_patches(normalised, origins, model.config.patch_size)


def _some(parts: list[Inputs], most: int, generator: torch.Generator) -> Inputs:
    whole = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    rows = torch.randperm(len(whole[0]), generator=generator)[:most]
    return tuple(column[rows].contiguous() for column in whole)
