"""One file over HTTP, from servers that do what they should not."""

import random
import time

import pytest

from gfnet_fast.hub import download
from gfnet_fast.hub.download import Failed
from gfnet_fast.hub.progress import shown_by

CONTENT = random.Random(0).randbytes(600_000)
LIMIT = 10**6


@pytest.fixture
def get(server, tmp_path):
    """Downloads of ``/f``: a function of nothing, which returns the bytes."""

    def get(path="/f", limit=LIMIT):
        download.download(server.url(path), tmp_path / "f", limit=limit, name="f")
        assert [file.name for file in tmp_path.iterdir()] == ["f"]
        return (tmp_path / "f").read_bytes()

    return get


@pytest.mark.parametrize("how", [{}, {"length": -1}, {"tag": None}, {"tag": 'W/"weak"'}], ids=str)
def test_a_file(server, get, how):
    server.put("/f", CONTENT, **how)
    assert get() == CONTENT
    assert server.ranges == [None]


def test_what_was_cut_off_is_gone_on_with(server, get):
    server.put("/f", CONTENT, cuts=[100_000, 5, 300_000])
    assert get() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=100005-", "bytes=400005-"]
    assert server.requests[1][1]["if-range"] == server.files["/f"].version


@pytest.mark.parametrize(
    ("how", "ranges"),
    [
        ({"ranges": "ignored"}, [None, "bytes=1000-"]),
        ({"ranges": "wrong"}, [None, "bytes=1000-", None]),
        ({"ranges": "refused"}, [None, "bytes=1000-", None]),
        ({"tag": None}, [None, None]),
        ({"tag": 'W/"weak"'}, [None, None]),
    ],
    ids=str,
)
def test_without_ranges_or_versions_it_begins_again(server, get, how, ranges):
    server.put("/f", CONTENT, cuts=[1000], **how)
    assert get() == CONTENT
    assert server.ranges == ranges


def test_last_modified_names_a_version_too(server, get):
    server.put(
        "/f", CONTENT, cuts=[1000], tag=None, headers={"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    )
    server.files["/f"].ranges = "blind"  # the server here compares ETags only
    assert get() == CONTENT
    assert server.ranges == [None, "bytes=1000-"]


@pytest.mark.parametrize("ranges", ["yes", "blind"])
@pytest.mark.parametrize("size", [600_000, 500_000])
def test_a_file_that_changed_meanwhile_is_not_mixed(server, get, tmp_path, ranges, size):
    """Whether the server looks at If-Range, or gives out the rest of another file."""
    server.put("/f", CONTENT, cuts=[1000] * 5)
    with pytest.raises(Failed, match="5000 of 600000 bytes, in the last of 5 attempts"):
        get()
    other = CONTENT[::-1][:size]
    server.put("/f", other, ranges=ranges)
    assert get() == other


def test_another_call_goes_on(server, get, tmp_path):
    server.put("/f", CONTENT, cuts=[10_000] * 5)
    with pytest.raises(Failed, match="50000 of 600000 bytes, in the last of 5 attempts"):
        get()
    assert (tmp_path / "f").read_bytes() == CONTENT[:50_000]
    assert get() == CONTENT
    assert server.ranges[-1] == "bytes=50000-"


@pytest.mark.parametrize("state", [b"", b"[]", b'{"address": 1}', b"\xff"])
def test_a_damaged_note_of_what_is_there_is_ignored(server, get, tmp_path, state):
    (tmp_path / "f").write_bytes(b"something else")
    (tmp_path / "f.state").write_bytes(state)
    server.put("/f", CONTENT)
    assert get() == CONTENT
    assert server.ranges == [None]


def test_what_is_there_of_another_address_is_not_gone_on_with(server, get):
    server.put("/f", CONTENT, cuts=[1000] * 5)
    with pytest.raises(Failed):
        get()
    server.put("/g", CONTENT[::-1], tag=server.files["/f"].version)
    assert get("/g") == CONTENT[::-1]


@pytest.mark.parametrize("length", [700_000, 999_999])
def test_a_length_that_is_not_reached(server, get, length):
    server.put("/f", CONTENT, length=length, ranges="ignored")
    with pytest.raises(Failed, match=f"600000 of {length} bytes"):
        get()


def test_limits_hold_of_what_is_said_and_of_what_comes(server, get):
    server.put("/f", CONTENT)
    with pytest.raises(Failed, match="600000 bytes, more than 599999"):
        get(limit=599_999)
    assert get(limit=600_000) == CONTENT
    server.put("/f", CONTENT, length=-1)
    with pytest.raises(Failed, match="more than 599999 bytes"):
        get(limit=599_999)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"kind": "text/html; charset=utf-8"}, "a web page"),
        ({"headers": {"Content-Encoding": "gzip"}}, "packed as 'gzip'"),
        ({"status": 403}, "status 403: Forbidden"),
        ({"status": 204}, "the status 204"),
        ({"status": 503}, "status 503: Service Unavailable, in the last of 5 attempts"),
    ],
    ids=str,
)
def test_what_is_not_the_file(server, get, how, said):
    server.put("/f", CONTENT, **how)
    with pytest.raises(Failed, match=said) as raised:
        get()
    assert not raised.value.missing


