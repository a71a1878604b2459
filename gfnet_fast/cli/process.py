"""The process around a command: its standard streams, signals, warnings, and how it ends."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from gfnet_fast.errors import GFNetError, reason
from gfnet_fast.text import give_up, say

FAILED, USAGE, SOME_FAILED, INTERRUPTED = 1, 2, 3, 130


def main() -> None:
    """Run the command line and leave with its exit status; an error that a user can mend is one line."""
    _open_missing()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with _surroundings():
        status = _run()
    try:
        sys.stdout.flush()
    except OSError as error:
        if status == 0 and not isinstance(error, BrokenPipeError):
            say(f"error: {_of_the_system(error)}")
        status = status or FAILED
        give_up(sys.stdout)
    sys.exit(status)


def stop(message: str, status: int) -> NoReturn:
    """End the process with a line on stderr."""
    say(message)
    sys.exit(status)


def hush() -> None:
    """Nothing on stderr from now on but what :func:`gfnet_fast.text.say` says."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def _run() -> int:
    """The exit status of the command."""
    try:
        from gfnet_fast.cli.app import run

        status = run()
        if status == INTERRUPTED:  # how typer returns an interrupt
            raise KeyboardInterrupt
        return status
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 0 if left.code is None else FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone: nobody is left to tell
        return FAILED
    except GFNetError as error:
        say(f"error: {error}")
    except OSError as error:
        say(f"error: {_of_the_system(error)}")
    except RecursionError:
        say("error: input: expected less nesting, got more than can be followed")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):  # as torch says it of memory
            raise
        say(f"error: memory: expected enough for this, got too little ({reason(error)})")
    except UnicodeError as error:
        say(f"error: text: expected one that can be read and written, got {reason(error)}")
    return FAILED


def _of_the_system(error: OSError) -> str:
    """What the system says, and of which file."""
    text = error.strerror or reason(error)
    return text if error.filename is None else f"{os.fsdecode(error.filename)}: {text}"


class _Closed(io.TextIOBase):
    """Standard output where the process was started without: whoever writes is told."""

    encoding = "utf-8"

    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, "expected to be open, got a closed descriptor", "stdout")


def _open_missing() -> None:
    """Put the null device in the place of the standard descriptors that the process was started without.

    The next file that it opens would have their number, and get what is said there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = _Closed()
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


@contextmanager
def _surroundings() -> Iterator[None]:
    """Warnings as one line each, and SIGTERM as an interrupt, so that what was begun is put in order."""

    def show(message: Warning | str, *_: object, **more: object) -> None:
        say(f"warning: {message}")

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    first = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end) if first else None
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logging.disable(logging.NOTSET)
        if first:
            signal.signal(signal.SIGTERM, before)
