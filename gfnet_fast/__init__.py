"""Glance and Focus Networks as a fast adaptive-inference engine.

The public names are imported when they are first used, so that ``import gfnet_fast`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers, what _HOME is for Python
    from gfnet_fast.checkpoints import load as load
    from gfnet_fast.config import RELEASED as RELEASED
    from gfnet_fast.config import GFNetConfig as GFNetConfig
    from gfnet_fast.config import released as released
    from gfnet_fast.engine.answers import PassError as PassError
    from gfnet_fast.errors import BudgetError as BudgetError
    from gfnet_fast.errors import CheckpointError as CheckpointError
    from gfnet_fast.errors import DeviceError as DeviceError
    from gfnet_fast.errors import GFNetError as GFNetError
    from gfnet_fast.errors import InputError as InputError
    from gfnet_fast.errors import TrainingError as TrainingError
    from gfnet_fast.exits import Audit as Audit
    from gfnet_fast.exits import AuditWarning as AuditWarning
    from gfnet_fast.exits import Budget as Budget
    from gfnet_fast.exits import BudgetWarning as BudgetWarning
    from gfnet_fast.exits import Calibration as Calibration
    from gfnet_fast.exits import Controller as Controller
    from gfnet_fast.exits import calibrate as calibrate
    from gfnet_fast.exits import certify as certify
    from gfnet_fast.exits import find_thresholds as find_thresholds
    from gfnet_fast.model.backbones import Encoder as Encoder
    from gfnet_fast.model.backbones import register_backbone as register_backbone
    from gfnet_fast.model.gfnet import GFNet as GFNet
    from gfnet_fast.model.gfnet import Trace as Trace
    from gfnet_fast.predictor import Predictor as Predictor
    from gfnet_fast.results import Prediction as Prediction
    from gfnet_fast.results import Result as Result
    from gfnet_fast.tracing import Crops as Crops

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
    "Crops": "tracing",
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
