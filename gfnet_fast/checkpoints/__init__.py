"""Weights from files: the official checkpoints in both forms, and the native folder."""

from gfnet_fast.checkpoints.files import load
from gfnet_fast.checkpoints.native import save
from gfnet_fast.checkpoints.official import official_checkpoint

__all__ = ["load", "official_checkpoint", "save"]
