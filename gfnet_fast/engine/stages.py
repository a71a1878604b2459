"""The two stages of fixed shape, glance and focus: a block in, a record out, all else in the arena.

    glance   admit -> thumbnail -> global encoder -> classifier -> settle
    focus    take -> policy -> crop -> local encoder -> classifier -> settle

The policy runs at the start of the focus pass that it is for, so that images that have left do not pay for
it. Rows of slot -1 are padding. A launch settles when all of it has been computed, so that one that raises
can be run again: who leaves, what the arena keeps, the answers, the queue, the record.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gfnet_kernels as gk
import torch
from torch import Tensor, nn

from gfnet_fast._scheduler import Stage
from gfnet_fast.config import GFNetConfig
from gfnet_fast.engine.arena import Arena
from gfnet_fast.engine.blocks import Admission, Block
from gfnet_fast.engine.runtimes import Runtime
from gfnet_fast.errors import DeviceError
from gfnet_fast.model.classifiers import CascadedClassifier, RecurrentClassifier
from gfnet_fast.model.gfnet import GFNet


class RecurrentRows(nn.Module):
    """The recurrent classifier on rows at any steps. It keeps its hidden state; logits are float32."""

    def __init__(self, classifier: RecurrentClassifier) -> None:
        super().__init__()
        self.gru: nn.Module = copy.deepcopy(classifier.gru)
        self.inputs = (classifier.gru.input_size,), (classifier.gru.hidden_size,)
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


class Flattened(nn.Module):
    """``[n, C, h, w]`` -> ``[n, h w C]``: no copy of what lies channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def columns_last(linear: nn.Linear, shape: Sequence[int]) -> None:
    """Permute the columns of a layer on a map flattened in channel, row, column order: channels go last."""
    weight = linear.weight.unflatten(1, tuple(shape)).permute(0, 2, 3, 1).flatten(1)
    linear.weight = nn.Parameter(weight.contiguous(), requires_grad=False)


