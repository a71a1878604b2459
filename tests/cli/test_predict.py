"""`gfnet-fast predict`: what is written beside the prediction, and pictures in a folder and on the screen."""

import csv
import io
import json
import re

import pytest
from cli_runner import run
from PIL import Image, ImageShow

from gfnet_fast.cli.drawn import SHOWN
from gfnet_fast.errors import InputError
from gfnet_fast.results import Result
from tests.conftest import random_images, tiny_model

COUNT = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny = tiny_model("cascaded")
    tiny.labels = ("cat", '=HYPERLINK("x")', "a, b", "猫", "e\x1b[2J", "f", "g")
    tiny.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    names = ("a.png", "b.jpg", "c.gif", "in/a.png", "in/deep/=1+1.png", 'in/q"u,o.png')
    for name, image in zip(names, random_images(COUNT, 90, 5), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(folder / name)
    return folder


def predict(capsys, model, *args):
    return run(capsys, "predict", "-m", model, *args)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


# --- pictures -------------------------------------------------------------------------------------------


def test_pictures_lie_as_their_files_do(capsys, model, photos, tmp_path):
    out = tmp_path / "out"
    done = predict(capsys, model, photos, "--save", out)
    assert done.status == 0, done.err
    expected = ["a.png", "b.jpg", "c.gif.png", "in/a.png", "in/deep/=1+1.png", 'in/q"u,o.png']
    assert files(out) == sorted(expected)
    for name in expected:
        with (
            Image.open(out / name) as drawn,
            Image.open(photos / name.removesuffix(".png"))
            if (name == "c.gif.png")
            else Image.open(photos / name) as original,
        ):
            assert (drawn.width % original.width, drawn.width >= original.width) == (0, True)
            assert drawn.format == ("JPEG" if name == "b.jpg" else "PNG")


def test_no_picture_takes_the_place_of_another(capsys, model, photos, tmp_path):
    """From different folders, and the same file several times."""
    out = tmp_path / "out"
    one = photos / "a.png"
    done = predict(capsys, model, one, photos / "in", one, photos / "*.png", "--save", out)
    assert done.status == 0, done.err
    assert files(out) == sorted(
        ["a-2.png", "a-3.png", "a.png", "in/a.png", "in/deep/=1+1.png", 'in/q"u,o.png']
    )
    assert predict(capsys, model, one, "--save", tmp_path / "single").status == 0
    assert files(tmp_path / "single") == ["a.png"]


def test_folders_that_are_not_filled(capsys, model, photos, tmp_path, monkeypatch):
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    file.write_text("a file")
    (tmp_path / "way").symlink_to(photos)
    before = files(tmp_path), files(photos), files(model)
    for sources, folder, message in (
        ([photos], photos, "a folder that no image is read from"),
        ([photos], photos / "new", "a folder that no image is read from"),
        ([photos], tmp_path / "way" / "new", "a folder that no image is read from"),
        ([tmp_path / "way"], photos / "new", "a folder that no image is read from"),
        ([f"{photos}/**/*.png"], photos / "new", "a folder that no image is read from"),
        ([f"{photos}/*/*.png"], photos / "new", "a folder that no image is read from"),
        ([photos / "a.png"], photos, "a folder that is new or empty"),
        ([photos], full, "a folder that is new or empty"),
        ([photos], file, "a folder, got"),
        ([photos], tmp_path / "no" / "new", "a folder that exists to write into"),
        ([photos], model / "new", "a path outside the model"),
    ):
        done = predict(capsys, model, *sources, "--save", folder)
        assert (done.status, f"save: expected {message}" in done.err) == (2, True), (folder, done.err)
        assert done.err.count("\n") == 1
    done = predict(capsys, model, photos, "--save", tmp_path / "x", "-o", tmp_path / "x")
    assert (done.status, "another path than the output's" in done.err) == (2, True)
    assert (files(tmp_path), files(photos), files(model)) == before


def test_a_folder_beside_what_a_glob_finds(capsys, model, photos, tmp_path, monkeypatch):
    one = tmp_path / "one.png"
    one.write_bytes((photos / "a.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for folder in ("new", "empty"):
        assert predict(capsys, model, "*.png", "--save", folder).status == 0
        assert files(tmp_path / folder) == ["one.png"]


def test_what_cannot_be_drawn_stops_nothing(capsys, model, photos, tmp_path, monkeypatch):
    save = Result.save

    def lost(self, path, image=None):
        if self.source.endswith("b.jpg"):
            raise InputError(f"{self.source}: expected an image file, got nothing there")
        save(self, path, image)

    monkeypatch.setattr(Result, "save", lost)
    (tmp_path / "bad.png").write_bytes(b"none")
    done = predict(
        capsys, model, photos, tmp_path / "bad.png", "--save", tmp_path / "out", "-f", "jsonl", "-q"
    )
    assert (done.status, len(rows_of(done.out)), len(files(tmp_path / "out"))) == (3, COUNT + 1, COUNT - 1)
    assert "1 of 7 pictures could not be drawn" in done.err
    assert "1 of 7 inputs failed" in done.err

    def full(self, path, image=None):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Result, "save", full)
    done = predict(capsys, model, photos, "--save", tmp_path / "again")
    assert (done.status, "No space left on device" in done.err) == (1, True)


def test_the_first_pictures_are_shown(capsys, model, photos, monkeypatch):
    shown = []

    def viewer(image, **options):
        shown.append(image.size)
        return True

    monkeypatch.setattr(ImageShow, "show", viewer)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    done = predict(capsys, model, photos, "--show")
    if not shown:  # where a display needs no variable there always is one
        assert done.err.splitlines()[0].startswith("show: expected a display, got none")
    assert done.status == 0
    monkeypatch.setenv("DISPLAY", ":0")
    shown.clear()
    done = predict(capsys, model, photos, "--show")
    assert (done.status, len(shown)) == (0, SHOWN)
    assert f"the first {SHOWN} pictures are shown" in done.err
    monkeypatch.setattr(ImageShow, "show", lambda image, **options: False)
    done = predict(capsys, model, photos, "--show")
    assert (done.status, done.err.count("expected a program that shows pictures")) == (0, 1)


# --- beside the prediction ------------------------------------------------------------------------------


def test_the_likeliest_classes(capsys, model, photos):
    rows = rows_of(predict(capsys, model, photos, "-f", "jsonl", "--top-k", 3).out)
    for row in rows:
        (first, label, confidence), *others = row["top"]
        assert (first, label) == (row["class_id"], row["label"])
        assert confidence == pytest.approx(row["confidence"], abs=2e-6)
        assert len(others) == 2
        assert confidence >= others[0][2] >= others[1][2] > 0
    assert "top" not in rows_of(predict(capsys, model, photos, "-f", "jsonl").out)[0]
    table = predict(capsys, model, photos, "--top-k", 3).out.splitlines()
    assert len(table) == 1 + 3 * COUNT
    place = table[0].index("confidence") + len("confidence")
    found = [re.search(r"(\d\.\d{3})$", line[:place]) for line in table[1:]]
    probabilities = [float(match[1]) for match in found]
    assert probabilities == pytest.approx([one[2] for row in rows for one in row["top"]], abs=6e-4)
    assert len(rows_of(predict(capsys, model, photos, "-f", "jsonl", "--top-k", 99).out)[0]["top"]) == 7
    assert predict(capsys, model, photos, "--top-k", 0).status == 2


def test_results_of_little_confidence_are_marked_and_counted(capsys, model, photos, tmp_path):
    rows = rows_of(predict(capsys, model, photos, "-f", "jsonl").out)
    assert "unsure" not in rows[0]
    limit = sorted(row["confidence"] for row in rows)[2] + 1e-4  # three are below
    unsure = [row["confidence"] < limit for row in rows]
    assert sum(unsure) == 3
    again = rows_of(predict(capsys, model, photos, "-f", "jsonl", "--min-confidence", limit).out)
    assert [row.pop("unsure") for row in again] == unsure
    assert again == rows
    done = predict(capsys, model, photos, "--min-confidence", limit, "--save", tmp_path / "out")
    lines = done.out.splitlines()[1:]
    assert [line[:24].endswith(" ?") for line in lines] == unsure
    assert ", 3 unsure" in done.err
    assert len(files(tmp_path / "out")) == COUNT
    for wrong in ("nan", -0.1, 1.1):
        assert predict(capsys, model, photos, "--min-confidence", wrong).status == 2


def test_csv_is_read_back_and_holds_no_formula(capsys, model, photos, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"none")
    sources = (photos, tmp_path / "bad.png")
    expected = rows_of(predict(capsys, model, *sources, "-f", "jsonl", "--top-k", 2).out)
    done = predict(capsys, model, *sources, "-f", "csv", "--top-k", 2, "--min-confidence", 0.5)
    assert done.status == 3
    assert "\x1b" not in done.out
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert len(rows) == len(expected) == COUNT + 1
    assert not any(re.match(r"[=+@\t\r]", cell) for row in rows for cell in row.values())
    for row, result in zip(rows, expected, strict=True):
        assert row["source"] == result["source"]
        assert row["error"] == result.get("error", "")
        if "error" in result:
            assert (row["class_id"], row["unsure"], row["top_2_label"]) == ("", "", "")
            continue
        assert [int(row[k]) for k in ("class_id", "exit_step", "macs")] == [
            result[k] for k in ("class_id", "exit_step", "macs")
        ]
        assert (row["height"], row["width"]) == ("90", "90")
        assert row["unsure"] == ("true" if result["confidence"] < 0.5 else "false")
        guarded = {'=HYPERLINK("x")': '\'=HYPERLINK("x")', "e\x1b[2J": r"e\x1b[2J"}
        labels = [one[1] for one in result["top"]]
        assert [row["top_1_label"], row["top_2_label"]] == [guarded.get(label, label) for label in labels]


def test_a_name_that_is_a_formula(capsys, model, photos, monkeypatch):
    monkeypatch.chdir(photos / "in/deep")
    (row,) = csv.DictReader(io.StringIO(predict(capsys, model, "=1+1.png", "-f", "csv").out))
    assert row["source"] == "'=1+1.png"


def test_totals(capsys, model, photos, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"none")
    done = predict(capsys, model, photos, tmp_path / "bad.png", "--max-steps", 2)
    *_, line = done.err.splitlines()
    total = r"7 images in \d+\.\d s \(\d+\.\d a second\), 2\.00 steps in the mean, 1 failed"
    assert re.fullmatch(total, line), line
    (line,) = predict(capsys, model, photos / "a.png").err.splitlines()
    assert line.startswith("1 image in ")
    for more in (("-q",), ("-f", "jsonl"), ("-f", "csv")):
        assert predict(capsys, model, photos, *more).err == ""
