"""The names of models: those that come with the package, and the released ones with their addresses."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from gfnet_fast import config
from gfnet_fast.config import GFNetConfig
from gfnet_fast.folder import CONFIG

ASSETS = Path(__file__).parents[1] / "assets"
TABLE = Path(__file__).with_name("released.csv")


@dataclass(frozen=True)
class Published:
    """A released model, and where its authors put it.

    Attributes
    ----------
    name : str
        ``NAME-PATCH`` of its configuration.
    config : GFNetConfig
        With its multiply-adds.
    parameters : int
        Of both encoders, the policy and the classifier.
    address : str
        Of the official file itself, as in the official repository's README.
    page : str
        Of a page for people where it is as well.
    """

    name: str
    config: GFNetConfig
    parameters: int
    address: str
    page: str


def along() -> list[str]:
    """The names of the models that come along, sorted: each folder in ``assets`` with a config.json."""
    return sorted(path.parent.name for path in ASSETS.glob("*/config.json"))


def comes_along(model: str | os.PathLike[str]) -> Path | None:
    """The folder of the model that comes along under that name.

    None where none does, or where there is a checkpoint of that name, which goes before it.
    """
    name = os.fsdecode(model)
    return ASSETS / name if name in along() and not is_checkpoint(name) else None


def is_checkpoint(path: str) -> bool:
    """Whether a path may be a model's: a file, or a folder with a configuration, not just any folder."""
    return os.path.isfile(path) or os.path.exists(os.path.join(path, CONFIG))


def published() -> dict[str, Published]:
    """The released models by name, in the order of `config.RELEASED`."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    found = {}
    for known in config.RELEASED:
        name = f"{known.name}-{known.patch_size}"
        row = rows[name]
        macs = tuple(map(int, row["macs"].split()))
        found[name] = Published(
            name, replace(known, macs=macs), int(row["parameters"]), row["address"], row["page"]
        )
    return found


def known_names() -> list[str]:
    """Every name: of the models that come along, then of the released ones."""
    return [*along(), *published()]


def nearest(name: str) -> list[str]:
    """Up to three names that somebody may have meant."""
    known = {known.lower(): known for known in known_names()}
    return [known[found] for found in get_close_matches(name.lower(), known)]
