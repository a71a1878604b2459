"""Intervals for what was measured on so many images."""

from __future__ import annotations

from typing import Any

import numpy as np


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a share, 95 % by default; (0, 1) of nothing (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    share, spread = right / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = (share * (1 - share) * spread + spread * spread / 4) ** 0.5 / (1 + spread)
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))  # rounding aside


def paired(differences: Any, z: float = 1.959964) -> tuple[float, float, float]:
    """The mean of N differences of pairs, and its normal interval, 95 % by default."""
    values = np.asarray(differences, np.float64)
    mean, error = (
        float(values.mean()),
        float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0,
    )
    return mean, mean - z * error, mean + z * error
