"""`gfnet-fast train`, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cli_runner import run
from typer.testing import CliRunner

from gfnet_fast.checkpoints import load
from gfnet_fast.cli import train  # noqa: F401  (adds its command)
from gfnet_fast.cli.app import app
from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import InputError
from gfnet_fast.training.config import TrainConfig, checked
from tests.training.folder_helpers import RESNET, write_pictures

COMMAND = [sys.executable, "-c", "from gfnet_fast.cli import main; main()"]
MODEL = [f"model.{name}={json.dumps(value)}" for name, value in RESNET[1].items()]
SIZES = ["--backbone", RESNET[0], "--patch-size", "32", "--steps", "3", "--image-size", "48"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "images")


def arguments(data, output, *more, settings=()):
    setting = [part for text in (*MODEL, *settings) for part in ("--set", text)]
    command = [
        "train",
        "--data",
        data,
        "--output",
        output,
        *SIZES,
        "--batch",
        8,
        "--workers",
        0,
        "--pretrained",
        "none",
    ]
    return [*map(str, [*command, *setting, *more])]


def test_one_command_then_predict(capsys, data, tmp_path):
    output = tmp_path / "run"
    command = arguments(data, output, "--export", "official", settings=["epochs=1,1,1,1"])
    done = run(capsys, *command)
    assert done.status == 0, done.err
    assert re.fullmatch(
        rf"{output}: \d+\.\d % right after 3 steps, \d+\.\d % with early exit in \d\.\d\d steps; 3 images\n",
        done.out,
    )
    stages = [f"stage {k} ({k + 1} of 4), epoch 1 of 1" for k in range(4)]
    lines = [line.split(":")[0] for line in done.err.splitlines()]
    said = ["classes", "images", "network", "begins with", "training", "time"]
    assert [line for line in lines if line not in ("warning",)][: len(said)] == said
    assert [line for line in lines if line.startswith("stage")] == stages
    answers = run(capsys, "predict", data, "--model", output, "--format", "jsonl")
    assert answers.status == 0, answers.err
    rows = [json.loads(line) for line in answers.out.splitlines()]
    assert len(rows) == 30
    assert {row["label"] for row in rows} <= {"a", "b", "c"}
    model = load(output)
    assert model.thresholds.shape[1] == 3
    assert torch.equal(
        load(output / "official.pth.tar", config=model.config).policy.critic.weight,
        model.policy.critic.weight,
    )


def test_a_model_of_whole_pictures_that_are_not_square(capsys, data, tmp_path):
    output = tmp_path / "run"
    command = arguments(data, output, "--image-size", "48x64", settings=["epochs=0,1,1,0"])
    refused = run(capsys, *command, "--export", "official")
    assert refused.status == 1
    assert "official form: expected square images" in refused.err
    assert not output.exists()
    assert run(capsys, *command).status == 0
    assert (load(output).config.image_size, load(output).config.crop_ratio) == ((48, 64), None)
    told = run(capsys, "info", output)
    assert "48 x 64 px; all of it resized to that, bilinear" in told.out
    answers = run(capsys, "predict", data, "--model", output, "--format", "jsonl", "--max-steps", 3)
    assert answers.status == 0, answers.err
    origins = torch.tensor([json.loads(line)["origins"] for line in answers.out.splitlines()])
    assert origins.shape == (30, 2, 2)
    assert (origins.amax((0, 1)) <= torch.tensor([16, 32])).all()
    refused = run(capsys, "convert", output, tmp_path / "x.pth.tar", "--to", "training")
    assert (refused.status, (tmp_path / "x.pth.tar").exists()) == (1, False)
    assert "expected a released configuration" in refused.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_can_be_gone_on_from(data, tmp_path, number):
    """The workers get it too, as from a terminal or a scheduler; they leave with the run.

    In twelve batches an epoch, of which workers read four ahead: they are needed after the signal.
    """
    output = tmp_path / "run"
    command = [
        *COMMAND, *arguments(data, output, "--batch", 2, "--workers", 2, settings=["epochs=0,2000,1,1"])
    ]  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    limit = time.monotonic() + 120
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while time.monotonic() < limit:
        if (output / "metrics.jsonl").exists() and len(children.read_text().split()) == 2:
            break
        time.sleep(0.02)
    os.killpg(process.pid, number)
    out, errors = process.communicate(timeout=120)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert process.returncode == 130, errors
    assert out == ""
    assert re.search(
        r"interrupted in stage 1, epoch \d+ of 2000, after batch \d+: a checkpoint is in", errors
    )
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    said = re.search(r"epoch (\d+) of 2000, after batch (\d+)", errors)
    assert (state["epoch"] + 1, state["batch"]) == tuple(map(int, said.groups()))


def test_an_error_is_one_line(capsys, data, tmp_path):
    done = run(capsys, *arguments(data, tmp_path / "run", "--patch-size", 40))
    assert (done.status, done.out) == (1, "")
    message = "error: patch_size: expected a multiple of timm/resnet18's stride 32 (32 or 64), got 40\n"
    assert done.err == message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "gamma"], "expected NAME=VALUE, got 'gamma'"),
        (["--stages", "one"], "expected numbers with commas between"),
        (["--export", "onnx"], "expected 'official', got 'onnx'"),
        (["--image-size", "288x"], "image-size: expected 224, or height x width as 288x384, got '288x'"),
        (["--image-size", "1x2x3"], "image-size: expected 224, or height x width as 288x384, got '1x2x3'"),
        (["--checkpoint-every", "0"], "Invalid value for '--checkpoint-every'"),
    ],
    ids=["no-value", "stages", "export", "half-a-size", "three-sides", "range"],
)
def test_usage(data, tmp_path, more, message):
    done = CliRunner().invoke(app, [*arguments(data, tmp_path / "run"), *more])
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


def test_an_unknown_setting(data, tmp_path):
    done = CliRunner().invoke(app, arguments(data, tmp_path / "run", settings=["gama=1"]))
    assert isinstance(done.exception, InputError)
    assert str(done.exception).startswith("--set: expected some of epochs, batch")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"epochs": "0,1,2,3"}, {"epochs": (0, 1, 2, 3)}),
        ({"epochs": [0, 1, 2, 3]}, {"epochs": (0, 1, 2, 3)}),
        ({"gamma": "1"}, {"gamma": 1.0}),
        ({"batch": 32, "amp": "true"}, {"batch": 32, "amp": True}),
        ({"reward": "contrast", "auto_augment": "1"}, {"reward": "contrast", "auto_augment": "1"}),
    ],
    ids=str,
)
def test_settings_by_type(values, expected):
    found = checked(TrainConfig, values, "here")
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": "many"}, "here: batch: expected a whole number, got 'many'"),
        ({"batch": 3.5}, "here: batch: expected a whole number, got 3.5"),
        ({"batch": True}, "here: batch: expected a whole number, got True"),
        ({"gamma": "high"}, "here: gamma: expected a number, got 'high'"),
        ({"amp": "1"}, "here: amp: expected true or false, got '1'"),
        ({"epochs": "1,2"}, r"here: epochs: expected 4 values \(.*\), got '1,2'"),
        ({"reward": "money"}, "here: reward: expected one of difference, contrast, got 'money'"),
        ({"colour": 1}, "here: expected some of epochs, .*, got colour"),
        ({"gamma": "NaN"}, "here: gamma: expected a number, got 'NaN'"),
        ({"gamma": 10**400}, r"here: gamma: expected a number, got 1000+\.\.\.0+$"),
        ({"seed": 2**63}, "here: seed: expected a whole number, got 9223372036854775808"),
        ({"seed": "9" * 5000}, r"here: seed: expected a whole number, got '9+\.\.\.9+'$"),
        ({"batch": "[" * 100000}, r"here: batch: expected a whole number, got '\[+\.\.\.\[+'$"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_do_not_fit(values, message):
    with pytest.raises(InputError, match=message):
        checked(TrainConfig, values, "here")


def test_settings_of_a_model():
    found = checked(GFNetConfig, {"backbone_args": '{"output_stride": 8}', "glance_head": "true"}, "model")
    assert found == {"backbone_args": {"output_stride": 8}, "glance_head": True}


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_settings_of_a_file(tmp_path, suffix):
    from gfnet_fast.cli.train import _file_settings

    if suffix == "toml":
        pytest.importorskip("tomllib")
    text = {
        "json": '{"gamma": 0.5, "epochs": [0, 1, 1, 1], "model": {"policy": "conv"}}',
        "toml": 'gamma = 0.5\nepochs = [0, 1, 1, 1]\n[model]\npolicy = "conv"\n',
    }[suffix]
    path = tmp_path / f"settings.{suffix}"
    path.write_text(text)
    training, model = _file_settings(path)
    assert checked(TrainConfig, training, "file") == {"gamma": 0.5, "epochs": (0, 1, 1, 1)}
    assert checked(GFNetConfig, model, "file") == {"policy": "conv"}
    for text in ("{", "[" * 100_000, "a = " + "[" * 100_000, "\x00", "x" * (2**23 + 1)):
        path.write_text(text)
        with pytest.raises(InputError, match=f"settings.{suffix}: expected settings as JSON or TOML"):
            _file_settings(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match=f"settings.{suffix}: expected .*, got a pipe"):
        _file_settings(path)
