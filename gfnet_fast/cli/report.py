"""`gfnet-fast report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gfnet_fast.cli.app import app
from gfnet_fast.cli.output import check_file, opened
from gfnet_fast.text import say


@app.command()
def report(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Rows of `gfnet-fast bench` (.csv, .jsonl), or metrics.jsonl of training."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
) -> None:
    """Draw benchmark rows and training metrics as one HTML page that needs nothing else."""
    check_file("output", output, files=sources)
    from gfnet_fast.report import draw_report, read_rows

    page = draw_report([row for source in sources for row in read_rows(source)])
    with opened(output) as out:
        out.write(page)
    say(f"wrote {output}")
