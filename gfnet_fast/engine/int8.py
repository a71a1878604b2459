"""A model in int8 as a plain one: all steps, without an engine, for thresholds and measurements."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gfnet_fast.engine.runtimes import runtime_of
from gfnet_fast.engine.stages import Look, RecurrentRows, parts_of
from gfnet_fast.model.backbones import Encoder
from gfnet_fast.model.classifiers import RecurrentClassifier
from gfnet_fast.model.gfnet import GFNet


class _Encoder(Encoder):
    def __init__(self, prepared: Any, original: Encoder) -> None:
        super().__init__()
        self.prepared, self.original = prepared, original

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feature_map, vector = self.prepared(x)
        return feature_map.clone(), vector.clone()  # the next call writes to the same memory

    def head(self, vector: Tensor) -> Tensor:
        return self.original.head(vector)


class _Layer(nn.Module):
    """Of the policy, on maps that it flattens in channel, row, column order; or the GRU."""

    def __init__(self, prepared: nn.Module, shape: tuple[int, ...] | None) -> None:
        super().__init__()
        self.prepared, self.shape = prepared, shape

    def forward(self, *inputs: Tensor | None) -> Tensor:
        if self.shape is not None and inputs[0] is not None:
            inputs = (inputs[0].unflatten(1, self.shape).permute(0, 2, 3, 1).flatten(1),)
        found: Tensor = self.prepared(*inputs)
        return found.clone()


def in_int8(model: GFNet) -> GFNet:
    """`model` with its networks in int8: its `trace` is what an engine in int8 decides by.

    Logits, the policy's last layers and the exits are float32, as in an engine. The other weights are shared;
    its thresholds are those that were found in int8, where there are some.
    Raises DeviceError where it has no int8 form, or nothing computes in int8 here.
    """
    parts, runtime = parts_of(model, torch.int8), runtime_of("openvino", model.device, torch.int8)
    found = copy.copy(model)
    found._modules = dict(model._modules)
    if (calibration := model.calibration_in("int8")) is not None:
        found.calibration, found.default_row = calibration, calibration.default_row
        found.thresholds = torch.from_numpy(calibration.thresholds.copy())
    size = model.config.patch_size, model.config.patch_size
    for name in ("global_encoder", "local_encoder"):
        prepared = runtime.encoder(parts[name], size, 1, torch.int8, None)
        setattr(found, name, _Encoder(prepared, getattr(model, name)))
    policy, look = copy.copy(model.policy), Look(model, torch.channels_last)
    policy._modules = dict(model.policy._modules)
    flat = model.map_shape if policy.flattens_first else None
    policy.state_encoder = _Layer(runtime.layer(parts["policy"], torch.int8, *look.inputs), flat)  # type: ignore[assignment]
    found.policy = policy
    if isinstance(model.classifier, RecurrentClassifier):
        classifier, inputs = copy.copy(model.classifier), RecurrentRows(model.classifier).inputs
        classifier._modules = dict(model.classifier._modules)
        classifier.gru = _Layer(runtime.layer(parts["classifier"], torch.int8, *inputs), None)  # type: ignore[assignment]
        found.classifier = classifier
    return found
