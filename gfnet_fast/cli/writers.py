"""How `gfnet-fast predict` writes results: a table for people, JSON lines and CSV for programs."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, TextIO

from gfnet_fast.tables import line
from gfnet_fast.text import plain

if TYPE_CHECKING:
    from gfnet_fast.results import Result

NAME = 24  # columns that a class has in a table
CSV_FIELDS = ("source", "class_id", "label", "confidence", "exit_step", "macs", "height", "width", "error")


class Format(str, Enum):
    """Of the results."""

    table = "table"
    jsonl = "jsonl"
    csv = "csv"


class Asked(NamedTuple):
    """What is written beside the prediction.

    top_k : how many of the likeliest classes
    min_confidence : below it a result is called unsure
    """

    top_k: int | None = None
    min_confidence: float | None = None

    def is_unsure(self, result: Result) -> bool:
        """Whether there is a prediction, of too little confidence."""
        least = self.min_confidence
        return least is not None and result.confidence is not None and result.confidence < least


class Writer(ABC):
    """Writes one result after another, each as it comes."""

    def __init__(self, out: TextIO, asked: Asked) -> None:
        self.out, self.asked = out, asked
        self.encoding = out.encoding or "utf-8"

    @abstractmethod
    def write(self, result: Result) -> None:
        """One result, or why there is none."""


class JsonLines(Writer):
    """A JSON object a line, all of it in ASCII."""

    def write(self, result: Result) -> None:
        row = result.to_dict()
        if result.error is None:
            if self.asked.min_confidence is not None:
                row["unsure"] = self.asked.is_unsure(result)
            if self.asked.top_k is not None:
                top = result.top(self.asked.top_k)
                row["top"] = [[one.class_id, one.label, round(one.probability, 6)] for one in top]
        print(json.dumps(row), file=self.out)


class Csv(Writer):
    """A row a result below a head; names with escapes for what does not print, none of them a formula."""

    def __init__(self, out: TextIO, asked: Asked, classes: int) -> None:
        super().__init__(out, asked)
        self._top = min(asked.top_k or 0, classes)
        self._head: list[str] | None = list(CSV_FIELDS)
        if asked.min_confidence is not None:
            self._head.append("unsure")
        for rank in range(1, self._top + 1):
            self._head += [f"top_{rank}_class_id", f"top_{rank}_label", f"top_{rank}_probability"]
        self._width = len(self._head)

    def write(self, result: Result) -> None:
        head, self._head = self._head, None
        if head:
            self.out.write(line(head))
        row, (height, width) = result.to_dict(), result.size or ("", "")
        row |= {"height": height, "width": width}
        cells = [row.get(name) for name in CSV_FIELDS]
        if result.error is None:
            if self.asked.min_confidence is not None:
                cells.append(str(self.asked.is_unsure(result)).lower())
            for one in result.top(self._top) if self._top else ():
                cells += [one.class_id, one.label, round(one.probability, 6)]
        cells += [None] * (self._width - len(cells))
        self.out.write(
            line([plain(cell, self.encoding) if isinstance(cell, str) else cell for cell in cells])
        )


class Table(Writer):
    """An aligned line a result, and one below it for each further class that is asked for."""

    def __init__(self, out: TextIO, asked: Asked, steps: int) -> None:
        super().__init__(out, asked)
        self._steps = steps
        self._head = f"{'class':>{NAME}}  {'confidence':>10}  {'step':>5}  {'M macs':>8}  source\n"

    def write(self, result: Result) -> None:
        head, self._head = self._head, ""
        source = plain(result.source, self.encoding)
        if result.error is not None:
            lines = [f"{head}{'error':>{NAME}}  {'':>10}  {'':>5}  {'':>8}  {source}"]
        else:
            name = self._aligned(result.class_id, result.label, " ?" if self.asked.is_unsure(result) else "")
            step = f"{result.exit_step}/{self._steps}"
            cost = (result.macs or 0) / 1e6
            lines = [f"{head}{name}  {result.confidence:>10.3f}  {step:>5}  {cost:>8.1f}  {source}"]
            others = result.top(self.asked.top_k)[1:] if self.asked.top_k else ()
            lines += [f"{self._aligned(one.class_id, one.label)}  {one.probability:>10.3f}" for one in others]
        print("\n".join(lines), file=self.out)

    def _aligned(self, class_id: int | None, label: str | None, mark: str = "") -> str:
        """In NAME columns, of which a wide character takes two."""
        from rich.cells import cell_len, set_cell_size

        name, room = plain(str(class_id) if label is None else label, self.encoding), NAME - len(mark)
        width = cell_len(name)
        return (" " * (room - width) + name if width <= room else set_cell_size(name, room)) + mark


def writer(format: Format, out: TextIO, asked: Asked, *, steps: int, classes: int) -> Writer:
    """The writer of a format, for results of `steps` steps and `classes` classes."""
    if format is Format.jsonl:
        return JsonLines(out, asked)
    if format is Format.csv:
        return Csv(out, asked, classes)
    return Table(out, asked, steps)


class Totals:
    """Counts results, from when it is made on."""

    def __init__(self) -> None:
        self.images = self.failed = self.unsure = self._steps = 0
        self._began = time.perf_counter()

    def add(self, result: Result, unsure: bool) -> None:
        """One more result."""
        self.images += 1
        self.failed += result.error is not None
        self.unsure += unsure
        self._steps += result.exit_step or 0

    def __str__(self) -> str:
        seconds = time.perf_counter() - self._began
        images = f"{self.images} image{'' if self.images == 1 else 's'}"
        parts = [images]
        if classified := self.images - self.failed:
            parts = [f"{images} in {seconds:.1f} s ({classified / max(seconds, 1e-9):.1f} a second)"]
            parts.append(f"{self._steps / classified:.2f} steps in the mean")
        parts.append(f"{self.failed} failed")
        if self.unsure:
            parts.append(f"{self.unsure} unsure")
        return ", ".join(parts)
