"""Commands that run within their time, and say what they do while they do it."""

import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread

from tasks import END

ROOT = Path(__file__).resolve().parent.parent
TASK = re.compile(r"^== (?P<name>.+): (?P<word>ok|failed), (?P<here>[\d.]+) s, expected (?P<there>[\d.]+)$")
TAIL = 40  # lines of a command that failed, for the terminal
PATIENCE = 3.0  # seconds for the stacks of a process that is ended


@dataclass(frozen=True)
class Command:
    """`seconds`: what it is expected to take on a GPU beside its tasks, its start for example.

    `counted`: whether the seconds of its tasks are its own; a tool that watches them makes them others.
    """

    name: str
    words: Sequence[str]
    seconds: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    counted: bool = True


@dataclass(frozen=True)
class Part:
    """Commands that run one after the other, or side by side, within `limit` seconds in all."""

    name: str
    limit: float
    commands: Sequence[Command]
    together: bool = False


@dataclass
class Run:
    """What became of a command: the exit status of each process (None: it was ended), and its tasks.

    `tasks`: name -> "ok" or "failed", seconds here, seconds expected on a GPU.
    """

    command: Command
    codes: list[int | None] = field(default_factory=list)
    tasks: dict[str, tuple[str, float, float]] = field(default_factory=dict)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))

    @property
    def expected(self) -> float:
        return self.command.seconds + sum(there for _, _, there in self.tasks.values())

    @property
    def good(self) -> bool:
        return bool(self.codes) and not any(self.codes) and None not in self.codes


class Log:
    """Lines of several commands in one file, as they come."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._lock = path.open("w", buffering=1, errors="replace"), Lock()

    def add(self, name: str, line: str) -> None:
        with self._lock:
            self._file.write(f"{name}| {line}\n")

    def close(self) -> None:
        self._file.close()


def run_part(part: Part, until: float, log: Log, folder: Path) -> list[Run]:
    """Its commands, until that :func:`time.monotonic` at most; `folder` holds what they have begun."""
    until = min(until, time.monotonic() + part.limit)

    def one(command: Command) -> Run:
        return persist(command, until, log, folder / f"{part.name}.{command.name}")

    if not part.together:
        return [one(command) for command in part.commands]
    with ThreadPoolExecutor(len(part.commands)) as pool:
        return list(pool.map(one, part.commands))


def persist(command: Command, until: float, log: Log, begun: Path) -> Run:
    """Run a command, and again while it ends before all its tasks had their turn and begins others."""
    run = Run(command)
    while True:
        before = names(begun)
        call(run, until, log, begun)
        now = names(begun)
        if run.codes[-1] in (0, None) or not now or END in now or now == before:
            return run


def names(begun: Path) -> list[str]:
    return begun.read_text().splitlines() if begun.exists() else []


def call(run: Run, until: float, log: Log, begun: Path) -> None:
    """One process of a command; where its time was over its exit status is None, and all of it is killed."""
    command, begin = run.command, time.monotonic()
    log.add(command.name, f"-- {shown(command)}")
    try:
        process = subprocess.Popen(
            command.words, cwd=ROOT, env=environment_of(command, begun), text=True, errors="replace",
            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except OSError as error:
        run.tail.append(f"{command.words[0]}: {error}")
        log.add(command.name, run.tail[-1])
        run.codes.append(127)
        return
    reader = Thread(target=read, args=(process, run, log), daemon=True)
    reader.start()
    code: int | None = None
    try:
        code = process.wait(max(until - begin, 0.1))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # Python says what every thread was doing
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    finally:
        kill(process)
        reader.join(PATIENCE)
    run.codes.append(code)
    ended = f"ended, {time.monotonic() - begin:.0f} s were its time" if code is None else f"status {code}"
    log.add(command.name, f"-- {ended}")


def read(process: "subprocess.Popen[str]", run: Run, log: Log) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        line = line.rstrip("\n")
        log.add(run.command.name, line)
        run.tail.append(line)
        if found := TASK.match(line):
            there = float(found["there"]) if run.command.counted else 0.0
            run.tasks[found["name"]] = found["word"], float(found["here"]), there


def kill(process: "subprocess.Popen[str]") -> None:
    """A command with all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment_of(command: Command, begun: Path) -> dict[str, str]:
    """This process's, with the tree ahead of anything installed."""
    tree = (str(ROOT), str(ROOT / "kernels"), str(ROOT / "bench"), os.environ.get("PYTHONPATH"))
    own = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "GFNET_BEGUN": str(begun)}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, tree)), **own, **command.environment}


def shown(command: Command) -> str:
    return " ".join(word if "\n" not in word else "..." for word in command.words)
