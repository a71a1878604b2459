"""`gfnet-fast predict`."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfnet_fast.cli.app import LARGEST_BATCH, MODEL_HELP, Quiet, app, complete_model
from gfnet_fast.cli.console import progress
from gfnet_fast.cli.output import check_file, opened
from gfnet_fast.cli.process import SOME_FAILED
from gfnet_fast.cli.stdin import with_standard_input
from gfnet_fast.text import plain, say

if TYPE_CHECKING:
    from gfnet_fast.exits import Budget
    from gfnet_fast.results import Result


class Format(str, Enum):
    table = "table"
    jsonl = "jsonl"


NAME = 24


@app.command()
def predict(
    sources: Annotated[
        list[str],
        typer.Argument(help="Image files, folders or globs; - is one image on stdin.", show_default=False),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP, autocompletion=complete_model)],
    format: Annotated[Format, typer.Option("--format", "-f", help="How results are written.")] = Format.table,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file instead of stdout; it appears at the end.")
    ] = None,
    thresholds: Annotated[str | None, typer.Option(help="T exit thresholds, e.g. 0.8,0.7,-1e8.")] = None,
    macs: Annotated[float | None, typer.Option(help="Budget: mean multiply-adds an image.")] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Budget: mean milliseconds an image, where costs were measured.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="No image takes more steps.")] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="An image leaves with its newest prediction after this time.")
    ] = None,
    audit: Annotated[
        float | None,
        typer.Option(
            help="Run one in a hundred images to the end, and warn if more than this share of them change."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or, on a GPU, float16.")] = "auto",
    compile: Annotated[str, typer.Option(help="auto (long jobs), always or never.")] = "auto",
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST_BATCH, help="The largest batch.", show_default="64, GPU 128"),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Classify images; each takes as many steps as it needs.

    An image that cannot be used is reported in its place, the others go on, and the exit status is 3.
    """
    if output is None:
        sys.stdout.write("")  # before any work: a closed one says so
    else:
        check_file("output", output, images=sources, model=model)
    budget = _budget(thresholds, macs, latency_ms, max_steps)
    from gfnet_fast.exits import Audit
    from gfnet_fast.predictor import Predictor

    watch = None if audit is None else Audit(audit)
    predictor = Predictor.from_pretrained(
        model,
        device=device,
        dtype=dtype,
        budget=budget,
        compile=compile,
        batch=batch,
        deadline_ms=deadline_ms,
        audit=watch,
    )
    on_a_terminal = output is None and sys.stdout.isatty()  # where lines are progress enough
    failed = total = 0
    with (
        opened(output, keep=True) as out,
        progress("", None, quiet or on_a_terminal) as done,
    ):
        write = _jsonl if format is Format.jsonl else _Table(predictor.config.steps, out.encoding)
        for result in predictor.stream(with_standard_input(sources), on_error="return"):
            total, failed = total + 1, failed + (result.error is not None)
            print(write(result), file=out)
            if result.error is not None:
                say(f"error: {result.error}")
            done(1)
    if watch is not None and not quiet:
        say(f"audit: {watch.losses:.0f} of {watch.count} images changed their class")
    if failed:
        say(f"{failed} of {total} inputs failed")
        raise typer.Exit(SOME_FAILED)


def _budget(
    thresholds: str | None, macs: float | None, latency_ms: float | None, max_steps: int | None
) -> Budget | None:
    from gfnet_fast.exits import Budget

    if thresholds is None and macs is None and latency_ms is None and max_steps is None:
        return None
    try:
        row = None if thresholds is None else tuple(float(value) for value in thresholds.split(","))
    except ValueError as error:
        raise typer.BadParameter(
            f"thresholds: expected numbers with commas between, got {thresholds!r}"
        ) from error
    return Budget(thresholds=row, macs=macs, latency_ms=latency_ms, max_steps=max_steps)


def _jsonl(result: Result) -> str:
    return json.dumps(result.to_dict())


class _Table:
    """One aligned line a result, written as it comes, in an encoding."""

    def __init__(self, steps: int, encoding: str | None) -> None:
        self._steps, self._encoding = steps, encoding or "utf-8"
        self._head = f"{'class':>{NAME}}  {'confidence':>10}  {'step':>5}  {'M macs':>8}  source\n"

    def __call__(self, result: Result) -> str:
        head, self._head = self._head, ""
        source = plain(result.source, self._encoding)
        if result.error is not None:
            return f"{head}{'error':>{NAME}}  {'':>10}  {'':>5}  {'':>8}  {source}"
        name = self._aligned(str(result.class_id) if result.label is None else result.label)
        step = f"{result.exit_step}/{self._steps}"
        cost = (result.macs or 0) / 1e6
        return f"{head}{name}  {result.confidence:>10.3f}  {step:>5}  {cost:>8.1f}  {source}"

    def _aligned(self, name: str) -> str:
        """In NAME columns, of which a wide character takes two."""
        from rich.cells import cell_len, set_cell_size

        name = plain(name, self._encoding)
        width = cell_len(name)
        return " " * (NAME - width) + name if width <= NAME else set_cell_size(name, NAME)
