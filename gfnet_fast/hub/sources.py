"""What can be fetched, and where it is kept: released models, addresses, folders on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import CheckpointError, shown
from gfnet_fast.folder import CONFIG, INT8, NETWORKS_INT8, THRESHOLDS, THRESHOLDS_INT8, WEIGHTS
from gfnet_fast.hub.names import comes_along, is_checkpoint, published

MIRROR = "GFNET_FAST_MIRROR"
"""Environment variable: an address below which released models are, as ``NAME.pth.tar``."""

FILES = CONFIG, WEIGHTS, THRESHOLDS, INT8, THRESHOLDS_INT8, *NETWORKS_INT8
"""Of a native folder; all but the first two may be missing."""

HUB = "hf-hub:"

_OFFICIAL = (".pth.tar", ".pth", ".pt")
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([^\s@]+))?", re.ASCII)


@dataclass(frozen=True)
class Download:
    """A model behind an address.

    Attributes
    ----------
    name : str
        As it was asked for.
    place : Path
        Where it is kept: the path of an official file, or of a native folder.
    address : str
        Of the file or the folder.
    files : mapping of str to str
        Addresses of a folder's files by their names; empty for an official file.
    config : GFNetConfig or None
        What it has to be, where that is known.
    by_hand : str
        How a person gets it there.
    """

    name: str
    place: Path
    address: str
    files: dict[str, str]
    config: GFNetConfig | None
    by_hand: str


@dataclass(frozen=True)
class Repository:
    """A native folder on the Hugging Face Hub, kept by `huggingface_hub` in its own cache."""

    name: str
    owner_and_name: str
    revision: str | None
    config: GFNetConfig | None = None


def cache() -> Path:
    """Where what was fetched is kept: ``gfnet_fast`` in ``torch.hub.get_dir()``, without importing torch."""
    hub = sys.modules.get("torch.hub")
    if hub is not None:
        folder = hub.get_dir()
    else:
        home = os.path.join(os.getenv("XDG_CACHE_HOME", "~/.cache"), "torch")
        folder = os.path.join(os.path.expanduser(os.getenv("TORCH_HOME", home)), "hub")
    return Path(os.path.abspath(folder), "gfnet_fast")


def kept_at(name: str) -> Path:
    """Where the file of a released model is kept."""
    return cache() / f"{name}.pth.tar"


def source_of(model: str | os.PathLike[str]) -> Download | Repository | None:
    """What a name or an address is fetched from; None for a path, and for a model that comes along."""
    name = os.fsdecode(model)
    if is_checkpoint(name) or comes_along(name):
        return None
    if (known := published().get(name)) is not None:
        place = kept_at(name)
        mirror = os.environ.get(MIRROR, "").rstrip("/")
        address = f"{mirror}/{place.name}" if mirror else known.address
        by_hand = f"get it from {known.address} or {known.page} and put it at {place}"
        return Download(name, place, address, {}, known.config, by_hand)
    if name.startswith(("http://", "https://")):
        return _behind(name)
    if name.startswith(HUB):
        found = _REPOSITORY.fullmatch(name.removeprefix(HUB))
        if found is None:
            raise CheckpointError(
                f"{name}: expected {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION, got another"
            )
        return Repository(name, found[1], found[2])
    return None


def locate(model: str | os.PathLike[str]) -> Path:
    """The path behind a path, a name or an address of a model; there need be nothing. Fetches nothing."""
    found = source_of(model)
    if isinstance(found, Download):
        return found.place
    if isinstance(found, Repository):
        from gfnet_fast.hub.huggingface import snapshot

        return snapshot(found, fetch=False) or Path(found.name)
    return comes_along(model) or Path(os.fsdecode(model))


def _behind(name: str) -> Download:
    """An official file where the address ends as one, otherwise a native folder."""
    parts = urlsplit(name)
    if "@" in parts.netloc or not parts.hostname:
        raise CheckpointError(f"{shown(name)}: expected http(s)://HOST/PATH without a password, got another")
    address = urlunsplit(parts._replace(fragment=""))
    path = parts.path.rstrip("/")
    last = re.sub(r"[^A-Za-z0-9._-]", "_", path.rpartition("/")[2])[-80:]
    place = cache() / "addresses" / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{last or 'model'}"
    if path.endswith(_OFFICIAL):
        return Download(name, place, address, {}, None, f"get the file otherwise and put it at {place}")
    files = {file: urlunsplit(parts._replace(path=f"{path}/{file}", fragment="")) for file in FILES}
    by_hand = f"get {CONFIG}, {WEIGHTS} and what else there is otherwise into {place}"
    return Download(name, place, address, files, None, by_hand)
