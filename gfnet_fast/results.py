"""What comes out: predictions of a batch as tensors, and one image's result as a value."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from gfnet_fast.errors import InputError
from gfnet_fast.original import Box, Original

if TYPE_CHECKING:
    from PIL import Image

    from gfnet_fast.engine.answers import Answer
    from gfnet_fast.model.gfnet import GFNet
    from gfnet_fast.sources import Source


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


class Candidate(NamedTuple):
    """A class that an image may be of: its number, its name where the model knows names, its probability."""

    class_id: int
    label: str | None
    probability: float


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
        Why there is no prediction; then the fields above are None or empty, and those below too.
    size : (int, int)
        Height and width of the original picture, in pixels.
    boxes : tuple of (left, top, right, bottom)
        What the network looked at, in pixels of the original picture (float, from 0, 0 to its width and
        height): first the glance's region, which is what preprocessing leaves of the picture, then one for
        each crop, in order. Of a source that was preprocessed already the original is the source itself.
    path : str or None
        The file that the picture was read from; None where the source was none.
    steps : int
        T.
    labels : tuple of K str, or None
        The names of all classes.
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
    size: tuple[int, int] | None = None
    boxes: tuple[Box, ...] = ()
    path: str | None = field(default=None, repr=False)
    steps: int | None = field(default=None, repr=False)
    labels: tuple[str, ...] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, source: str, answer: Answer, model: GFNet, original: Original) -> Result:
        """What an engine's answer, which has a prediction, says about an image."""
        class_id, step, macs = answer.class_id, answer.exit_step, model.config.macs
        assert macs is not None
        origins = tuple((int(r), int(c)) for r, c in answer.origins[: step - 1].tolist())
        return cls(
            source=source,
            class_id=class_id,
            label=model.labels[class_id] if model.labels else None,
            confidence=answer.confidence,
            exit_step=step,
            origins=origins,
            macs=macs[step - 1],
            logits=answer.logits.clone(),  # a view would hold all that left together
            size=original.size,
            boxes=original.boxes(origins, model.config),
            path=original.path,
            steps=model.config.steps,
            labels=model.labels or None,
        )

    def __getstate__(self) -> dict[str, Any]:
        """With the logits as an array: a tensor that goes to another process takes a file descriptor."""
        logits = None if self.logits is None else self.logits.detach().cpu().numpy()
        return {**vars(self), "logits": logits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        logits = state["logits"]
        vars(self).update(state, logits=None if logits is None else torch.from_numpy(logits))

    def top(self, k: int = 5) -> list[Candidate]:
        """The `k` most likely classes (all where there are fewer), the likeliest first, by their softmax.

        Empty for a result without a prediction. InputError on a `k` below 1.
        """
        if k < 1:
            raise InputError(f"k: expected at least 1, got {k}")
        if self.logits is None:
            return []
        likely, classes = self.logits.softmax(0).sort(descending=True, stable=True)
        names = self.labels
        return [
            Candidate(int(c), names[int(c)] if names else None, float(p))
            for p, c in zip(likely[:k].tolist(), classes[:k].tolist(), strict=True)
        ]

    def plot(self, image: Source | None = None) -> Image.Image:
        """The original picture with what the network looked at: the glance's region and the numbered crops.

        A tag says the class, the confidence and at which step of how many the image left. What is outside of
        the glance's frame was cut off before the network saw anything.

        Parameters
        ----------
        image : path, encoded bytes, binary file, PIL image, uint8 array or tensor, optional
            The original picture, where the source was no file; a file is read again. EXIF rotation is not
            applied, as it was not for the network.

        Returns
        -------
        PIL.Image.Image
            Mode "RGB", of the picture's size. Only a picture too small for a number on its boxes is enlarged,
            by a whole factor, each pixel a square; its `size` divided by the original's is that factor. Names
            are drawn in Pillow's own font, or in a common one of the system that has their letters, or else
            with escapes; one too long for the picture is cut.

        Raises
        ------
        InputError
            Where there is no prediction or no picture, or where the picture is of another size than the one
            that was classified.
        """
        from gfnet_fast.annotated import draw_result

        return draw_result(self, image)

    def save(self, path: str | os.PathLike[str], image: Source | None = None) -> None:
        """Write :meth:`plot`'s picture, in the format of the path's suffix; it appears whole or not at all.

        Raises
        ------
        InputError
            As :meth:`plot`; on a suffix of no format that is written (.png, .jpg, .webp, .bmp, .tif), on a
            folder that does not exist, and on the file that the picture is read from.
        """
        from gfnet_fast.annotated import save_result

        save_result(self, path, image)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold, without the logits; boxes are rounded to a tenth of a pixel."""
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
            "size": None if self.size is None else list(self.size),
            "boxes": [[round(side, 1) for side in box] for box in self.boxes],
        }
