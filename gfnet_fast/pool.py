"""A predictor's engines: built when needed, lent to one user at a time, on a faster runtime when it pays."""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from gfnet_fast._scheduler import Mode
from gfnet_fast.engine.choice import Choice, contest
from gfnet_fast.engine.engine import Engine
from gfnet_fast.engine.running import FAR
from gfnet_fast.engine.runtimes import runtimes, usable
from gfnet_fast.errors import reason
from gfnet_fast.forks import watch
from gfnet_fast.hub.sources import cache
from gfnet_fast.model.gfnet import GFNet

SHORT = 20.0  # seconds of work at which a runtime is prepared at most, where a warm-up may take its time
# What neither a copy nor a forked process takes over.
_ENGINES = ("_engines", "_idle", "_lock", "_warming", "_out", "choice")


class Pool:
    """Engines on one model, all of the same settings; see :class:`~gfnet_fast.predictor.Predictor`.

    May be used by several threads. A process that forks from this one, and a copy, build engines of their
    own.

    Attributes
    ----------
    images : int
        How many have been given to engines.
    wanted : str
        "auto", or the name of the one runtime that engines are to have.
    """

    def __init__(
        self,
        model: GFNet,
        *,
        dtype: torch.dtype,
        batch: int,
        runtime: str,
        mode: Literal["throughput", "latency"],
        deadline_ms: float | None,
    ) -> None:
        self.model, self.config, self.device = model, model.config, model.device
        self.dtype, self.batch, self.wanted = dtype, batch, runtime
        self.mode, self.deadline_ms = mode, deadline_ms
        self.images = 0
        self._thresholds = model.default_thresholds().cpu()
        self._forget()

    def _forget(self) -> None:
        self._engines: list[Engine] = []
        self._idle: list[Engine] = []
        self._lock = threading.Lock()  # over the lists, and over who sets thresholds last
        self._warming = threading.Lock()  # who warms up waits for those who do
        self._out: set[str] = set()  # names of runtimes that are not here, or have failed with this model
        vars(self).pop("choice", None)
        watch(self)

    @cached_property
    def choice(self) -> Choice:
        """What is known of the runtimes' speeds here, on as many threads as there are at its first use."""
        return Choice(self.config, self.dtype, self.device, cache() / "runtimes")

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

    @property
    def runtime(self) -> str:
        """Of the newest engine, or of the one that will be built first."""
        return self._engines[-1].runtime if self._engines else self._first()

    @contextmanager
    def engine(self, images: int) -> Iterator[Engine]:
        """An engine that nobody else uses, prepared for the work in sight: `images` and what has been.

        A batch size costs some of its launches to prepare, which for one image is most of its time: an engine
        has those that are filled, and one with larger ones takes its place when there are images for them. So
        does one on another runtime, where it is known to save more time than it takes to prepare, or where
        there is enough work to find out.
        """
        with self._lock:
            engine = self._idle.pop() if self._idle else None
        engine = engine or self._begun(images)
        if runtime := self._better(engine, images):
            engine = self._moved(engine, runtime)
        elif (grown := self._grown(engine, images, self.images + images)) != engine.buckets:
            engine = self._replaced(engine, engine.runtime, list(grown))
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
        with self._warming:
            if self._hurries:
                self._try_all()
                self._leave(self._first())
            with self.engine(max(images, self.batch)) as engine:
                engine.predict(black)

    def outgrown(self, engine: Engine, images: int) -> bool:
        """Whether a stream that has given `images` to `engine` should ask for another one."""
        return bool(self._better(engine, 0)) or self._grown(engine, images, self.images) != engine.buckets

    @property
    def _hurries(self) -> bool:
        """Whether no image can wait until a better runtime has been prepared."""
        return self.mode == "latency" or self.deadline_ms is not None

    def _begun(self, images: int) -> Engine:
        """A new engine; where its runtime fails and another may take its place, on that."""
        while True:
            runtime = self._first(images)
            waits = self._hurries or runtimes()[runtime].trial == 0.0
            try:
                return self._build(runtime, self._sizes(images if waits else self.batch))
            except Exception as error:
                if self.wanted != "auto" or runtime == usable(self.device, self.dtype).name:
                    raise
                self._fail(runtime, error)

    def _first(self, images: int = 0) -> str:
        """The runtime of a new engine: of those that are known, the best for the work in sight."""
        if self.wanted != "auto":
            return self.wanted
        ready = usable(self.device, self.dtype).name
        if self._hurries:
            known = {name: self.choice.seconds(name, 1) for name in runtimes() if name not in self._out}
            times = {name: seconds for name, seconds in known.items() if seconds and self._has(name)}
            return min(times, key=times.__getitem__, default=ready)
        if self._engines and (newest := self._engines[-1].runtime) not in self._out:
            return newest  # what was found to be better is not left again
        rows = self._sizes(images)[-1]
        now = self.choice.seconds(ready, rows)
        return (now and self._best(ready, now, rows, images, tries=False)) or ready

    def _has(self, runtime: str) -> bool:
        """Whether it is here, and has not failed."""
        if runtime not in self._out and runtimes()[runtime].missing(self.device, self.dtype) is not None:
            self._out.add(runtime)  # to look for it takes a while
        return runtime not in self._out

    def _better(self, engine: Engine, images: int) -> str | None:
        """A runtime that should take the place of the engine's now."""
        if self.wanted != "auto" or engine.mode is not Mode.THROUGHPUT:
            return None
        rows = engine.buckets[-1]
        now = self.choice.seconds(engine.runtime, rows) or engine.seconds_an_image
        return self._best(engine.runtime, now, rows, images, tries=True)

    def _best(self, current: str, now: float, rows: int, images: int, *, tries: bool) -> str | None:
        """The runtime that saves most over `current`, where an image takes `now` seconds; None saves nothing.

        It is known for launches of so many rows; or, with `tries`, there is work enough to find out.
        """
        count = self.images + images
        saved = {}
        for name, runtime in runtimes().items():
            speed, then = self.choice.speed(name), self.choice.seconds(name, rows)
            if name == current or name in self._out:
                continue
            if speed is not None and then is not None:
                saved[name] = count * (now - then) - speed.prepare
            elif tries and count * now > runtime.trial:
                saved[name] = math.inf
        for name in sorted(saved, key=saved.__getitem__, reverse=True):
            if saved[name] > 0 and self._has(name):
                return name
        return None

    def _grown(self, engine: Engine, images: int, all_images: int) -> tuple[int, ...]:
        """The batch sizes that `engine` should have: one more, or those for `images` at once.

        They grow where more images are in sight than fit, and have been enough for what a larger one costs.
        """
        larger = [size for size in self._sizes(all_images) if size > engine.buckets[-1]]
        if images <= engine.buckets[-1] or not larger:
            return engine.buckets
        return (*engine.buckets, *(size for size in larger if size <= max(images, larger[0])))

    def _sizes(self, images: int) -> list[int]:
        """The batch sizes that so many images fill."""
        sizes = sorted({1, max(1, self.batch // 8), self.batch})
        return [size for size in sizes if size <= max(images, 1)]

    def _moved(self, engine: Engine, runtime: str) -> Engine:
        """An engine on another runtime; or `engine`, where that fails or is not faster."""
        rows, better = engine.buckets[-1], None
        known = self.choice.seconds(runtime, rows) is not None
        try:
            better = self._build(runtime, self._sizes(self.batch))
            chosen = better if known else self._faster([engine, better], rows)
        except Exception as error:
            self._fail(runtime, error)
            chosen = engine
        with self._lock:
            for other in (engine, better):
                if other is not None and other is not chosen:
                    self._engines.remove(other)
        return chosen

    def _faster(self, engines: list[Engine], rows: int) -> Engine:
        """The one with the shortest launches of so many rows; what they take is noted."""
        times = contest(engines, rows)
        for engine, seconds in zip(engines, times, strict=True):
            speed = self.choice.speed(engine.runtime)
            self.choice.note(engine.runtime, speed.prepare if speed else 0.0, {rows: seconds})
        return engines[times.index(min(times))]

    def _fail(self, runtime: str, error: Exception) -> None:
        self._out.add(runtime)
        said = f"{runtime} failed, going on without: {type(error).__name__}: {reason(error)}"
        warnings.warn(said, RuntimeWarning, stacklevel=2)

    def _try_all(self) -> None:
        """Find out how fast single images are on the runtimes that are prepared in seconds."""
        if self.wanted != "auto":
            return
        names = [name for name, runtime in runtimes().items() if runtime.trial <= SHORT and self._has(name)]
        if len(names) < 2 or all(self.choice.seconds(name, 1) for name in names):
            return
        engines = []
        for name in names:
            try:
                engines.append(self._build(name, [1], keep=False))
            except Exception as error:
                self._fail(name, error)
        if len(engines) > 1:
            self._faster(engines, 1)

    def _leave(self, runtime: str) -> None:
        """Let go of idle engines on other runtimes than this one."""
        with self._lock:
            for engine in [engine for engine in self._idle if engine.runtime != runtime]:
                self._idle.remove(engine)
                self._engines.remove(engine)

    def _replaced(self, engine: Engine, runtime: str, sizes: list[int]) -> Engine:
        better = self._build(runtime, sizes)
        with self._lock:
            self._engines.remove(engine)
        return better

    def _build(self, runtime: str, sizes: list[int], *, keep: bool = True) -> Engine:
        """An engine, and a note of how fast it is; without `keep` only that."""
        if runtime == "inductor":
            sizes = self._sizes(self.batch)  # each costs a compilation: all at once
        begin = time.perf_counter()
        engine = Engine(
            self.model,
            dtype=self.dtype,
            mode=self.mode if self.deadline_ms is None else "deadline",
            buckets=sizes,
            runtime=runtime,
            allowed=FAR if self.deadline_ms is None else self.deadline_ms / 1e3,
        )
        if self.wanted == "auto":
            # What a contest has measured is known better.
            known = self.choice.speed(runtime)
            costs = zip(engine.costs.glance, engine.costs.focus, strict=True)
            seconds = {rows: glance + focus for (rows, glance), (_, focus) in costs}
            if known is None or not set(seconds) <= set(known.seconds):
                taken = time.perf_counter() - begin
                self.choice.note(runtime, taken, seconds | (known.seconds if known else {}))
        with self._lock:
            engine.thresholds = self._thresholds
            if keep:
                self._engines.append(engine)
        return engine
