"""`gfnet-fast eval`."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated, Any

import typer

from gfnet_fast.cli.app import LARGEST_SEED, MODEL_HELP, Quiet, app, complete_model, finite
from gfnet_fast.cli.calibrate import DATA_HELP
from gfnet_fast.cli.console import per_cent, plain_table, progress, results_console
from gfnet_fast.cli.process import FAILED
from gfnet_fast.hub import locate
from gfnet_fast.text import say

DIGITS = 4000


class Shape(str, Enum):
    table = "table"
    json = "json"


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP, autocompletion=complete_model)],
    data: Annotated[str, typer.Option("--data", help=DATA_HELP)],
    format: Annotated[Shape, typer.Option("--format", "-f", help="json has every row.")] = Shape.table,
    rows: Annotated[int, typer.Option(min=2, help="Rows of thresholds that the table shows.")] = 9,
    check: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Fail (status 1) where an accuracy is so many points off the one that the model states.",
            callback=finite,
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help=f"At most so many, at random; {DIGITS} digits without it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Which ones.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    quiet: Quiet = False,
) -> None:
    """Accuracy of each step (anytime) and of each budget, beside what the model itself states.

    All steps of all images are computed, and the exits follow from them, as in the official evaluation.
    """
    console = results_console()
    from gfnet_fast.checkpoints import load
    from gfnet_fast.data.labelled import open_labelled
    from gfnet_fast.evaluation import shuffled, stored_anytime, trace_steps
    from gfnet_fast.predictor import Predictor

    network = Predictor(load(model), device=device).model
    labelled = open_labelled(data, network, split="test", count=images or DIGITS, seed=200 + seed)
    picked = shuffled(len(labelled.labels), images, seed)
    with progress("tracing", len(picked), quiet) as done:
        steps = trace_steps(network, labelled, picked, done)
    path = locate(model)
    stored = stored_anytime(path, network.config.steps) if path.is_file() else None
    facts = summary(network, steps, stored)
    if format is Shape.json:
        print(json.dumps(facts, indent=1))
    else:
        _print(console, facts, rows)
    if check is not None:
        _check(facts, check)


def summary(network: Any, steps: Any, stored: Any = None) -> dict[str, Any]:
    """Everything that is shown, as JSON can hold it; accuracies in percent, None where nothing is stated."""
    import numpy as np

    from gfnet_fast.exits.official import evaluate_rows
    from gfnet_fast.intervals import wilson

    macs, count = network.config.macs, steps.correct.shape[1]
    anytime = [
        {
            "step": step,
            "macs": macs[step - 1],
            "accuracy": 100 * float(right.mean()),
            "interval": [100 * end for end in wilson(int(right.sum()), count)],
            "stated": None if stored is None else float(stored[step - 1]),
        }
        for step, right in enumerate(steps.correct, 1)
    ]
    facts: dict[str, Any] = {
        "images": count,
        "data_hash": steps.data_hash,
        "anytime": anytime,
        "budgeted": [],
    }
    calibration = network.calibration
    if calibration is not None:
        found = evaluate_rows(steps.confidences, steps.correct, calibration.thresholds, macs)
        nothing = np.full(len(found.accuracy), np.nan)
        accuracy = nothing if calibration.accuracy is None else calibration.accuracy
        cost = nothing if calibration.mean_macs is None else calibration.mean_macs
        facts["stated_on"] = {"images": calibration.count, "data_hash": calibration.data_hash}
        facts["budgeted"] = [
            {
                "thresholds": row.tolist(),
                "macs": float(found.mean_cost[i]),
                "accuracy": float(found.accuracy[i]),
                "shares": found.shares[i].tolist(),
                "stated_macs": _number(cost[i]),
                "stated": _number(accuracy[i]),
            }
            for i, row in enumerate(calibration.thresholds)
        ]
    return facts


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def _print(console: Any, facts: dict[str, Any], rows: int) -> None:
    from gfnet_fast.evaluation import spread

    table = plain_table("anytime: step", "M multiply-adds", "accuracy, %", "95 % interval", "stated")
    for row in facts["anytime"]:
        low, high = row["interval"]
        cells = f"{row['macs'] / 1e6:.2f}", f"{row['accuracy']:.2f}", f"{low:.2f} to {high:.2f}"
        table.add_row(str(row["step"]), *cells, _shown(row["stated"]))
    console.print(table)
    if not facts["budgeted"]:
        console.print("no budgets: the model has no thresholds; make some with `gfnet-fast calibrate`")
        return
    columns = ("M multiply-adds", "stated", "accuracy, %", "stated", "% leaving at each step")
    table = plain_table("budget: row", *columns)
    for i in spread(rows, len(facts["budgeted"])):
        row = facts["budgeted"][i]
        stated = None if row["stated_macs"] is None else row["stated_macs"] / 1e6
        found = f"{row['macs'] / 1e6:.2f}", _shown(stated), f"{row['accuracy']:.2f}", _shown(row["stated"])
        table.add_row(str(i), *found, per_cent(row["shares"]))
    console.print(table)
    off = [abs(accuracy - stated) for accuracy, stated in _pairs(facts)]
    if off:
        on = facts["stated_on"]["images"]
        there = f"stated on {on} images" if on else "stated, on images that the file does not name"
        count = facts["images"]
        console.print(
            f"{count} images; accuracies {there}: at most {max(off):.2f} percent points off "
            f"(the standard error of one is {50 / count**0.5:.2f} at most)"
        )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _pairs(facts: dict[str, Any]) -> list[tuple[float, float]]:
    """Accuracies found and stated, of all rows where both are there."""
    rows = [*facts["anytime"], *facts["budgeted"]]
    return [(row["accuracy"], row["stated"]) for row in rows if row["stated"] is not None]


def _check(facts: dict[str, Any], most: float) -> None:
    pairs = _pairs(facts)
    far = [pair for pair in pairs if abs(pair[0] - pair[1]) > most]
    if far or not pairs:
        what = f"{len(far)} of {len(pairs)} farther off" if pairs else "a model that states none"
        say(f"check: expected accuracies within {most:g} points of those stated, got {what}")
        raise typer.Exit(FAILED)
