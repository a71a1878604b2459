"""Synthetic early-exit tasks with realistic confidences."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Task(NamedTuple):
    """float32 [T, N], bool [T, N], int64 [T, N], int64 [N], float64 [T]."""

    confidences: np.ndarray
    correct: np.ndarray
    predictions: np.ndarray
    labels: np.ndarray
    costs: np.ndarray


def make_task(
    count: int,
    steps: int = 5,
    seed: int = 0,
    *,
    accuracy: tuple[float, float] = (0.70, 0.78),
    sharpness: tuple[float, ...] | float = 2.0,
    noise: float = 0.8,
    classes: int = 100,
    hard: float = 0.0,
) -> Task:
    """Images of random difficulty; a step's margin is skill - difficulty + noise that is kept between steps.

    `accuracy` is about what the first and the last step reach; `sharpness` how fast confidence follows
    the margin, by step; `hard` shifts the difficulty.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=count) * 1.6 + hard
    skill = np.array([_logit(a) for a in np.linspace(*accuracy, steps)]) * 1.5
    walk = np.cumsum(rng.normal(size=(steps, count)), axis=0) / np.sqrt(np.arange(1, steps + 1))[:, None]
    margin = skill[:, None] - difficulty + noise * walk
    correct = rng.random((steps, count)) < 1 / (1 + np.exp(-2.5 * margin))
    keep = rng.random((steps, count)) < 0.7
    for k in range(1, steps):
        correct[k] = np.where(keep[k] & (np.abs(margin[k] - margin[k - 1]) < 0.3), correct[k - 1], correct[k])
    scale = np.broadcast_to(np.asarray(sharpness, float), (steps,))[:, None]
    seen = scale * (margin + 0.7 * (correct - 0.5) + 0.5 * rng.normal(size=(steps, count)))
    confidences = (1 / classes + (1 - 1 / classes) / (1 + np.exp(-seen))).astype(np.float32)
    labels = rng.integers(0, classes, count)
    wrong = (labels + 1 + rng.integers(0, classes - 1, count)) % classes
    predictions = np.where(correct, labels, wrong)
    costs = 7.6e8 + 8.07e8 * np.arange(steps)
    return Task(confidences, correct, predictions, labels, costs)


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))
