"""`gfnet-fast quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gfnet_fast.cli.app import LARGEST_SEED, MODEL_HELP, Quiet, app, complete_model, finite
from gfnet_fast.cli.calibrate import DATA_HELP, DIGITS, PART_HELP, Part
from gfnet_fast.cli.console import per_cent, plain_table, progress, results_console
from gfnet_fast.cli.output import check_new
from gfnet_fast.errors import InputError
from gfnet_fast.hub import locate
from gfnet_fast.text import plain, say, silent

if TYPE_CHECKING:
    from gfnet_fast.quantisation.model import Moved

TRIES = 4


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(help=MODEL_HELP, autocompletion=complete_model)],
    data: Annotated[str, typer.Option("--data", help=DATA_HELP)],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new model folder, with both forms.")],
    part: Annotated[Part, typer.Option(help=PART_HELP)] = Part.auto,
    max_loss: Annotated[
        float,
        typer.Option(
            min=0,
            help="Points of accuracy that int8 may lose, beyond chance, on images kept aside; or more layers "
            "stay float.",
            callback=finite,
        ),
    ] = 0.5,
    images: Annotated[
        int | None, typer.Option(min=4, help=f"At most so many images; {DIGITS} digits without it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of the choice of images.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Write a copy of a model with networks in int8 too, for `--dtype int8` on a CPU.

    Ranges are found on what each network sees: thumbnails, and crops where the policy looks at every step.
    Half of the images are for that and for thresholds, found anew; the other half says what int8 has changed.
    """
    check_new("output", output, model=model, folder=data)
    console = results_console()
    from gfnet_fast.checkpoints import load, save
    from gfnet_fast.data.labelled import open_labelled
    from gfnet_fast.data.split import carry_split
    from gfnet_fast.engine.int8 import in_int8
    from gfnet_fast.evaluation import chunks, shuffled, trace_steps
    from gfnet_fast.exits import ModelIdentity, calibrate
    from gfnet_fast.quantisation.layers import quantiser
    from gfnet_fast.quantisation.model import TOLERANCE, moved, quantised_model, with_calibration

    quantiser()
    tell = silent if quiet else say
    network = load(model)
    which: dict[str, Any] = {"source": locate(model), "part": part.value, "tell": tell}
    labelled = open_labelled(
        data, network, split="validation", count=images or DIGITS, seed=100 + seed, **which
    )
    rows = shuffled(len(labelled.labels), images, seed)
    if len(rows) < 4:
        raise InputError(f"{data}: expected at least 4 images, got {len(rows)}")
    halves = rows[::2], rows[1::2]

    def traced(form: Any, name: str) -> Any:
        with progress(f"tracing {name}", len(rows), quiet) as done:
            return [trace_steps(form, labelled, half, done) for half in halves]

    def searched(steps: Any, precision: str) -> Any:
        identity = ModelIdentity.of(network, precision)
        found = {"data_hash": steps.data_hash, "seed": seed}
        return calibrate(identity, steps.confidences, steps.correct, **found)

    float32 = traced(network, "float32")
    calibrations = {"float32": searched(float32[0], "float32")}
    tolerance = TOLERANCE
    for _ in range(TRIES):
        few = [[labelled.images(r) for r in chunks(half[:RANGE_IMAGES])] for half in halves]
        quantised = quantised_model(network, *few, tolerance=tolerance, seed=seed, say=tell)
        network.quantised = quantised
        int8 = traced(in_int8(network), "int8")
        calibrations["int8"] = searched(int8[0], "int8")
        assert network.config.macs is not None
        change = moved(float32[1], int8[1], calibrations, network.config.macs)
        if not change.loses(max_loss):
            break
        lost = f"{-change.accuracy[0]:.2f} points are lost at an error of {tolerance:g} a network"
        tell(f"{lost}: more layers stay float")
        tolerance /= 2
    else:
        got = f"one of {-change.accuracy[0]:.2f} on {len(halves[1])} images"
        raise InputError(
            f"{model}: expected a loss of at most {max_loss:g} points, got {got}; see --max-loss"
        )
    network.quantised = with_calibration(quantised, calibrations["int8"], moved=change._asdict())
    save(network, output)
    carry_split(locate(model), output)
    tell(f"wrote {output}")
    _print(console, network, change, len(halves[1]))
    if change.accuracy[1] < -max_loss:
        tell(f"{len(halves[1])} images are too few to say that at most {max_loss:g} points are lost")


RANGE_IMAGES = 256


def _print(console: Any, network: Any, change: Moved, count: int) -> None:
    table = plain_table("", "layers in int8", "error, %", "float")
    for name, told in network.quantised.about["networks"].items():
        kept = network.quantised.kept[name]
        quantised = f"{told['layers'] - len(kept)} of {told['layers']}"
        table.add_row(
            name, quantised, f"{100 * told['error']:.2f}", plain(", ".join(map(_short, kept))) or "-"
        )
    console.print(table)
    (accuracy, low, high), (cost, least, most) = change.accuracy, change.cost
    console.print(
        f"int8 beside float32, at float32's default budget, on {count} images kept aside (95 %):\n"
        f"accuracy {accuracy:+.2f} points ({low:+.2f} to {high:+.2f}), mean multiply-adds {cost:+.2f} % "
        f"({least:+.2f} to {most:+.2f}), same class {change.agreement:.1f} %\n"
        f"leaving at each step, %: {per_cent(change.shares[0])} before, {per_cent(change.shares[1])} after\n"
        f"with float32's thresholds: accuracy {change.stale[0][0]:+.2f} points, mean multiply-adds "
        f"{change.stale[1][0]:+.2f} %"
    )


def _short(layer: str) -> str:
    """What a user knows of a layer's name."""
    return layer.removeprefix("__module.").removeprefix("backbone.").split("/")[0]
