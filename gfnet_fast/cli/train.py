"""`gfnet-fast train`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gfnet_fast.cli.app import Quiet, app
from gfnet_fast.cli.process import INTERRUPTED, stop
from gfnet_fast.errors import InputError, reason
from gfnet_fast.files import parse_json, read_text
from gfnet_fast.text import plain

SETTINGS_HELP = "A field of TrainConfig, or model.FIELD of GFNetConfig: gamma=0.9, epochs=0,30,15,30."

PRETRAINED_HELP = (
    "Weights to begin with: 'timm', a file, an installed package that carries one, a GFNet's folder, file or "
    "name, or 'none'; by default what fits the backbone and is at hand."
)
BACKBONE_HELP = "timm/NAME or torchvision/NAME; EfficientNet-Lite0 without it."


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="Folder of images: train/CLASS/ and val/CLASS/, or CLASS/.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder, or one to go on in.")],
    backbone: Annotated[str | None, typer.Option(help=BACKBONE_HELP)] = None,
    patch_size: Annotated[
        int | None,
        typer.Option(help="Pixels of the glance and the crops; by default two thirds of an image."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps at most, the glance included; 2 without it.")
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(help="Pixels of an image: 224, or HEIGHTxWIDTH; by default as pictures are.")
    ] = None,
    stages: Annotated[str | None, typer.Option(help="E.g. 1,2,3; by default those with epochs.")] = None,
    pretrained: Annotated[str | None, typer.Option(help=PRETRAINED_HELP)] = None,
    init: Annotated[
        str | None, typer.Option(help="A whole model to begin with: a checkpoint or a name.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings as JSON or TOML, by name.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help=SETTINGS_HELP)] = None,
    batch: Annotated[int | None, typer.Option(help="Images of an update, over all processes.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better state that end a stage; 0: never.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Determines the run, on a CPU to the bit.")] = None,
    amp: Annotated[bool | None, typer.Option(help="Encoders in bfloat16.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read images; 2, and fewer for few.")
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile the encoders.")] = False,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Encoders' layout.")] = False,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Updates between checkpoints.")] = 1000,
    bad_images: Annotated[int, typer.Option(min=0, help="So many may be unreadable.")] = 0,
    export: Annotated[str, typer.Option(help="'official': also write official.pth.tar.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Metrics for TensorBoard.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train on a folder of images, find thresholds on held-out ones, and measure.

    What no option says follows from the images, and is said before it begins. A run that was interrupted or
    killed goes on when it is started again with the same command. Several processes:
    torchrun --nproc-per-node N -m gfnet_fast train ...
    """
    if export not in ("", "official"):
        raise typer.BadParameter(f"export: expected 'official', got {export!r}")
    numbers, size = _numbers(stages), None if image_size is None else _size(image_size)
    from gfnet_fast.config import GFNetConfig
    from gfnet_fast.training.config import TrainConfig, checked
    from gfnet_fast.training.defaults import Request
    from gfnet_fast.training.folder import train_folder
    from gfnet_fast.training.job import Manner
    from gfnet_fast.training.run import Interrupted

    training, model = _file_settings(config) if config else ({}, {})
    training, model = checked(TrainConfig, training, str(config)), checked(GFNetConfig, model, str(config))
    for text in setting or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set: expected NAME=VALUE, got {text!r}")
        if name.startswith("model."):
            model.update(checked(GFNetConfig, {name.removeprefix("model."): value}, "--set model"))
        else:
            training.update(checked(TrainConfig, {name: value}, "--set"))
    flags = {"batch": batch, "patience": patience, "seed": seed, "amp": amp}
    given = {name: value for name, value in flags.items() if value is not None}
    training.update(checked(TrainConfig, given, "options"))
    asked = Request(data, output, backbone, patch_size, steps, size, training, model, pretrained, init)
    manner = Manner(
        device,
        workers,
        checkpoint_every,
        bad_images,
        compile,
        channels_last,
        "official" if export else "",
        dry_run,
        tensorboard,
        quiet,
    )
    try:
        found = train_folder(asked, numbers, manner)
    except Interrupted as error:
        stop(f"{error}: a checkpoint is in {output}, and the same command goes on from it", INTERRUPTED)
    if found and os.environ.get("RANK", "0") == "0":  # once, whatever number of processes
        exits, all_steps = found["exits"], 100 * found["exits"]["all_steps"]
        early = f"{100 * exits['accuracy']:.1f} % with early exit in {exits['mean_steps']:.2f} steps"
        whole = f"{all_steps:.1f} % right after {len(exits['shares'])} steps"
        print(f"{plain(str(output))}: {whole}, {early}; {found['count']} images")


def _numbers(stages: str | None) -> list[int] | None:
    try:
        return None if stages is None else [int(part) for part in stages.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"stages: expected numbers with commas between, got {stages!r}") from error


def _size(text: str) -> int | tuple[int, int]:
    """``"224"``: of a square; ``"288x384"``: height and width."""
    found = re.fullmatch("([0-9]{1,9})(?:x([0-9]{1,9}))?", text)
    if found is None:
        raise typer.BadParameter(f"image-size: expected 224, or height x width as 288x384, got {text!r}")
    height, width = found.groups()
    return int(height) if width is None else (int(height), int(width))


def _file_settings(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the training, and of the model (the table "model")."""
    parse = _toml_parser(path) if path.suffix == ".toml" else parse_json
    try:
        content = parse(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected settings as JSON or TOML, got {reason(error)}") from error
    if not isinstance(content, dict) or not isinstance(model := content.pop("model", {}), dict):
        raise InputError(f"{path}: expected a table of settings, got {type(content).__name__}")
    return content, model


def _toml_parser(path: Path) -> Callable[[str], Any]:
    try:
        import tomllib
    except ModuleNotFoundError as error:
        raise InputError(f"{path}: expected Python 3.11 for TOML, got an older one; use JSON") from error
    return tomllib.loads
