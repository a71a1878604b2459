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
        typer.Argument(
            help="Folders of training runs; rows of `gfnet-fast bench` or of training (.csv, .jsonl)."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
) -> None:
    """Draw benchmark rows and training runs as one HTML page that needs nothing else."""
    folders = [source for source in sources if source.is_dir()]
    inside = [path for folder in folders for path in folder.iterdir()]
    check_file("output", output, files=[*sources, *inside])
    from gfnet_fast.report import draw_report, read_rows, read_run

    runs = [read_run(folder) for folder in folders]
    rows = [row for source in sources if source not in folders for row in read_rows(source)]
    page = draw_report(rows, runs)
    with opened(output) as out:
        out.write(page)
    say(f"wrote {output}")
