"""`gfnet-fast bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gfnet_fast.cli.app import LARGEST_BATCH, LARGEST_SEED, Quiet, app, complete_model
from gfnet_fast.cli.calibrate import DATA_HELP, PART_HELP, Part
from gfnet_fast.cli.console import plain_table, results_console
from gfnet_fast.cli.output import check_file, opened
from gfnet_fast.text import plain, say


@app.command()
def bench(
    model: Annotated[
        str,
        typer.Argument(
            help="Checkpoint file or folder, with calibrated thresholds.", autocompletion=complete_model
        ),
    ] = "digits",
    data: Annotated[str, typer.Option("--data", help=DATA_HELP)] = "digits",
    part: Annotated[Part, typer.Option(help=PART_HELP)] = Part.auto,
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
        int | None,
        typer.Option(min=1, max=LARGEST_BATCH, help="Largest of every contender; the predictor's own."),
    ] = None,
    baselines: Annotated[
        int, typer.Option(min=1, help="Images for the official way and the full image.")
    ] = 128,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Which images.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="Runtimes to compare, the first the ideal's; those that are ready in seconds."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Accuracy, multiply-adds and images a second of every budget, beside the ways this replaces.

    This engine, per-batch boolean indexing, all steps, the official way and the backbone on full images: one
    process, in turn, round after round, after a check that the answers are those of the plain model.
    """
    console = results_console()
    if html is not None:
        check_file("html", html, images=[data], files=[] if csv is None else [csv], model=model)
    if csv is not None:
        check_file("csv", csv, images=[data], model=model)
    import torch

    from gfnet_fast.benchmark import Options, check_csv, merge_csv, quick_runtimes, run_benchmark
    from gfnet_fast.checkpoints import load
    from gfnet_fast.data.labelled import open_labelled
    from gfnet_fast.evaluation import chunks, shuffled
    from gfnet_fast.predictor import Predictor
    from gfnet_fast.report import check_drawing, draw_report

    if html is not None:
        check_drawing()
    if csv is not None:
        check_csv(csv)

    def remark(text: str) -> None:
        if not quiet:
            say(text)

    predictor = Predictor(load(model), device=device, batch=batch)
    network = predictor.model
    which: dict[str, Any] = {"source": model, "part": part.value, "tell": remark}
    labelled = open_labelled(data, network, split="test", count=images, seed=300 + seed, **which)
    picked = shuffled(len(labelled.labels), images, seed)
    remark(f"reading {len(picked)} images")
    pixels = torch.cat([labelled.images(rows) for rows in chunks(picked)]).to(network.device)
    runtimes = tuple(runtime or quick_runtimes(network.device))
    options = Options(budgets, predictor.batch, rounds, baselines, runtimes)
    rows = run_benchmark(network, pixels, labelled.labels[picked], options, say=remark)
    _print(console, rows)
    if csv is not None:
        merge_csv(csv, rows)
        remark(f"wrote {csv}")
    if html is not None:
        page = draw_report(rows)
        with opened(html) as out:
            out.write(page)
        remark(f"wrote {html}")


def _print(console: Any, rows: list[dict[str, Any]]) -> None:
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
        name += f" {row['runtime']}" if row["runtime"] not in ("plain", "torch") else ""
        name += " *" if row["default"] else ""
        steps = f"{float(row['mean_steps']):.2f}" if row["mean_steps"] else "-"
        ideal = f"{100 * float(row['ideal']):.0f} %" if row["ideal"] else "-"
        speed = float(row["images_per_second"])
        quartiles = " / ".join(f"{float(row[key]):.3f}" for key in ("p25_ms", "p50_ms", "p75_ms"))
        macs, accuracy = f"{float(row['mean_macs']) / 1e6:.2f}", f"{float(row['accuracy']):.2f}"
        cells = macs, steps, accuracy, f"{speed:.0f}", quartiles, ideal, f"{speed / base:.2f}"
        table.add_row(name, *cells, str(row["images"]))
    console.print(table)
    about = rows[0]
    console.print(
        f"{plain(about['machine'])}; batches of up to {about['batch']}, {about['rounds']} "
        "rounds; *: the model's default budget; static: its cost counts, its head was trained on patches"
    )
