"""Intervals for shares that were measured on so many images."""

from __future__ import annotations


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a share, 95 % by default; (0, 1) of nothing (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    share, spread = right / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = (share * (1 - share) * spread + spread * spread / 4) ** 0.5 / (1 + spread)
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))  # rounding aside
