"""The two stages of fixed shape, glance and focus: rows of slots in, exit flags out, all else in the arena.

    glance   thumbnail -> global encoder -> classifier -> exits
    focus    policy -> crop -> local encoder -> classifier -> exits

The policy runs at the start of the focus pass that it is for, so that images that have left do not pay for
it. Rows of slot -1 are padding. A launch writes to the arena when all of it has been computed, so that one
that raises can be run again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gfnet_kernels as gk
import numpy as np
import torch
from torch import Tensor, nn

from gfnet_fast._scheduler import CostTable, Stage
from gfnet_fast.config import GFNetConfig
from gfnet_fast.engine.arena import Arena
from gfnet_fast.engine.prepare import Prepared, best_time, compiled
from gfnet_fast.model.classifiers import CascadedClassifier, RecurrentClassifier
from gfnet_fast.model.gfnet import GFNet

Run = Callable[[Stage, Tensor, Tensor], Tensor]


class RecurrentRows(nn.Module):
    """The recurrent classifier on rows at any steps. It keeps its hidden state; logits are float32."""

    def __init__(self, classifier: RecurrentClassifier, dtype: torch.dtype) -> None:
        super().__init__()
        self.gru = copy.deepcopy(classifier.gru).to(dtype)
        self.fc = copy.deepcopy(classifier.fc).float()
        self.width = classifier.gru.hidden_size

    def first(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        return self(feature, None, None)

    def forward(self, feature: Tensor, memory: Tensor | None, steps: Tensor | None) -> tuple[Tensor, Tensor]:
        """``feature [n, F]``, ``memory [n, W]`` -> ``(logits [n, K], state [n, W])``."""
        state = self.gru(feature, memory)
        return self.fc(state.float()), state

    def kept(self, memory: Tensor) -> Tensor:
        """Arena rows as they take what the forward pass gives."""
        return memory


class CascadedRows(nn.Module):
    """The cascaded classifier on rows at any steps. It keeps the feature of each step; logits are float32.

    Rows come in ascending order of step, and each run of a step goes through its own layer. With `fixed`,
    which is for captured graphs and for results that do not depend on the company, all rows go through
    every layer.
    """

    def __init__(
        self,
        classifier: CascadedClassifier,
        config: GFNetConfig,
        feature_dim: int,
        dtype: torch.dtype,
        fixed: bool,
    ) -> None:
        super().__init__()
        layers = (getattr(classifier, f"fc_{step}") for step in range(2, config.steps + 1))
        self.layers = nn.ModuleList(copy.deepcopy(layer).to(dtype) for layer in layers)
        self.steps, self.classes = config.steps, config.classes
        self.feature_dim, self.fixed = feature_dim, fixed
        self.width = config.steps * feature_dim

    def first(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        return feature[:, :0], feature  # the glance's logits are the encoder's own

    def forward(self, feature: Tensor, memory: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """``feature [n, F]``, ``memory [n, T F]``, ``steps [n]`` -> ``(logits [n, K], feature)``."""
        logits = torch.zeros(len(feature), self.classes, dtype=torch.float32, device=feature.device)
        begin = 0
        counts = [0] if self.fixed else torch.bincount(steps, minlength=self.steps + 1).tolist()
        for step, layer in enumerate(self.layers, 2):
            seen = (step - 1) * self.feature_dim
            if self.fixed:
                found = layer(torch.cat([memory[:, :seen], feature], 1)).float()
                logits = torch.where((steps == step)[:, None], found, logits)
            elif counts[step]:
                rows = slice(begin, begin + counts[step])
                logits[rows] = layer(torch.cat([memory[rows, :seen], feature[rows]], 1))
                begin += counts[step]
        return logits, feature

    def kept(self, memory: Tensor) -> Tensor:
        """Arena rows as they take what the forward pass gives, each step's feature at its place."""
        return memory.unflatten(1, (self.steps, self.feature_dim))


