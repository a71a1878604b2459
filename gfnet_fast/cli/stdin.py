"""Standard input as a source of the command line."""

from __future__ import annotations

import sys
from typing import BinaryIO


def with_standard_input(sources: list[str]) -> list[str | BinaryIO]:
    """`sources`, ``-`` being the one encoded image on standard input; named again it has no byte left."""
    return [sys.stdin.buffer if source == "-" else source for source in sources]
