"""One open stream of a predictor: sources in, results out, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import NamedTuple

from torch import Tensor

from gfnet_fast.auditing import Auditing
from gfnet_fast.decoding import Decoded, Unusable
from gfnet_fast.engine.answers import Answer, PassError
from gfnet_fast.engine.engine import Engine
from gfnet_fast.errors import InputError
from gfnet_fast.original import Original
from gfnet_fast.pool import Pool
from gfnet_fast.results import Result
from gfnet_fast.sources import Canvas, Source, Taken, known_count, prepare, take


class UnderWay(NamedTuple):
    """A source whose result is awaited: what was wrong with it, or its picture, and its image if audited.

    An exception is what the iterable of sources raised.
    """

    name: str
    error: Unusable | Exception | None = None
    original: Original | None = None
    audited: Tensor | None = None


class Stream:
    """The results of sources, over a pool's engines.

    Parameters
    ----------
    pool, auditing : the predictor's
    strict : whether a source that cannot be used raises, or gives a Result with `error`
    normalised : what floats are, as for :meth:`Predictor.stream`
    """

    def __init__(
        self, pool: Pool, auditing: Auditing | None, *, strict: bool, normalised: bool | None
    ) -> None:
        self._pool, self._auditing, self._strict = pool, auditing, strict
        self._normalised = normalised
        self._line: deque[UnderWay] = deque()

    def results(self, source: Source | Iterable[Source]) -> Generator[Result, None, None]:
        pool, line = self._pool, self._line
        taking = partial(take, config=pool.config, normalised=self._normalised)
        ahead = 1 if pool.mode == "latency" else 2 * pool.batch
        self._in_sight = 1 if pool.mode == "latency" else known_count(source) or max(1, pool.batch // 8)
        with (
            self._to_the_end(),
            Decoded(source, taking, self._read, ahead=ahead) as decoded,
        ):
            for name, canvas in decoded:
                if not isinstance(canvas, Canvas):
                    line.append(UnderWay(name, canvas))
                    yield from self._failed()
                    continue
                decoded.put_back(name, canvas)
                with pool.engine(self._in_sight) as engine:
                    answers = engine.stream(self._feed(decoded, engine))
                    with closing(answers):  # before somebody else gets the engine
                        for answer in answers:
                            yield from self._failed()
                            name, _, original, audited = line.popleft()
                            if audited is not None and self._auditing is not None:
                                self._auditing.left(audited, answer.class_id)
                            yield self._result(name, answer, original)
                yield from self._failed()

    @contextmanager
    def _to_the_end(self) -> Iterator[None]:
        """Audited images that have left by the end of a stream are run to theirs."""
        yield
        if self._auditing is not None:
            self._auditing.finish()

    def _feed(self, decoded: Decoded, engine: Engine) -> Iterator[Tensor]:
        """Images for one engine: up to the first float where bytes came before, or a reason for another."""
        pool, line, floats = self._pool, self._line, False
        for count, (name, canvas) in enumerate(decoded):
            if not isinstance(canvas, Canvas):
                line.append(UnderWay(name, canvas))
                # Errors wait for the images before them: before there are too many, let those out.
                if self._strict or isinstance(canvas, Exception) or len(line) > engine.capacity:
                    return
                if pool.mode == "latency":
                    return
                continue
            image, original = canvas
            if pool.mode != "latency":
                self._in_sight = max(self._in_sight, count)
            if count and (
                (image.is_floating_point() and not floats) or pool.outgrown(engine, self._in_sight)
            ):
                decoded.put_back(name, canvas)
                return
            pool.images += 1
            floats = floats or image.is_floating_point()
            image = image.to(pool.device, non_blocking=True)
            if floats and not image.is_floating_point():
                image = pool.model.normalise(image[None])[0]
            chosen = self._auditing is not None and self._auditing.choose(1)[0]
            line.append(UnderWay(name, None, original, image if chosen else None))
            yield image

    def _failed(self) -> Iterator[Result]:
        """Results of the sources at the head of the line that could not be used."""
        line = self._line
        while line and (error := line[0].error) is not None:
            name = line.popleft().name
            if isinstance(error, Exception):
                raise error
            if self._strict:
                raise InputError(error.why)
            yield Result(name, error=error.why)

    def _read(self, taken: Taken) -> Canvas:
        canvas = prepare(taken, self._pool.config)
        if self._pool.device.type == "cuda":
            canvas = canvas._replace(pixels=canvas.pixels.pin_memory())
        return canvas

    def _result(self, name: str, answer: Answer, original: Original | None) -> Result:
        error = answer.error
        if error is None and answer.exit_step == 0:
            error = f"expected a prediction within {self._pool.deadline_ms} ms, got none"
        elif error is None and answer.class_id < 0:
            error = f"expected finite numbers from the network, got others; it computes in {self._pool.dtype}"
        if error is not None:
            if self._strict:
                raise PassError({name: error})
            return Result(name, error=f"{name}: {error}")
        assert original is not None
        return Result.of(name, answer, self._pool.model, original)