@pytest.mark.parametrize("status", [404, 410])
def test_a_file_that_is_missing(server, get, status):
    server.put("/f", CONTENT, status=status)
    with pytest.raises(Failed, match=f"status {status}") as raised:
        get()
    assert raised.value.missing
    assert len(server.requests) == 1


def test_redirects_are_followed_a_few_times(server, get):
    for place in range(5):
        server.put(f"/{place}", status=302, headers={"Location": f"/{place + 1}"})
    server.put("/5", CONTENT, cuts=[1000])
    assert get("/1") == CONTENT  # and from the beginning again, where it was cut
    assert [path for path, _ in server.requests] == [*("/1", "/2", "/3", "/4", "/5") * 2]
    server.put("/5", status=302, headers={"Location": "/6"})
    with pytest.raises(Failed, match="status 302: The HTTP server returned a redirect error"):
        get("/0")
    server.put("/loop", status=301, headers={"Location": "/loop"})
    with pytest.raises(Failed, match=r"status 301: .*infinite loop"):
        get("/loop")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/f", "data:,text", "gopher://x"])
def test_redirects_to_anything_else_are_refused(server, get, target):
    server.put("/f", status=302, headers={"Location": target})
    with pytest.raises(Failed, match=r"not allowed|which is not followed"):
        get()


def test_a_redirect_from_https_to_http_is_refused(server):
    request = download.request.Request("https://example.org/f")
    with pytest.raises(Failed, match=r"a redirect to 'http://example\.org/g', which is not followed"):
        download._Redirects().redirect_request(request, None, 302, "Found", {}, "http://example.org/g")


def test_a_server_that_stalls(server, get, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    server.put("/f", CONTENT, pause=0.5)
    begun = time.monotonic()
    with pytest.raises(Failed, match=r"ended early.*timed out.*, in the last of 2 attempts"):
        get()
    assert time.monotonic() - begun < 2
    server.put("/f", CONTENT, pause=0.02)
    assert get() == CONTENT


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1/f",
        "http://127.0.0.1:99999/f",
        "http://[::1/f",
        "ftp://127.0.0.1/f",
        "x/f",
        "http://é\n/ü",
    ],
)
def test_nobody_to_ask(server, tmp_path, address):
    with pytest.raises(Failed, match="no answer"):
        download.download(address, tmp_path / "f", limit=LIMIT, name="f")


def test_the_environment_s_proxy_is_asked(server, get, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.address)
    server.put("http://models.invalid/f", CONTENT)
    download.download("http://models.invalid/f", tmp_path / "f", limit=LIMIT, name="f")
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert server.requests[0][1]["host"] == "models.invalid"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.put("/f", CONTENT)
    assert get() == CONTENT


def test_progress_is_shown_to_whoever_asks(server, get):
    from contextlib import contextmanager

    seen = []

    @contextmanager
    def bar(*opened):
        counts = []
        seen.append((*opened, counts))
        yield counts.append

    server.put("/f", CONTENT, cuts=[1000])
    before = shown_by.set(bar)
    try:
        get()
    finally:
        shown_by.reset(before)
    assert [row[:3] for row in seen] == [("f", 600_000, 0), ("f", 600_000, 1000)]
    assert [sum(row[3]) for row in seen] == [1000, 599_000]


def test_what_cannot_be_written_is_no_fault_of_the_server_s(server, get, tmp_path):
    server.put("/f", CONTENT)
    (tmp_path / "f").mkdir()
    with pytest.raises(OSError, match="directory"):
        get()
