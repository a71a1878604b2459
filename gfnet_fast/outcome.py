"""What one choice of exits makes of labelled images: by class, by confusion, and image by image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfnet_fast.evaluation import Steps
from gfnet_fast.exits import exit_steps
from gfnet_fast.intervals import wilson

Ints = NDArray[np.int64]


class Outcome(NamedTuple):
    """The answers of N images, each that of the step at which it left.

    labels, predictions, exit_steps : int64 ``[N]``; steps count from 1
    confidences : float32 ``[N]``
    all_steps : bool ``[N]``, whether the last step is right
    origins : int32 ``[T-1, N, 2]``, as of :class:`~gfnet_fast.evaluation.Steps`
    """

    labels: Ints
    predictions: Ints
    exit_steps: Ints
    confidences: NDArray[np.float32]
    all_steps: NDArray[np.bool_]
    origins: NDArray[np.int32]

    @property
    def right(self) -> NDArray[np.bool_]:
        """bool ``[N]``"""
        return self.predictions == self.labels

    @property
    def steps(self) -> int:
        """T"""
        return len(self.origins) + 1


class ClassFigures(NamedTuple):
    """Of one class: its images, how many of them are right, and how many images are said to be of it."""

    label: int
    images: int
    right: int
    said: int

    @property
    def recall(self) -> float | None:
        """Share of its images that are right; None without any."""
        return self.right / self.images if self.images else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the recall."""
        return wilson(self.right, self.images)

    @property
    def precision(self) -> float | None:
        """Share of right ones among what is said to be of it; None where nothing is."""
        return self.right / self.said if self.said else None


class Confusion(NamedTuple):
    """So many images of class `label` got the answer `prediction`."""

    label: int
    prediction: int
    images: int


def outcome(steps: Steps, thresholds: Any) -> Outcome:
    """What images do under these thresholds, float ``[T]``, as a predictor would let them leave."""
    exits = exit_steps(steps.confidences, thresholds)
    at = exits - 1, np.arange(len(exits))
    predictions, confidences = steps.predictions[at], steps.confidences[at]
    return Outcome(steps.labels, predictions, exits, confidences, steps.correct[-1], steps.origins)


def by_class(found: Outcome) -> list[ClassFigures]:
    """Every class that an image is of, or is said to be of, in their order."""
    size = int(max(found.labels.max(), found.predictions.max())) + 1
    images, right, said = (
        np.bincount(values, minlength=size)
        for values in (found.labels, found.labels[found.right], found.predictions)
    )
    known = np.flatnonzero(images + said).tolist()
    return [ClassFigures(k, int(images[k]), int(right[k]), int(said[k])) for k in known]


def worst(figures: Sequence[ClassFigures], count: int) -> list[ClassFigures]:
    """`count` classes of which it is surest that they are bad: by the upper end of the recall's interval."""
    return sorted((one for one in figures if one.images), key=lambda one: one.interval[1])[:count]


def confusions(found: Outcome) -> list[Confusion]:
    """All pairs of a class and a wrong answer that occur, the most frequent first."""
    wrong = np.stack([found.labels, found.predictions], 1)[~found.right]
    pairs, counts = np.unique(wrong, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [Confusion(int(pairs[i, 0]), int(pairs[i, 1]), int(counts[i])) for i in order]


def matrix(found: Outcome, labels: Sequence[int]) -> Ints:
    """Images of each of k classes by the answer they got: int64 ``[k, k + 1]``, any other class last."""
    place = np.full(int(max(found.labels.max(), found.predictions.max(), *labels)) + 1, len(labels))
    place[list(labels)] = np.arange(len(labels))
    rows, columns = place[found.labels], place[found.predictions]
    counts = np.zeros((len(labels) + 1, len(labels) + 1), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return counts[:-1]


def mistakes(found: Outcome) -> list[int]:
    """Which images are wrong, the most confident first."""
    rows = np.flatnonzero(~found.right)
    return rows[np.argsort(-found.confidences[rows], kind="stable")].tolist()


def figures(found: Outcome, macs: Sequence[float]) -> dict[str, Any]:
    """The outcome in numbers, as JSON can hold them: accuracies in percent, shares of 1.

    `macs` ``[T]``: multiply-adds of an image that leaves at each step. `missed` are wrong here and right
    with all steps, `spared` the other way round; `class_accuracy` is the mean of the classes' recalls.
    """
    count = len(found.labels)
    left = np.bincount(found.exit_steps, minlength=found.steps + 1)[1:]
    right = np.bincount(found.exit_steps[found.right], minlength=found.steps + 1)[1:]
    recalls = [one.recall for one in by_class(found) if one.recall is not None]
    return {
        "accuracy": 100 * float(found.right.mean()),
        "interval": [100 * end for end in wilson(int(found.right.sum()), count)],
        "class_accuracy": 100 * sum(recalls) / len(recalls),
        "wrong": int((~found.right).sum()),
        "missed": int((found.all_steps & ~found.right).sum()),
        "spared": int((~found.all_steps & found.right).sum()),
        "mean_steps": float(found.exit_steps.mean()),
        "macs": float(left @ np.asarray(macs, np.float64) / count),
        "shares": (left / count).tolist(),
        "accuracies": [
            100 * r / n if n else None for r, n in zip(right.tolist(), left.tolist(), strict=True)
        ],
    }


MISTAKE = ("path", "image", "truth", "prediction", "confidence", "exit_step")


def mistake_rows(
    found: Outcome, names: Sequence[str], picked: Sequence[int], paths: Sequence[Path] | None
) -> list[dict[str, Any]]:
    """The wrong images, the most confident first, with the fields of `MISTAKE`.

    `picked` ``[N]`` are the images' numbers in their data set, `paths` the files of the whole data set, or
    None where there are none.
    """
    return [
        {
            "path": None if paths is None else str(paths[picked[row]]),
            "image": picked[row],
            "truth": names[found.labels[row]],
            "prediction": names[found.predictions[row]],
            "confidence": round(float(found.confidences[row]), 6),
            "exit_step": int(found.exit_steps[row]),
        }
        for row in mistakes(found)
    ]
