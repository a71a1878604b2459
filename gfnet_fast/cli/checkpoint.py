"""`gfnet-fast info` and `gfnet-fast convert`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfnet_fast.cli.app import MODEL_HELP, app, complete_model
from gfnet_fast.cli.console import results_console
from gfnet_fast.cli.output import check_new
from gfnet_fast.errors import CheckpointError
from gfnet_fast.hub import locate
from gfnet_fast.text import plain, say

if TYPE_CHECKING:
    from gfnet_fast.config import GFNetConfig
    from gfnet_fast.model.gfnet import GFNet


class Form(str, Enum):
    native = "native"
    released = "released"
    training = "training"


@app.command()
def info(path: Annotated[str, typer.Argument(help=MODEL_HELP, autocompletion=complete_model)]) -> None:
    """Say what a checkpoint holds."""
    console = results_console()
    from rich.table import Table

    from gfnet_fast.checkpoints import load
    from gfnet_fast.model.macs import static_macs

    model = load(path)
    config = model.config
    assert config.macs is not None
    facts = {
        "name": config.name,
        "backbone": config.backbone + (f" {dict(config.backbone_args)}" if config.backbone_args else ""),
        "classes": str(config.classes) + (" (named)" if model.labels else ""),
        "image": _preprocessing(config),
        "glance, crops": f"{config.patch_size} px; glance {config.glance_filter}",
        "classifier": config.classifier
        + (", glance by the encoder's own head" if config.glance_head else ""),
        "parameters": f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M",
        "one full image": f"{static_macs(model) / 1e6:.1f} M multiply-adds in the backbone alone",
        "thresholds": "none: every image takes all steps"
        if model.thresholds is None
        else f"{len(model.thresholds)} rows, row {model.default_row} where no budget is named",
        "int8": _int8(model),
        "runtimes": _runtimes(model),
    }
    grid = Table.grid(padding=(0, 2))
    for key, value in facts.items():
        grid.add_row(key, plain(value))
    console.print(grid)
    table = Table("exit step", "M multiply-adds", "threshold")
    for step, (macs, threshold) in enumerate(
        zip(config.macs, model.default_thresholds().tolist(), strict=True), 1
    ):
        shown = "always" if step == config.steps else "never" if threshold > 1 else f"{threshold:.4f}"
        table.add_row(str(step), f"{macs / 1e6:.1f}", shown)
    console.print(table)


def _int8(model: GFNet) -> str:
    """Whether there is an int8 form, and what it lost when it was made."""
    if model.quantised is None:
        return "none; `gfnet-fast quantize` makes one"
    measured = model.quantised.about.get("moved", {}).get("accuracy")
    lost = f"accuracy {measured[0]:+.2f} points when it was made" if measured else "accuracy not measured"
    own = "its own thresholds" if model.quantised.calibration is not None else "no thresholds of its own"
    return f"{lost}; {own}"


def _runtimes(model: GFNet) -> str:
    """Those that are here, and what is known of their speed on this model in float32."""
    import torch

    from gfnet_fast.engine.choice import Choice
    from gfnet_fast.engine.runtimes import runtimes
    from gfnet_fast.hub.sources import cache

    choice = Choice(model.config, torch.float32, model.device, cache() / "runtimes")
    told = []
    for name, runtime in runtimes().items():
        reason, speed = runtime.missing(model.device, torch.float32), choice.speed(name)
        if reason is not None:
            told.append(f"{name} ({reason})")
        elif speed is None:
            told.append(f"{name} (not measured yet)")
        else:
            rows = max(speed.seconds)
            told.append(
                f"{name} ({1e3 * speed.seconds[rows] / rows:.3g} ms for two steps in batches of {rows})"
            )
    return ", ".join(told)


def _preprocessing(config: GFNetConfig) -> str:
    (height, width), (rows, columns) = config.canvas, config.resize_to
    size = f"{height} x {width} px"
    if config.crop_ratio is None:
        return f"{size}; all of it resized to that, {config.resize_filter}"
    covered = f"short side resized to {rows}" if height == width else f"resized to cover {rows} x {columns}"
    return f"{size}; {covered}, {config.resize_filter}; its centre"


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help=MODEL_HELP, autocompletion=complete_model)],
    target: Annotated[
        Path, typer.Argument(help="A folder for the native form, a file for the official ones.")
    ],
    to: Annotated[
        Form, typer.Option(help="native folder, or official file as released or as training saves it.")
    ] = Form.native,
    half: Annotated[
        bool, typer.Option("--half", help="Weights in float16, for a native folder of half the size.")
    ] = False,
) -> None:
    """Write a checkpoint in another form."""
    if half and to is not Form.native:
        raise typer.BadParameter(f"--half: expected the native form, got --to {to.value}")
    check_new("target", target, model=source)
    from gfnet_fast.checkpoints import load, official_checkpoint, save
    from gfnet_fast.checkpoints.official import official_form
    from gfnet_fast.data.split import carry_split
    from gfnet_fast.training.state import write_torch

    model = load(source)
    if to is Form.training and official_form(model.config) != "released":
        expected = "a released configuration, as such a file names none and others could not be read back"
        got = f"{model.config.name} at {model.config.patch_size}"
        raise CheckpointError(f"--to training: expected {expected}, got {got}; use --to native")
    if to is Form.native:
        save(model, target, half=half)
        carry_split(locate(source), target)
    else:
        write_torch(target, official_checkpoint(model, to.value))
        if model.quantised is not None:
            say(f"{source}: its int8 form is left out: an official file has no place for it")
