"""What a library that this package uses warns of is not always the user's business."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast


class _Quiet(threading.local):
    """A pattern of modules for a filter of warnings: it matches any in a thread that is quiet, else none."""

    on = False

    def match(self, _: str) -> bool:
        return self.on


_here = _Quiet()
_IGNORED = cast(Any, ("ignore", None, Warning, _here, 0))


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing that this thread warns of inside is shown.

    `warnings.catch_warnings` would exchange the filters of all threads, and those that leave it out of turn
    put old ones back. One filter that matches nothing elsewhere changes nothing for anybody, and may stay. It
    goes before what is there, an "error" for all that somebody has put first meanwhile included.
    """
    filters: Any = warnings.filters
    if filters[:1] != [_IGNORED]:
        with suppress(ValueError):
            filters.remove(_IGNORED)
        filters.insert(0, _IGNORED)
    before, _here.on = _here.on, True
    try:
        yield
    finally:
        _here.on = before
