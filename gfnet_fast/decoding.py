"""Sources decoded ahead by a few threads, in their order, in bounded memory."""

from __future__ import annotations

import atexit
import os
import re
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from gfnet_fast.errors import DeviceError, InputError
from gfnet_fast.results import Result
from gfnet_fast.sources import Canvas, Source, Taken, describe, expand, is_one, without_frames

DECODERS = min(8, os.cpu_count() or 1)
_THREADS = "gfnet-decode"
_KIND = re.compile(r"^(array|bytes|file|floats|image|source|tensor)(?=: )")  # how an error begins


_open: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()


def closed_at_exit(stream: Generator[Result, None, None]) -> Generator[Result, None, None]:
    """A stream that is left open is closed while there still are the modules that it takes."""
    _open.add(stream)
    return stream


@atexit.register
def _close() -> None:
    for stream in list(_open):
        with suppress(ValueError):  # it is being asked for its next result, in another thread
            stream.close()


class Unusable(NamedTuple):
    """Why a source gives no image: a text, for an exception would hold the pixels that its frames do."""

    why: str


class Decoded:
    """Iterates over ``(name, canvas)``, or ``(name, Unusable)`` for a source that cannot be used.

    Where the iterable itself raises, its exception comes last, in its turn. A context manager, iterated
    inside of itself only; leaving it stops the threads.

    Parameters
    ----------
    source : as for :meth:`Predictor.stream`
    take : one source -> what :func:`~gfnet_fast.sources.take` makes of it. Called here, at its turn.
    read : what was taken -> its canvas. Called in the threads.
    ahead : how many sources at most are taken before their turn; two are taken for each that is given, so
        that a slow producer is not waited for
    """

    def __init__(
        self,
        source: Source | Iterable[Source],
        take: Callable[[Source], Taken],
        read: Callable[[Taken], Canvas],
        *,
        ahead: int,
    ) -> None:
        self._one = True  # or none at all
        with suppress(Exception):  # what it raises is said in its place
            self._one = is_one(source) or not isinstance(source, Iterable) or isinstance(source, Mapping)
        self._sources: Iterator[tuple[int, Source | InputError]] = enumerate(expand(source, strict=False))
        self._take, self._read, self._ahead = take, read, ahead
        self._waiting: deque[tuple[str, Future[Canvas] | Unusable]] = deque()
        self._returned: list[tuple[str, Canvas | Unusable | Exception]] = []
        self._raised: Exception | None = None

    def __enter__(self) -> Decoded:
        self._process, self._pool = os.getpid(), ThreadPoolExecutor(DECODERS, thread_name_prefix=_THREADS)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._process == os.getpid():
            # The garbage collector may close a stream that was left open in any thread, these too.
            mine = threading.current_thread().name.startswith(_THREADS)
            self._pool.shutdown(wait=not mine, cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[str, Canvas | Unusable | Exception]]:
        return self

    def __next__(self) -> tuple[str, Canvas | Unusable | Exception]:
        if self._process != os.getpid():
            raise DeviceError("stream: expected the process that opened it, got one that forked from it")
        if self._returned:
            return self._returned.pop()
        try:
            for index, source in islice(self._sources, min(2, self._ahead - len(self._waiting))):
                self._waiting.append(self._begun(source, index))
        except Exception as error:
            self._raised, self._sources = error, iter(())
        if self._waiting:
            name, found = self._waiting.popleft()
            return name, found if isinstance(found, Unusable) else found.result()
        if self._raised is not None:
            raised, self._raised = self._raised, None
            return "source", raised
        raise StopIteration

    def put_back(self, name: str, canvas: Canvas | Unusable | Exception) -> None:
        """Give back what came last; it comes next."""
        self._returned.append((name, canvas))

    def _begun(self, source: Source | InputError, index: int) -> tuple[str, Future[Any] | Unusable]:
        name = describe(source, index)
        if isinstance(source, InputError):
            why = self._why(source, index)
            return describe(InputError(why), index), Unusable(why)
        place = None if isinstance(source, str) else index
        try:
            return name, self._pool.submit(self._try, self._take(source), place)
        except Exception as error:
            return name, Unusable(self._why(error, place))

    def _try(self, taken: Taken, place: int | None) -> Canvas | Unusable:
        try:
            return self._read(taken)
        except Exception as error:
            return Unusable(self._why(error, place))

    def _why(self, error: Exception, place: int | None) -> str:
        """What an error says; of one of many that has no name of its own, at which place it is."""
        text = str(without_frames(error))
        return text if self._one or place is None else _KIND.sub(f"images[{place}]", text)