class Look(nn.Module):
    """The policy's next crops; its GRU, its last layer and the floor are float32.

    It takes maps as :meth:`Stages.stored` flattens them.
    """

    def __init__(self, model: GFNet, layout: torch.memory_format) -> None:
        super().__init__()
        policy, (channels, rows, columns) = model.policy, model.map_shape
        encoder: Any = copy.deepcopy(policy.state_encoder)
        self.last = layout == torch.channels_last
        self.shape = (rows, columns, channels) if self.last else (channels, rows, columns)
        self.flattens_first = policy.flattens_first
        if self.last and policy.flattens_first:
            columns_last(encoder[0], model.map_shape)
        elif self.last:
            convolution, flatten, linear = encoder[0], 2, encoder[3]
            encoder[flatten] = Flattened()
            columns_last(linear, (convolution.out_channels, rows, columns))
        self.state_encoder = encoder
        # Of the state encoder, without the batch.
        shape = (torch.Size(model.map_shape).numel(),) if policy.flattens_first else tuple(model.map_shape)
        self.inputs = (shape,)
        self.gru, self.actor = copy.deepcopy(policy.gru), copy.deepcopy(policy.actor)

    def forward(self, feature_map: Tensor, state: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
        """``map [n, M]``, ``state [n, W]``, ``room [n, 2]`` -> ``(origins int32 [n, 2], state)``."""
        seen = feature_map
        if not self.flattens_first:
            seen = seen.unflatten(1, self.shape)
            seen = seen.permute(0, 3, 1, 2) if self.last else seen
        state = self.gru(self.state_encoder(seen).float(), state)
        # Not a number would become an address: it is the first row and column instead.
        action = self.actor(state).nan_to_num(0.0)
        return torch.floor(action * room).int(), state


class Stages:
    """Both stages of a model, prepared, on one arena.

    Attributes
    ----------
    encode_glance, encode_focus : ``[n, 3, P, P]`` -> ``(map [n, C, h, w], vector [n, F])``
    look, classify : the policy and the classifier
    kept : the type of crops, maps and memories
    settling : a launch has begun to write what it has found, and not ended: it cannot be run again
    """

    def __init__(
        self,
        model: GFNet,
        arena: Arena,
        rows: int,
        *,
        runtime: Runtime,
        dtype: torch.dtype,
        fixed: bool,
        queued: bool,
        layout: torch.memory_format | None,
    ) -> None:
        """`rows`: the batch size at which the layout is chosen where none is given; `queued`: whether a focus
        launch takes its rows from the queue, not from its block; `fixed`: as for :class:`CascadedRows`.
        """
        config = model.config
        self.config, self.arena, self.kept = config, arena, runtime.kept(dtype)
        if arena.device.type == "cpu":
            rows = min(rows, 8)  # enough to tell, and seconds less than a large batch
        patch = config.patch_size, config.patch_size
        parts = parts_of(model, dtype)
        glance = runtime.encoder(parts["global_encoder"], patch, rows, dtype, layout)
        focus = runtime.encoder(parts["local_encoder"], patch, rows, dtype, glance.layout)
        self.layout = glance.layout
        # A copy like all else here: the model may be trained on.
        self.head = copy.deepcopy(model.global_encoder).head if config.glance_head else None
        classifier, look = classifier_rows(model, self.kept, fixed), Look(model, self.layout)
        if isinstance(classifier, RecurrentRows):
            gru = parts.get("classifier", classifier.gru)
            classifier.gru = runtime.layer(gru, dtype, *classifier.inputs)
        look.state_encoder = runtime.layer(parts.get("policy", look.state_encoder), dtype, *look.inputs)
        self.classifier = classifier.eval().requires_grad_(False)
        self.encode_glance, self.encode_focus = runtime.whole(glance), runtime.whole(focus)
        self.look = runtime.whole(look.eval().requires_grad_(False))
        self.queued, self.by_step = queued, isinstance(classifier, CascadedRows) and not fixed
        self.classify = self.classifier if self.by_step else runtime.whole(self.classifier)
        self.settling = False

    def run(self, stage: Stage, bucket: int, block: Block) -> None:
        """One launch of `bucket` rows: those that the block names, or as many from the queue as it says."""
        self.settling = False
        block.down(stage, bucket)
        slots, steps = self.take(stage, bucket, block)
        (self.glance if stage is Stage.GLANCE else self.focus)(block, slots, steps)
        block.up(bucket)

    def drop(self, stage: Stage, bucket: int, block: Block) -> None:
        """Instead of a launch of one row that cannot be computed: it leaves with the answer that it has."""
        block.down(stage, bucket)
        slots, steps = self.take(stage, bucket, block)
        if stage is Stage.GLANCE:
            self.admit(block, slots)
        reason = torch.full_like(slots, gk.ERROR).masked_fill_(slots < 0, gk.STAYS)
        self.deliver(slots, reason, steps - 1)
        self.settle(block, slots, reason, steps - 1, stage)
        block.up(bucket)

    def take(self, stage: Stage, bucket: int, block: Block) -> tuple[Tensor, Tensor]:
        """Slots of a launch, int32 ``[bucket]``, and the steps they are about to take."""
        if not self.queued:
            self.arena.clear()  # what settles is appended all the same, and nobody takes it
        if stage is Stage.GLANCE or not self.queued:
            return block.device.slots[:bucket], block.device.steps[:bucket]
        arena, by_step = self.arena, self.by_step
        return gk.take(arena.queue, arena.counters, block.device.wanted, arena.taken, bucket, by_step=by_step)

    def admit(self, block: Block, slots: Tensor) -> None:
        """Tell the slots of a glance all about their images."""
        arena, told = self.arena, Admission.of(block.device.admitted[: len(slots)], self.config.steps)
        homes = (
            (arena.table.entries, told.entry),
            (arena.places, told.places),
            (arena.deadlines[:, None], told.deadline),
            (arena.room, told.room),
            (arena.limits[:, None], told.limit),
            (arena.thresholds, told.thresholds),
        )
        gk.scatter_all([home for home, _ in homes], slots, [part for _, part in homes])

    def glance(self, block: Block, slots: Tensor, steps: Tensor) -> None:
        c, arena = self.config, self.arena
        self.admit(block, slots)
        mean, std = self._normalisation()
        thumbnails = gk.glance(arena.table, slots, c.patch_size, c.glance_filter, mean, std, self.kept)
        feature_map, feature = self.encode_glance(thumbnails)
        logits, memory = self.classifier.first(feature)
        if self.head is not None:
            logits = self.head(feature.float())
        policy = torch.zeros_like(arena.policy[:1]).expand(len(slots), -1)
        self.keep(Stage.GLANCE, block, slots, steps, logits, feature_map, policy, memory)

    def focus(self, block: Block, slots: Tensor, steps: Tensor) -> None:
        c, arena = self.config, self.arena
        mean, std = self._normalisation()
        seen, state, room, earlier = self.read(slots)
        origins, policy = self.look(seen, state, room)
        patches = gk.crop(arena.table, slots, origins, c.patch_size, mean, std, self.kept)
        feature_map, feature = self.encode_focus(patches)
        logits, memory = self.classify(feature, earlier, steps)
        self.keep(Stage.FOCUS, block, slots, steps, logits, feature_map, policy, memory, origins)

    def read(self, slots: Tensor) -> tuple[Tensor, ...]:
        """What a focus pass goes on from: map, policy, room and memory of the slots, all at once."""
        arena = self.arena
        return gk.gather_all((arena.feature_map, arena.policy, arena.room, arena.memory), slots)

    def keep(
        self,
        stage: Stage,
        block: Block,
        slots: Tensor,
        steps: Tensor,
        logits: Tensor,
        feature_map: Tensor,
        policy: Tensor,
        memory: Tensor,
        origins: Tensor | None = None,
    ) -> None:
        """Settle: decide who leaves, write what the launch has found, give the answers, move the queue."""
        arena = self.arena
        confidence, label, reason, at = gk.exits(
            logits, slots, steps, arena.thresholds, arena.limits, arena.deadlines, block.device.now
        )
        found = [
            (arena.feature_map, self.stored(feature_map)),
            (arena.policy, policy),
            (self.classifier.kept(arena.memory), memory),
            (arena.logits, logits),
            (arena.confidence, confidence[:, None]),
            (arena.label, label[:, None]),
            (arena.taken[:, None], steps[:, None]),
        ]
        if origins is not None:
            found.append((arena.origins, origins))
        homes, rows = zip(*found, strict=True)
        self.settling = True
        gk.scatter_all(homes, slots, rows, steps)
        self.deliver(slots, reason, at)
        self.settle(block, slots, reason, at, stage)
        self.settling = False

    def deliver(self, slots: Tensor, reason: Tensor, at: Tensor) -> None:
        """Write the answers of step `at` of those that leave to where they are wanted."""
        a = self.arena
        gk.deliver(slots, reason, at, a.label, a.confidence, a.logits, a.origins, a.places)

    def settle(self, block: Block, slots: Tensor, reason: Tensor, at: Tensor, stage: Stage) -> None:
        """Who stays to the queue's tail, who leaves to the block's record."""
        took, arena = self.queued and stage is Stage.FOCUS, self.arena
        gk.compact(slots, reason, at, arena.queue, arena.counters, block.record, took=took)

    def stored(self, feature_map: Tensor) -> Tensor:
        """A map ``[n, C, h, w]`` as rows of the arena, in the order in which the encoder lays it out."""
        order = (0, 2, 3, 1) if self.layout == torch.channels_last else (0, 1, 2, 3)
        return feature_map.permute(order).flatten(1)

    def _normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation for the images in flight: floats come normalised."""
        if self.arena.table.dtype == torch.uint8:
            return self.config.mean, self.config.std
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def classifier_rows(model: GFNet, dtype: torch.dtype, fixed: bool) -> RecurrentRows | CascadedRows:
    if isinstance(model.classifier, RecurrentClassifier):
        return RecurrentRows(model.classifier)
    return CascadedRows(model.classifier, model.config, model.feature_dim, dtype, fixed)


def parts_of(model: GFNet, dtype: torch.dtype) -> dict[str, Any]:
    """What a runtime takes of a model, by name; DeviceError where it has no int8 form for that `dtype`."""
    if dtype != torch.int8:
        return {"global_encoder": model.global_encoder, "local_encoder": model.local_encoder}
    if model.quantised is None:
        raise DeviceError("dtype int8: expected a model that `gfnet-fast quantize` has written, got another")
    return dict(model.quantised.graphs)


def widths_of(model: GFNet) -> tuple[int, int, int]:
    """Widths of an arena's rows: feature map, policy state and classifier memory."""
    c = model.config
    memory = c.classifier_width if c.classifier == "recurrent" else c.steps * model.feature_dim
    return torch.Size(model.map_shape).numel(), c.policy_width, memory
