"""`gfnet-fast bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gfnet_fast.cli.app import app, model_path
from gfnet_fast.cli.calibrate import DATA_HELP, plain_table, wide_console


@app.command()
def bench(
    model: Annotated[
        str, typer.Argument(help="Checkpoint file or folder, with calibrated thresholds.")
    ] = "digits",
    data: Annotated[str, typer.Option("--data", help=DATA_HELP)] = "digits",
    html: Annotated[Path | None, typer.Option(help="A page with curves, which needs matplotlib.")] = None,
    csv: Annotated[
        Path | None, typer.Option(help="A table; rows of an earlier run on the same images are replaced.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="At most so many, at random.")] = 2000,
    budgets: Annotated[
        int, typer.Option(min=1, help="Budgets along the curve; the default is one more.")
    ] = 8,
    rounds: Annotated[int, typer.Option(min=3, help="Timed rounds; the median counts.")] = 5,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Largest of every contender; the predictor's own.")
    ] = None,
    baselines: Annotated[
        int, typer.Option(min=1, help="Images for the official way and the full image.")
    ] = 128,
    seed: Annotated[int, typer.Option(help="Which images.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="Compiled contenders too; takes minutes.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr.")] = False,
) -> None:
    """Accuracy, multiply-adds and images a second of every budget, beside the ways this replaces.

    This engine, per-batch boolean indexing, all steps, the official way and the backbone on full images: one
    process, in turn, round after round, after a check that the answers are those of the plain model.
    """
    import torch

    from gfnet_fast.benchmark import FIELDS, Options, merge_csv, run_benchmark
    from gfnet_fast.checkpoints import load
    from gfnet_fast.data.labelled import open_labelled
    from gfnet_fast.evaluation import chunks, shuffled
    from gfnet_fast.predictor import Predictor
    from gfnet_fast.report import check_drawing, check_page, write_report
    from gfnet_fast.tables import check_table

    if html is not None:
        check_page(html)
        check_drawing()
    if csv is not None:
        check_table(csv, FIELDS)

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    predictor = Predictor(load(model_path(model)), device=device, batch=batch)
    network = predictor.model
    labelled = open_labelled(data, network, split="test", count=images, seed=300 + seed)
    picked = shuffled(len(labelled.labels), images, seed)
    say(f"reading {len(picked)} images")
    pixels = torch.cat([labelled.images(rows) for rows in chunks(picked)]).to(network.device)
    options = Options(budgets, predictor.batch, rounds, baselines, compile)
    rows = run_benchmark(network, pixels, labelled.labels[picked], options, say=say)
    _print(rows)
    if csv is not None:
        merge_csv(csv, rows)
        say(f"wrote {csv}")
    if html is not None:
        write_report(rows, html)
        say(f"wrote {html}")


def _print(rows: list[dict[str, Any]]) -> None:
    columns = (
        "M mult-adds",
        "steps",
        "accuracy, %",
        "images/s",
        "ms an image, quartiles",
        "of ideal",
        "x official",
        "images",
    )
    table = plain_table("", *columns)
    base = next(float(row["images_per_second"]) for row in rows if row["way"] == "official")
    for row in rows:
        name = row["way"] + (f" {row['dtype']}" if row["dtype"] != "float32" else "")
        name += " compiled" if row["prepared"] == "compiled" else ""
        name += " *" if row["default"] else ""
        steps = f"{float(row['mean_steps']):.2f}" if row["mean_steps"] else "-"
        ideal = f"{100 * float(row['ideal']):.0f} %" if row["ideal"] else "-"
        speed = float(row["images_per_second"])
        quartiles = " / ".join(f"{float(row[key]):.3f}" for key in ("p25_ms", "p50_ms", "p75_ms"))
        macs, accuracy = f"{float(row['mean_macs']) / 1e6:.2f}", f"{float(row['accuracy']):.2f}"
        cells = macs, steps, accuracy, f"{speed:.0f}", quartiles, ideal, f"{speed / base:.2f}"
        table.add_row(name, *cells, str(row["images"]))
    console = wide_console()
    console.print(table)
    about = rows[0]
    console.print(
        f"{about['machine']}; batches of up to {about['batch']}, {about['rounds']} "
        "rounds; *: the model's default budget; static: its cost counts, its head was trained on patches"
    )
