"""What commands show: tables on stdout, progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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


@contextmanager
def progress(what: str, total: int | None, quiet: bool) -> Iterator[Callable[[int], object]]:
    """A bar on stderr, where that is a terminal; of an unknown `total`, a count of images."""
    if quiet or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    counting = (SpinnerColumn(), TextColumn("{task.completed:.0f} images"), TimeElapsedColumn())
    columns = Progress.get_default_columns() if total is not None else counting
    console = Console(stderr=True, markup=False, emoji=False)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
