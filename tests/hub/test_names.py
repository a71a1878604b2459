"""The table of names, and what may come after a name."""

import urllib.parse

import pytest

import gfnet_fast as gf
from gfnet_fast.checkpoints import imagenet, official_checkpoint
from gfnet_fast.config import RELEASED
from gfnet_fast.hub.names import TABLE, nearest, published
from tests.hub.conftest import saved
from tests.model.test_released import any_weights


def test_every_released_configuration_has_a_name_and_two_addresses():
    found = published()
    assert list(found) == [f"{c.name}-{c.patch_size}" for c in RELEASED]
    assert len(TABLE.read_text().splitlines()) == 1 + len(RELEASED) == 15
    for known in found.values():
        assert urllib.parse.urlsplit(known.address).netloc == "cloud.tsinghua.edu.cn"
        assert urllib.parse.urlsplit(known.page).netloc == "drive.google.com"
        assert known.config.replace(macs=None) in RELEASED
    assert len({known.address for known in found.values()} | {k.page for k in found.values()}) == 28
    assert found["efficientnet_b3-144"].config.patch_size == 144


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("resnet50", "resnet50-96"),
        ("ResNet50-96", "resnet50-96"),
        ("digit", "digits"),
        ("efficientnet-b3-144", "efficientnet_b3-144"),
    ],
)
def test_the_nearest_names(typed, meant):
    assert nearest(typed)[0] == meant
    with pytest.raises(
        gf.CheckpointError, match=f"did you mean {meant}.*`gfnet-fast models` lists all names"
    ):
        gf.load(typed)


def test_nothing_is_near():
    assert nearest("photos/train/summer") == []
    with pytest.raises(gf.CheckpointError, match="got nothing there; `gfnet-fast models` lists all names"):
        gf.load("photos/train/summer")


def test_imagenet_s_names_are_short_and_no_two_alike():
    labels = imagenet.labels()
    assert len(set(labels)) == len(labels) == 1000
    assert max(map(len, labels)) <= 30
    assert (labels[0], labels[134], labels[517], labels[999]) == (
        "tench", "crane (bird)", "crane (machine)", "toilet tissue",
    )  # fmt: skip
    assert (labels[638], labels[639]) == ("maillot (tights)", "maillot (swimsuit)")
    assert list(imagenet.folders()) == sorted(imagenet.folders())


@pytest.mark.parametrize("form", ["released", "training"])
def test_official_files_of_a_thousand_classes_have_them(small, small_config, tmp_path, monkeypatch, form):
    """What this package writes says itself what its classes are called, or that they have no names."""
    known = small_config.replace(classes=1000)
    for module in ("config", "checkpoints.official"):
        monkeypatch.setattr(f"gfnet_fast.{module}.RELEASED", (known,))
    path = tmp_path / "a.pth.tar"
    content = official_checkpoint(any_weights(known), form)
    path.write_bytes(saved({name: value for name, value in content.items() if name != "labels"}))
    assert gf.load(path).labels == imagenet.labels()
    path.write_bytes(saved(content))
    assert gf.load(path).labels is None
    few = any_weights(small_config)
    few.labels = ("a", "ä", "c")
    content = official_checkpoint(few, form)
    path.write_bytes(saved(content))
    assert gf.load(path).labels == few.labels
    path.write_bytes(saved({**content, "labels": ["a", 2, "c"]}))
    with pytest.raises(gf.CheckpointError, match=r"a.pth.tar: labels: expected texts"):
        gf.load(path)
    path.write_bytes(saved({name: value for name, value in content.items() if name != "labels"}))
    assert gf.load(path).labels is None


def test_a_model_of_imagenet_goes_on_with_its_folders():
    """They are called by WordNet's numbers, not by the names that its classes have here."""
    from gfnet_fast.training.start import _named_alike

    folders, labels = imagenet.folders(), imagenet.labels()
    assert _named_alike(labels, folders)
    assert _named_alike(labels, labels)
    assert _named_alike(None, folders)
    assert not _named_alike(labels, folders[::-1])
    assert not _named_alike(("a", "b"), folders[:2])
