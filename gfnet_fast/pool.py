"""A predictor's engines: built when needed, lent to one user at a time, compiled when it pays."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from gfnet_fast._scheduler import Mode
from gfnet_fast.engine.engine import Engine
from gfnet_fast.engine.loop import FAR
from gfnet_fast.forks import watch
from gfnet_fast.model.gfnet import GFNet

COMPILE_AFTER = 60.0  # seconds of work; compiling a ResNet-50 for three batch sizes takes half a minute
_ENGINES = ("_engines", "_idle", "_lock", "_warming")  # what neither a copy nor a forked process takes over


class Pool:
    """Engines on one model, all of the same settings; see :class:`~gfnet_fast.predictor.Predictor`.

    May be used by several threads. A process that forks from this one, and a copy, build engines of their
    own.

    Attributes
    ----------
    images : int
        How many have been given to engines.
    """

    def __init__(
        self,
        model: GFNet,
        *,
        dtype: torch.dtype,
        batch: int,
        compile: str,
        mode: Literal["throughput", "latency"],
        deadline_ms: float | None,
    ) -> None:
        self.model, self.config, self.device = model, model.config, model.device
        self.dtype, self.batch, self.compile = dtype, batch, compile
        self.mode, self.deadline_ms = mode, deadline_ms
        self.images = 0
        self._thresholds = model.default_thresholds().cpu()
        self._forget()

    def _forget(self) -> None:
        self._engines: list[Engine] = []
        self._idle: list[Engine] = []
        self._lock = threading.Lock()  # over the lists, and over who sets thresholds last
        self._warming = threading.Lock()  # who warms up waits for those who do
        watch(self)

    def begin_fork(self) -> bool:
        """In a process that has just forked: forget the engines, and say whether there were any."""
        computed = bool(self._engines)
        self._forget()
        return computed

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in _ENGINES}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    @property
    def thresholds(self) -> Tensor:
        """The exit thresholds in force in all engines, float32 ``[T]`` on the CPU."""
        return self._thresholds

    @thresholds.setter
    def thresholds(self, thresholds: Tensor) -> None:
        with self._lock:
            self._thresholds = thresholds.cpu()
            for engine in self._engines:
                engine.thresholds = self._thresholds

    @contextmanager
    def engine(self, images: int) -> Iterator[Engine]:
        """An engine that nobody else uses, prepared for the work in sight: `images` and what has been.

        A batch size costs some of its launches to prepare, which for one image is most of its time: an engine
        has those that are filled, and one with larger ones takes its place when there are images for them.
        """
        with self._lock:
            engine = self._idle.pop() if self._idle else None
        engine = engine or self._build(self._sizes(images), compile=self.compile == "always")
        if self._should_compile(engine, images):
            engine = self._compiled(engine)
        elif (grown := self._grown(engine, images, self.images + images)) != engine.buckets:
            engine = self._replaced(engine, list(grown), engine.compiled)
        try:
            yield engine
        finally:
            with self._lock:
                if engine in self._engines:  # in a fork it is not: it was its parent's
                    (self._idle.append if engine.settled else self._engines.remove)(engine)

    def warm_up(self, images: int) -> None:
        """Have an engine ready that is prepared for `images` more and full batches, and has run."""
        height, width = self.config.canvas
        black = torch.zeros(1, height, width, 3, dtype=torch.uint8, device=self.device)
        with self._warming, self.engine(max(images, self.batch)) as engine:
            engine.predict(black)

    def outgrown(self, engine: Engine, images: int) -> bool:
        """Whether a stream that has given `images` to `engine` should ask for another one."""
        return self._should_compile(engine, 0) or self._grown(engine, images, self.images) != engine.buckets

    def _should_compile(self, engine: Engine, images: int) -> bool:
        if self.compile != "auto" or engine.compiled or engine.mode is not Mode.THROUGHPUT:
            return False
        return (self.images + images) * engine.seconds_an_image > COMPILE_AFTER

    def _grown(self, engine: Engine, images: int, all_images: int) -> tuple[int, ...]:
        """The batch sizes that `engine` should have: one more, or those for `images` at once.

        They grow where more images are in sight than fit, and have been enough for what a larger one costs.
        """
        larger = [size for size in self._sizes(all_images) if size > engine.buckets[-1]]
        if images <= engine.buckets[-1] or not larger:
            return engine.buckets
        return (*engine.buckets, *(size for size in larger if size <= max(images, larger[0])))

    def _sizes(self, images: int) -> list[int]:
        """The batch sizes that so many images fill; all of them where each costs a compilation."""
        sizes = sorted({1, max(1, self.batch // 8), self.batch})
        return sizes if self.compile == "always" else [size for size in sizes if size <= max(images, 1)]

    def _compiled(self, engine: Engine) -> Engine:
        """A compiled engine in place of `engine`, or, where compiling fails, `engine`."""
        try:
            return self._replaced(engine, self._sizes(self.batch), compile=True)
        except Exception as error:
            self.compile = "never"
            warnings.warn(
                f"torch.compile failed, going on without: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return engine

    def _replaced(self, engine: Engine, sizes: list[int], compile: bool) -> Engine:
        better = self._build(sizes, compile)
        with self._lock:
            self._engines.remove(engine)
        return better

    def _build(self, sizes: list[int], compile: bool) -> Engine:
        engine = Engine(
            self.model,
            dtype=self.dtype,
            mode=self.mode if self.deadline_ms is None else "deadline",
            buckets=sizes,
            compile=compile,
            allowed=FAR if self.deadline_ms is None else self.deadline_ms / 1e3,
        )
        with self._lock:
            engine.thresholds = self._thresholds
            self._engines.append(engine)
        return engine
