"""What an engine gives back, image by image, and what it raises."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfnet_fast._scheduler import Reason
from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import GFNetError
from gfnet_fast.results import Prediction


class Full(GFNetError, RuntimeError):
    """More images were submitted than there is room for, and the caller would not wait."""


class Unsettled(GFNetError, RuntimeError):
    """A call ended in the middle of a step: what is in flight is not known any more until `reset`."""


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
    """Images that have left, in the order of leaving.

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
    """One image that has left; all of it is on the host, `error` says what went wrong."""

    ticket: int
    class_id: int
    confidence: float
    exit_step: int
    reason: Reason
    error: str | None
    all_logits: Tensor
    all_origins: Tensor
    row: int

    @property
    def logits(self) -> Tensor:
        """float32 ``[K]``, a view of those of the images that came together."""
        return self.all_logits[self.row]

    @property
    def origins(self) -> Tensor:
        """int64 ``[T - 1, 2]``, a view likewise."""
        return self.all_origins[self.row]


ANSWER = partial(tuple.__new__, Answer)  # of all fields: what Answer() does, without a call in Python


class Batch:
    """Images whose answers go to one Prediction: tickets from `first` on, before `end`.

    Attributes
    ----------
    output : Prediction
        Launches write to it until all have left.
    images : Tensor, optional
        What has to stay alive as long.
    """

    def __init__(self, first: int, output: Prediction, images: Tensor | None = None) -> None:
        self.first, self.end = first, first + len(output.class_id)
        self.output, self.images = output, images
        self.left = self.end - first  #: how many have not been collected


def room_for(count: int, config: GFNetConfig, device: torch.device, *, pinned: bool = False) -> Prediction:
    """A Prediction of `count` rows that hold nothing yet."""

    def rows(*shape: int, of: torch.dtype) -> Tensor:
        return torch.empty(count, *shape, dtype=of, device=device, pin_memory=pinned)

    return Prediction(
        class_id=rows(of=torch.int64),
        confidence=rows(of=torch.float32),
        exit_step=rows(of=torch.int64),
        logits=rows(config.classes, of=torch.float32),
        origins=rows(config.steps - 1, 2, of=torch.int64),
    )


def places_of(output: Prediction) -> NDArray[np.int64]:
    """Addresses of each row of each column, int64 ``[n, 5]``."""
    first = [column.data_ptr() for column in output]
    apart = [column.stride(0) * column.element_size() for column in output]
    return np.arange(len(output.class_id))[:, None] * apart + first
