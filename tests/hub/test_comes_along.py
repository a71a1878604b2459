"""Models that come with the package: found by name, in one way everywhere."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gfnet_fast as gf
from gfnet_fast.data.labelled import LabelledFolder, open_labelled
from gfnet_fast.hub import comes_along, locate, names
from tests.cli.cli_runner import run, save_by_class
from tests.conftest import random_images, tiny_model

NAMES = ("cardboard", "glass", "metal", "paper", "plastic", "trash")


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """Two folders of models, one of something else and a file, as in the package."""
    assets = tmp_path_factory.mktemp("assets")
    for name, labels in (("waste", NAMES), ("digits", None)):
        model = tiny_model(name=name, classes=6, backbone_args={"channels": [16] * 4, "layers": [1] * 4})
        model.labels = labels
        model.save_pretrained(assets / name, half=name == "waste")
    (assets / "notes").mkdir()
    (assets / "digits.npz").write_bytes(b"")
    return assets


@pytest.fixture
def here(assets, tmp_path, monkeypatch):
    """An empty working directory, and `assets` in the package's place."""
    monkeypatch.setattr(names, "ASSETS", assets)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_package_has_its_models_and_stays_small():
    assert names.along() == ["digits", "waste"]
    package = Path(gf.__file__).parent
    sizes = [path.stat().st_size for path in package.rglob("*") if path.suffix not in (".pyc", ".so")]
    assert sum(sizes) <= 25_000_000


def test_the_waste_model_tells_a_drawn_can_from_drawn_paper():
    """On a light board; what it says of photographs is in docs/measurements/embedded-models.md."""
    predictor = gf.Predictor.from_pretrained("waste", device="cpu")
    config = predictor.model.config
    assert predictor.model.labels == NAMES
    assert (config.canvas, config.patch_size, config.steps) == ((240, 180), 160, 2)
    assert 0 < predictor.model.default_row < len(predictor.model.thresholds) - 1
    can, printed = np.full((2, 512, 384, 3), 225, np.uint8)
    rows, columns = np.mgrid[:512, :384]
    radius = np.hypot(rows - 256, columns - 192)
    can[radius < 130] = (120 + 100 * np.abs(np.sin(radius / 9)))[radius < 130][:, None].astype(np.uint8)
    printed[100:400, 60:320] = 250
    for line in range(20):
        printed[120 + 12 * line : 124 + 12 * line, 80 : 180 + 37 * line % 120] = 60
    assert [predictor(image).label for image in (can, printed)] == ["metal", "paper"]


def test_every_folder_with_a_configuration_is_a_model(here, assets):
    assert names.along() == ["digits", "waste"]
    assert gf.load("waste").labels == NAMES
    assert gf.load(Path("digits")).config.name == "digits"
    assert gf.Predictor.from_pretrained("waste", device="cpu").model.labels == NAMES
    assert locate(b"waste") == assets / "waste"


@pytest.mark.parametrize("name", ["wast", "notes", "digits.npz", "waste/config", "", ".", "../assets/waste"])
def test_nothing_else_is(here, name):
    assert comes_along(name) is None
    assert locate(name) == Path(name)


def test_an_unknown_name_is_told_the_nearest(here, capsys):
    expected = (
        "wast: expected a checkpoint file or folder, or a model's name, got nothing there; "
        "did you mean waste? `gfnet-fast models` lists all names"
    )
    with pytest.raises(gf.CheckpointError) as raised:
        gf.load("wast")
    assert str(raised.value) == expected
    for args in (("predict", "a.png", "--model", "wast"), ("info", "wast"), ("convert", "wast", "new")):
        assert run(capsys, *args)[::2] == (1, f"error: {expected}\n")


def test_a_path_of_that_name_goes_before(here, assets):
    shutil.copytree(assets / "digits", here / "waste")
    assert gf.load("waste").config.name == "digits"
    (here / "digits").write_text("something else")
    with pytest.raises(gf.CheckpointError, match="digits: expected"):
        gf.load("digits")


def test_photographs_are_classified_offline_by_name(here, capsys):
    photo = Image.fromarray(random_images(1, 200)[0].numpy()).resize((300, 200))
    photo.save("photo.jpg")
    done = run(capsys, "predict", "photo.jpg", "--model", "waste", "--format", "jsonl", "-q")
    assert (done.status, done.err) == (0, "")
    row = json.loads(done.out)
    assert row["source"] == "photo.jpg"
    assert row["label"] == gf.Predictor(gf.load("waste"), device="cpu")(photo_of("photo.jpg")).label
    assert row["label"] in NAMES


def photo_of(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def test_nothing_is_written_into_one_that_comes_along(here, assets, capsys):
    save_by_class(here / "data", random_images(6, 80), range(6), NAMES)
    done = run(capsys, "calibrate", "waste", "--data", here / "data")
    assert (done.status, "got one that came with the package; use --output" in done.err) == (1, True)
    done = run(capsys, "convert", "waste", assets / "waste" / "new")
    assert (done.status, "expected a path outside the model waste" in done.err) == (2, True)


def test_data_of_that_name(here):
    """``digits`` is composed where no path is of that name; another model's name is a folder like any."""
    model = gf.load("waste")
    with pytest.raises(gf.InputError, match="model: expected a model of 192 px images and 10 classes"):
        open_labelled("digits", model, count=2)
    with pytest.raises(gf.InputError, match="waste: expected a folder with a folder of images"):
        open_labelled("waste", model, count=2)
    save_by_class(here / "digits", random_images(6, 80), range(6), NAMES)
    found = open_labelled("digits", model, count=2)
    assert isinstance(found, LabelledFolder)
    assert torch.equal(found.labels, torch.arange(6))
