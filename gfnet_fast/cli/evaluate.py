"""`gfnet-fast eval`."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from gfnet_fast.cli.app import LARGEST_SEED, MODEL_HELP, Quiet, app, complete_model, finite
from gfnet_fast.cli.calibrate import DATA_HELP, PART_HELP, Part
from gfnet_fast.cli.console import progress, results_console
from gfnet_fast.cli.findings import print_budgets, print_findings, stated_pairs
from gfnet_fast.cli.output import check_file, opened
from gfnet_fast.cli.process import FAILED
from gfnet_fast.hub import locate
from gfnet_fast.text import say

DIGITS = 4000


class Precision(str, Enum):
    float32 = "float32"
    int8 = "int8"


class Shape(str, Enum):
    table = "table"
    json = "json"


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP, autocompletion=complete_model)],
    data: Annotated[str, typer.Option("--data", help=DATA_HELP)],
    part: Annotated[Part, typer.Option(help=PART_HELP)] = Part.auto,
    format: Annotated[Shape, typer.Option("--format", "-f", help="json has every row.")] = Shape.table,
    html: Annotated[
        Path | None, typer.Option(help="A page with curves, classes, confusions and wrong images.")
    ] = None,
    wrong: Annotated[Path | None, typer.Option(help="A table (.csv) of the wrong images.")] = None,
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
    dtype: Annotated[
        Precision, typer.Option(help="int8: the networks that `quantize` has made.")
    ] = Precision.float32,
    quiet: Quiet = False,
) -> None:
    """What the model gets right and wrong: by step, by budget, by class, image by image.

    All steps of all images are computed, and the exits follow from them, as in the official evaluation.
    Classes, confusions and wrong images are those of the model's default budget.
    """
    console = results_console()
    reads: dict[str, Any] = {"images": [data], "model": model}
    if html is not None:
        check_file("html", html, **reads)
    if wrong is not None:
        check_file("wrong", wrong, **reads, files=[] if html is None else [html])
    from gfnet_fast.checkpoints import load
    from gfnet_fast.data.labelled import LabelledImages, open_labelled
    from gfnet_fast.engine.int8 import in_int8
    from gfnet_fast.evaluation import shuffled, stored_anytime, trace_steps
    from gfnet_fast.outcome import MISTAKE, by_class, confusions, mistake_rows, outcome
    from gfnet_fast.predictor import Predictor
    from gfnet_fast.report import check_drawing, draw_evaluation
    from gfnet_fast.tables import table_lines

    if html is not None:
        check_drawing()
    network = Predictor(load(model), device=device, dtype=dtype.value).model
    if dtype is Precision.int8:
        network = in_int8(network)
    path = locate(model)
    said: list[str] = []
    which: dict[str, Any] = {"source": path, "part": part.value, "tell": said.append}
    labelled = open_labelled(data, network, split="test", count=images or DIGITS, seed=200 + seed, **which)
    picked = shuffled(len(labelled.labels), images, seed)
    if len(picked) < len(labelled.labels):
        said.append(f"images: {len(picked)} of those, at random")
    for line in () if quiet else said:
        say(line)
    with progress("tracing", len(picked), quiet) as done:
        steps = trace_steps(network, labelled, picked, done)
    stored = stored_anytime(path, network.config.steps) if path.is_file() else None
    found = outcome(steps, network.default_thresholds())
    names, paths = labelled.classes, labelled.paths if isinstance(labelled, LabelledImages) else None
    wrong_rows = mistake_rows(found, names, picked, paths)
    facts = {"which": said, **summary(network, steps, found, stored)}
    if format is Shape.json:
        whole = {**facts, **details(by_class(found), confusions(found), names), "mistakes": wrong_rows}
        print(json.dumps(whole, indent=1))
    else:
        print_budgets(console, facts, rows)
        print_findings(console, facts["default"], found, names)
    if wrong is not None:
        with opened(wrong) as out:
            out.writelines(table_lines(MISTAKE, wrong_rows))
        _wrote(wrong, quiet)
    if html is not None:
        from gfnet_fast.report.evaluation import Evaluation

        patch = network.config.patch_size
        page = Evaluation(model, data, facts, found, names, patch, labelled, picked, paths)
        with opened(html) as out:
            out.write(draw_evaluation(page))
        _wrote(html, quiet)
    if check is not None:
        _check(facts, check)


def _wrote(path: Path, quiet: bool) -> None:
    if not quiet and path != Path("-"):
        say(f"wrote {path}")


def summary(network: Any, steps: Any, found: Any, stored: Any = None) -> dict[str, Any]:
    """The figures that are shown, as JSON can hold them; in percent, None where nothing is stated."""
    import numpy as np

    from gfnet_fast.exits.official import evaluate_rows
    from gfnet_fast.intervals import wilson
    from gfnet_fast.outcome import figures

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
        "default": {"thresholds": network.default_thresholds().tolist(), **figures(found, macs)},
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


def details(by_class: Any, confusions: Any, names: Any) -> dict[str, Any]:
    """Classes and confusions, as JSON can hold them; recall and precision in percent."""

    def per_cent(share: float | None) -> float | None:
        return None if share is None else 100 * share

    classes = [
        {
            "class": names[one.label],
            "images": one.images,
            "right": one.right,
            "recall": per_cent(one.recall),
            "interval": [100 * end for end in one.interval],
            "said": one.said,
            "precision": per_cent(one.precision),
        }
        for one in by_class
    ]
    pairs = [
        {"truth": names[one.label], "prediction": names[one.prediction], "images": one.images}
        for one in confusions
    ]
    return {"classes": classes, "confusions": pairs}


def _check(facts: dict[str, Any], most: float) -> None:
    pairs = stated_pairs(facts)
    far = [pair for pair in pairs if abs(pair[0] - pair[1]) > most]
    if far or not pairs:
        what = f"{len(far)} of {len(pairs)} farther off" if pairs else "a model that states none"
        say(f"check: expected accuracies within {most:g} points of those stated, got {what}")
        raise typer.Exit(FAILED)
