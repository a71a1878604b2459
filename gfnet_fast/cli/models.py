"""`gfnet-fast models` and `gfnet-fast fetch`."""

from __future__ import annotations

import json
import math
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from gfnet_fast.cli.app import Quiet, app
from gfnet_fast.cli.console import plain_table, results_console
from gfnet_fast.config import GFNetConfig
from gfnet_fast.folder import CONFIG, WEIGHTS
from gfnet_fast.text import plain


class Shape(str, Enum):
    table = "table"
    json = "json"


@app.command()
def models(
    format: Annotated[
        Shape, typer.Option("--format", "-f", help="json has every step's costs.")
    ] = Shape.table,
) -> None:
    """The models that have a name: those that come along, and the released ones."""
    console = results_console()
    rows = listed()
    if format is Shape.json:
        print(json.dumps(rows, indent=1))
        return
    columns = ("classes", "patch", "image", "steps", "M parameters", "M multiply-adds", "where")
    table = plain_table("name", *columns)
    for row in rows:
        size = "x".join(map(str, row["image_size"]))
        costs = "-" if row["macs"] is None else f"{row['macs'][0] / 1e6:.0f} to {row['macs'][-1] / 1e6:.0f}"
        where = row["where"] if row["bytes"] is None else f"{row['where']}, {row['bytes'] / 1e6:.1f} MB"
        numbers = row["classes"], row["patch_size"], size, row["steps"], f"{row['parameters'] / 1e6:.1f}"
        table.add_row(plain(row["name"]), *map(str, numbers), costs, where)
    console.print(table)
    console.print(
        "image: height x width in px; multiply-adds of an image that leaves at the first step to the last. "
        "`gfnet-fast fetch NAME` gets one that is not here; so does using it."
    )


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Names, addresses of models, hf-hub:OWNER/NAME.")],
    quiet: Quiet = False,
) -> None:
    """Get models that are not here yet, and print where each is; for machines that are offline later."""
    console = results_console()
    from gfnet_fast.checkpoints.files import obtain

    for name in names:
        console.print(plain(str(obtain(name))), soft_wrap=True)


def listed() -> list[dict[str, Any]]:
    """Every model with a name, as JSON can hold it; sizes in pixels and bytes."""
    from gfnet_fast.hub.names import ASSETS, along, published
    from gfnet_fast.hub.sources import kept_at

    rows = []
    for name in along():
        folder = ASSETS / name
        config = _config_of(folder)
        rows.append(_row(name, config, _parameters(folder), "comes along", folder))
    for name, known in published().items():
        place = kept_at(name)
        where = "here" if place.is_file() else "not here"
        row = _row(name, known.config, known.parameters, where, place)
        rows.append({**row, "address": known.address, "page": known.page})
    return rows


def _row(name: str, config: GFNetConfig, parameters: int, where: str, path: Path) -> dict[str, Any]:
    files = [path] if path.is_file() else path.rglob("*")
    return {
        "name": name,
        "backbone": config.backbone,
        "classes": config.classes,
        "patch_size": config.patch_size,
        "image_size": list(config.canvas),
        "steps": config.steps,
        "parameters": parameters,
        "macs": None if config.macs is None else [int(macs) for macs in config.macs],
        "where": where,
        "path": str(path),
        "bytes": sum(file.stat().st_size for file in files if file.is_file()) if path.exists() else None,
    }


def _config_of(folder: Path) -> GFNetConfig:
    from gfnet_fast.files import read_json

    return GFNetConfig.from_dict(read_json(folder / CONFIG)["config"])


def _parameters(folder: Path) -> int:
    """Numbers in model.safetensors but for the statistics of batch norms; only its header is read."""
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="numpy") as file:
        names = [name for name in file.keys() if ".running_" not in name and ".num_batches_" not in name]  # noqa: SIM118
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
