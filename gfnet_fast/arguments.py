"""Which arguments of a backbone's builder a configuration may hold: what shapes a network, within limits.

A configuration comes with a model folder, perhaps a stranger's, and its arguments go to other people's
factories, which also fetch and cache weights. So each source has a list of names; all others are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from gfnet_fast.errors import CheckpointError, shown

MAX_NUMBER = 65_536
MAX_ITEMS = 64

# Beyond these a network takes many seconds to lay out: blocks, of a list their sum, and pixels.
BLOCKS = {"layers": 64, "depth": 64, "depths": 64, "block_config": 160}
PIXELS = {"img_size": 1024, "patch_size": 128, "window_size": 16}

_SHARED = {"drop_rate", "groups", "growth_rate", "bn_size", "memory_efficient"}

TIMM = frozenset(
    {
        *_SHARED,
        *("act_layer", "attn_drop_rate", "aa_layer", "avg_down", "base_width", "block_config"),
        *("block_reduce_first", "cardinality", "channels", "class_token", "conv_mlp", "depth", "depths"),
        *("dims", "down_kernel_size", "drop_block_rate", "drop_path_rate", "dynamic_img_size", "embed_dim"),
        *("fix_stem", "global_pool", "head_bias", "head_init_scale", "head_norm_first", "img_size"),
        *(
            "in_chans",
            "init_values",
            "kernel_sizes",
            "layers",
            "ls_init_value",
            "mlp_ratio",
            "no_embed_class",
        ),
        *("norm_layer", "num_features", "num_heads", "num_init_features", "output_stride", "pad_type"),
        *("patch_size", "pos_drop_rate", "proj_drop_rate", "qk_norm", "qkv_bias", "reg_tokens"),
        *("replace_stem_pool", "se_layer", "stem_size", "stem_type", "stem_width", "strict_img_size"),
        *("use_grn", "window_size", "zero_init_last"),
    }
)
TORCHVISION = frozenset(
    {
        *_SHARED,
        *("attention_dropout", "aux_logits", "block_config", "dropout", "init_weights", "norm_layer"),
        *("num_init_features", "replace_stride_with_dilation", "stochastic_depth_prob", "transform_input"),
        *("width_mult", "width_per_group", "zero_init_residual"),
    }
)
# Whoever registers a builder says what it takes; but for these names, which fetch, read or write files.
_NEVER = re.compile(r"pretrained|weights|checkpoint|cache|url|hub|path|file|folder|dir$")

_WORD = re.compile(r"[A-Za-z0-9_]{0,40}")


def check_arguments(backbone: str, arguments: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless `arguments` are plain values that shape the network `backbone` names."""
    source = backbone.partition("/")[0]
    known = {"timm": TIMM, "torchvision": TORCHVISION}.get(source) if "/" in backbone else None
    for name, value in arguments.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise CheckpointError(f"backbone_args: expected names of arguments, got {shown(name)}")
        if (name not in known) if known is not None else _NEVER.search(name):
            expected = (
                f"arguments that shape a {source} network" if known else "none that name weights or files"
            )
            raise CheckpointError(f"backbone_args: expected {expected}, got {shown(name)}")
        items = value if isinstance(value, (list, tuple)) else [value]
        if len(items) > MAX_ITEMS or not all(_is_plain(item) for item in items):
            expected = f"words, or numbers from 0 to {MAX_NUMBER}, at most {MAX_ITEMS}"
            raise CheckpointError(f"backbone_args: {name}: expected {expected}, got {shown(value)}")
        numbers = [item for item in items if isinstance(item, (int, float))]
        most = (BLOCKS | PIXELS).get(name, math.inf)
        if known and (sum(numbers) if name in BLOCKS else max(numbers, default=0)) > most:
            raise CheckpointError(f"backbone_args: {name}: expected {most} at most, got {shown(value)}")


def _is_plain(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    if not isinstance(value, (int, float)):
        return False
    return 0 <= value <= MAX_NUMBER
