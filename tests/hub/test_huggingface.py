"""`hf-hub:OWNER/NAME`, from a stand-in for the hub on this machine."""

import json
import sys

import pytest

import gfnet_fast as gf
from gfnet_fast.hub import locate
from tests.conftest import tiny_model
from tests.hub.conftest import with_int8

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """A hub with one repository, two revisions of it, and an empty cache."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    model = tiny_model(classes=3, backbone_args={"channels": [16] * 4, "layers": [1] * 4})
    model.labels = ("a", "b", "c")
    with_int8(model).save_pretrained(tmp_path / "model")
    names = [path.name for path in (tmp_path / "model").iterdir()]
    for revision, commit in (("main", COMMIT), ("v2", OTHER), (COMMIT, COMMIT)):
        about = {
            "id": "me/mine",
            "sha": commit,
            "siblings": [{"rfilename": name} for name in [*names, "big.bin"]],
        }
        server.put(
            f"/api/models/me/mine/revision/{revision}", json.dumps(about).encode(), kind="application/json"
        )
        files = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in [*names, "big.bin"]]
        tree = f"/api/models/me/mine/tree/{commit}?recursive=true&expand=false"
        server.put(tree, json.dumps(files).encode(), kind="application/json")
        for name in names:
            content = (tmp_path / "model" / name).read_bytes()
            if revision == "v2" and name == "config.json":
                content = content.replace(b'"c"', b'"new"')
            server.put(f"/me/mine/resolve/{commit}/{name}", content, headers={"X-Repo-Commit": commit})
    return server


def test_a_folder_and_its_revisions(hub, tmp_path, capfd):
    assert not locate("hf-hub:me/mine").exists()
    assert gf.load("hf-hub:me/mine").labels == ("a", "b", "c")
    assert gf.load("hf-hub:me/mine@v2").labels == ("a", "b", "new")
    assert gf.load("hf-hub:me/mine").quantised is not None
    assert not any("big.bin" in path for path, _ in hub.requests)
    count = len(hub.requests)
    assert locate("hf-hub:me/mine@v2").is_dir()
    assert locate("hf-hub:me/mine@v2").name == OTHER
    assert len(hub.requests) == count
    assert capfd.readouterr() == ("", "")


def test_without_a_network_what_is_there_is_used(hub, monkeypatch):
    gf.load("hf-hub:me/mine")
    hub.files.clear()
    assert gf.load("hf-hub:me/mine").labels == ("a", "b", "c")
    with pytest.raises(
        gf.CheckpointError, match="hf-hub:me/other: expected a model folder that the hub gives"
    ):
        gf.load("hf-hub:me/other")


@pytest.mark.parametrize(
    "name", ["hf-hub:", "hf-hub:me", "hf-hub:me/mine/more", "hf-hub:me/mine@", "hf-hub:me/../x"]
)
def test_names_that_are_none(name):
    with pytest.raises(gf.CheckpointError, match="expected"):
        gf.load(name)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(gf.CheckpointError, match=r"pip install 'gfnet-fast\[hub\]'\), got none installed"):
        gf.load("hf-hub:me/mine")
    assert not locate("hf-hub:me/mine").exists()
