"""`gfnet-fast calibrate`."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gfnet_fast.cli.app import LARGEST_BATCH, LARGEST_SEED, MODEL_HELP, Quiet, app, complete_model, finite
from gfnet_fast.cli.console import per_cent, plain_table, progress, results_console
from gfnet_fast.cli.output import check_new
from gfnet_fast.errors import BudgetError, InputError
from gfnet_fast.folder import THRESHOLDS, THRESHOLDS_INT8
from gfnet_fast.hub import comes_along, locate, source_of
from gfnet_fast.text import plain, say, silent

if TYPE_CHECKING:
    from gfnet_fast.evaluation import MeasuredCosts, Steps
    from gfnet_fast.exits import Calibration, CostTable, ModelIdentity

DATA_HELP = "Folder of class folders of images; 'digits' composes canvases of digits held out from training."
PART_HELP = (
    "Of the folder that the model was trained on: auto (kept from training), all, train, heldout, val."
)
DIGITS = 8000
ROWS = 9


class Part(str, Enum):
    auto = "auto"
    all = "all"
    train = "train"
    heldout = "heldout"
    val = "val"


class Method(str, Enum):
    joint = "joint"
    official = "official"


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP, autocompletion=complete_model)],
    data: Annotated[str, typer.Option("--data", help=DATA_HELP)],
    part: Annotated[Part, typer.Option(help=PART_HELP)] = Part.auto,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A new model folder, instead of the thresholds in MODEL itself."),
    ] = None,
    method: Annotated[Method, typer.Option(help="Search for the thresholds.")] = Method.joint,
    holdout: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.9,
            help="Share of the images kept from the search, to judge it on them.",
            callback=finite,
        ),
    ] = 0.0,
    time: Annotated[bool, typer.Option("--time", help="Measure this device's costs too.")] = False,
    time_images: Annotated[
        int | None,
        typer.Option(min=1, help="Images, in timed runs of 64 of the largest batches; without it, one run."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Timed rounds; the middle half counts.")] = 5,
    images: Annotated[
        int | None, typer.Option(min=2, help=f"At most so many images; {DIGITS} digits without it.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Of the choice of images and of the search.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="int8: of the networks that `quantize` has made; others: of the timed runs.")
    ] = "auto",
    batch: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_BATCH, help="Largest batch of the timed runs.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="Of the timed runs.", show_default="torch, int8 openvino")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Find thresholds for every budget on labelled images, and write them into the model's folder."""
    precision = "int8" if dtype == "int8" else "float32"
    target = _target(model, data, output, precision)
    console = results_console()
    import torch

    from gfnet_fast.checkpoints import save
    from gfnet_fast.checkpoints.files import load_uncalibrated
    from gfnet_fast.data.labelled import open_labelled
    from gfnet_fast.data.split import carry_split
    from gfnet_fast.engine.int8 import in_int8
    from gfnet_fast.evaluation import BATCHES, chunks, measure_costs, run_length, shuffled, trace_steps
    from gfnet_fast.exits import ModelIdentity, save_calibration
    from gfnet_fast.exits import calibrate as search
    from gfnet_fast.predictor import Predictor

    network = load_uncalibrated(model, precision)
    identity = ModelIdentity.of(network, precision)
    options: dict[str, Any] = {"device": device, "dtype": dtype, "batch": batch}
    predictor = Predictor(network, runtime=runtime or RUNTIMES[precision], **options)
    form = in_int8(predictor.model) if precision == "int8" else predictor.model
    which: dict[str, Any] = {"source": locate(model), "part": part.value, "tell": silent if quiet else say}
    labelled = open_labelled(
        data, network, split="validation", count=images or DIGITS, seed=100 + seed, **which
    )
    rows = shuffled(len(labelled.labels), images, seed)
    kept, searched = rows[: int(holdout * len(rows))], rows[int(holdout * len(rows)) :]
    with progress("tracing", len(rows), quiet) as done:
        found = trace_steps(form, labelled, searched, done)
        judged = trace_steps(form, labelled, kept, done) if kept else None
    calibration = search(
        identity,
        found.confidences,
        found.correct,
        method=method.value,
        data_hash=found.data_hash,
        seed=seed,
    )
    if (known := _known_costs(locate(model) / target.name, identity)) is not None:
        calibration = calibration.with_cost(known)
    costs = None
    if time:
        wanted = time_images or BATCHES * predictor.batch
        sample = [*kept, *searched][:wanted]
        pixels = torch.cat([labelled.images(part) for part in chunks(sample)]).to(predictor.device)
        runs = (2 * network.config.steps + 3) * (rounds + 1)
        with progress("timing", runs * run_length(predictor, len(sample)), quiet) as done:
            costs = measure_costs(predictor, pixels, calibration, rounds=rounds, progress=done)
        calibration = calibration.with_cost(costs.table)
    if output is None:
        save_calibration(calibration, target)
    else:
        if precision == "int8" and network.quantised is not None:
            network.quantised = replace(network.quantised, calibration=calibration)
        else:
            network.calibration = calibration
        save(network, output)
        carry_split(locate(model), output)
    if not quiet:
        say(f"wrote {target}: {len(calibration.thresholds)} rows from {calibration.count} images")
    _print(console, calibration, found, judged, costs)


