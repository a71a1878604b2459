"""`gfnet-fast predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfnet_fast.cli.app import (
    DTYPE_HELP,
    LARGEST_BATCH,
    MODEL_HELP,
    RUNTIME_HELP,
    Quiet,
    app,
    complete_model,
    finite,
)
from gfnet_fast.cli.console import count_images, progress
from gfnet_fast.cli.drawn import SHOWN, Pictures
from gfnet_fast.cli.output import check_file, check_folder, opened
from gfnet_fast.cli.process import SOME_FAILED
from gfnet_fast.cli.stdin import with_standard_input
from gfnet_fast.cli.writers import Asked, Format, Totals, writer
from gfnet_fast.text import say

if TYPE_CHECKING:
    from gfnet_fast.exits import Budget


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
    save: Annotated[
        Path | None,
        typer.Option(help="A new or empty folder for the pictures, with what the network looked at."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help=f"Open the first {SHOWN} pictures with the system's viewer.")
    ] = False,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="The so many likeliest classes of each image.")
    ] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Mark results of less confidence as unsure.", callback=finite),
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
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "auto",
    runtime: Annotated[str, typer.Option(help=RUNTIME_HELP)] = "auto",
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
    if save is not None:
        check_folder("save", save, images=sources, model=model, output=output)
    budget = _budget(thresholds, macs, latency_ms, max_steps)
    from gfnet_fast.exits import Audit
    from gfnet_fast.predictor import Predictor

    watch = None if audit is None else Audit(audit)
    predictor = Predictor.from_pretrained(
        model,
        device=device,
        dtype=dtype,
        budget=budget,
        runtime=runtime,
        batch=batch,
        deadline_ms=deadline_ms,
        audit=watch,
    )
    on_a_terminal = output is None and sys.stdout.isatty()  # where lines are progress enough
    config, asked = predictor.config, Asked(top_k, min_confidence)
    pictures, totals = Pictures(save, show, sources), Totals()
    with (
        opened(output, keep=True) as out,
        progress("", lambda: count_images(sources), quiet or on_a_terminal) as done,
    ):
        results = writer(format, out, asked, steps=config.steps, classes=config.classes)
        for result in predictor.stream(with_standard_input(sources), on_error="return"):
            unsure = asked.is_unsure(result)
            results.write(result)
            if result.error is not None:
                say(f"error: {result.error}")
            pictures.add(result, unsure)
            totals.add(result, unsure)
            done(1)
    if watch is not None and not quiet:
        say(f"audit: {watch.losses:.0f} of {watch.count} images changed their class")
    if format is Format.table and not quiet:
        say(str(totals))
    elif totals.failed:
        say(f"{totals.failed} of {totals.images} inputs failed")
    if pictures.undrawn:
        say(f"{pictures.undrawn} of {totals.images} pictures could not be drawn")
    if totals.failed or pictures.undrawn:
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
