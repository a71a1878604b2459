"""When an image leaves: thresholds, budgets, calibration, guarantees.

Everything here works on confidences and counts; it needs no model and no engine. The names below are
imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers, what _HOME is for Python
    from gfnet_fast.exits.audit import Audit as Audit
    from gfnet_fast.exits.audit import AuditWarning as AuditWarning
    from gfnet_fast.exits.budget import Budget as Budget
    from gfnet_fast.exits.budget import resolve as resolve
    from gfnet_fast.exits.calibration import Calibration as Calibration
    from gfnet_fast.exits.calibration import harm as harm
    from gfnet_fast.exits.compare import PathComparison as PathComparison
    from gfnet_fast.exits.compare import anytime_curve as anytime_curve
    from gfnet_fast.exits.compare import compare_paths as compare_paths
    from gfnet_fast.exits.controller import Controller as Controller
    from gfnet_fast.exits.files import load_calibration as load_calibration
    from gfnet_fast.exits.files import save_calibration as save_calibration
    from gfnet_fast.exits.guarantees import Certificate as Certificate
    from gfnet_fast.exits.guarantees import certify as certify
    from gfnet_fast.exits.guarantees import disagreement as disagreement
    from gfnet_fast.exits.identity import CostTable as CostTable
    from gfnet_fast.exits.identity import ModelIdentity as ModelIdentity
    from gfnet_fast.exits.identity import device_name as device_name
    from gfnet_fast.exits.official import BudgetCurve as BudgetCurve
    from gfnet_fast.exits.official import evaluate_budgets as evaluate_budgets
    from gfnet_fast.exits.official import find_thresholds as find_thresholds
    from gfnet_fast.exits.official import official_shares as official_shares
    from gfnet_fast.exits.official import thresholds_for_shares as thresholds_for_shares
    from gfnet_fast.exits.rule import ALWAYS as ALWAYS
    from gfnet_fast.exits.rule import NEVER as NEVER
    from gfnet_fast.exits.rule import BudgetWarning as BudgetWarning
    from gfnet_fast.exits.rule import cap_steps as cap_steps
    from gfnet_fast.exits.rule import check_thresholds as check_thresholds
    from gfnet_fast.exits.rule import exit_steps as exit_steps
    from gfnet_fast.exits.search import JointPath as JointPath
    from gfnet_fast.exits.search import calibrate as calibrate
    from gfnet_fast.exits.search import joint_search as joint_search
    from gfnet_fast.exits.timing import fit_costs as fit_costs

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
