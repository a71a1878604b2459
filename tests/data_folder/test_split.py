"""split.csv: names of any bytes, and which images a model is measured on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gfnet_fast.data.folder import read_parts
from gfnet_fast.data.labelled import open_labelled
from gfnet_fast.data.split import SPLIT, read_split, to_bytes, to_text, write_split
from gfnet_fast.errors import InputError
from tests.conftest import tiny_model
from tests.training.folder_helpers import write_pictures


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"a/b 1.png", "a/b 1.png"),
        ("é/ß.png".encode(), "é/ß.png"),
        (b"\xff\xfe.png", r"\xff\xfe.png"),
        (rb"back\slash\xff", r"back\\slash\\xff"),
        (b'two\nlines\r,"', r'two\x0alines\x0d,"'),
        ("\u202egnp.exe".encode(), r"\xe2\x80\xaegnp.exe"),
    ],
    ids=ascii,
)
def test_names_are_read_as_they_were_written(name, text):
    assert to_text(name) == text
    assert to_bytes(text) == name


def test_a_split_is_read_as_it_was_written(tmp_path):
    for folder in ("a", os.fsdecode(b"b\xff")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(1, 13):
            (tmp_path / "data" / folder / f"x{number}.png").touch()
    parts = read_parts(tmp_path / "data", run=2)
    write_split(tmp_path, parts, tmp_path / "data")
    found = read_split(tmp_path)
    for name, part in zip(("train", "heldout", "val"), parts[1:], strict=True):
        mine = [entry for entry in found if entry.part == name]
        assert [tmp_path / "data" / entry.path for entry in mine] == [part.path(n) for n in range(len(part))]
        assert [entry.label for entry in mine] == [parts.classes[label] for label in part.labels]
    rows = (tmp_path / SPLIT).read_text().splitlines()
    assert rows[0] == "part,class,path,run"
    assert any(row.endswith(r",b\xff,b\xff/x3.png,b\xff/x#1") for row in rows)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", r"the columns part, class, path, run, got \[\]"),
        ("part,class\n", "the columns"),
        ("part,class,path,run\ntest,a,a/1.png,a/1\n", "line 2: expected part, class, path and run"),
        ("part,class,path,run\ntrain,a\n", "line 2: expected part"),
        ("part,class,path,run\ntrain,a,/etc/passwd,a\n", "line 2: expected part"),
        ("part,class,path,run\ntrain,a,a/../../x,a\n", "line 2: expected a path below the folder"),
        ("part,class,path,run\ntrain,a,a\\x00,a\n", "line 2: expected part"),
        ("x" * 200_000, "split.csv: expected the split of a folder"),
    ],
    ids=["empty", "columns", "part", "short", "root", "above", "zero", "long"],
)  # fmt: skip
def test_what_is_no_split(tmp_path, text, got):
    assert read_split(tmp_path) is None
    (tmp_path / SPLIT).write_text(text)
    with pytest.raises(InputError, match=got):
        read_split(tmp_path)


@pytest.fixture(scope="module")
def model():
    model = tiny_model("cascaded")
    model.labels = tuple("abcdefg")
    return model


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> tuple[Path, Path]:
    """A folder of seven classes of ten, and that of a model trained on it."""
    folder = tmp_path_factory.mktemp("split")
    data = write_pictures(folder / "data", classes="abcdefg")
    (folder / "run").mkdir()
    (folder / "run" / "training.json").touch()
    write_split(folder / "run", read_parts(data), data)
    return data, folder / "run"


def opened(data, model, run, part="auto", split="test"):
    said = []
    images = open_labelled(str(data), model, split=split, count=1, source=run, part=part, tell=said.append)
    return images, *said


def test_a_model_is_measured_on_what_was_kept_from_training(home, model):
    data, run = home
    parts = read_parts(data)
    for split, part, name in (("test", parts.validation, "val"), ("validation", parts.heldout, "heldout")):
        images, said = opened(data, model, run, split=split)
        assert images.paths == [part.path(row) for row in range(len(part))]
        assert images.labels.tolist() == part.labels.tolist()
        assert said == f"images: 7 of 70, the part {name!r} of {run / SPLIT}"
    assert len(opened(data, model, run, "train")[0].paths) == 56
    assert opened(data, model, run, "all")[1] == f"images: all 70 of {data}"


def test_another_folder_is_measured_whole(home, model, tmp_path):
    other = write_pictures(tmp_path / "other", classes="abcdefg", count=11)
    (other / "a" / "00.png").rename(other / "a" / "new.png")
    _, said = opened(other, model, home[1])
    assert "training images may be among them (69 of the 70 images of" in said
    with pytest.raises(InputError, match="expected the folder that the model was trained on for 'val'"):
        opened(other, model, home[1], "val")
    for path in other.rglob("*.png"):
        path.rename(path.with_name(f"other-{path.name}"))
    assert opened(other, model, home[1])[1] == f"images: all 77 of {other}"


def test_a_run_without_its_split(home, model, tmp_path):
    (tmp_path / "training.json").touch()
    _, said = opened(home[0], model, tmp_path)
    assert said.endswith(f"; training images may be among them ({tmp_path} has no {SPLIT})")
    (tmp_path / "training.json").unlink()
    assert opened(home[0], model, tmp_path)[1] == f"images: all 70 of {home[0]}"
