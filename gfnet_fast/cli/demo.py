"""`gfnet-fast demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gfnet_fast.cli.app import app


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")] = Path("demo.png"),
    count: Annotated[int, typer.Option(min=1, help="How many test images are composed.")] = 1000,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
) -> None:
    """Classify cluttered digits with the model that comes along; draw where images left."""
    from gfnet_fast.demo import run_demo

    run_demo(output, count=count, seed=seed)
