"""A web server on this machine that behaves as badly as it is told to."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class File:
    """One file, and how it is given out.

    Attributes
    ----------
    content : bytes
    cuts : list of int
        The connection of each of the first answers ends after so many bytes of its body.
    tag : str or None
        The ETag; by default one of the content.
    ranges : "yes", "ignored", "wrong", "blind" or "refused"
        How a Range is answered: by the rest, by everything, by a part that begins elsewhere, by the rest
        whatever If-Range says, by 416.
    status, kind, headers
        Of every answer; a redirect is a status and a Location.
    length : int or None
        What is said of the length, instead of what is true; -1: nothing.
    pause : float
        Seconds before the second half of the body.
    """

    content: bytes = b""
    cuts: list[int] = field(default_factory=list)
    tag: str | None = ""
    ranges: str = "yes"
    status: int = 200
    kind: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    pause: float = 0.0

    @property
    def version(self) -> str | None:
        return f'"{hashlib.sha1(self.content).hexdigest()}"' if self.tag == "" else self.tag


class Server:
    """Files by their paths, and the requests that came: path, and headers in lower case."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, File] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []

    def url(self, path: str) -> str:
        return f"{self.address}{path}"

    def put(self, path: str, content: bytes = b"", **how) -> File:
        self.files[path] = File(content, **how)
        return self.files[path]

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.requests]


@contextmanager
def serving() -> Iterator[Server]:
    """A server on the loopback; it ends with the block."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            headers = {name.lower(): value for name, value in self.headers.items()}
            mine.requests.append((self.path, headers))
            file = mine.files.get(self.path)
            if file is None:
                self.send_error(404)
                return
            content, status, start = file.content, file.status, 0
            asked = headers.get("range")
            if asked and file.ranges == "refused":
                self.send_error(416)
                return
            fits = headers.get("if-range") in (None, file.version) or file.ranges in ("blind", "wrong")
            if asked and file.ranges != "ignored" and fits:
                start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
                start -= 10 if file.ranges == "wrong" else 0
            body = content[start:]
            self.send_response(status)
            self.send_header("Content-Type", file.kind)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if file.version is not None:
                self.send_header("ETag", file.version)
            if file.length != -1:
                self.send_header("Content-Length", str(file.length or len(body)))
            for name, value in file.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if file.cuts:
                body = body[: file.cuts.pop(0)]
            half = len(body) // 2 if file.pause else len(body)
            try:
                self.wfile.write(body[:half])
                self.wfile.flush()
                if file.pause:
                    time.sleep(file.pause)
                    self.wfile.write(body[half:])
            except OSError:  # nobody waits for it any more
                pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    mine = Server(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield mine
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
