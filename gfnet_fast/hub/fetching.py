"""Fetching a model: once, complete and read before it has its name, by one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import BudgetError, CheckpointError, reason
from gfnet_fast.files import DRAFT, MAX_JSON, read_text, sha256_of, write_text
from gfnet_fast.folder import CONFIG, INT8, NETWORKS_INT8, THRESHOLDS_INT8, WEIGHTS
from gfnet_fast.hub.sources import Download, Repository, locate, source_of

MAX_FILE = 4 * 2**30
"""Bytes of a file that is not JSON."""

Check = Callable[[Path, "GFNetConfig | None"], object]


def fetch(model: str | os.PathLike[str], check: Check) -> Path:
    """The path behind a path, a name or an address of a model; what can be fetched and is not here, is.

    Parameters
    ----------
    model : path or str
    check : callable
        ``check(path, config)`` raises CheckpointError, or BudgetError for its thresholds, unless what has
        come is a model, of that configuration where there is one. Called before it has its place.

    Raises
    ------
    CheckpointError
        It cannot be fetched, or kept, or is not what it was; says how to get it by hand.
    """
    source = source_of(model)
    if isinstance(source, Repository):
        from gfnet_fast.hub.huggingface import snapshot

        found = snapshot(source, fetch=True)
        assert found is not None
        return found
    if source is None or source.place.exists():
        return locate(model)
    try:
        source.place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(source.place):
            if not source.place.exists():  # else another process has fetched it meanwhile
                _fetch(source, check)
    except OSError as error:
        got = f"{error.filename or source.place.parent}: {error.strerror or reason(error)}"
        expected = "a cache to keep the model in"
        raise CheckpointError(
            f"{source.name}: expected {expected}, got {got}; set TORCH_HOME to a folder that can be written"
        ) from None
    return source.place


def _fetch(source: Download, check: Check) -> None:
    from gfnet_fast.hub.download import Failed, download

    draft = source.place.with_name(source.place.name + DRAFT)
    address = source.address
    try:
        if not source.files:
            download(address, draft, limit=MAX_FILE, name=source.name)
        else:
            draft.mkdir(exist_ok=True)
        for name, address in source.files.items():
            if name in (THRESHOLDS_INT8, *NETWORKS_INT8) and not (draft / INT8).exists():
                continue
            limit = MAX_JSON if name.endswith(".json") else MAX_FILE
            try:
                download(address, draft / name, limit=limit, name=f"{source.name}: {name}")
            except Failed as error:
                if name in (CONFIG, WEIGHTS) or not error.missing:
                    raise
                (draft / name).unlink(missing_ok=True)
    except Failed as error:
        raise CheckpointError(
            f"{source.name}: expected a model from {address}, got {error}; {source.by_hand}"
        ) from None
    try:
        check(draft, source.config)
        _compare(source, draft)
    except (CheckpointError, BudgetError) as error:
        _remove(draft)
        said = str(error).replace(str(draft), source.address)
        said = said if said.startswith(source.name) else f"{source.name}: {said}"
        raise CheckpointError(f"{said}; {source.by_hand}") from None
    draft.replace(source.place)


def _compare(source: Download, draft: Path) -> None:
    """Keep the SHA-256 of what was fetched first, as sha256sum writes it, and compare what comes later."""
    record = source.place.with_name(f"{source.place.name}.sha256")
    files = [draft] if draft.is_file() else sorted(draft.iterdir())
    lines = [
        f"{sha256_of(file)}  {source.place.name if file == draft else f'{source.place.name}/{file.name}'}\n"
        for file in files
    ]
    try:
        before = read_text(record)
    except FileNotFoundError:
        write_text(record, "".join(lines))
        return
    if before != "".join(lines):
        expected = f"what was fetched first, whose SHA-256 is in {record}"
        raise CheckpointError(f"{draft}: expected {expected}, got another; remove that if it was to change")


def _remove(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft)
    else:
        draft.unlink(missing_ok=True)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Alone with `place` among all processes and threads; the lock of one that dies is free."""
    with place.with_name(f"{place.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
