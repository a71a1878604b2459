"""Native folders on the Hugging Face Hub, through its own client and into its own cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gfnet_fast.errors import CheckpointError, reason
from gfnet_fast.hub.sources import FILES, Repository


def snapshot(source: Repository, *, fetch: bool) -> Path | None:
    """The folder of that revision in the client's cache; None where it is not there and not fetched.

    Raises CheckpointError where the client is not installed or cannot get it.
    """
    try:
        from huggingface_hub import snapshot_download
        from tqdm.auto import tqdm
    except ImportError:
        if not fetch:
            return None
        expected = "the package huggingface_hub (pip install 'gfnet-fast[hub]')"
        raise CheckpointError(f"{source.name}: expected {expected}, got none installed") from None

    class Silent(tqdm):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **{**more, "disable": True})

    try:
        found = snapshot_download(
            source.owner_and_name,
            revision=source.revision,
            allow_patterns=list(FILES),
            local_files_only=not fetch,
            tqdm_class=Silent,
        )
    except Exception as error:  # the client's errors are of many kinds and packages
        if not fetch:
            return None
        got = reason(error)
        expected = "a model folder that the hub gives out, or one in its cache"
        raise CheckpointError(f"{source.name}: expected {expected}, got {got}") from None
    return Path(found)
