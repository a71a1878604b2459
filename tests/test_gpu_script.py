"""`make gpu` without a GPU: its plan, its time limits, what it leaves behind, and what a failure does."""

import csv
import importlib
import json
import os
import sys
import time
from pathlib import Path

import gfnet_kernels as gk
import pytest
import torch

from gfnet_fast.model.gfnet import Trace
from gfnet_fast.tables import merge_rows

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def script(monkeypatch):
    """A file of bench/ as a module."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


@pytest.fixture
def gpu(script):
    return script("gpu")


def python(code):
    return [sys.executable, "-c", code]


def test_the_plan_fits_into_ten_minutes_in_its_order(gpu, tmp_path):
    parts = gpu.parts_of(tmp_path, dry=False)
    usual = [part for part in parts if not part.asked]
    assert [part.name for part in usual] == ["build", "tests", "sanitizer", "kernels", "record", "engine"]
    assert sum(part.limit for part in usual) <= 570
    assert all(part.limit <= 570 for part in parts)
    sanitizer = next(part for part in parts if part.name == "sanitizer")
    assert {command[command.index("--tool") + 1] for command in sanitizer.commands} == set(gpu.TOOLS)
    rehearsed = {part.name for part in gpu.parts_of(tmp_path, dry=True)}
    assert rehearsed == {part.name for part in parts} - {"compiled", "float16"}  # the same scripts' options


@pytest.mark.parametrize("dry", [False, True])
def test_every_file_that_the_plan_names_is_there(gpu, tmp_path, dry):
    for part in gpu.parts_of(tmp_path, dry):
        for command in part.commands:
            for word in command:
                if word.endswith(".py"):
                    assert (gpu.ROOT / word).exists(), word


def test_a_part_that_fails_is_said_and_the_later_ones_go_on(gpu, tmp_path, capsys):
    parts = [
        gpu.Part("first", 60, [python("print('before'); raise SystemExit(3)"), python("print('after')")]),
        gpu.Part("absent", 60, [["no-such-program", "--version"]]),
        gpu.Part("last", 60, [python("import os; print(os.environ['WORD'])")], environment={"WORD": "kept"}),
    ]
    outcomes = gpu.run_parts(parts, tmp_path / "out", 60, {"torch": "2.0"})
    assert [(o.part, o.status, list(o.codes)) for o in outcomes] == [
        ("first", "failed", [3, 0]),
        ("absent", "failed", [127]),
        ("last", "ok", [0]),
    ]
    log = (tmp_path / "out" / "log.txt").read_text()
    assert all(word in log for word in ("before", "after", "kept", "no-such-program"))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["torch"] == "2.0"
    assert [part["status"] for part in summary["parts"]] == ["failed", "failed", "ok"]
    said = capsys.readouterr().out
    assert "first      failed" in said
    assert "before" in said  # the end of what it said, where one looks first
    assert "kept" not in said


def test_what_runs_out_of_time_is_killed_with_all_that_it_started(gpu, tmp_path):
    child = "import subprocess, sys; print('begun', flush=True); "
    child += "subprocess.run([sys.executable, '-c', 'import time, os, pathlib; "
    child += f'pathlib.Path(r"{tmp_path}/pid").write_text(str(os.getpid())); time.sleep(600)\'])'
    parts = [
        gpu.Part("endless", 3, [python(child), python("print('never')")]),
        gpu.Part("next", 60, [python("pass")]),
    ]
    begin = time.monotonic()
    outcomes = gpu.run_parts(parts, tmp_path, 600, {})
    assert [(o.status, list(o.codes)) for o in outcomes] == [("timed out", [None]), ("ok", [0])]
    assert time.monotonic() - begin < 120
    assert "begun" in (tmp_path / "log.txt").read_text()
    if (tmp_path / "pid").exists():  # where the machine was quick enough to start it
        pid = int((tmp_path / "pid").read_text())
        assert not running(pid)


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_budget_holds_for_all_parts(gpu, tmp_path):
    parts = [gpu.Part("one", 600, [python("import time; time.sleep(600)")]), gpu.Part("two", 600, [["true"]])]
    outcomes = gpu.run_parts(parts, tmp_path, gpu.LEAST + 0.5, {})
    assert [o.status for o in outcomes] == ["timed out", "no time left"]


@pytest.mark.parametrize(
    ("codes", "status", "ran"), [((0, 1), "ok", [0]), ((1, 0), "ok", [1, 0]), ((1, 2), "failed", [1, 2])]
)
def test_of_two_ways_to_build_one_is_enough(gpu, tmp_path, codes, status, ran):
    commands = [python(f"raise SystemExit({code})") for code in codes]
    outcome = gpu.run_parts([gpu.Part("build", 60, commands, instead=True)], tmp_path, 60, {})[0]
    assert (outcome.status, list(outcome.codes)) == (status, ran)


def test_commands_together_all_count(gpu, tmp_path):
    commands = [python("pass"), python("raise SystemExit(9)")]
    outcome = gpu.run_parts([gpu.Part("sanitizer", 60, commands, together=True)], tmp_path, 60, {})[0]
    assert (outcome.status, list(outcome.codes)) == ("failed", [0, 9])


def main(gpu, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, arguments)])
    return gpu.main()


def test_without_a_gpu_it_fails_at_once(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "machine_of", lambda dry: {"cuda": False})
    assert main(gpu, monkeypatch, "--out", tmp_path / "out") == 1
    assert "expected a CUDA GPU, got none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_part_is_a_mistake_of_usage(gpu, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(gpu, monkeypatch, "--out", tmp_path, "--only", "everything")
    assert "--only: expected some of build" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1)])
def test_exit_status_and_choice_of_parts(gpu, monkeypatch, tmp_path, capsys, code, status):
    parts = [gpu.Part("a", 60, [python(f"raise SystemExit({code})")]), gpu.Part("b", 60, [["false"]])]
    parts.append(gpu.Part("c", 60, [["true"]], asked=True))
    monkeypatch.setattr(gpu, "parts_of", lambda out, dry: parts)
    monkeypatch.setattr(gpu, "machine_of", lambda dry: {"cuda": True})
    assert main(gpu, monkeypatch, "--out", tmp_path, "--only", "a", "c") == status
    assert f"{2 - code} of 2 parts ok" in capsys.readouterr().out
    assert main(gpu, monkeypatch, "--out", tmp_path) == 1  # b fails, and c is not asked for
    assert "\nc " not in capsys.readouterr().out


def test_every_kernel_has_a_case_for_the_sanitizer_and_a_wrong_one_is_seen(script, monkeypatch, capsys):
    sanitized = script("sanitized")
    ops = {name.removesuffix("_reference") for name in gk.__all__ if name.endswith("_reference")}
    assert set(sanitized.CASES) == ops
    monkeypatch.setattr(sys, "argv", ["sanitized.py", "--device", "cpu"])
    assert sanitized.main() == 0
    assert capsys.readouterr().out.count("ok") == len(ops)

    def wrong(arenas, slots):
        return [torch.zeros(len(slots), arena.shape[1]) for arena in arenas]

    monkeypatch.setattr(gk, "gather_all", wrong)
    with pytest.raises(AssertionError):
        sanitized.main()


def test_rows_are_replaced_by_their_key(script, monkeypatch, tmp_path):
    monkeypatch.setenv("GFNET_COMMIT", "abc1234")
    table_of = script("rows")
    table, fields = tmp_path / "rows" / "table.csv", ("way", "batch", "p50", "commit")
    for way, p50 in (("b", 1), ("a", 2), ("b", 3)):
        row = {"way": way, "batch": 8, "p50": p50, "commit": table_of.commit()}
        merge_rows(table, ("way", "batch"), fields, [row])
    rows = list(csv.DictReader(table.open()))
    assert [(row["way"], row["p50"], row["commit"]) for row in rows] == [
        ("a", "2", "abc1234"),
        ("b", "3", "abc1234"),
    ]


def test_shares_and_agreement(script):
    """Eight images in two steps, one class more sure than the other by a known margin."""
    measuring = script("measuring")
    margin = torch.arange(8.0) + 1
    logits = torch.stack([torch.stack([margin, 0 * margin], -1)] * 2)
    trace = Trace(logits, torch.zeros(1, 8, 2), torch.zeros(1, 8, 2, dtype=torch.long))
    row = measuring.shared_thresholds(trace, 1.0)  # half of them at each step
    step = torch.where(margin > 4, 1, 2)
    assert measuring.agreement(trace, row, torch.zeros(8), step) == (1.0, 1.5)
    wrong = torch.zeros(8)
    wrong[0] = 1
    assert measuring.agreement(trace, row, wrong, step)[0] == 7 / 8
    assert measuring.agreement(trace, row, torch.zeros(8), torch.ones(8))[0] == 0.5


def test_the_tree_comes_before_what_is_installed(gpu, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    path = gpu.environment_of(gpu.Part("any", 1, []))["PYTHONPATH"].split(os.pathsep)
    assert path == [str(gpu.ROOT), str(gpu.ROOT / "kernels"), "elsewhere"]
