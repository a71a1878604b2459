"""What a process that forks from this one has to begin anew."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

import torch


class Forked(Protocol):
    def begin_fork(self) -> bool:
        """Let go of locks and of what threads do, in the child; whether it has computed with torch."""


_watched: weakref.WeakSet[Forked] = weakref.WeakSet()


def watch(thing: Forked) -> None:
    """Have `thing` told in every process that forks from this one, as long as it lives."""
    _watched.add(thing)


def _begin_fork() -> None:
    # Threads that compute are not there in a child, and OpenMP would wait for them: one has to do.
    computed = [thing.begin_fork() for thing in _watched]
    if any(computed):
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=_begin_fork)
