"""A run that is killed and started again ends where an undisturbed one does, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from gfnet_fast.errors import CheckpointError, InputError
from gfnet_fast.files import write_json
from gfnet_fast.training import run as runs
from gfnet_fast.training.job import Manner
from gfnet_fast.training.run import Interrupted
from gfnet_fast.training.state import check_settings, drafts, load_settings
from tests.training.folder_helpers import QUIET, assert_bit_equal, train, weights, write_pictures

# Everything that has a state of its own: average, augmentation, parts of batches.
SETTINGS = {"ema": 0.5, "color_jitter": 0.4, "erase": 0.5, "accumulate": 2, "reward": "contrast"}
UPDATES = 3 * (1 + 2 + 1 + 2)


class Killed(BaseException):
    """What nothing catches: as if the process had ended there."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    train(data, output, **SETTINGS)
    return output


def rows(output):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def evaluation(output):
    found = json.loads((output / "evaluation.json").read_text())
    return {key: value for key, value in found.items() if key != "seconds"}


def assert_same_end(output, undisturbed):
    assert_bit_equal(weights(output), weights(undisturbed))
    assert rows(output) == rows(undisturbed)
    assert evaluation(output) == evaluation(undisturbed)
    for name in ("model.safetensors", "thresholds.json", "config.json"):
        assert (output / name).read_bytes() == (undisturbed / name).read_bytes(), name


def kill_after(monkeypatch, place, calls):
    """End the process at the n-th arrival at a place: before or after a function of the run."""
    owner, name, when = {
        "update": (runs.Run, "_after", "before"),
        "checkpoint": (runs, "save_checkpoint", "after"),
        "report": (runs.Run, "_report", "before"),
    }[place]
    original, count = getattr(owner, name), 0

    def counted(*args):
        nonlocal count
        count += 1
        if count == calls and when == "before":
            raise Killed
        original(*args)
        if count == calls:
            raise Killed

    monkeypatch.setattr(owner, name, counted)


@pytest.mark.parametrize(
    ("place", "calls"),
    [
        ("update", 1),  # nothing is there yet but the settings
        ("update", UPDATES),  # in the last epoch
        ("checkpoint", 1),  # in an epoch
        ("checkpoint", 3),  # between two stages
        ("report", 4),
    ],
    ids=str,
)
def test_killed_and_started_again(data, undisturbed, tmp_path, place, calls):
    output = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, place, calls)
        with pytest.raises(Killed):
            train(data, output, **SETTINGS)
    train(data, output, **SETTINGS)
    assert_same_end(output, undisturbed)


def test_killed_again_and_again(data, undisturbed, tmp_path):
    output, kills, ended = tmp_path / "run", 0, False
    while not ended:
        with pytest.MonkeyPatch.context() as patch:
            kill_after(patch, "update", 4)
            try:
                train(data, output, **SETTINGS)
                ended = True
            except Killed:
                kills += 1
    assert kills >= 5
    assert_same_end(output, undisturbed)


def test_only_the_work_since_the_last_checkpoint_is_lost(data, tmp_path, monkeypatch):
    output = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, "update", 3 + 3)  # stage 1's third of three; its checkpoint holds two
        with pytest.raises(Killed):
            train(data, output, **SETTINGS)
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    assert (state["done"], state["stage"], state["epoch"], state["batch"]) == ([0], 1, 0, 2)
    updates = []
    original = runs.Run._after
    monkeypatch.setattr(runs.Run, "_after", lambda self: (updates.append(self.stage.number), original(self)))
    train(data, output, **SETTINGS)
    assert updates == [1] * 4 + [2] * 3 + [3] * 6


def test_an_interrupt_writes_a_checkpoint(data, undisturbed, tmp_path, monkeypatch):
    """SIGTERM here, SIGINT in the tests of the command."""
    number = signal.SIGTERM
    output, original, count = tmp_path / "run", runs.Run._after, 0

    def interrupting(self):
        nonlocal count
        count += 1
        if count == 4:
            os.kill(os.getpid(), number)
        original(self)

    monkeypatch.setattr(runs.Run, "_after", interrupting)
    before = signal.getsignal(number)
    manner = Manner(device="cpu", checkpoint_every=1000, quiet=True)
    with pytest.raises(Interrupted, match="stage 1, epoch 1 of 2, after batch 1"):
        train(data, output, manner=manner, **SETTINGS)
    assert signal.getsignal(number) is before
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    assert (state["stage"], state["epoch"], state["batch"]) == (1, 0, 1)
    train(data, output, manner=manner, **SETTINGS)
    assert_same_end(output, undisturbed)


KILLED_IN_A_WRITE = """
import os, signal, sys, torch
from pathlib import Path
from tests.training.folder_helpers import train
from tests.training.test_training_resume import SETTINGS

save, count = torch.save, 0

def half(content, file):
    global count
    count += 1
    if count < 5:
        return save(content, file)
    import io
    whole = io.BytesIO()
    save(content, whole)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

torch.save = half
train(Path(sys.argv[1]), Path(sys.argv[2]), **SETTINGS)
"""


def test_kill_9_in_the_middle_of_a_checkpoint(data, undisturbed, tmp_path):
    output = tmp_path / "run"
    command = [sys.executable, "-c", KILLED_IN_A_WRITE, str(data), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (draft,) = output.glob("checkpoint.pt.*.part")
    assert draft.stat().st_size > 1000
    torch.load(output / "checkpoint.pt", weights_only=True)
    train(data, output, **SETTINGS)
    assert not list(output.glob("*.part"))
    assert_same_end(output, undisturbed)


def test_it_says_where_it_goes_on(data, tmp_path, capfd):
    output, loud = tmp_path / "run", Manner(device="cpu", checkpoint_every=1)
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, "update", 3 + 3 + 2)
        with pytest.raises(Killed):
            train(data, output, manner=loud)
    capfd.readouterr()
    train(data, output, [0, 1], loud)
    assert "going on at stage 1 (2 of 2), epoch 2 of 2\n" in capfd.readouterr().err


