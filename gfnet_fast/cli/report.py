"""`gfnet-fast report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gfnet_fast.cli.app import app


@app.command()
def report(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Rows of `gfnet-fast bench` (.csv, .jsonl), or metrics.jsonl of training."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
) -> None:
    """Draw benchmark rows and training metrics as one HTML page that needs nothing else."""
    from gfnet_fast.report import read_rows, write_report

    write_report([row for source in sources for row in read_rows(source)], output)
    print(f"wrote {output}", file=sys.stderr)
