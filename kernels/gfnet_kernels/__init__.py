"""Triton kernels round a Glance and Focus Network: glance, crop, exits, compaction, recurrent state.

Each op takes a GPU or a CPU, is a torch custom op (visible to torch.compile and torch.export), reads through
slot numbers (-1: a padded row, skipped), and can write into its caller's buffers.
"""

from gfnet_kernels._library import set_debug
from gfnet_kernels.compact import compact, compact_reference
from gfnet_kernels.crop import crop, crop_reference
from gfnet_kernels.exits import exits, exits_reference
from gfnet_kernels.glance import glance, glance_reference
from gfnet_kernels.images import ImageTable, entry_of
from gfnet_kernels.rows import (
    gather,
    gather_all,
    gather_reference,
    scatter,
    scatter_all,
    scatter_reference,
)
from gfnet_kernels.state import gru_step, gru_step_reference

__all__ = [
    "ImageTable",
    "compact",
    "compact_reference",
    "crop",
    "crop_reference",
    "entry_of",
    "exits",
    "exits_reference",
    "gather",
    "gather_all",
    "gather_reference",
    "glance",
    "glance_reference",
    "gru_step",
    "gru_step_reference",
    "scatter",
    "scatter_all",
    "scatter_reference",
    "set_debug",
]
