"""Glance and Focus Networks as a fast adaptive-inference engine.

The public names are imported when they are first used, so that ``import gfnet_fast`` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "BudgetError": "errors",
    "CheckpointError": "errors",
    "DeviceError": "errors",
    "GFNetError": "errors",
    "InputError": "errors",
    "TrainingError": "errors",
    "GFNetConfig": "config",
    "RELEASED": "config",
    "released": "config",
    "Encoder": "model.backbones",
    "register_backbone": "model.backbones",
    "GFNet": "model.gfnet",
    "Trace": "model.gfnet",
    "load": "checkpoints",
    "Audit": "exits",
    "AuditWarning": "exits",
    "Budget": "exits",
    "BudgetWarning": "exits",
    "Calibration": "exits",
    "Controller": "exits",
    "calibrate": "exits",
    "certify": "exits",
    "find_thresholds": "exits",
    "Predictor": "predictor",
    "PassError": "engine.answers",
    "Prediction": "results",
    "Result": "results",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
