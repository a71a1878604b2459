"""The models that come with the package: each folder in ``assets`` with a config.json is one, by its name."""

from __future__ import annotations

import os
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"


def names() -> list[str]:
    """The names of the models that come along, sorted."""
    return sorted(path.parent.name for path in ASSETS.glob("*/config.json"))


def named(model: str | os.PathLike[str]) -> Path | None:
    """The folder of the model that comes along under that name.

    None where none does, or where there is a path of that name, which goes before it.
    """
    name = os.fsdecode(model)
    return ASSETS / name if name in names() and not os.path.exists(name) else None


def locate(model: str | os.PathLike[str]) -> Path:
    """The path behind a name or path of a model; there need be nothing."""
    return named(model) or Path(os.fsdecode(model))
