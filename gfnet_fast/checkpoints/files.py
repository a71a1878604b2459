"""`load`: one door for every kind of checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from gfnet_fast.checkpoints import native, official
from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import CheckpointError, DeviceError, reason, shown
from gfnet_fast.exits import ModelIdentity
from gfnet_fast.exits.files import assigned
from gfnet_fast.folder import THRESHOLDS
from gfnet_fast.hub import fetch, nearest, source_of
from gfnet_fast.model.gfnet import GFNet


def load(
    path: str | os.PathLike[str], *, config: GFNetConfig | None = None, device: str | torch.device = "cpu"
) -> GFNet:
    """A GFNet in evaluation mode and float32: of an official file or a native folder, here or to be fetched.

    Loading runs nothing that the file says. A path is read, and nothing is written then and no socket opened;
    a name or an address whose model is not here yet is fetched once (docs/guides/models.md). The weights are
    read into memory of the model's own.

    Parameters
    ----------
    path : path or str
        A folder written by :meth:`GFNet.save_pretrained`, or a file: as released, or as the official
        training script saves it. Where there is no such path, a name: of a model that comes with the package
        (``"digits"``), of a released one (``"resnet50-96"``), ``"hf-hub:OWNER/NAME"``, or an address.
    config : GFNetConfig, optional
        What the file does not say. The training form holds neither the model's name nor its sizes;
        without `config` they are found from the names and shapes of its tensors, and the number of
        steps is that of the released configuration.
    device : str or torch.device
        Where the weights go.

    Warns
    -----
    BudgetWarning
        The thresholds of a folder do not say which weights they belong to; they are taken for these weights'.

    Raises
    ------
    CheckpointError
        The path is missing, is not readable without running code, does not hold exactly the
        finite tensors that the configuration needs, or is beyond a limit (docs/internals/security.md); or
        what was named cannot be fetched.
    BudgetError
        Its thresholds are no calibration, or that of another model or other weights.
    DeviceError
        There is no such device.
    """
    target = check_device(device)
    place = obtain(path)
    if config is None and (source := source_of(path)) is not None:
        config = source.config
    model = _read(place, config)
    if model.calibration is not None and model.calibration.model.weights is None:
        where = str(place / THRESHOLDS)
        model.calibration = assigned(model.calibration, ModelIdentity.of(model), where=where, stacklevel=3)
    return model.to(target).eval()


def load_uncalibrated(path: str | os.PathLike[str], precision: str = "float32") -> GFNet:
    """:func:`load`, but of a folder without a precision's thresholds, which may be those of other weights."""
    place = obtain(path)
    return native.read(place, unread=precision).eval() if place.is_dir() else load(path)


def obtain(model: str | os.PathLike[str]) -> Path:
    """The path of a checkpoint by its path, name or address; fetched, and read once, where it is not here.

    Raises CheckpointError as :func:`load`.
    """
    if model == "":
        raise CheckpointError("path: expected one of a checkpoint, or a model's name, got an empty text")
    try:
        path = fetch(model, _read)
        found = path.exists()
    except CheckpointError:
        raise
    except (TypeError, ValueError, OSError) as error:
        got = f"{shown(model)} ({reason(error)})"
        raise CheckpointError(f"path: expected one of a checkpoint, got {got}") from None
    if not found:
        names = " or ".join(nearest(str(path)))
        meant = f"did you mean {names}? `gfnet-fast models`" if names else "`gfnet-fast models`"
        expected = "a checkpoint file or folder, or a model's name"
        raise CheckpointError(f"{path}: expected {expected}, got nothing there; {meant} lists all names")
    return path


def _read(path: Path, config: GFNetConfig | None) -> GFNet:
    return native.read(path, config) if path.is_dir() else official.read(path, config)


def check_device(device: str | torch.device) -> torch.device:
    """The device of that name; DeviceError where torch does not have it."""
    try:
        target = torch.empty(0, device=device).device  # with its number: "cuda" is not equal to "cuda:0"
        if target.type == "meta":
            raise RuntimeError("it holds no numbers")
    except Exception as error:  # backends that are not there fail in their own ways
        got = f"{shown(str(device))} ({reason(error)})"
        raise DeviceError(f"device: expected one that torch can use here, got {got}") from None
    return target
