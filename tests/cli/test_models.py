"""`gfnet-fast models`, `fetch`, and names in every command."""

import json
import math

import pytest
import torch
from PIL import Image

import gfnet_fast as gf
from gfnet_fast.cli.models import listed
from tests.cli.cli_runner import run, save_by_class
from tests.conftest import random_images
from tests.hub.conftest import NAME, cache, content, server, small, small_config  # noqa: F401


@pytest.fixture
def mirror(server, cache, small, content, monkeypatch):  # noqa: F811
    monkeypatch.setenv("GFNET_FAST_MIRROR", server.address)
    server.put(f"/{NAME}.pth.tar", content["released"])
    return server


def test_the_table(capsys, server, cache):  # noqa: F811
    done = run(capsys, "models")
    assert (done.status, done.err) == (0, "")
    lines = {line.split()[0]: line.split() for line in done.out.splitlines() if line.strip()}
    assert lines["digits"][1:5] == ["10", "32", "192x192", "4"]
    assert lines["waste"][2:4] == ["160", "240x180"]
    assert " ".join(lines["resnet50-96"]) == "resnet50-96 1000 96 224x224 5 107.7 761 to 3990 not here"
    assert len([line for line in lines if "-96" in line or "-128" in line or "-144" in line]) == 14
    assert server.requests == []
    assert not cache.exists()


def test_json_and_what_is_here(capsys, mirror, cache):  # noqa: F811
    def row():
        done = run(capsys, "models", "--format", "json")
        return {row["name"]: row for row in json.loads(done.out)}[NAME]

    before = row()
    assert (before["where"], before["bytes"], before["classes"]) == ("not here", None, 3)
    assert before["address"].startswith("https://cloud.tsinghua.edu.cn/")
    done = run(capsys, "fetch", NAME, "digits")
    size = len(mirror.files[f"/{NAME}.pth.tar"].content)
    assert done.out.splitlines() == [before["path"], str(gf.hub.locate("digits"))]
    assert (done.status, done.err) == (0, f"fetching {NAME}, {size / 1e6:.0f} MB\n")
    assert (row()["where"], row()["bytes"]) == ("here", size)
    assert run(capsys, "fetch", NAME, "-q") == (0, f"{before['path']}\n", "")
    assert len(mirror.requests) == 1


@pytest.mark.parametrize("name", ["digits", "waste"])
def test_parameters_of_those_that_come_along_are_counted(name):
    model = gf.load(name)
    row = next(row for row in listed() if row["name"] == name)
    assert row["parameters"] == sum(p.numel() for p in model.parameters())
    assert row["macs"] == list(model.config.macs)
    assert math.prod(row["image_size"]) == math.prod(model.config.canvas)


def test_fetch_fails_in_one_line(capsys, mirror):
    mirror.files.clear()
    done = run(capsys, "fetch", NAME)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(
        f"error: {NAME}: expected a model from {mirror.url(f'/{NAME}.pth.tar')}, got status 404"
    )
    assert done.err.count("\n") == 1


def test_predict_info_convert_and_eval_take_names(capsys, mirror, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(random_images(1, 240)[0].numpy()).save("a.png")
    done = run(capsys, "predict", "a.png", "--model", NAME, "--format", "jsonl", "-q", "-o", "out.jsonl")
    assert (done.status, done.err) == (0, "")
    assert json.loads((tmp_path / "out.jsonl").read_text())["source"] == "a.png"
    assert "resnet50" in run(capsys, "info", NAME).out
    assert run(capsys, "convert", NAME, "native").status == 0
    assert gf.load("native").config.name == "resnet50"
    save_by_class(tmp_path / "data", random_images(3, 240), range(3), "abc")
    done = run(capsys, "eval", NAME, "--data", "data", "--format", "json", "-q")
    assert (done.status, json.loads(done.out)["images"]) == (0, 3)
    done = run(capsys, "calibrate", NAME, "--data", "data")
    assert (done.status, "got a model's name; use --output" in done.err) == (1, True)
    assert len(mirror.requests) == 1


def test_what_a_command_may_not_write_is_known_without_fetching(capsys, mirror, cache):  # noqa: F811
    cache.mkdir(parents=True)
    place = cache / f"{NAME}.pth.tar"
    done = run(capsys, "predict", "a.png", "--model", NAME, "-o", place)
    assert (done.status, f"expected a path outside the model {NAME}" in done.err) == (2, True)
    assert mirror.requests == []


def test_training_begins_with_a_name(mirror, small, tmp_path):  # noqa: F811
    from pathlib import Path

    from gfnet_fast.model.gfnet import GFNet
    from gfnet_fast.training.config import TrainConfig
    from gfnet_fast.training.job import Job
    from gfnet_fast.training.start import begin_with

    job = Job(Path("x"), Path("y"), small.backbone, 96, 5, 224, TrainConfig(), {}, init=NAME)
    model = GFNet(small)
    begin_with(model, job, ("a", "b", "c"), [2])
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in gf.load(NAME).state_dict().items())
    assert len(mirror.requests) == 1