class Look(nn.Module):
    """The policy's next crops; its GRU, its last layer and the floor are float32."""

    def __init__(self, model: GFNet, dtype: torch.dtype) -> None:
        super().__init__()
        policy = model.policy
        self.state_encoder = copy.deepcopy(policy.state_encoder).to(dtype)
        self.gru, self.actor = copy.deepcopy(policy.gru), copy.deepcopy(policy.actor)
        self.shape = (-1,) if policy.flattens_first else model.map_shape

    def forward(self, feature_map: Tensor, state: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
        """``map [n, M]``, ``state [n, W]``, ``room [n, 2]`` -> ``(origins int32 [n, 2], state)``."""
        state = self.gru(self.state_encoder(feature_map.unflatten(1, self.shape)).float(), state)
        # Not a number would become an address: it is the first row and column instead.
        action = self.actor(state).nan_to_num(0.0)
        return torch.floor(action * room).int(), state


class Stages:
    """Both stages of a model, prepared, on one arena.

    Attributes
    ----------
    encode_glance, encode_focus : ``[n, 3, P, P]`` -> ``(map [n, C, h, w], vector [n, F])``
    look, classify : the policy and the classifier
    folded : batch norms folded in both encoders
    """

    def __init__(
        self,
        model: GFNet,
        arena: Arena,
        rows: int,
        *,
        dtype: torch.dtype,
        compile: bool,
        fixed: bool,
        layout: torch.memory_format | None,
    ) -> None:
        """`rows`: the batch size at which the layout is chosen where none is given."""
        config = model.config
        self.config, self.arena, self.dtype = config, arena, dtype
        if arena.device.type == "cpu":
            rows = min(rows, 8)  # enough to tell, and seconds less than a large batch
        glance = Prepared(model.global_encoder, config.patch_size, rows, dtype, layout)
        focus = Prepared(model.local_encoder, config.patch_size, rows, dtype, glance.layout)
        self.folded, self.layout = glance.folded + focus.folded, glance.layout
        # A copy like all else here: the model may be trained on.
        self.head = copy.deepcopy(model.global_encoder).head if config.glance_head else None
        self.classifier = classifier_rows(model, dtype, fixed)
        wrap: Callable[[Any], Any] = compiled if compile else lambda module: module
        self.encode_glance, self.encode_focus = wrap(glance), wrap(focus)
        self.look = wrap(Look(model, dtype).eval().requires_grad_(False))
        whole = isinstance(self.classifier, RecurrentRows) or fixed
        self.classify = wrap(self.classifier) if whole else self.classifier

    def run(self, stage: Stage, slots: Tensor, steps: Tensor) -> Tensor:
        """One launch: int32 ``[bucket]`` slots and the steps they take -> bool ``[bucket]``, who leaves."""
        return self.glance(slots, steps) if stage is Stage.GLANCE else self.focus(slots, steps)

    def glance(self, slots: Tensor, steps: Tensor) -> Tensor:
        c, arena = self.config, self.arena
        mean, std = self._normalisation()
        thumbnails = gk.glance(arena.table, slots, c.patch_size, c.glance_filter, mean, std, self.dtype)
        feature_map, feature = self.encode_glance(thumbnails)
        logits, memory = self.classifier.first(feature)
        if self.head is not None:
            logits = self.head(feature.float())
        policy = torch.zeros_like(arena.policy[:1]).expand(len(slots), -1)
        return self.keep(slots, steps, logits, feature_map, policy, memory)

    def focus(self, slots: Tensor, steps: Tensor) -> Tensor:
        c, arena = self.config, self.arena
        mean, std = self._normalisation()
        seen, state, room, earlier = self.read(slots)
        origins, policy = self.look(seen, state, room)
        patches = gk.crop(arena.table, slots, origins, c.patch_size, mean, std, self.dtype)
        feature_map, feature = self.encode_focus(patches)
        logits, memory = self.classify(feature, earlier, steps)
        return self.keep(slots, steps, logits, feature_map, policy, memory, origins)

    def read(self, slots: Tensor) -> tuple[Tensor, ...]:
        """What a focus pass goes on from: map, policy, room and memory of the slots, all at once."""
        arena = self.arena
        return gk.gather_all((arena.feature_map, arena.policy, arena.room, arena.memory), slots)

    def keep(
        self,
        slots: Tensor,
        steps: Tensor,
        logits: Tensor,
        feature_map: Tensor,
        policy: Tensor,
        memory: Tensor,
        origins: Tensor | None = None,
    ) -> Tensor:
        """Decide who leaves, and write what the launch has found to the arena, all at once."""
        arena = self.arena
        confidence, label, exited = gk.exits(logits, steps, arena.thresholds, slots=slots)
        found = [
            (arena.feature_map, feature_map.flatten(1)),
            (arena.policy, policy),
            (self.classifier.kept(arena.memory), memory),
            (arena.logits, logits),
            (arena.confidence, confidence[:, None]),
            (arena.label, label[:, None]),
        ]
        if origins is not None:
            found.append((arena.origins, origins))
        arenas, rows = zip(*found, strict=True)
        gk.scatter_all(arenas, slots, rows, steps)
        return exited

    def _normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation for the images in flight: floats come normalised."""
        if self.arena.table.dtype == torch.uint8:
            return self.config.mean, self.config.std
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def classifier_rows(model: GFNet, dtype: torch.dtype, fixed: bool) -> RecurrentRows | CascadedRows:
    rows: RecurrentRows | CascadedRows
    if isinstance(model.classifier, RecurrentClassifier):
        rows = RecurrentRows(model.classifier, dtype)
    else:
        rows = CascadedRows(model.classifier, model.config, model.feature_dim, dtype, fixed)
    return rows.eval().requires_grad_(False)


def widths_of(model: GFNet) -> tuple[int, int, int]:
    """Widths of an arena's rows: feature map, policy state and classifier memory."""
    c = model.config
    memory = c.classifier_width if c.classifier == "recurrent" else c.steps * model.feature_dim
    return torch.Size(model.map_shape).numel(), c.policy_width, memory


def measure(stages: Stages, buckets: Sequence[int], run: Run, *, warm_up: bool) -> CostTable:
    """Seconds of each stage at each bucket, largest first, on blank images in an arena that holds none.

    `run` is `stages.run`, or what does the same; `warm_up`: whether its first call at a bucket is special.
    """
    arena, size = stages.arena, stages.config.image_size
    rows = min(arena.capacity, buckets[-1])
    blank = torch.zeros(size, size, 3, dtype=torch.uint8, device=arena.device).expand(rows, -1, -1, -1)
    arena.put(np.arange(rows, dtype=np.int32), blank)
    costs: dict[Stage, list[tuple[int, float]]] = {Stage.GLANCE: [], Stage.FOCUS: []}

    def launch(stage: Stage, bucket: int) -> object:
        slots = torch.arange(bucket, dtype=torch.int32, device=arena.device)
        slots[rows:] = -1
        return run(stage, slots, torch.full_like(slots, 1 if stage is Stage.GLANCE else 2))

    launch(Stage.GLANCE, buckets[-1])  # the first large launch fetches memory from the system, at a price
    for stage, table in costs.items():
        for bucket in reversed(buckets):
            seconds = best_time(partial(launch, stage, bucket), arena.device, warm_up=warm_up)
            table.insert(0, (bucket, seconds))
    arena.release_all()
    return CostTable(costs[Stage.GLANCE], costs[Stage.FOCUS])
