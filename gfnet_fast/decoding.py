"""Sources decoded ahead by a few threads, in their order, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from gfnet_fast.errors import InputError
from gfnet_fast.sources import Source, describe, expand

DECODERS = min(8, os.cpu_count() or 1)


class Decoded:
    """Iterates over ``(name, image)``, or ``(name, InputError)`` for a source that cannot be used.

    Where the iterable itself raises, its exception comes last, in its turn. A context manager, iterated
    inside of itself only; leaving it stops the threads.

    Parameters
    ----------
    source : as for :meth:`Predictor.stream`
    read : one source -> its image; raises InputError. Called in the threads.
    ahead : how many sources at most are taken before their turn; two are taken for each that is given, so
        that a slow producer is not waited for
    """

    def __init__(
        self, source: Source | Iterable[Source], read: Callable[[Source], Tensor], *, ahead: int
    ) -> None:
        self._sources: Iterator[tuple[int, Source | InputError]] = enumerate(expand(source, strict=False))
        self._read, self._ahead = read, ahead
        self._waiting: deque[tuple[str, Future[Tensor | InputError]]] = deque()
        self._returned: list[tuple[str, Tensor | Exception]] = []
        self._raised: Exception | None = None

    def __enter__(self) -> Decoded:
        self._pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="gfnet-decode")
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[str, Tensor | Exception]]:
        return self

    def __next__(self) -> tuple[str, Tensor | Exception]:
        if self._returned:
            return self._returned.pop()
        try:
            for index, item in islice(self._sources, min(2, self._ahead - len(self._waiting))):
                self._waiting.append((describe(item, index), self._pool.submit(self._try, _owned(item))))
        except Exception as error:
            self._raised, self._sources = error, iter(())
        if self._waiting:
            name, future = self._waiting.popleft()
            return name, future.result()
        if self._raised is not None:
            raised, self._raised = self._raised, None
            return "source", raised
        raise StopIteration

    def put_back(self, name: str, image: Tensor | Exception) -> None:
        """Give back what came last; it comes next."""
        self._returned.append((name, image))

    def _try(self, item: Source | InputError) -> Tensor | InputError:
        if isinstance(item, InputError):
            return item
        try:
            return self._read(item)
        except InputError as error:
            return error


def _owned(item: Source | InputError) -> Source | InputError:
    """An image that its owner cannot change any more: frames often share one buffer, or one PIL image."""
    if isinstance(item, np.ndarray):
        return item.copy()
    if isinstance(item, Image.Image):
        try:
            return item.copy()
        except Exception as error:  # a damaged file fails in whatever way its decoder does
            return InputError(f"image: expected a whole one, got one that fails to decode ({error})")
    return item.detach().clone() if isinstance(item, Tensor) else item
