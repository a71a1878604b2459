"""Stock backbones as encoders: one feature map and one feature vector for an image.

Nothing of a backbone is written here. A timm network already tells its feature map from its head;
any other network is cut at the input of its last linear layer by torch's own graph tracer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.passes.shape_prop import ShapeProp

from gfnet_fast.errors import CheckpointError, reason

_builders: dict[str, Callable[..., nn.Module]] = {}

_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def register_backbone(name: str, builder: Callable[..., nn.Module]) -> None:
    """Make ``backbone=name`` of a configuration build ``builder(classes, **backbone_args)``.

    Arguments are those that the builder names itself (not what goes into a ``**kwargs``), plain words and
    numbers: a configuration may be a stranger's. The builder returns an :class:`Encoder`, or any image
    classifier that `torch.fx` can trace and that ends in one linear layer (CondenseNet, for one), which
    becomes a :class:`TracedEncoder`.
    """
    if "/" in name and name.split("/", 1)[0] in ("timm", "torchvision"):
        raise ValueError(f"expected a name outside timm/ and torchvision/, got {name!r}")
    _builders[name] = builder


class Encoder(nn.Module):
    """A backbone that shows its feature map.

    ``encoder(x)``: ``[B, 3, P, P]`` -> ``(map [B, C, h, w], vector [B, F])``;
    ``encoder.head(vector)`` -> the backbone's own logits ``[B, K]``.
    A subclass keeps its network in `backbone`, whose names the checkpoints use.
    """

    backbone: Any

    def head(self, vector: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no linear head")


class TimmEncoder(Encoder):
    """A timm classification network, through timm's own ``forward_features`` and ``forward_head``."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone.forward_features(x)
        vector = self.backbone.forward_head(features, pre_logits=True)
        channels_last = getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"
        return (features.permute(0, 3, 1, 2) if channels_last else features), vector

    def head(self, vector: Tensor) -> Tensor:
        return self.backbone.get_classifier()(vector)


class TracedEncoder(Encoder):
    """Any traceable image classifier, cut where its last linear layer takes its input.

    The feature map is the last 4-d value on the way there, before pooling.
    """

    # Any backbone's last map has more than one pixel at this size, and so differs from a pooled one.
    PROBE_SIZE = 224

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        kind = type(backbone).__name__
        try:
            traced = torch.fx.symbolic_trace(backbone)
        except Exception as error:  # the tracer raises whatever the traced code raises on a proxy
            message = (
                f"expected a network that torch.fx can trace, or an Encoder, got {kind}: {reason(error)}"
            )
            raise CheckpointError(f"backbone: {message}") from error
        linears = [node for node in traced.graph.nodes if _is_linear(traced, node)]
        if not linears:
            raise CheckpointError(f"backbone {kind}: expected a last linear layer, got none")
        self._head_name = str(linears[-1].target)
        vector = linears[-1].args[0]
        _propagate_shapes(traced, self.PROBE_SIZE)
        for node in traced.graph.nodes:
            if node.op == "output":
                node.args = ((_last_map(vector, kind), vector),)
        # The linear layer's call goes; the layer itself stays a module, for `head` and the checkpoints.
        traced.graph.eliminate_dead_code()
        traced.recompile()
        self.backbone = traced

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.backbone(x)

    def head(self, vector: Tensor) -> Tensor:
        return self.backbone.get_submodule(self._head_name)(vector)


def _is_linear(traced: torch.fx.GraphModule, node: torch.fx.Node) -> bool:
    return node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), nn.Linear)


def _propagate_shapes(traced: torch.fx.GraphModule, size: int) -> None:
    training = traced.training
    device = next(traced.parameters()).device
    with torch.no_grad():
        ShapeProp(traced.eval()).propagate(torch.zeros(1, 3, size, size, device=device))
    traced.train(training)


def _last_map(node: torch.fx.Node, kind: str) -> torch.fx.Node:
    """The nearest value before `node` that has four dimensions and more than one row and column."""
    queue = [node]
    for current in queue:
        shape = getattr(current.meta.get("tensor_meta"), "shape", ())
        if len(shape) == 4 and min(shape[2:]) > 1:
            return current
        queue += [parent for parent in current.all_input_nodes if parent not in queue]
    raise CheckpointError(
        f"backbone {kind}: expected a feature map [B, C, h, w] before its last linear layer, got none"
    )


def build_encoder(backbone: str, classes: int, **args: Any) -> Encoder:
    """An encoder on the stock network that `backbone` names; see :class:`gfnet_fast.GFNetConfig`.

    Raises CheckpointError where no such network is known.
    """
    source, _, name = backbone.partition("/")
    if backbone in _builders:
        builder = _builders[backbone]
        named = [p.name for p in inspect.signature(builder).parameters.values() if p.kind not in _OPEN]
        if odd := sorted(set(args) - set(named)):
            raise CheckpointError(f"backbone_args: expected what {backbone}'s builder names, got {odd}")
        module = builder(classes, **args)
        return module if isinstance(module, Encoder) else TracedEncoder(module)
    if source == "timm" and name:
        return TimmEncoder(_build_timm(name, classes, args))
    if source == "torchvision" and name:
        import torchvision

        if name not in torchvision.models.list_models(module=torchvision.models):
            raise CheckpointError(f"backbone: expected a torchvision classification model, got {name!r}")
        return TracedEncoder(torchvision.models.get_model(name, num_classes=classes, **args))
    raise CheckpointError(
        f"backbone: expected 'timm/NAME', 'torchvision/NAME' or one of the registered {sorted(_builders)}, "
        f"got {backbone!r}"
    )


def _build_timm(name: str, classes: int, args: dict[str, Any]) -> nn.Module:
    import timm

    if name == "mobilenetv3_large_125":
        from timm.models.mobilenetv3 import _gen_mobilenet_v3

        # Registered for x1.0 only; the configuration given here keeps timm from warning that it has none.
        args = {"pretrained_cfg": timm.get_pretrained_cfg("mobilenetv3_large_100"), **args}
        return _gen_mobilenet_v3(name, 1.25, num_classes=classes, **args)
    if not timm.is_model(name):
        raise CheckpointError(f"backbone: expected a timm model, got {name!r}")
    return timm.create_model(name, num_classes=classes, **args)
