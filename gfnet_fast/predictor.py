"""The drop-in predictor: sources in, results out."""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Literal, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gfnet_fast.arrays import check_batch, check_normalised
from gfnet_fast.auditing import Auditing
from gfnet_fast.checkpoints import load
from gfnet_fast.checkpoints.files import check_device
from gfnet_fast.decoding import closed_at_exit
from gfnet_fast.engine.prepare import named_dtype
from gfnet_fast.engine.runtimes import check_name, runtime_of, usable
from gfnet_fast.engine.stages import parts_of
from gfnet_fast.errors import BudgetError, DeviceError, InputError, shown
from gfnet_fast.exits import Audit, Budget, BudgetWarning, resolve
from gfnet_fast.model.gfnet import GFNet, Trace
from gfnet_fast.pool import Pool
from gfnet_fast.results import Prediction, Result
from gfnet_fast.sources import Source, is_one, preprocess
from gfnet_fast.streaming import Stream
from gfnet_fast.tracing import Crops, Tracing

OnError = Literal["raise", "return"]

BATCH = {"cpu": 64, "cuda": 128}


class Predictor:
    """Classifies images with a GFNet; easy images leave early.

    Parameters
    ----------
    model : GFNet
        From :func:`gfnet_fast.load`. It is put into evaluation mode, and its weights are taken when an engine
        is built: they should stay as they are.
    device : "auto", str or torch.device
        ``"auto"`` is the first CUDA device where there is one, and else the CPU.
    dtype : "auto", "float32", "bfloat16", "float16", "int8" or torch.dtype
        What the networks compute in; logits, exits and crops' places are float32 always. ``"auto"`` is
        float32. int8 takes a model that `gfnet-fast quantize` has written. DeviceError where no runtime
        computes it here: never is another one taken instead.
    budget : Budget, optional
        What the mean image may cost. None takes the model's own default thresholds, or, for a model
        without any, all steps for every image.
    runtime : "auto" or a name
        What computes the networks: ``"torch"``, ``"inductor"`` (torch.compile) or ``"openvino"`` (CPUs; a
        package of its own). ``"auto"`` begins with the one that is ready at once, and goes over to a faster
        one when there is enough work: known to be faster here, as a file in torch's cache folder says, or
        measured once for that file. In latency mode and with a deadline it stays with the one that is known
        to be the fastest, and only :meth:`warm_up` measures. Where one fails, a warning says so.
    batch : int, optional
        The largest batch; 64 on a CPU and 128 on a GPU without it.
    mode : "throughput" or "latency"
        With ``"latency"`` a stream answers each image before it asks for the next, as a camera needs it;
        otherwise it takes images in by the batch, and as many again are decoded ahead.
    deadline_ms : float, optional
        Milliseconds that an image may take, from when the engine takes it in. What has not left by then
        leaves with its newest prediction; an image that has none is an error in its place. Not with
        ``mode="latency"``.
    audit : Audit, optional
        A random share of the images takes all steps as well, a batch of them at a time, and the audit warns
        (AuditWarning) when early exits change more classes than it allows. One audit, one predictor.

    Notes
    -----
    The engine is built at the first image: the runtime prepares the networks, and each stage is timed. Calls
    from several threads, or a call while a stream is open, get an engine each. So does a process that forks
    from this one, where torch computes on one thread from then on, and OpenVINO not at all where it did.
    """

    def __init__(
        self,
        model: GFNet,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        budget: Budget | None = None,
        runtime: str = "auto",
        *,
        batch: int | None = None,
        mode: Literal["throughput", "latency"] = "throughput",
        deadline_ms: float | None = None,
        audit: Audit | None = None,
    ) -> None:
        if not isinstance(model, GFNet):
            raise InputError(f"model: expected a GFNet, got {type(model).__name__}; see gfnet_fast.load")
        if batch is not None and (
            isinstance(batch, bool) or not isinstance(batch, (int, np.integer)) or batch < 1
        ):
            raise InputError(f"batch: expected a whole number of at least 1, got {batch!r}")
        if mode not in ("throughput", "latency"):
            raise InputError(f"mode: expected 'throughput' or 'latency', got {mode!r}")
        if deadline_ms is not None and (mode == "latency" or not 0 < deadline_ms < math.inf):
            raise InputError(
                f"deadline_ms: expected a time above 0, and mode 'throughput', got {deadline_ms}, {mode!r}"
            )
        if audit is not None and not isinstance(audit, Audit):
            raise InputError(f"audit: expected an Audit or None, got {audit!r}")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = check_device(device)
        if self.device != model.device:  # a copy: the caller's model stays where it is
            model = copy.deepcopy(model).to(self.device)
        self.model = model.eval()
        self.config = model.config
        self.batch = int(batch or BATCH.get(self.device.type, 64))
        self.dtype = named_dtype(dtype)
        check_name(runtime, "auto")
        if runtime == "auto":
            usable(self.device, self.dtype)
        else:
            runtime_of(runtime, self.device, self.dtype)
        if self.dtype == torch.int8:
            self._check_int8()
        self.mode, self.deadline_ms = mode, deadline_ms
        self._pool = Pool(
            self.model,
            dtype=self.dtype,
            batch=self.batch,
            runtime=runtime,
            mode=mode,
            deadline_ms=deadline_ms,
        )
        self.audit = audit
        self._auditing = None if audit is None else Auditing(audit, self.model, self.batch)
        self.budget = budget

    def __repr__(self) -> str:
        c, dtype = self.config, str(self.dtype).removeprefix("torch.")
        model = f"{c.name}, {c.classes} classes, {c.steps} steps"
        return f"Predictor({model}, {self.device}, {dtype}, {self.budget})"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "_auditing"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._pool = copy.copy(self._pool)  # which builds engines of its own
        self._auditing = None if self.audit is None else Auditing(self.audit, self.model, self.batch)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **options: Any) -> Predictor:
        """A predictor on the checkpoint at `path`; `options` as for :class:`Predictor`."""
        return cls(load(path), **options)

    @property
    def budget(self) -> Budget | None:
        """What the mean image may cost; may be set at any time, for all images that have not left."""
        return self._budget

    @budget.setter
    def budget(self, budget: Budget | None) -> None:
        if budget is not None:
            if not isinstance(budget, Budget):
                raise BudgetError(f"budget: expected a Budget or None, got {budget!r}")
            row = resolve(budget, self.config.steps, self.calibration, device=str(self.device))
            thresholds = torch.from_numpy(row)
            if budget.latency_ms is not None:
                self._compare_settings()
        else:
            thresholds = self.model.default_thresholds(self._precision)
        self._pool.thresholds, self._budget = thresholds, budget

    @property
    def _precision(self) -> str:
        return "int8" if self.dtype == torch.int8 else "float32"

    @property
    def calibration(self) -> Any:
        """What budgets are met by: the model's, found in its precision, or in float32 where none was."""
        return self.model.calibration_in(self._precision) or self.model.calibration

    @property
    def runtime(self) -> str:
        """What computes the networks now, or will at first."""
        return self._pool.runtime

    @property
    def settings(self) -> dict[str, Any]:
        """What the time of an image depends on, as a table of measured costs records it."""
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "batch": self.batch,
            "runtime": self.runtime,
        }

    def _check_int8(self) -> None:
        """DeviceError where the model has no int8 form of its weights; a warning where that has no exits."""
        parts_of(self.model, self.dtype)
        quantised = self.model.quantised
        if quantised is not None and quantised.weights != self.model.weights_digest():
            what = "expected networks made of the model's weights, got those of others"
            raise DeviceError(f"dtype int8: {what}; make them anew with `gfnet-fast quantize`")
        if self.model.calibration is not None and self.model.calibration_in("int8") is None:
            said = "dtype int8: the thresholds were found in float32, and a budget may be missed"
            warnings.warn(f"{said}; use `gfnet-fast calibrate --dtype int8`", BudgetWarning, stacklevel=3)

    def _compare_settings(self) -> None:
        """Warn where the costs were measured with other settings than these."""
        assert self.calibration is not None
        assert self.calibration.cost is not None
        mine = self.settings
        if self._pool.wanted == "auto":  # it may become another
            del mine["runtime"]
        if others := self.calibration.cost.other_settings(mine):
            text = f"latency_ms: the costs were measured with {', '.join(others)}; the budget may be missed"
            warnings.warn(text, BudgetWarning, stacklevel=4)

    @property
    def thresholds(self) -> Tensor:
        """The exit thresholds in force, float32 ``[T]``."""
        return self._pool.thresholds.to(self.device, copy=True)

    def predict_batch(self, images: Tensor, *, normalised: bool | None = None) -> Prediction:
        """Predict images that have the size of the canvas already.

        Parameters
        ----------
        images : Tensor
            uint8 or float, ``[B, H, W, 3]`` or ``[B, 3, H, W]``; on the predictor's device, any strides.
        normalised : bool, optional
            What floats are: (x - mean) / std already, or, where False, from 0 to 1, which are normalised
            here. Without it they are taken for normalised, and on a CPU refused where they do not look it. On
            a GPU their numbers are not looked at, for that would wait for it: say it there.

        Raises
        ------
        InputError
            On another shape, dtype or device, an empty batch, or (on a CPU) numbers that are not finite or
            not what `normalised` says.
        PassError
            Where images could not be computed (memory ran out, say); it holds the others' predictions.
        """
        check_normalised(normalised)
        images = check_batch(images, self.config, self.device, normalised)
        chosen = [] if self._auditing is None else self._auditing.choose(len(images)).nonzero()[0].tolist()
        with self._pool.engine(len(images)) as engine:
            self._pool.images += len(images)
            prediction = engine.predict(images)
        if self._auditing is not None:
            for row, class_id in zip(chosen, prediction.class_id[chosen].tolist(), strict=True):
                self._auditing.left(images[row], class_id)
            self._auditing.finish()
        return prediction

    def warm_up(self, images: int | None = None) -> None:
        """Have an engine built and timed, on the runtime that it will have, before the first image comes.

        The next call, or stream, builds nothing; a second one at the same time has an engine built of its
        own. Where an idle engine is ready this does nothing but run it once. Several threads may call it.

        Parameters
        ----------
        images : int, optional
            How many images will come: with ``runtime="auto"`` the one that is best for so much work is
            prepared now. Without it that is not known, and another may take its place later.
        """
        if images is not None and (isinstance(images, bool) or not isinstance(images, int) or images < 0):
            raise InputError(f"images: expected how many will come or None, got {shown(images)}")
        preprocess(Image.new("RGB", (8, 8)), self.config)
        self._pool.warm_up(images or 0)

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is an iterable of str too; it is a path here
        self, source: Source, *, on_error: OnError = "raise", normalised: bool | None = None
    ) -> Result: ...
    @overload
    def __call__(
        self, source: Iterable[Source], *, on_error: OnError = "raise", normalised: bool | None = None
    ) -> list[Result]: ...
    def __call__(
        self,
        source: Source | Iterable[Source],
        *,
        on_error: OnError = "raise",
        normalised: bool | None = None,
    ) -> Result | list[Result]:
        """One image -> :class:`Result`; a list or another iterable -> list of Result, in order.

        A folder, a glob and a batch ``[B, H, W, 3]`` stand for many: ``p(["photos/"])``, or :meth:`stream`;
        alone they raise InputError, so that one path or array always gives one Result. `on_error` and
        `normalised` are as for :meth:`stream`.
        """
        one = is_one(source)
        if not one and isinstance(source, (str, os.PathLike, np.ndarray, Tensor)):
            many = isinstance(source, (str, os.PathLike))
            what, got = (source, "a folder or a glob") if many else ("array", "a batch")
            advice = "give [x] for a list of results, or stream(x)"
            raise InputError(f"{what}: expected one image, or a list, got {got}; {advice}")
        results = list(self.stream(source, on_error=on_error, normalised=normalised))
        if not results:
            raise InputError("source: expected at least one image, got none")
        return results[0] if one else results

    def stream(
        self,
        source: Source | Iterable[Source],
        *,
        on_error: OnError = "raise",
        normalised: bool | None = None,
    ) -> Iterator[Result]:
        """Results in input order, in memory that does not grow with the number of images.

        Parameters
        ----------
        source : path, folder, glob, encoded bytes, binary file, PIL image, array, tensor; or an iterable
            Arrays and tensors are one image, or a batch of them; see :mod:`gfnet_fast.arrays`.
        on_error : "raise" or "return"
            Whether an image that cannot be used raises, after the results before it, InputError (PassError
            where it could not be computed), or gives a Result with `error`. What the iterable itself raises
            is raised after the results before it.
        normalised : bool, optional
            What floats are, as for :meth:`predict_batch`; each image is looked at by itself.
        """
        if on_error not in ("raise", "return"):
            raise InputError(f"on_error: expected 'raise' or 'return', got {on_error!r}")
        check_normalised(normalised)
        stream = Stream(self._pool, self._auditing, strict=on_error == "raise", normalised=normalised)
        return closed_at_exit(stream.results(source))

    def trace(self, source: Source | Iterable[Source], *, normalised: bool | None = None) -> Trace:
        """All T steps for all images, without exits; on the CPU.

        In the plain model and float32, whatever the predictor computes in, a batch at a time: what the exits
        choose from, and what an engine is compared with. Sources and `normalised` are as for :meth:`stream`;
        InputError at the first image that cannot be used.
        """
        return self._tracing(normalised).trace(source)

    def features(self, source: Source | Iterable[Source], *, normalised: bool | None = None) -> Tensor:
        """The encoders' feature vectors of all steps, float32 ``[T, B, F]`` on the CPU; see :meth:`trace`."""
        return self._tracing(normalised).features(source)

    def crops(self, source: Source | Iterable[Source], *, normalised: bool | None = None) -> Crops:
        """What the network looks at in each image, as uint8 pictures on the CPU; see :meth:`trace`.

        The crops of uint8 pixels are exactly those; thumbnails are rounded.
        """
        return self._tracing(normalised).crops(source)

    def _tracing(self, normalised: bool | None) -> Tracing:
        check_normalised(normalised)
        return Tracing(self.model, self.batch, normalised)
