"""Where commands write: nothing that is read is destroyed, and what has been found is kept."""

import errno
import json
import os
import resource
import sys
import threading

import pytest
from cli_runner import run
from PIL import Image

from gfnet_fast.predictor import Predictor
from tests.conftest import random_images, tiny_model

COUNT = 3
EARLIER = "of last week\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model("cascaded").save_pretrained(path)
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, image in zip("abc", random_images(COUNT, 80), strict=True):
        Image.fromarray(image.numpy()).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def earlier(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(EARLIER)
    path.chmod(0o640)
    return path


def contents(*folders):
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def drafts(path):
    return list(path.parent.glob("*.part"))


def predict(capsys, model, *args):
    return run(capsys, "predict", "-m", model, "-f", "jsonl", *args)


def test_nothing_that_is_read_is_an_output(capsys, model, photos, tmp_path):
    image, weights = photos / "b.png", model / "model.safetensors"
    os.link(image, tmp_path / "hard.jsonl")
    (tmp_path / "soft.jsonl").symlink_to(image)
    (tmp_path / "way").symlink_to(photos)
    os.link(weights, tmp_path / "weights.jsonl")
    glob = str(photos / "*.png")
    before = contents(tmp_path, model)
    for sources, output, message in (
        ([image], image, "another file than those that are read"),
        ([photos], image, "another file than those that are read"),
        ([glob], image, "another file than those that are read"),
        ([photos], tmp_path / "hard.jsonl", "another file than those that are read"),
        ([glob], tmp_path / "soft.jsonl", "another file than those that are read"),
        ([photos], tmp_path / "way" / "b.png", "another file than those that are read"),
        ([photos], photos / "new.png", "a file that is not read as an image"),
        ([tmp_path / "way"], photos / "deep.jpg", "a file that is not read as an image"),
        ([glob], photos / "new.png", "a file that is not read as an image"),
        ([image], model / "config.json", "a path outside the model"),
        ([image], model / "results.jsonl", "a path outside the model"),
        ([image], tmp_path / "weights.jsonl", "a path outside the model"),
        ([image], photos, "a file to write, got the folder"),
        ([image], tmp_path / "no" / "results.jsonl", "a folder that exists to write into"),
    ):
        done = predict(capsys, model, *sources, "-o", output)
        assert (done.status, f"output: expected {message}" in done.err) == (2, True), (output, done.err)
        assert done.err.count("\n") == 1
        assert contents(tmp_path, model) == before, output


@pytest.mark.parametrize("command", ["convert", "calibrate"])
def test_what_is_new_is_made_outside_of_the_model(capsys, model, photos, command):
    before = contents(model)
    more = ("--data", photos, "-o") if command == "calibrate" else ()
    for target, message in ((model / "new", "outside the model"), (model, "where nothing is yet")):
        done = run(capsys, command, model, *more, target)
        assert (done.status, message in done.err, done.err.count("\n")) == (2, True, 1), done.err
    assert contents(model) == before


def test_a_report_is_not_written_over_its_rows(capsys, tmp_path):
    rows = tmp_path / "metrics.jsonl"
    rows.write_text('{"stage": 1, "epoch": 0, "loss": 1}\n')
    (tmp_path / "page.html").symlink_to(rows)
    for output in (rows, tmp_path / "page.html"):
        done = run(capsys, "report", rows, "-o", output)
        assert (done.status, "another file than those that are read" in done.err) == (2, True), done.err
    assert json.loads(rows.read_text())["loss"] == 1


def test_results_take_the_place_of_earlier_ones_at_the_end(capsys, model, photos, earlier, monkeypatch):
    seen = []
    stream = Predictor.stream

    def watched(self, source, **options):
        for result in stream(self, source, **options):
            seen.append(earlier.read_text())
            yield result

    monkeypatch.setattr(Predictor, "stream", watched)
    done = predict(capsys, model, photos, "-o", earlier)
    assert (done.status, done.out, done.err) == (0, "", "")
    assert seen == [EARLIER] * COUNT
    assert len(earlier.read_text().splitlines()) == COUNT
    assert earlier.stat().st_mode & 0o777 == 0o640
    assert drafts(earlier) == []


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "results.jsonl: No space left on device"),
        (MemoryError(), 1, "memory: expected enough for this"),
        (RecursionError(), 1, "expected less nesting"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
@pytest.mark.parametrize("after", [0, 2])
def test_results_so_far_are_kept(capsys, model, photos, earlier, monkeypatch, after, error, status, message):
    stream = Predictor.stream

    def failing(self, source, **options):
        for count, result in enumerate(stream(self, source, **options)):
            if count == after:
                raise error
            yield result

    monkeypatch.setattr(Predictor, "stream", failing)
    done = predict(capsys, model, photos, "-o", earlier)
    assert (done.status, message in done.err, done.out) == (status, True, ""), done.err
    assert earlier.read_text() == EARLIER
    kept = drafts(earlier)
    assert [len(path.read_text().splitlines()) for path in kept] == ([after] if after else [])
    assert [f"the results so far are in {path}" in done.err for path in kept] == [True] * len(kept)
    assert done.err.count("\n") == 1 + len(kept)


def test_a_full_disk_is_one_line(capsys, model, photos, earlier, monkeypatch):
    """A limit of the process stands for the disk's end."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # nor modules that are cut off
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        done = predict(capsys, model, photos, "-o", earlier)
        converted = run(capsys, "convert", model, earlier.with_name("other"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (done.status, earlier.read_text()) == (1, EARLIER)
    kept, error = done.err.splitlines()
    assert error == f"error: {earlier}: File too large"
    (draft,) = drafts(earlier)
    assert kept == f"the results so far are in {draft}"
    other = earlier.with_name("other")
    assert (converted.status, converted.err) == (1, f"error: {other / 'model.safetensors'}: File too large\n")
    assert not list(other.iterdir())
    done = predict(capsys, model, photos, "-o", "/dev/full")
    assert (done.status, done.err) == (1, "error: No space left on device\n")


def test_streams_are_written_as_they_are(capsys, model, photos, tmp_path):
    expected = predict(capsys, model, photos).out
    assert expected.count("\n") == COUNT
    for output in ("-", "/dev/stdout"):
        assert predict(capsys, model, photos, "-o", output).out == expected
    assert predict(capsys, model, photos, "-o", "/dev/null").status == 0
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    assert predict(capsys, model, photos, "-o", pipe).status == 0
    reader.join(10)
    assert read == [expected]
    assert pipe.is_fifo()
