"""What an engine gives back, image by image, and what it raises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gfnet_fast._scheduler import Reason
from gfnet_fast.errors import GFNetError
from gfnet_fast.results import Prediction


class Full(GFNetError, RuntimeError):
    """More images were submitted than there is room for, and the caller would not wait."""


class PassError(GFNetError, RuntimeError):
    """Images could not be computed: `errors` maps their index, or name in a stream, to why.

    `prediction` holds the other images' predictions; None in a stream, which has given them already.
    """

    def __init__(self, errors: Mapping[int | str, str], prediction: Prediction | None = None) -> None:
        first, why = next(iter(errors.items()))
        message = f"{first}: {why}"
        if prediction is not None:
            message = f"{len(errors)} of {len(prediction.class_id)} images failed; image {message}"
        super().__init__(message)
        self.errors, self.prediction = errors, prediction

    def __reduce__(self) -> tuple[type[PassError], tuple[Any, ...]]:
        return type(self), (self.errors, self.prediction)


class Answers(NamedTuple):
    """Images that have left together, in the order of leaving.

    tickets : int64 ``[n]``, what `submit` gave
    prediction : Prediction of n rows; an image without one has class -1, exit step 0 and NaN
    reasons : why each left
    errors : ticket -> what went wrong, for Reason.ERROR
    """

    tickets: NDArray[np.int64]
    prediction: Prediction
    reasons: list[Reason]
    errors: dict[int, str]


class Answer(NamedTuple):
    """One image that has left; all of it is on the host, `error` says what went wrong.

    `logits` and `origins` are views of what has left together.
    """

    ticket: int
    class_id: int
    confidence: float
    exit_step: int
    logits: Tensor
    origins: Tensor
    reason: Reason
    error: str | None


def singles(answers: Answers) -> Iterator[Answer]:
    """One value an image, of a prediction on the host."""
    labels, confidences, steps, logits, origins = answers.prediction
    numbers = (answers.tickets.tolist(), labels.tolist(), confidences.tolist(), steps.tolist())
    for row, (ticket, label, confidence, step) in enumerate(zip(*numbers, strict=True)):
        error = answers.errors.get(ticket)
        reason = answers.reasons[row]
        yield Answer(ticket, label, confidence, step, logits[row], origins[row], reason, error)
