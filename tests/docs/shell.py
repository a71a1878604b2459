"""A line of a shell block: `gfnet-fast` in this process, through its own entry; a few tools as processes."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.cli_runner import run

# What else a line may begin with.
TOOLS = ("cat", "cp", "find", "head", "ls", "mkdir", "mv", "printf", "tail")


def execute(line: str, capsys) -> int:
    """Exit status of the last command of a pipeline, in the current folder; `> FILE` at its end is honoured.

    AssertionError where the line has a command that is not run here: such a block wants a mark.
    """
    words = shlex.split(line, comments=True)
    target = None
    if len(words) > 2 and words[-2] == ">":
        *words, _, target = words
    status, data = 0, ""
    for command in _split(words):
        assert command, f"expected a command on both sides of a pipe, got {line!r}"
        assert command[0] in ("gfnet-fast", *TOOLS), (
            f"expected gfnet-fast or one of {', '.join(TOOLS)}, got {line!r}; mark what is not run"
        )
        status, data = (_in_process if command[0] == "gfnet-fast" else _outside)(command, data, capsys)
    if target is not None:
        Path(target).write_text(data, encoding="utf-8")
    return status


def _split(words: list[str]) -> list[list[str]]:
    commands: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def _in_process(command: list[str], data: str, capsys) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
        done = run(capsys, *command[1:])
    print(done.out, done.err, file=sys.stderr)  # for the report of a test that fails
    return done.status, done.out


def _outside(command: list[str], data: str, capsys) -> tuple[int, str]:
    done = subprocess.run(command, input=data, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout
