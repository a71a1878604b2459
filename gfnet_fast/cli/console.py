"""What commands show: tables on stdout, progress on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from gfnet_fast.text import plain, say


def results_console() -> Any:
    """Where tables go: stdout, as wide as the terminal, or as they need where it is none.

    Text is shown as it is, whatever brackets and colons are in it. Raises OSError where stdout is closed.
    """
    from rich.console import Console

    sys.stdout.write("")  # before any work: a closed one says so
    width = None if sys.stdout.isatty() else 200
    return Console(highlight=False, markup=False, emoji=False, width=width)


def plain_table(*columns: str) -> Any:
    """A rich table with right-aligned columns, the first one aside."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table


def per_cent(shares: Any) -> str:
    """``[.5, .3, .2]`` -> ``50 / 30 / 20``."""
    return " / ".join(f"{100 * share:.0f}" for share in shares)


def count_images(sources: Iterable[str], seconds: float = 0.5) -> int | None:
    """How many results files and folders will have, none of them opened.

    None where that takes longer than `seconds`, and for globs, whose listing cannot be ended early.
    """
    from gfnet_fast.walking import find, is_folder_or_glob

    until, count = time.monotonic() + seconds, 0
    for source in sources:
        many = is_folder_or_glob(source)
        if many and not os.path.isdir(source):
            return None
        for _ in find(source) if many else (source,):
            count += 1
            if time.monotonic() > until:
                return None
    return count


@contextmanager
def download_bar(name: str, total: int | None, there: int) -> Iterator[Callable[[int], object]]:
    """A bar of bytes on stderr where that is a terminal, and otherwise one line."""
    if not sys.stderr.isatty():
        size = "" if total is None else f", {total / 1e6:.0f} MB"
        say(f"fetching {name}{size}" + (f", {there / 1e6:.0f} MB of them here" if there else ""))
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True, markup=False, emoji=False)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(plain(name), total=total, completed=there)
        yield lambda done: bar.advance(task, done)


@contextmanager
def progress(
    what: str, total: int | Callable[[], int | None] | None, quiet: bool
) -> Iterator[Callable[[int], object]]:
    """A bar on stderr, where that is a terminal; of an unknown `total`, a count of images.

    A `total` that takes work is a function, which is only called where there is a terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    total = total() if callable(total) else total
    counting = (SpinnerColumn(), TextColumn("{task.completed:.0f} images"), TimeElapsedColumn())
    known = (*Progress.get_default_columns(), MofNCompleteColumn())
    columns = known if total is not None else counting
    console = Console(stderr=True, markup=False, emoji=False)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
