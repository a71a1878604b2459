"""Triton kernels round a Glance and Focus Network: glance, crop, exits, a ring
of slots, recurrent state, answers.

Each op takes a GPU or a CPU, is a torch custom op (visible to torch.compile and torch.export), reads through
slot numbers (-1: a padded row, skipped), and can write into its caller's buffers.
"""

from gfnet_kernels._library import set_debug
from gfnet_kernels.crop import crop, crop_reference
from gfnet_kernels.deliver import deliver, deliver_reference
from gfnet_kernels.exits import (
    CANCELLED,
    DEADLINE,
    ERROR,
    EXITED,
    LAST_STEP,
    STAYS,
    exits,
    exits_reference,
)
from gfnet_kernels.glance import glance, glance_reference
from gfnet_kernels.images import ImageTable, entry_of
from gfnet_kernels.queue import compact, compact_reference, take, take_reference
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
    "CANCELLED",
    "DEADLINE",
    "ERROR",
    "EXITED",
    "LAST_STEP",
    "STAYS",
    "ImageTable",
    "compact",
    "compact_reference",
    "crop",
    "crop_reference",
    "deliver",
    "deliver_reference",
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
    "take",
    "take_reference",
]
