"""How downloads are shown, where somebody looks on; a library shows nothing by itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar

Bar = Callable[[str, "int | None", int], AbstractContextManager[Callable[[int], object]]]

shown_by: ContextVar[Bar | None] = ContextVar("shown_by", default=None)
"""How a download is shown: ``bar(name, total bytes or None, bytes there)`` opens one to advance."""
