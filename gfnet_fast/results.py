"""What comes out: predictions of a batch as tensors, and one image's result as a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gfnet_fast.engine.answers import Answer
    from gfnet_fast.model.gfnet import GFNet


class Prediction(NamedTuple):
    """Predictions of B images, at the step where each left; all on the images' device.

    class_id : int64 ``[B]``
    confidence : float32 ``[B]``, the largest softmax probability
    exit_step : int64 ``[B]``, 1..T: how many steps were taken
    logits : float32 ``[B, K]``
    origins : int64 ``[B, T-1, 2]``, (row, column) of each crop; -1 where the step was not taken
    """

    class_id: Tensor
    confidence: Tensor
    exit_step: Tensor
    logits: Tensor
    origins: Tensor


@dataclass(frozen=True)
class Result:
    """One image's result, or why there is none.

    Attributes
    ----------
    source : str
        The path, or what kind of value it was and its place in the input.
    class_id, label, confidence : int, str or None, float
        The prediction at the exit; `label` where the model knows names.
    exit_step : int
        1..T: how many steps were taken.
    origins : tuple of (row, column)
        The crops that were looked at, in pixels of the preprocessed image.
    macs : int
        Multiply-adds that the image cost.
    logits : Tensor or None
        float32 ``[K]``, on the CPU.
    error : str or None
        Why there is no prediction; then the fields above are None or empty.
    """

    source: str
    class_id: int | None = None
    label: str | None = None
    confidence: float | None = None
    exit_step: int | None = None
    origins: tuple[tuple[int, int], ...] = ()
    macs: int | None = None
    logits: Tensor | None = field(default=None, repr=False, compare=False)
    error: str | None = None

    @classmethod
    def of(cls, source: str, answer: Answer, model: GFNet) -> Result:
        """What an engine's answer, which has a prediction, says about an image."""
        class_id, step, macs = answer.class_id, answer.exit_step, model.config.macs
        assert macs is not None
        return cls(
            source=source,
            class_id=class_id,
            label=model.labels[class_id] if model.labels else None,
            confidence=answer.confidence,
            exit_step=step,
            origins=tuple((int(r), int(c)) for r, c in answer.origins[: step - 1].tolist()),
            macs=macs[step - 1],
            logits=answer.logits.clone(),  # a view would hold all that left together
        )

    def __getstate__(self) -> dict[str, Any]:
        """With the logits as an array: a tensor that goes to another process takes a file descriptor."""
        logits = None if self.logits is None else self.logits.detach().cpu().numpy()
        return {**vars(self), "logits": logits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        logits = state["logits"]
        vars(self).update(state, logits=None if logits is None else torch.from_numpy(logits))

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold, without the logits."""
        if self.error is not None:
            return {"source": self.source, "error": self.error}
        return {
            "source": self.source,
            "class_id": self.class_id,
            "label": self.label,
            "confidence": round(float(self.confidence or 0.0), 6),
            "exit_step": self.exit_step,
            "origins": [list(origin) for origin in self.origins],
            "macs": self.macs,
        }
