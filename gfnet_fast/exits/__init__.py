"""When an image leaves: thresholds, budgets, calibration, guarantees.

Everything here works on confidences and counts; it needs no model and no engine. The names below are
imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "ALWAYS": "rule",
    "NEVER": "rule",
    "cap_steps": "rule",
    "check_thresholds": "rule",
    "exit_steps": "rule",
    "BudgetCurve": "official",
    "evaluate_budgets": "official",
    "find_thresholds": "official",
    "official_shares": "official",
    "thresholds_for_shares": "official",
    "Audit": "audit",
    "AuditWarning": "audit",
    "Certificate": "guarantees",
    "certify": "guarantees",
    "disagreement": "guarantees",
    "harm": "calibration",
    "load_calibration": "files",
    "save_calibration": "files",
    "Controller": "controller",
    "PathComparison": "compare",
    "anytime_curve": "compare",
    "compare_paths": "compare",
    "fit_costs": "timing",
    "Budget": "budget",
    "resolve": "budget",
    "BudgetWarning": "rule",
    "Calibration": "calibration",
    "calibrate": "search",
    "JointPath": "search",
    "joint_search": "search",
    "CostTable": "identity",
    "ModelIdentity": "identity",
    "device_name": "identity",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
