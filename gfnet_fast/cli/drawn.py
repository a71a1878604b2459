"""`gfnet-fast predict --save` and `--show`: pictures of results, in a folder and on the screen."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gfnet_fast.errors import InputError
from gfnet_fast.text import say

if TYPE_CHECKING:
    from gfnet_fast.results import Result

SHOWN = 4  # windows; the rest is for a folder


class Pictures:
    """Draws results as they come.

    Parameters
    ----------
    folder : Path or None
        Where pictures are kept: below it as their files are below the folder that all `sources` have in
        common. Nothing in it is replaced: a second picture of a name gets a number.
    show : bool
        Whether the first few are opened with the system's viewer.
    sources : iterable of str
        Files, folders and globs that the results are of.
    """

    def __init__(self, folder: Path | None, show: bool, sources: Iterable[str]) -> None:
        self.undrawn = 0
        self._folder, self._to_show = folder, SHOWN if show and _has_display() else 0
        if folder is not None:
            from gfnet_fast.walking import root

            folder.mkdir(exist_ok=True)
            self._common = os.path.commonpath([os.path.abspath(root(source)) for source in sources])

    def add(self, result: Result, unsure: bool) -> None:
        """Draw one more result, unless there is nothing to draw; a line says what cannot be drawn."""
        if result.error is not None or (self._folder is None and not self._to_show):
            return
        if unsure:
            result = replace(result, label=f"{result.class_id if result.label is None else result.label} ?")
        try:
            if self._folder is not None:
                result.save(self._place(result))
            if self._to_show:
                self._show(result)
        except (InputError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
                raise
            self.undrawn += 1
            say(f"error: {error}")

    def _place(self, result: Result) -> Path:
        """A path that nothing has, in a folder that is made."""
        from gfnet_fast.annotated import WRITTEN

        assert self._folder is not None
        if result.path is None:
            raise InputError(f"{result.source}: expected an image file to draw on, got none")
        path = self._folder / os.path.relpath(os.path.abspath(result.path), self._common)
        if path.suffix.lower() not in WRITTEN:
            path = path.with_name(f"{path.name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        free, number = path, 1
        while os.path.lexists(free):
            number += 1
            free = path.with_stem(f"{path.stem}-{number}")
        return free

    def _show(self, result: Result) -> None:
        from PIL import ImageShow

        self._to_show -= 1
        if not ImageShow.show(result.plot()):
            self._to_show = 0
            say("show: expected a program that shows pictures, got none; --save keeps them in a folder")
        elif not self._to_show:
            say(f"show: the first {SHOWN} pictures are shown; --save keeps all in a folder")


def _has_display() -> bool:
    """Whether there is a screen; where there is none, a line says so."""
    if sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return True
    say("show: expected a display, got none; --save keeps the pictures in a folder")
    return False
