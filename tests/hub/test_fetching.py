"""Models by name and by address: fetched once, checked, kept, and put there by hand."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import gfnet_fast as gf
from gfnet_fast.checkpoints import files
from gfnet_fast.exits import ModelIdentity, calibrate
from gfnet_fast.hub import download, fetching, locate, sources
from tests.conftest import tiny_model
from tests.hub.conftest import NAME, saved, with_int8

FILE = f"/mirror/{NAME}.pth.tar"


@pytest.fixture
def mirror(server, cache, small, content, monkeypatch):
    """The small released model at a mirror."""
    monkeypatch.setenv("GFNET_FAST_MIRROR", server.url("/mirror/"))
    server.put(FILE, content["released"])
    return server


def left(cache) -> list[str]:
    """What is in the cache, but for locks."""
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.suffix != ".lock")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("form", ["released", "training"])
def test_a_name_is_fetched_once(mirror, cache, small, content, form):
    mirror.put(FILE, content[form])
    assert locate(NAME) == cache / f"{NAME}.pth.tar"
    assert not cache.exists()
    first, second = gf.load(NAME), gf.Predictor.from_pretrained(NAME, device="cpu").model
    assert [path for path, _ in mirror.requests] == [FILE]
    assert first.config == second.config == small.replace(macs=first.config.macs)
    assert left(cache) == [f"{NAME}.pth.tar", f"{NAME}.pth.tar.sha256"]
    assert locate(NAME).read_bytes() == content[form]
    record = (cache / f"{NAME}.pth.tar.sha256").read_text()
    assert record == f"{digest(content[form])}  {NAME}.pth.tar\n"


def test_the_published_address_is_asked_without_a_mirror(server, cache, small, content, monkeypatch):
    """Through a proxy, which stands for the whole network."""
    monkeypatch.setenv("https_proxy", server.address)
    with pytest.raises(
        gf.CheckpointError, match=r"from https://cloud.tsinghua.edu.cn/f/.*no answer \(Tunnel"
    ):
        gf.load(NAME)
    assert left(cache) == []


def test_by_hand_is_said_where_and_works(server, cache, small, content, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with pytest.raises(gf.CheckpointError) as raised:
        gf.load(NAME)
    text = str(raised.value)
    assert "\n" not in text
    place = text.rpartition(" and put it at ")[2]
    assert "; get it from https://cloud.tsinghua.edu.cn/f/4c55dd9472b4416cbdc9/?dl=1 or https://drive" in text
    Path(place).write_bytes(content["released"])
    assert gf.load(NAME).config.name == small.name


def test_a_file_of_another_model_is_not_taken(mirror, cache, small, content):
    other = torch.load(_file(content["released"]), weights_only=True)
    for change, said in (
        (
            {"model_name": "densenet121"},
            r"expected model_name, patch_size and steps \('resnet50', 96, 5\)",
        ),
        ({"patch_size": 128}, r"got \('resnet50', 128, 5\)"),
        ({"fc": {}}, r"missing classifier\.gru"),
    ):
        mirror.put(FILE, saved({**other, **change}))
        with pytest.raises(gf.CheckpointError, match=said) as raised:
            gf.load(NAME)
        assert str(raised.value).startswith(f"{NAME}: {mirror.url(FILE)}: ")
        assert ".part" not in str(raised.value)
        assert left(cache) == []
    (cache / f"{NAME}.pth.tar").write_bytes(saved({**other, "patch_size": 128}))
    with pytest.raises(gf.CheckpointError, match=f"{NAME}.pth.tar: expected model_name"):
        gf.load(NAME)


def _file(content: bytes):
    import io

    return io.BytesIO(content)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(b"<!DOCTYPE html><p>Sign in", "a web page"), (b"", "an empty file"), (b"PK\x03\x04" * 99, "damaged")],
)
def test_something_else_is_named(mirror, cache, wrong, said):
    mirror.put(FILE, wrong)
    with pytest.raises(gf.CheckpointError, match=f"{NAME}: http.*{said}.*; get it from"):
        gf.load(NAME)
    assert left(cache) == []


def test_a_file_that_was_cut_in_a_way_that_nobody_said(mirror, cache, content):
    mirror.put(FILE, content["released"][:-1000], length=-1)
    with pytest.raises(gf.CheckpointError, match="damaged"):
        gf.load(NAME)
    assert left(cache) == []


def test_what_is_fetched_again_is_compared(mirror, cache, content):
    place = gf.load(NAME) and locate(NAME)
    place.unlink()
    gf.load(NAME)
    place.unlink()
    mirror.put(FILE, content["training"])
    record = cache / f"{NAME}.pth.tar.sha256"
    with pytest.raises(
        gf.CheckpointError, match=f"whose SHA-256 is in {record}, got another; remove that if"
    ):
        gf.load(NAME)
    assert left(cache) == [record.name]
    record.unlink()
    gf.load(NAME)
    assert record.read_text().startswith(digest(content["training"]))


def test_threads_that_fetch_at_once_fetch_once(mirror, cache):
    mirror.files[FILE].pause = 0.1
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(gf.load, [NAME] * 4))
    assert len(mirror.requests) == 1
    assert {model.config.name for model in models} == {"resnet50"}
    assert left(cache) == [f"{NAME}.pth.tar", f"{NAME}.pth.tar.sha256"]


PROCESS = """
import sys
from gfnet_fast.hub import download, fetching
from gfnet_fast.hub.sources import source_of
print(fetching.fetch(sys.argv[1], lambda path, config: None))
"""


def test_processes_that_fetch_at_once_fetch_once_and_one_that_died_is_gone_on_with(server, cache):
    """Without torch, which takes seconds to import, and without reading what came."""
    content = os.urandom(400_000)
    server.put("/m.pth", content, cuts=[1000], pause=0.3)
    address = server.url("/m.pth")
    start = [sys.executable, "-c", PROCESS, address]
    environment = {**os.environ, "PYTHONPATH": str(Path(gf.__file__).parents[1])}
    first = subprocess.Popen(start, env=environment, stdout=subprocess.PIPE)
    place = locate(address)
    part = place.with_name(f"{place.name}.part")
    while not (part.exists() and part.stat().st_size >= 1000):
        assert first.poll() is None
        threading.Event().wait(0.01)
    first.kill()
    first.communicate()
    server.files["/m.pth"].pause = 0.1
    both = [subprocess.Popen(start, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert {process.communicate(timeout=60)[0] for process in both} == {f"{place}\n"}
    assert place.read_bytes() == content
    assert server.ranges[-1].startswith("bytes=")
    assert len([asked for asked in server.ranges if asked is None]) == 1


def test_a_cache_that_cannot_be_written(mirror, cache, tmp_path, monkeypatch):
    (tmp_path / "torch").write_text("a file")
    with pytest.raises(
        gf.CheckpointError, match=f"{NAME}: expected a cache to keep the model in, got .*TORCH_HOME"
    ):
        gf.load(NAME)
    (tmp_path / "torch").unlink()
    monkeypatch.setattr(
        Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "denied", "x"))
    )
    with pytest.raises(gf.CheckpointError, match="got x: denied; set TORCH_HOME"):
        gf.load(NAME)


def test_a_cache_that_is_only_read_serves_what_is_there(mirror, cache):
    gf.load(NAME)
    for path in (cache, cache.parent):
        path.chmod(0o500)
    try:
        before = left(cache)
        gf.load(NAME)
        assert left(cache) == before
    finally:
        for path in (cache.parent, cache):
            path.chmod(0o700)


def test_an_interrupt_leaves_what_has_come(mirror, cache, monkeypatch):
    monkeypatch.setattr(download, "_read", lambda response: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        gf.load(NAME)
    assert left(cache) == [f"{NAME}.pth.tar.part", f"{NAME}.pth.tar.part.state"]
    monkeypatch.undo()


def test_a_file_too_large_is_not_begun(mirror, cache, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_FILE", 1000)
    with pytest.raises(gf.CheckpointError, match=r"got \d+ bytes, more than 1000; get it from"):
        gf.load(NAME)
    assert left(cache) == []


def test_an_official_file_behind_an_address(server, cache, small, content):
    server.put("/a%20b/model.pth.tar?key=1", content["released"])
    address = server.url("/a%20b/model.pth.tar?key=1")
    assert gf.load(f"{address}#part").config.name == gf.load(address).config.name == small.name
    assert len(server.requests) == 1
    assert locate(address).name.endswith("-model.pth.tar")
    assert locate(server.url("/a%20b/model.pth.tar?key=2")) != locate(address)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = tiny_model(classes=3)
    model.labels = ("a", "ä", "c")
    model.thresholds = torch.tensor([[0.5, 0.5, 0.5, -1e8]])
    path = tmp_path_factory.mktemp("native")
    model.save_pretrained(path)
    return path


def test_a_native_folder_with_an_int8_form(server, cache, tmp_path):
    model = with_int8(tiny_model(classes=3))
    model.save_pretrained(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    for name, content in files.items():
        server.put(f"/m/{name}", content)
        server.put(f"/n/{name}", b"other" if name == "int8-policy.bin" else content)
    assert gf.load(server.url("/m")).quantised.graphs == model.quantised.graphs
    assert {path.name for path in locate(server.url("/m")).iterdir()} == set(files)
    with pytest.raises(gf.CheckpointError, match=r"/n/int8-policy.bin: expected the SHA-256"):
        gf.load(server.url("/n"))


@pytest.mark.parametrize("thresholds", [True, False])
def test_a_native_folder_behind_an_address(server, cache, folder, thresholds):
    names = [path.name for path in folder.iterdir() if thresholds or path.name != "thresholds.json"]
    for name in names:
        server.put(f"/m/{name}", (folder / name).read_bytes(), cuts=[100])
    model = gf.load(server.url("/m/"))
    assert model.labels == ("a", "ä", "c")
    assert (model.thresholds is not None) == thresholds
    place = locate(server.url("/m/"))
    assert sorted(path.name for path in place.iterdir()) == sorted(names)
    record = place.with_name(f"{place.name}.sha256").read_text()
    assert f"{digest((folder / 'config.json').read_bytes())}  {place.name}/config.json\n" in record
    assert not any("int8-" in path for path, _ in server.requests)
    count = len(server.requests)
    gf.load(server.url("/m/"))
    assert len(server.requests) == count


def test_a_folder_that_lacks_a_file_or_is_another_s(server, cache, folder):
    server.put("/m/config.json", (folder / "config.json").read_bytes())
    with pytest.raises(
        gf.CheckpointError, match=r"/m/model.safetensors, got status 404: Not Found; get config"
    ):
        gf.load(server.url("/m"))
    server.put("/m/model.safetensors", (folder / "model.safetensors").read_bytes())
    server.put("/m/config.json", b'{"architectures": ["another"]}')
    with pytest.raises(gf.CheckpointError, match=r"/m/config.json: expected schema_version 1, got None; get"):
        gf.load(server.url("/m"))
    assert left(cache) == ["addresses"]


def test_a_folder_whose_thresholds_are_of_other_weights(server, cache, folder, tmp_path):
    other = tiny_model(classes=3, seed=1)
    steps = torch.rand(2, 4, 50, generator=torch.Generator().manual_seed(0))
    other.calibration = calibrate(ModelIdentity.of(other), steps[0], steps[1] < steps[0])
    other.save_pretrained(tmp_path)
    for name, source in (
        ("config.json", folder),
        ("model.safetensors", folder),
        ("thresholds.json", tmp_path),
    ):
        server.put(f"/m/{name}", (source / name).read_bytes())
    with pytest.raises(
        gf.CheckpointError,
        match=r"/m/thresholds.json: calibration: expected one for the weights .*; get config",
    ):
        gf.load(server.url("/m"))
    assert left(cache) == ["addresses"]


def test_a_path_goes_before_a_name_and_an_address(mirror, cache, tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(NAME).write_bytes(content["training"])
    assert gf.load(NAME).config.name == "resnet50"
    assert locate(NAME) == Path(NAME)
    assert mirror.requests == []


@pytest.mark.parametrize("name", ["http://", "https:///x", "http://user:word@host/m.pth"])
def test_addresses_that_are_none(server, cache, name):
    with pytest.raises(gf.CheckpointError, match="without a password, got another"):
        gf.load(name)


def test_a_configuration_that_is_given_is_asked_of_the_file(mirror, small):
    with pytest.raises(gf.CheckpointError, match="expected shape"):
        gf.load(NAME, config=small.replace(classifier_width=32, policy_width=32))
    assert locate(NAME).exists()


def test_a_device_that_is_not_there_is_said_before_anything_is_fetched(mirror):
    with pytest.raises(gf.DeviceError):
        gf.load(NAME, device="cuda:99")
    assert mirror.requests == []


def test_obtain_is_load_s_path(mirror):
    assert files.obtain(NAME) == locate(NAME)
    assert locate(NAME).is_file()


@pytest.mark.parametrize(
    "change", [{}, {"TORCH_HOME": "~/t"}, {"XDG_CACHE_HOME": "/x"}, {"TORCH_HOME": "rel"}], ids=str
)
def test_the_cache_is_torch_s_whether_or_not_torch_is_imported(monkeypatch, change):
    for name in ("TORCH_HOME", "XDG_CACHE_HOME", "TORCH_HUB"):
        monkeypatch.delenv(name, raising=False)
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    expected = Path(os.path.abspath(torch.hub.get_dir()), "gfnet_fast")
    assert sources.cache() == expected
    monkeypatch.delitem(sys.modules, "torch.hub")
    assert sources.cache() == expected


def test_the_cache_is_where_torch_was_told(monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", "/elsewhere")
    assert sources.cache() == Path("/elsewhere/gfnet_fast")
