"""What a run says while it lasts: a bar and a line an epoch on stderr, ``metrics.jsonl``, TensorBoard."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from gfnet_fast.errors import InputError
from gfnet_fast.files import write_text
from gfnet_fast.text import plain, say
from gfnet_fast.training.state import METRICS


def check_tensorboard() -> None:
    """Raise InputError where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("tensorboard: expected the package, got none: pip install 'gfnet-fast[train]'")


class Progress:
    """Of one process; the others' have no `folder`, and are quiet."""

    def __init__(self, folder: Path | None, quiet: bool = False, tensorboard: bool = False) -> None:
        self.folder, self.quiet = folder, quiet
        self.writer: Any = None
        if tensorboard and folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "tensorboard"))
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            words = TextColumn("{task.description}", markup=False)
            console = Console(stderr=True, highlight=False, markup=False, emoji=False)
            options: dict[str, Any] = {"console": console, "transient": True, "redirect_stdout": False}
            self.bar = Progress(words, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), **options)
            self.bar.start()
            self.task = self.bar.add_task("")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.writer is not None:
            self.writer.close()

    def say(self, text: str) -> None:
        """A line on stderr."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.console.print(plain(text), soft_wrap=True)
        else:
            say(text)

    def batch(self, what: str, done: int, of: int) -> None:
        if self.bar is not None:
            self.bar.update(self.task, description=what, completed=done, total=of)

    def epoch(self, rows: list[dict[str, Any]], place: str, rest: str) -> None:
        """All rows so far, of which the last is new; `place` begins its line and `rest` ends it."""
        self.say(f"{place}: {_line(rows[-1])}{rest}")
        self.write(rows)
        if self.writer is not None:
            row = rows[-1]
            head = f"stage {row['stage']}"
            for key in row.keys() - {"stage", "epoch", "what", "seconds"}:
                values = row[key] if isinstance(row[key], list) else [row[key]]
                for step, value in enumerate(values, 1):
                    name = f"{head}/{key}" + (f" {step}" if len(values) > 1 else "")
                    self.writer.add_scalar(name, value, row["epoch"])

    def write(self, rows: list[dict[str, Any]]) -> None:
        """metrics.jsonl with just these rows."""
        if self.folder is not None:
            write_text(self.folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows))


def _line(row: dict[str, Any]) -> str:
    def shown(value: Any, scale: float = 1, digits: int = 3) -> str:
        values = value if isinstance(value, list) else [value]
        return " ".join(f"{scale * v:.{digits}f}" for v in values)

    parts = [f"loss {shown(row['loss'])}, accuracy {shown(row['accuracy'], 100, 1)} %"]
    if "heldout_loss" in row:
        held = f"held out: loss {shown(row['heldout_loss'])}, accuracy"
        parts.append(f"{held} {shown(row['heldout_accuracy'], 100, 1)} %")
    if "reward" in row:
        parts.append(f"reward {shown(row['reward'], digits=4)}")
    return "; ".join(parts) + f" ({row['seconds']:.0f} s)"
