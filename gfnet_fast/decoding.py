"""Sources decoded ahead by a few threads, in their order, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from torch import Tensor

from gfnet_fast.errors import InputError
from gfnet_fast.sources import Source, describe, expand

DECODERS = min(8, os.cpu_count() or 1)


class Decoded:
    """Iterates over ``(name, image)``, or ``(name, InputError)`` for a source that cannot be used.

    A context manager, iterated inside of itself only; leaving it stops the threads.

    Parameters
    ----------
    source : as for :meth:`Predictor.stream`
    read : one source -> its image; raises InputError. Called in the threads.
    ahead : how many sources are taken before their turn
    """

    def __init__(
        self, source: Source | Iterable[Source], read: Callable[[Source], Tensor], *, ahead: int
    ) -> None:
        self._sources = enumerate(expand(source, strict=False))
        self._read, self._ahead = read, ahead
        self._waiting: deque[tuple[str, Future[Tensor | InputError]]] = deque()
        self._returned: list[tuple[str, Tensor | InputError]] = []

    def __enter__(self) -> Decoded:
        self._pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="gfnet-decode")
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[str, Tensor | InputError]]:
        return self

    def __next__(self) -> tuple[str, Tensor | InputError]:
        if self._returned:
            return self._returned.pop()
        while len(self._waiting) < self._ahead:
            index, item = next(self._sources, (0, None))
            if item is None:
                break
            self._waiting.append((describe(item, index), self._pool.submit(self._try, _owned(item))))
        if not self._waiting:
            raise StopIteration
        name, future = self._waiting.popleft()
        return name, future.result()

    def put_back(self, name: str, image: Tensor | InputError) -> None:
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
    """An array or a tensor that its owner cannot change any more: frames often share one buffer."""
    if isinstance(item, np.ndarray):
        return item.copy()
    return item.detach().clone() if isinstance(item, Tensor) else item
