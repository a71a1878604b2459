"""Tensors from outside: what is checked before they become a model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gfnet_fast.checkpoints.machine import Unusable
from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import CheckpointError, reason, shown
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.macs import count_macs

Shapes = Mapping[str, tuple[int, ...]]

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
MAX_UNSAVED = 64 * 2**20
"""Bytes of the buffers that no state dict holds, such as masks of windows: they are not in the file."""

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class _Uninitialised(TorchFunctionMode):
    """First values are not drawn: nothing would hold them, and on the meta device torch takes long."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DRAWS:
            return args[0]
        return func(*args, **(kwargs or {}))


_DRAWS = {getattr(Tensor, name) for name in ("normal_", "uniform_", "fill_", "zero_")}


def skeleton(config: GFNetConfig) -> GFNet:
    """A GFNet without memory for its weights."""
    with torch.device("meta"), _Uninitialised():
        return GFNet(config)


def differences(found: Mapping[str, Any], expected: Shapes) -> list[str]:
    """What keeps `found` from being exactly the tensors of `expected`, one line a tensor."""
    lines = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in found]
    lines += [f"unexpected {shown(name)[1:-1]}" for name in found if name not in expected]
    for name, shape in expected.items():
        if name in found and (problem := _problem(name, found[name], shape)):
            lines.append(problem)
    return lines


def _problem(name: str, value: Any, shape: tuple[int, ...]) -> str | None:
    if isinstance(value, Unusable):
        return f"{name}: expected a dense tensor, got {value.kind}"
    if not isinstance(value, Tensor):
        return f"{name}: expected a tensor, got {type(value).__name__}"
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return f"{name}: expected a dense tensor with numbers, got {value.layout} on {value.device}"
    if tuple(value.shape) != shape:
        return f"{name}: expected shape {list(shape)}, got {list(value.shape)}"
    if name.endswith("num_batches_tracked"):
        return None if value.dtype in INTEGERS else f"{name}: expected an integer, got {value.dtype}"
    if value.dtype not in FLOATS:
        return f"{name}: expected a floating-point tensor, got {value.dtype}"
    if value.numel() and not torch.stack(value.detach().aminmax()).float().isfinite().all():
        bad = int((~torch.isfinite(value.float())).sum())
        return f"{name}: expected finite numbers in float32, got {bad} that are not"
    if name.endswith("running_var") and bool((value < 0).any()):
        return f"{name}: expected variances of at least 0, got {float(value.min()):g}"
    return None


def require(where: object, lines: list[str]) -> None:
    """Raise CheckpointError that names the first few of the differences and counts the rest."""
    if lines:
        rest = f"; and {len(lines) - 4} more" if len(lines) > 4 else ""
        raise CheckpointError(f"{where}: {'; '.join(lines[:4])}{rest}")


def build(where: object, config: GFNetConfig) -> GFNet:
    """:func:`skeleton`, for :func:`assemble`; CheckpointError, beginning with `where`, where it cannot be.

    Counting multiply-adds takes longer than all the rest, and waits until the weights are known to fit.
    """
    try:
        return skeleton(config if config.macs else replace(config, macs=tuple(range(1, config.steps + 1))))
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
    except Exception as error:  # a backbone raises what it likes on arguments that it cannot take
        got = f"{type(error).__name__}: {reason(error)}"
        raise CheckpointError(f"{where}: expected a network that can be built, got {got}") from error


def assemble(where: object, config: GFNetConfig, model: GFNet, state: dict[str, Any]) -> GFNet:
    """`model`, that `config` was built into, with `state` as its weights, all checked, in float32.

    `state` is changed: tensors of other types are let go of one by one, so that they are not in memory twice.
    """
    require(where, differences(state, {name: tuple(t.shape) for name, t in model.state_dict().items()}))
    for name, t in state.items():
        state[name] = t.detach().float() if t.dtype in FLOATS else t.long()
    model.load_state_dict(state, assign=True)
    unsaved = sum(t.nbytes for t in (*model.buffers(), *model.parameters()) if t.is_meta)
    if unsaved > MAX_UNSAVED:
        expected = f"a network whose tables beside its weights take at most {MAX_UNSAVED} bytes"
        raise CheckpointError(f"{where}: expected {expected}, got {unsaved}")
    if unsaved:
        with torch.device("cpu"):
            model = GFNet(model.config)
        model.load_state_dict(state)
    if config.macs is None:
        model.config = replace(config, macs=count_macs(model))
    return model.float()