def test_settings_that_are_none(tmp_path):
    (tmp_path / "checkpoint.pt").touch()
    for content in ([], {}, {"model": {}, "pretrained": ""}, {"model": [], "pretrained": ""}):
        write_json(tmp_path / "training.json", content)
        with pytest.raises(
            CheckpointError, match=r"training.json: expected the settings of a run, got others"
        ):
            load_settings(tmp_path)


def test_stages_one_at_a_time(data, undisturbed, tmp_path):
    output = tmp_path / "run"
    for stages in ([0], [1], [2, 3]):
        train(data, output, stages, **SETTINGS)
    assert_same_end(output, undisturbed)


def test_the_same_command_after_the_end_changes_nothing(data, undisturbed, tmp_path):
    before = weights(undisturbed)
    train(data, undisturbed, **SETTINGS)
    assert_bit_equal(weights(undisturbed), before)


def test_a_folder_of_another_run_is_left_alone(data, undisturbed):
    before = {path.name: path.read_bytes() for path in undisturbed.iterdir()}
    message = r"other settings is in it: expected training.gamma 0.7, got 0.5$"
    with pytest.raises(InputError, match=message):
        train(data, undisturbed, gamma=0.5, **SETTINGS)
    assert {path.name: path.read_bytes() for path in undisturbed.iterdir()} == before


def test_settings_alone_are_no_run(tmp_path):
    """What a run leaves that fails before its first checkpoint: the next may have others."""
    write_json(tmp_path / "training.json", {"batch": 256})
    (tmp_path / "tensorboard").mkdir()
    check_settings(tmp_path, {"batch": 128})
    for name in ("metrics.jsonl", "checkpoint.pt"):
        (tmp_path / name).touch()
        with pytest.raises(InputError, match="other settings is in it: expected batch 256, got 128"):
            check_settings(tmp_path, {"batch": 128})
        (tmp_path / name).unlink()
    (tmp_path / "training.json").unlink()
    with pytest.raises(InputError, match="expected a new folder"):
        check_settings(tmp_path, {"batch": 128})


def test_drafts_are_no_run(tmp_path):
    """Of a run that was killed in a write; files of somebody else's that end alike are left alone."""
    ours = [
        "training.json",
        "checkpoint.pt",
        "metrics.jsonl",
        "model.safetensors",
        "failed-stage1-epoch0-batch2.pt",
    ]
    for name in ours:
        (tmp_path / f"{name}.0123456789abcdef.part").touch()
    check_settings(tmp_path, {"batch": 128})
    assert {path.name.split(".01")[0] for path in drafts(tmp_path)} == set(ours)
    (tmp_path / "film.part").touch()
    assert len(drafts(tmp_path)) == len(ours)
    with pytest.raises(InputError, match="expected a new folder"):
        check_settings(tmp_path, {"batch": 128})


def test_settings_of_a_run_are_read_as_they_were_written(tmp_path):
    code = (
        "import sys; from pathlib import Path; "
        "from gfnet_fast.training.state import check_settings; p = Path(sys.argv[1]);"
        "c = {'classes': [chr(233)]};"
        "(p / 'training.json').write_text('{\"classes\": [\"' + chr(233) + '\"]}', 'utf-8');"
        "(p / 'checkpoint.pt').touch(); check_settings(p, c)"
    )
    locale = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], env=locale, timeout=60, capture_output=True)
    assert done.returncode == 0, done.stderr
    (tmp_path / "training.json").unlink()
    os.mkfifo(tmp_path / "training.json")
    with pytest.raises(
        CheckpointError, match=r"training.json: expected the settings of a run, got .* a pipe"
    ):
        check_settings(tmp_path, {"classes": ["é"]})


def test_a_folder_of_something_else_is_left_alone(data, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="expected a new folder, or one of a run to go on with"):
        train(data, tmp_path, **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_checkpoint(data, undisturbed, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    (output / "training.json").write_bytes((undisturbed / "training.json").read_bytes())
    (output / "checkpoint.pt").write_bytes((undisturbed / "checkpoint.pt").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: expected a file that torch\.save wrote"):
        train(data, output, **SETTINGS)
    assert sorted(path.name for path in output.iterdir()) == ["checkpoint.pt", "training.json"]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([4], r"expected some of 0 to 3 with epochs .*got \[4\]"),
        ([2], "expected stage 1 before 2"),
        ([3], "expected stage 1 before 3"),
    ],
)
def test_stages_that_cannot_be(data, tmp_path, stages, message):
    with pytest.raises(InputError, match=message):
        train(data, tmp_path / "run", stages)
    assert not (tmp_path / "run").exists()


def test_a_stage_without_epochs(data, tmp_path):
    with pytest.raises(InputError, match=r"expected some of 0 to 3 with epochs \(0, 1, 1, 1\), got \[0\]"):
        train(data, tmp_path / "run", [0, 1], epochs=(0, 1, 1, 1))


def test_a_stage_in_the_middle_is_not_left(data, tmp_path):
    output = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, "checkpoint", 1)
        with pytest.raises(Killed):
            train(data, output, manner=QUIET)
    with pytest.raises(InputError, match="expected stage 0 first, which the run is in"):
        train(data, output, [1, 2])