RUNTIMES = {"float32": "torch", "int8": "openvino"}


def _target(model: str, data: str, output: Path | None, precision: str) -> Path:
    """Where the thresholds go."""
    name = THRESHOLDS_INT8 if precision == "int8" else THRESHOLDS
    if output is not None:
        check_new("output", output, model=model, folder=data)
        return output / name
    if not Path(model).is_dir():
        what = "a file, or nothing"
        if comes_along(model) or source_of(model):
            what = "one that came with the package" if comes_along(model) else "a model's name"
        raise InputError(
            f"{model}: expected a model folder to write thresholds into, got {what}; use --output"
        )
    return Path(model) / name


def _known_costs(path: Path, identity: ModelIdentity) -> CostTable | None:
    """The costs in a model's thresholds, which stay right whatever its weights have become."""
    from gfnet_fast.exits import load_calibration

    try:
        return load_calibration(path, replace(identity, weights=None)).cost
    except BudgetError:  # there are none, or they are of another model
        return None


def _print(
    console: Any, calibration: Calibration, found: Steps, judged: Steps | None, costs: MeasuredCosts | None
) -> None:
    from gfnet_fast.evaluation import spread
    from gfnet_fast.exits import compare_paths, official_shares, thresholds_for_shares
    from gfnet_fast.exits.official import evaluate_rows

    assert calibration.shares is not None
    assert calibration.mean_macs is not None
    picks = spread(ROWS, len(calibration.thresholds))
    columns = ["M multiply-adds", "accuracy, %", "steps", "% leaving at each"]
    if judged is not None:
        columns += ["held out: M multiply-adds", "off, %", "accuracy, %"]
        kept = evaluate_rows(
            judged.confidences, judged.correct, calibration.thresholds, calibration.model.macs
        )
    table = plain_table("", *columns)
    steps = range(1, calibration.model.steps + 1)
    for row in picks:
        shares, asked = calibration.shares[row], calibration.mean_macs[row]
        accuracy = "-" if calibration.accuracy is None else f"{calibration.accuracy[row]:.2f}"
        taken = sum(step * share for step, share in zip(steps, shares, strict=True))
        cells = [f"{asked / 1e6:.2f}", accuracy, f"{taken:.2f}", per_cent(shares)]
        if judged is not None:
            off = 100 * (kept.mean_cost[row] / asked - 1)
            cells += [f"{kept.mean_cost[row] / 1e6:.2f}", f"{off:+.2f}", f"{kept.accuracy[row]:.2f}"]
        table.add_row(str(row), *cells)
    console.print(table)
    for note in calibration.notes:
        console.print(plain(note))
    if judged is not None:
        off = 100 * abs(kept.mean_cost / calibration.mean_macs - 1)
        count = judged.confidences.shape[1]
        console.print(
            f"requested and realised multiply-adds on {count} images held out, all {len(off)} rows: "
            f"median {sorted(off)[len(off) // 2]:.2f} % off, at most {off.max():.2f} %"
        )
        official = [thresholds_for_shares(found.confidences, row) for row in official_shares(len(steps))]
        gain = compare_paths(
            calibration.thresholds, official, judged.confidences, judged.correct, calibration.model.macs
        )
        console.print(
            f"over the official search, mean at its costs, on images held out: {gain.mean:+.2f} points "
            f"(95 %: {gain.mean_low:+.2f} to {gain.mean_high:+.2f}); everywhere at least "
            f"{gain.difference.min():+.2f} (band from {gain.band_low.min():+.2f})"
        )
    if costs is not None:
        _print_costs(console, calibration, costs)


def _print_costs(console: Any, calibration: Calibration, costs: MeasuredCosts) -> None:
    listed = " / ".join(f"{ms:.3f}" for ms in costs.table.milliseconds)
    console.print(
        f"milliseconds of an image that leaves at each step: {listed} ({plain(costs.table.device)})"
    )
    table = plain_table("", "ms requested", "ms realised", "off, %")
    for asked, took in zip(costs.requested, costs.realised, strict=True):
        table.add_row("", f"{asked:.3f}", f"{took:.3f}", f"{100 * (took / asked - 1):+.2f}")
    console.print(table)
    console.print(f"the costs explain the runs they were fitted on within {100 * costs.residual:.2f} %")
