"""`gfnet-fast predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfnet_fast.cli.app import SOME_FAILED, app, model_path

if TYPE_CHECKING:
    from gfnet_fast.exits import Budget
    from gfnet_fast.results import Result


class Format(str, Enum):
    table = "table"
    jsonl = "jsonl"


MODEL_HELP = "Checkpoint file or folder; 'digits' is the model that comes with the package."


@app.command()
def predict(
    sources: Annotated[list[str], typer.Argument(help="Image files, folders or globs.", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)],
    format: Annotated[Format, typer.Option("--format", "-f", help="How results are written.")] = Format.table,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file instead of stdout.")] = None,
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
        int | None, typer.Option(min=1, help="The largest batch.", show_default="64, GPU 128")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Classify images; each takes as many steps as it needs.

    An image that cannot be used is reported in its place, the others go on, and the exit status is 3.
    """
    if output is not None and any(output.resolve() == Path(source).resolve() for source in sources):
        raise typer.BadParameter(f"output: expected another file than the images, got {output}")
    budget = _budget(thresholds, macs, latency_ms, max_steps)
    from gfnet_fast.exits import Audit
    from gfnet_fast.predictor import Predictor

    watch = None if audit is None else Audit(audit)
    predictor = Predictor.from_pretrained(
        model_path(model),
        device=device,
        dtype=dtype,
        budget=budget,
        compile=compile,
        batch=batch,
        deadline_ms=deadline_ms,
        audit=watch,
    )
    results = _progress(predictor.stream(sources, on_error="return"), quiet)
    failed = total = 0
    out = output.open("w", encoding="utf-8", errors="surrogateescape") if output else sys.stdout
    if output is None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape")  # names that are not UTF-8, as they are
    try:
        write = _jsonl if format is Format.jsonl else _Table(predictor.config.steps)
        for result in results:
            total, failed = total + 1, failed + (result.error is not None)
            print(write(result), file=out)
            if result.error is not None:
                print(f"error: {result.error}", file=sys.stderr)
    finally:
        if output:
            out.close()
    if watch is not None:
        print(f"audit: {watch.losses:.0f} of {watch.count} images changed their class", file=sys.stderr)
    if failed:
        print(f"{failed} of {total} inputs failed", file=sys.stderr)
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


def _progress(results: Iterator[Result], quiet: bool) -> Iterator[Result]:
    if quiet or not sys.stderr.isatty():
        yield from results
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:.0f} images"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        for result in results:
            yield result
            bar.advance(task)


def _jsonl(result: Result) -> str:
    return json.dumps(result.to_dict())


class _Table:
    """One aligned line a result, written as it comes."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._head = f"{'class':>24}  {'confidence':>10}  {'step':>5}  {'M macs':>8}  source\n"

    def __call__(self, result: Result) -> str:
        head, self._head = self._head, ""
        if result.error is not None:
            return f"{head}{'error':>24}  {'':>10}  {'':>5}  {'':>8}  {result.source}"
        name = result.label if result.label is not None else str(result.class_id)
        step = f"{result.exit_step}/{self._steps}"
        cost = (result.macs or 0) / 1e6
        return f"{head}{name[:24]:>24}  {result.confidence:>10.3f}  {step:>5}  {cost:>8.1f}  {result.source}"
