"""One file over HTTP: gone on with where it was cut off, and no more trusted than any stranger's.

Proxies are those of the environment (``https_proxy``, ``no_proxy``). Beside a file that is not complete,
``NAME.state`` says which version of which address it is of.
"""

from __future__ import annotations

import http.client
import os
import re
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from gfnet_fast.errors import reason, shown
from gfnet_fast.files import read_json, write_json
from gfnet_fast.hub.progress import shown_by

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt; twice as long before each further one
BLOCK = 2**18
_BUSY = (429, 500, 502, 503, 504)


class Failed(Exception):
    """A download that came to nothing; `missing` where the server has no such file."""

    missing = False


class _Cut(Exception):
    """A connection that ended early; another may go on from there."""


class _Redirects(request.HTTPRedirectHandler):
    max_redirections = 5

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> Any:
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after not in ("http", "https") or (before, after) == ("https", "http"):
            raise Failed(f"a redirect to {shown(newurl)}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(address: str, path: Path, *, limit: int, name: str) -> None:
    """Get the file at `address` into `path`, going on with what is there of it.

    Raises
    ------
    Failed
        No answer, another answer than the file, more than `limit` bytes, or cut off `ATTEMPTS` times; what
        has come stays at `path` for the next call.
    OSError
        The file cannot be written.
    """
    cut: Exception | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            _receive(address, path, limit, name, first=not attempt)
        except _Cut as error:
            cut = error
        else:
            _state(path).unlink(missing_ok=True)
            return
    raise Failed(f"{cut}, in the last of {ATTEMPTS} attempts")


def _receive(address: str, path: Path, limit: int, name: str, *, first: bool) -> None:
    have, total, version = _held(path, address)
    headers = {"User-Agent": "gfnet-fast", "Accept-Encoding": "identity"}
    if have:
        headers.update({"Range": f"bytes={have}-", "If-Range": version})
    with _open(address, headers, path, first=first) as response:
        if have and response.status == 206:
            _check_range(response, path, have, total, version)
        elif response.status == 200:
            have, total = 0, _length(response)
        else:
            raise Failed(f"the status {response.status}")
        kind, packed = response.headers.get_content_type(), response.headers.get("Content-Encoding")
        if kind in ("text/html", "application/xhtml+xml"):
            raise Failed("a web page (a login, a consent or an error) in the place of the file")
        if packed not in (None, "identity"):
            raise Failed(f"a file packed as {shown(packed)}")
        if total is not None and total > limit:
            raise Failed(f"{total} bytes, more than {limit}")
        if not have:
            _remember(path, address, _version(response), total)
        with path.open("r+b" if have else "wb") as file:
            file.seek(have)
            show = shown_by.get()
            with nullcontext(lambda done: None) if show is None else show(name, total, have) as advance:
                while block := _read(response):
                    have += len(block)
                    if have > limit:
                        raise Failed(f"more than {limit} bytes")
                    file.write(block)
                    advance(len(block))
                file.flush()
                os.fsync(file.fileno())
    if total is not None and have != total:
        raise _Cut(f"{have} of {total} bytes")


def _open(address: str, headers: dict[str, str], path: Path, *, first: bool) -> Any:
    """The answer to a request; whoever cannot be reached at first is not asked again."""
    opener = request.OpenerDirector()  # without urllib's handlers of ftp:, file: and data:
    for handler in (
        request.ProxyHandler(),
        request.UnknownHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        _Redirects(),
        request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    try:
        return opener.open(request.Request(address, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416 and "Range" in headers:
            _state(path).unlink(missing_ok=True)
            raise _Cut("a refusal to go on where it was cut off") from None
        said = f"status {error.code}: {reason(Exception(error.reason))}"
        if error.code in _BUSY:
            raise _Cut(said) from None
        failed = Failed(said)
        failed.missing = error.code in (404, 410)
        raise failed from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, URLError) else error
        got = getattr(cause, "strerror", None) or reason(Exception(cause))
        raise (Failed if first else _Cut)(f"no answer ({got})") from None


def _read(response: Any) -> bytes:
    try:
        return response.read1(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"a connection that ended early ({reason(error)})") from None


def _length(response: Any) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _version(response: Any) -> str | None:
    """What names this version of the file to the server, to the byte; a weak ETag does not."""
    tag = response.headers.get("ETag")
    if tag is None:
        return response.headers.get("Last-Modified")
    return None if tag.startswith("W/") else tag


def _check_range(response: Any, path: Path, have: int, total: int | None, version: str) -> None:
    """Raise _Cut, and forget what is there, unless the answer is the rest of that same version."""
    found = re.fullmatch(
        "bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", response.headers.get("Content-Range", "")
    )
    expected = None if total is None else (have, total - 1, total)
    got = None if found is None else tuple(map(int, found.groups()))
    if (
        got is None
        or got[0] != have
        or expected not in (None, got)
        or _version(response) not in (None, version)
    ):
        _state(path).unlink(missing_ok=True)
        raise _Cut("another part of the file than the rest")


def _state(path: Path) -> Path:
    return path.with_name(f"{path.name}.state")


def _remember(path: Path, address: str, version: str | None, total: int | None) -> None:
    """Say what is going to be at `path`; without a version, or a length, nothing can be gone on with."""
    _state(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    if version is not None and total is not None:
        write_json(_state(path), {"address": address, "version": version, "total": total})


def _held(path: Path, address: str) -> tuple[int, int | None, str]:
    """Bytes that are there, of how many, of which version; 0 where there is nothing to go on with."""
    try:
        state = read_json(_state(path))
        have = os.path.getsize(path)
        said, version, total = state["address"], state["version"], state["total"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0, None, ""
    if said != address or not isinstance(version, str) or type(total) is not int or not 0 < have < total:
        return 0, None, ""
    return have, total, version
