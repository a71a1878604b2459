"""The drop-in predictor: sources in, results out."""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol, overload

import numpy as np
import torch
from torch import Tensor

from gfnet_fast.checkpoints import load
from gfnet_fast.checkpoints.files import check_device
from gfnet_fast.engine.eager import EagerEngine
from gfnet_fast.errors import BudgetError, DeviceError, InputError
from gfnet_fast.exits import Budget, resolve
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.results import Prediction, Result
from gfnet_fast.sources import Source, check_batch, describe, expand, is_one, read_image

DECODERS = min(8, os.cpu_count() or 1)


class Engine(Protocol):
    """What a predictor needs of an engine."""

    def predict(self, images: Tensor, thresholds: Tensor) -> Prediction:
        """uint8 ``[B, S, S, 3]`` or ``[B, 3, S, S]``, or normalised float; thresholds ``[T]``."""


def _owned(item: Source) -> Source:
    """An array or a tensor that its owner cannot change any more: frames often share one buffer."""
    if isinstance(item, np.ndarray):
        return item.copy()
    return item.detach().clone() if isinstance(item, Tensor) else item


DTYPES = {
    "auto": torch.float32,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def check_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The precision of that name; DeviceError where `device` does not have it."""
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise DeviceError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    if found == torch.float16 and device.type == "cpu":
        raise DeviceError("dtype: expected float32 or bfloat16 on a CPU, got float16")
    return found


class Predictor:
    """Classifies images with a GFNet; easy images leave early.

    Parameters
    ----------
    model : GFNet
        From :func:`gfnet_fast.load`.
    device : "auto", str or torch.device
        ``"auto"`` is the first CUDA device where there is one, and else the CPU.
    dtype : "auto", "float32", "bfloat16", "float16" or torch.dtype
        Of the encoders; everything else is float32. ``"auto"`` is float32. DeviceError where the device does
        not have it.
    budget : Budget, optional
        What the mean image may cost. None takes the model's own default thresholds, or, for a model
        without any, all steps for every image.
    compile : "auto", "always" or "never"
        Whether the encoders go through torch.compile, which takes a minute or so at the first batch.
        ``"auto"`` does not: the predictor cannot see how much work is to come.
    batch : int
        How many images go through together.
    """

    def __init__(
        self,
        model: GFNet,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        budget: Budget | None = None,
        compile: str = "auto",
        *,
        batch: int = 64,
    ) -> None:
        if not isinstance(model, GFNet):
            raise InputError(f"model: expected a GFNet, got {type(model).__name__}; see gfnet_fast.load")
        if not isinstance(batch, int) or batch < 1:
            raise InputError(f"batch: expected at least 1, got {batch}")
        if compile not in ("auto", "always", "never"):
            raise InputError(f"compile: expected 'auto', 'always' or 'never', got {compile!r}")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = check_device(device)
        if self.device != model.device:  # a copy: the caller's model stays where it is
            model = copy.deepcopy(model).to(self.device)
        self.model = model.eval()
        self.config = model.config
        self.batch = batch
        self.budget = budget
        self.dtype = check_dtype(dtype, self.device)
        self._engine: Engine = EagerEngine(self.model, batch, self.dtype, compile == "always")

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **options: Any) -> Predictor:
        """A predictor on the checkpoint at `path`; `options` as for :class:`Predictor`."""
        return cls(load(path), **options)

    @property
    def budget(self) -> Budget | None:
        """What the mean image may cost; may be set at any time, for the batches that follow."""
        return self._budget

    @budget.setter
    def budget(self, budget: Budget | None) -> None:
        if budget is not None:
            if not isinstance(budget, Budget):
                raise BudgetError(f"budget: expected a Budget or None, got {budget!r}")
            row = resolve(budget, self.config.steps, self.model.calibration, device=str(self.device))
            self._thresholds = torch.from_numpy(row).to(self.device)
        else:
            self._thresholds = self.model.default_thresholds().to(self.device)
        self._budget = budget

    @property
    def thresholds(self) -> Tensor:
        """The exit thresholds in force, float32 ``[T]``."""
        return self._thresholds.clone()

    def predict_batch(self, images: Tensor) -> Prediction:
        """Predict images that are preprocessed already.

        Parameters
        ----------
        images : Tensor
            uint8 ``[B, S, S, 3]`` or ``[B, 3, S, S]``, or float ``[B, 3, S, S]``, normalised; on the
            predictor's device, any strides.

        Raises
        ------
        InputError
            On another shape, dtype or device, an empty batch, or (on a CPU) numbers that are not finite.
        """
        check_batch(images, self.config.image_size, self.device)
        return self._engine.predict(images, self._thresholds)

    @overload
    def __call__(self, source: list[Source] | tuple[Source, ...]) -> list[Result]: ...
    @overload
    def __call__(self, source: Source) -> Any: ...
    def __call__(self, source: Any) -> Any:
        """One image -> :class:`Result`; an iterable, a folder or a glob -> list of Result, in order.

        Raises InputError at the first image that cannot be used; :meth:`stream` can go on.
        """
        results = list(self.stream(source))
        if not results:
            raise InputError("source: expected at least one image, got none")
        return results[0] if is_one(source) else results

    def stream(self, source: Source | Iterable[Source], *, on_error: str = "raise") -> Iterator[Result]:
        """Results in input order, in memory that does not grow with the number of images.

        Parameters
        ----------
        source : path, folder, glob, PIL image, array, tensor, or an iterable of them
        on_error : "raise" or "return"
            Whether an image that cannot be used raises InputError, or gives a Result with `error`.
        """
        if on_error not in ("raise", "return"):
            raise InputError(f"on_error: expected 'raise' or 'return', got {on_error!r}")
        return self._stream(source, on_error == "raise")

    def _stream(self, source: Source | Iterable[Source], strict: bool) -> Iterator[Result]:
        pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="gfnet-decode")
        waiting: deque[tuple[str, Future[Tensor]]] = deque()
        named = ((describe(item, index), item) for index, item in enumerate(expand(source, strict)))
        try:
            while True:
                for name, item in islice(named, 2 * self.batch - len(waiting)):
                    if not isinstance(item, InputError):
                        item = _owned(item)
                    waiting.append((name, pool.submit(self._read, item)))
                if not waiting:
                    return
                yield from self._results(
                    [waiting.popleft() for _ in range(min(self.batch, len(waiting)))], strict
                )
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, item: Source | InputError) -> Tensor:
        if isinstance(item, InputError):
            raise item
        return read_image(item, self.config)

    def _results(self, batch: list[tuple[str, Future[Tensor]]], strict: bool) -> list[Result]:
        results: list[Result | None] = []
        images: list[Tensor] = []
        for name, future in batch:
            try:
                images.append(future.result())
                results.append(None)
            except InputError as error:
                if strict:
                    raise
                results.append(Result(name, error=str(error)))
        if images:
            predicted = iter(self._predict_images(images))
        return [result or next(predicted)(name) for result, (name, _) in zip(results, batch, strict=True)]

    def _predict_images(self, images: list[Tensor]) -> list[Any]:
        if len({image.dtype for image in images}) > 1:
            images = [i if i.is_floating_point() else self.model.normalise(i[None])[0] for i in images]
        out = Prediction(*(t.cpu() for t in self.predict_batch(torch.stack(images).to(self.device))))
        return [lambda name, row=row: self._result(name, out, row) for row in range(len(images))]

    def _result(self, name: str, out: Prediction, row: int) -> Result:
        class_id, step = int(out.class_id[row]), int(out.exit_step[row])
        assert self.config.macs is not None
        return Result(
            source=name,
            class_id=class_id,
            label=self.model.labels[class_id] if self.model.labels else None,
            confidence=float(out.confidence[row]),
            exit_step=step,
            origins=tuple((int(r), int(c)) for r, c in out.origins[row, : step - 1]),
            macs=self.config.macs[step - 1],
            logits=out.logits[row],
        )
