"""`gfnet-fast demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gfnet_fast.cli.app import LARGEST_SEED, app
from gfnet_fast.cli.console import results_console
from gfnet_fast.cli.output import check_file


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")] = Path("demo.png"),
    count: Annotated[int, typer.Option(min=1, help="How many test images are composed.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Which ones.")] = 0,
) -> None:
    """Classify cluttered digits with the model that comes along for them; draw where images left."""
    check_file("output", output)
    console = results_console()
    from gfnet_fast.demo import run_demo

    run_demo(output, count=count, seed=seed, console=console)
