"""Text that somebody else chose: names of files, classes, models and machines, as a person gets to see it."""

from __future__ import annotations

import os
import sys
import unicodedata
from contextlib import suppress
from typing import TextIO

# Zero-width non-joiner and joiner: format characters that words and emoji are written with.
_JOINERS = "\u200c\u200d"


def plain(text: str, encoding: str = "utf-8") -> str:
    r"""One line for a terminal or a page: what does not print there is shown as Python writes it.

    Escape sequences, line ends, marks that turn the direction of writing, lone surrogates and whatever
    `encoding` lacks: ``"a\nb"`` becomes ``r"a\nb"``. Spaces of every kind stay.
    """
    if not text.isprintable():
        text = "".join(c if _prints(c) else c.encode("unicode_escape").decode() for c in text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say(text: str) -> None:
    """One line on stderr; where nobody takes it, it is lost, and whatever goes on goes on."""
    try:
        print(plain(text, sys.stderr.encoding or "utf-8"), file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


def silent(text: str) -> None:
    """In :func:`say`'s place where nothing is to be said."""


def give_up(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere, or Python fails with it again when it ends."""
    with suppress(OSError):  # where no descriptor is behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _prints(character: str) -> bool:
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"
