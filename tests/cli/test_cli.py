"""The command line, as a user runs it."""

import json
import os
import subprocess
import sys

import pytest
import torch
from cli_runner import run

from gfnet_fast.checkpoints import load, official
from tests.conftest import tiny_config, tiny_model
from tests.hub.conftest import with_int8
from tests.test_predictor import folder, pictures  # noqa: F401


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model("cascaded").save_pretrained(path)
    return str(path)


def process(*args):
    """As its own process, where that is what counts."""
    command = [sys.executable, "-c", "from gfnet_fast.cli import main; main()", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_folder_as_jsonl(model, folder):  # noqa: F811
    """Nothing that is imported or left at the end says a word."""
    command = process(
        "predict", folder, "--model", model, "--format", "jsonl", "--thresholds", "0.5,0.4,0.3,-1e8"
    )
    out, errors = command.communicate(timeout=120)
    assert (command.returncode, errors) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["source"] for row in rows] == [str(p) for p in sorted(folder.rglob("*.png"))]
    assert all(len(row["origins"]) == row["exit_step"] - 1 for row in rows)


def test_inputs_that_fail_do_not_stop_the_others(capsys, model, folder, tmp_path):  # noqa: F811
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    out = tmp_path / "out.jsonl"
    sources = (broken, folder, tmp_path / "*.gif")
    done = run(capsys, "predict", *sources, "-m", model, "-f", "jsonl", "-o", out, "--max-steps", 2)
    assert done.status == 3
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert ["error" in row for row in rows] == [True] + [False] * 11 + [True]
    assert all(row["exit_step"] == 2 for row in rows if "error" not in row)
    assert done.out == ""
    assert "2 of 13 inputs failed" in done.err


def test_a_deadline_that_nobody_meets_fails_image_by_image(capsys, model, folder):  # noqa: F811
    done = run(
        capsys, "predict", folder, "-m", model, "-f", "jsonl", "--deadline-ms", "1e-6", "--max-steps", 4
    )
    assert done.status == 3
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert len(rows) == 11
    assert any("expected a prediction within 1e-06 ms, got none" in row.get("error", "") for row in rows)
    assert all("error" in row or row["exit_step"] < 4 for row in rows)


def test_a_table_is_aligned(capsys, model, folder):  # noqa: F811
    done = run(capsys, "predict", folder, "--model", model, "--audit", 0.5)
    assert "images changed their class" in done.err
    head, *lines = done.out.splitlines()
    assert head.split() == ["class", "confidence", "step", "M", "macs", "source"]
    assert len(lines) == 11
    assert {line.index("/", 20) for line in lines} == {head.index("step") + 2} or len(
        {len(li) for li in lines}
    ) < 3


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["predict", "x.png"], 2, "model"),
        (["predict", "x.png", "--model", "{model}", "--thresholds", "a,b"], 2, "expected numbers"),
        (["predict", "x.png", "--model", "{model}", "--format", "xml"], 2, "xml"),
        (["no-such-command"], 2, "no-such-command"),
        (["predict", "x.png", "--model", "no/such/model"], 1, "error: no/such/model: expected a checkpoint"),
        (["predict", "x.png", "--model", "{model}", "--thresholds", "1,2"], 1, "error: thresholds: expected"),
        (["predict", "x.png", "--model", "{model}", "--thresholds", ".9"], 1, "expected 4 numbers, one for"),
        (["predict", "x.png", "--model", "{model}", "--device", "cuda:77"], 1, "error: device: expected"),
        (["predict", "x.png", "--model", "{model}", "--macs", "1"], 1, "needs a calibration"),
        (["predict", "x.png", "--model", "{model}", "--latency-ms", "1"], 1, "needs a calibration"),
        (["predict", "x.png", "--model", "{model}", "--dtype", "float8"], 1, "error: dtype: expected"),
        (["predict", "x.png", "--model", "{model}", "--runtime", "maybe"], 1, "error: runtime: expected"),
        (["predict", "x.png", "--model", "{model}", "--deadline-ms", "-1"], 1, "error: deadline_ms:"),
        (["predict", "x.png", "--model", "{model}", "-o", "./x.png"], 2, "expected another file"),
        (["predict", "x.png", "--model", "{model}"], 3, " 1 failed"),
        (["info", "no/such/model"], 1, "got nothing there"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_exit_status_and_message(capsys, model, args, status, message):
    done = run(capsys, *(model if a == "{model}" else a for a in args))
    assert done.status == status
    assert message in done.err


def test_info_and_convert(capsys, model, tmp_path):
    done = run(capsys, "info", model)
    assert done.status == 0
    assert "tiny-cascaded" in done.out
    native = tmp_path / "again"
    assert run(capsys, "convert", model, native).status == 0
    ours, theirs = load(model).state_dict(), load(native).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    done = run(capsys, "convert", model, native)
    assert (done.status, "where nothing is yet" in done.err) == (2, True)
    official = tmp_path / "official.pth.tar"
    done = run(capsys, "convert", model, official, "--to", "training")
    assert (done.status, done.err.count("\n"), official.exists()) == (1, 1, False)
    assert "expected a released configuration" in done.err
    assert "got tiny-cascaded at 32; use --to native" in done.err


def test_what_convert_writes_can_be_read_back(capsys, tmp_path, monkeypatch):
    small = tiny_config(name="resnet-small", classes=1000)
    monkeypatch.setattr(official, "RELEASED", [small])
    tiny_model(name="resnet-small").save_pretrained(tmp_path / "native")
    path = tmp_path / "again.pth.tar"
    done = run(capsys, "convert", tmp_path / "native", path, "--to", "training")
    assert (done.status, done.err) == (0, "")
    assert load(path).config.replace(macs=None) == small.replace(classes=7)
    assert run(capsys, "info", path).status == 0
    with_int8(tiny_model(name="resnet-small")).save_pretrained(tmp_path / "both")
    done = run(capsys, "convert", tmp_path / "both", tmp_path / "third.pth.tar", "--to", "training")
    assert (done.status, done.err.count("\n")) == (0, 1)
    assert f"{tmp_path / 'both'}: its int8 form is left out" in done.err


def test_help_does_not_import_torch():
    code = "import sys, gfnet_fast.cli.predict, gfnet_fast.cli.checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}).returncode == 0


def test_a_reader_that_leaves_is_no_crash(model, folder):  # noqa: F811
    command = process("predict", folder, "-m", model)
    command.stdout.close()
    errors = command.stderr.read()
    assert command.wait(timeout=120) == 1
    assert "Traceback" not in errors
