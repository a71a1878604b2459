"""The runs for a GPU without one: their plans and limits, what they leave behind, and what a failure does."""

import csv
import importlib
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import gfnet_kernels as gk
import pytest
import torch

from gfnet_fast.engine.launches import Launches
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


@pytest.fixture
def running(script):
    return script("running")


@pytest.fixture
def plans(script):
    return script("plans")


def python(code):
    return [sys.executable, "-c", code]


def part_of(running, name, limit, *codes, together=False):
    """A part of Python programs."""
    commands = [running.Command(f"{name}{i}", python(code)) for i, code in enumerate(codes)]
    return running.Part(name, limit, commands, together)


@pytest.mark.parametrize("dry", [False, True])
def test_every_file_that_the_plans_name_is_there(plans, tmp_path, dry):
    parts = plans.parts_of(tmp_path, dry)
    assert set(parts) >= {name for plan in plans.PLANS.values() for name in plan}
    words = [word for part in parts.values() for command in part.commands for word in command.words]
    files = [word for word in words if word.endswith(".py")]
    assert len(files) >= 10
    assert all((plans.ROOT / word).exists() for word in files)


def test_a_plan_looks_first_at_what_matters_most(plans, tmp_path):
    parts = plans.parts_of(tmp_path, dry=False)
    first = [parts[name].limit for name in plans.PLANS["first"]]
    # What comes before the sanitizer may take all of its own time only where something is wrong.
    assert sum(first[:2]) + plans.expected.SANITIZED < plans.SECONDS["first"]
    assert parts["measure"].limit < plans.SECONDS["proof"]
    assert all(part.limit <= 570 for part in parts.values())
    tools = [command.words[command.words.index("--tool") + 1] for command in parts["sanitizer"].commands]
    assert tools == list(plans.TOOLS)
    (compiled,) = parts["compiled"].commands
    assert "inductor" in compiled.words


def test_what_is_expected_fits_into_the_plan(script, tmp_path):
    """By the counts at full size: the tasks of `proof`, which are made without running them."""
    proof, plans = script("proof"), script("plans")
    options = script("measuring").parser("").parse_args(["--out", str(tmp_path), "--device", "cpu"])
    tasks = [task for name in proof.USUAL for task in proof.PARTS[name](options)]
    assert [task.name.split()[0] for task in tasks] == [
        *["control"] * 2, *["ladder"] * 2, "kernels", *["engine"] * 6,
    ]  # fmt: skip
    total = plans.expected.BUILD + plans.FRESH + sum(task.seconds for task in tasks)
    assert 60 < total < plans.SECONDS["proof"]
    options.runtime = "inductor"
    tasks = [task for name in ("control", "ladder", "engine") for task in proof.PARTS[name](options)]
    assert [task.name for task in tasks if "batch" in task.name] == [
        f"engine {config}, batch 128" for config in options.configs
    ]
    assert sum(task.seconds for task in tasks) < 560


def test_a_plan_that_takes_too_long_fails(gpu, running, monkeypatch, tmp_path, capsys):
    slow = "print('== one: ok, 0.1 s, expected 150.0'); print('== two: ok, 0.1 s, expected 60.0')"
    parts = {"a": part_of(running, "a", 60, slow), "b": part_of(running, "b", 60, "pass")}
    monkeypatch.setattr(gpu, "parts_of", lambda out, dry: parts)
    monkeypatch.setattr(gpu, "PLANS", {"first": ("a", "b"), "proof": ("b",)})
    assert main(gpu, monkeypatch, "first", "--dry", "--out", tmp_path) == 1
    said = capsys.readouterr().out
    assert "more than 200 s expected" in said
    assert [line.split()[-1] for line in said.splitlines() if "all, of 200 s" in line] == ["210.0"]
    assert main(gpu, monkeypatch, "proof", "--dry", "--out", tmp_path) == 0


def test_a_part_that_fails_is_said_and_the_later_ones_go_on(gpu, running, tmp_path, capsys):
    word = python("import os; print(os.environ['WORD'])")
    parts = [
        part_of(running, "first", 60, "print('before'); raise SystemExit(3)", "print('after')"),
        running.Part("absent", 60, [running.Command("none", ["no-such-program", "--version"])]),
        running.Part("last", 60, [running.Command("it", word, 0, {"WORD": "kept"})]),
    ]
    found = gpu.run_parts(parts, tmp_path / "out", 60, {"torch": "2.0"})
    assert [(part["part"], part["status"], part["codes"]) for part in found] == [
        ("first", "failed", {"first0": [3], "first1": [0]}),
        ("absent", "failed", {"none": [127]}),
        ("last", "ok", {"it": [0]}),
    ]
    log = (tmp_path / "out" / "log.txt").read_text()
    assert all(word in log for word in ("first0| before", "first1| after", "it| kept", "no-such-program"))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["torch"] == "2.0"
    assert [part["status"] for part in summary["parts"]] == ["failed", "failed", "ok"]
    said = capsys.readouterr().out
    assert "first      failed" in said
    assert "before" in said  # the end of what it said, where one looks first
    assert "kept" not in said


def test_what_runs_out_of_time_says_where_it_was_and_is_killed_with_all_that_it_started(
    gpu, running, tmp_path
):
    child = f"""
import pathlib, subprocess, time
print('begun', flush=True)
pathlib.Path(r"{tmp_path}/pid").write_text(str(subprocess.Popen(["sleep", "600"]).pid))
def the_place_where_it_waits():
    time.sleep(600)
the_place_where_it_waits()
"""
    parts = [part_of(running, "endless", 5, child), part_of(running, "next", 60, "pass")]
    begin = time.monotonic()
    found = gpu.run_parts(parts, tmp_path, 600, {})
    assert [(part["status"], *part["codes"].values()) for part in found] == [
        ("timed out", [None]),
        ("ok", [0]),
    ]
    assert time.monotonic() - begin < 120
    log = (tmp_path / "log.txt").read_text()
    assert "endless0| begun" in log
    if (tmp_path / "pid").exists():  # where the machine was quick enough to start it
        assert "the_place_where_it_waits" in log
        assert not alive(int((tmp_path / "pid").read_text()))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_plans_time_holds_for_all_parts(gpu, running, tmp_path):
    parts = [
        part_of(running, "one", 600, "import time; time.sleep(600)"),
        part_of(running, "two", 600, "pass"),
    ]
    found = gpu.run_parts(parts, tmp_path, gpu.LEAST + 0.5, {})
    assert [part["status"] for part in found] == ["timed out", "no time left"]


def test_commands_together_all_count_and_the_longest_is_what_they_take(gpu, running, tmp_path):
    programs = [f"print('== it: ok, 1.0 s, expected {n}.0'); raise SystemExit({n})" for n in (0, 9)]
    part = part_of(running, "both", 60, *programs, together=True)
    (found,) = gpu.run_parts([part], tmp_path, 60, {})
    assert (found["status"], found["expected"]) == ("failed", 9.0)
    assert found["codes"] == {"both0": [0], "both1": [9]}


TASKS = """
import ctypes, os, sys, time
sys.path.insert(0, sys.argv[1])
import tasks
def crash(): ctypes.string_at(0)
def hang(): time.sleep(600)
def wrong(): assert 'this' == 'that'
def fine(): print('fine')
plan = [('crash', crash, 1), ('wrong', wrong, 1), ('hang', hang, 0), ('fine', fine, 1)]
raise SystemExit(tasks.run_tasks([tasks.Task(*task) for task in plan]))
"""


def test_no_task_stops_another(running, script, tmp_path, monkeypatch):
    """One crashes, one fails, one hangs, one is well: three processes, and each task has its turn once."""
    monkeypatch.setenv("GFNET_PATIENCE", "0.1")  # two seconds for the one that hangs
    log = running.Log(tmp_path / "log.txt")
    command = running.Command("it", [*python(TASKS), str(BENCH)])
    run = running.persist(command, time.monotonic() + 300, log, tmp_path / "begun")
    assert run.codes == [-11, 1, 0]
    assert not run.good
    assert {name: word for name, (word, _, _) in run.tasks.items()} == {"wrong": "failed", "fine": "ok"}
    text = (tmp_path / "log.txt").read_text()
    assert "AssertionError" in text
    assert "in hang" in text
    assert (tmp_path / "begun").read_text().split() == ["crash", "wrong", "hang", "fine", "END"]


TESTS = """
import ctypes, time, pytest
def test_well(record_property): record_property('agreement', '0.9')
def test_wrong(): assert 1 == 2
def test_crash(): ctypes.string_at(0)
def test_hang(): time.sleep(600)
def test_skipped(): pytest.skip('not here')
@pytest.fixture
def broken(): raise ValueError('no such thing')
def test_error(broken): pass
"""


def test_no_test_stops_another_and_the_report_says_what_was_running(gpu, running, script, tmp_path):
    (tmp_path / "test_gpu.py").write_text(TESTS)
    junit = tmp_path / "it.xml"
    words = [sys.executable, "-m", "pytest", "-p", "watched", "-p", "no:cacheprovider", "-c", os.devnull]
    environment = {"GFNET_JUNIT": str(junit), "GFNET_PATIENCE": "0.05"}
    command = running.Command("it", [*words, str(tmp_path / "test_gpu.py")], 0, environment)
    log = running.Log(tmp_path / "log.txt")
    run = running.persist(command, time.monotonic() + 300, log, tmp_path / "begun")
    assert run.codes == [-11, 1, 1]
    cases = {case.get("name"): case for case in ElementTree.parse(junit).iter("testcase")}
    kinds = {name: [child.tag for child in case] for name, case in cases.items()}
    assert kinds == {
        "test_well": ["properties"], "test_wrong": ["failure"], "test_crash": ["error"],
        "test_hang": ["error"], "test_skipped": ["skipped"], "test_error": ["error"],
    }  # fmt: skip
    suite = ElementTree.parse(junit).getroot()
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["6", "1", "3", "1"]
    problems = "\n".join(gpu.problems(junit))
    assert problems.count("was running when the process ended") == 2
    assert "test_wrong: " in problems
    assert "no such thing" in problems
    assert "test_well" not in problems
    text = (tmp_path / "log.txt").read_text()
    assert "in test_hang" in text  # its stack
    assert f"torch {script('rows').versions()['torch']}" in text


def test_the_sanitizer_is_found_in_cudas_own_folder(plans, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(plans, "CUDA", tmp_path)
    assert plans.sanitizer() == "compute-sanitizer"
    tool = tmp_path / "cuda-13.0" / "bin" / "compute-sanitizer"
    tool.parent.mkdir(parents=True)
    tool.write_text("")
    assert plans.sanitizer() == "compute-sanitizer"  # a file that nobody may run
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    assert plans.sanitizer() == str(tool)
    other = tmp_path / "elsewhere" / "compute-sanitizer" / "compute-sanitizer"
    other.parent.mkdir(parents=True)
    other.touch(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "elsewhere"))
    assert plans.sanitizer() == str(other)


def main(gpu, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, arguments)])
    for name, value in (("GFNET_PATIENCE", "1"), ("GFNET_COMMIT", "abc1234")):
        monkeypatch.setenv(name, value)  # put back in the end
    return gpu.main()


def test_without_a_gpu_it_fails_at_once(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "versions", lambda: {"gpu": ""})
    assert main(gpu, monkeypatch, "first", "--out", tmp_path / "out") == 1
    assert "expected a CUDA GPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--only", "everything"], "--only: expected some of build"),
        ([], "got neither"),
        (["first", "--only", "build"], "got both"),
    ],
)
def test_mistakes_of_usage(gpu, monkeypatch, tmp_path, capsys, given, said):
    with pytest.raises(SystemExit, match="2"):
        main(gpu, monkeypatch, *given, "--out", tmp_path)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1)])
def test_exit_status_choice_of_parts_and_versions(gpu, running, monkeypatch, tmp_path, capsys, code, status):
    parts = {
        "a": part_of(
            running,
            "a",
            60,
            f"import os; print(os.environ['GFNET_COMMIT']); raise SystemExit({code})",
        ),
        "b": part_of(running, "b", 60, "raise SystemExit(1)"),
        "c": part_of(running, "c", 60, "pass"),
    }
    monkeypatch.setattr(gpu, "parts_of", lambda out, dry: parts)
    monkeypatch.setattr(gpu, "PLANS", {"first": ("a", "b")})
    monkeypatch.setattr(gpu, "versions", lambda: {"gpu": "one", "driver": "580.1", "numpy": "2.5"})
    monkeypatch.setattr(gpu, "commit", lambda: "def5678")
    assert main(gpu, monkeypatch, "--out", tmp_path, "--only", "a", "c") == status
    said = capsys.readouterr().out
    assert said.startswith("gpu one, driver 580.1, numpy 2.5")
    assert ("all ok" in said) == (status == 0)
    assert json.loads((tmp_path / "summary.json").read_text())["driver"] == "580.1"
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith("gpu| gpu one, driver 580.1, numpy 2.5")
    assert "a0| def5678" in log
    assert main(gpu, monkeypatch, "first", "--out", tmp_path) == 1  # b fails, and c is not of the plan
    assert "\nc " not in capsys.readouterr().out


def test_every_kernel_has_a_tiny_case_and_a_wrong_one_is_seen(script, monkeypatch, capsys):
    sanitized = script("sanitized")
    ops = {name.removesuffix("_reference") for name in gk.__all__ if name.endswith("_reference")}
    assert set(sanitized.CASES) == ops
    monkeypatch.setattr(sys, "argv", ["sanitized.py", "--device", "cpu"])
    assert sanitized.main() == 0
    assert capsys.readouterr().out.count(": ok") == len(ops)

    def wrong(arenas, slots):
        return [torch.zeros(len(slots), arena.shape[1]) for arena in arenas]

    monkeypatch.setattr(gk, "gather_all", wrong)
    assert sanitized.main() == 1
    said = capsys.readouterr().out
    assert said.count(": ok") == len(ops) - 1
    assert "AssertionError" in said
    assert "failed: gather" in said


def test_stages_of_the_model_that_comes_along_and_a_wrong_one_is_seen(script, monkeypatch):
    captures = script("captures")
    given = captures.partial(captures.digits, torch.device("cpu"))
    for stage in (captures.Stage.GLANCE, captures.Stage.FOCUS):
        captures.stage(given, stage)
    captures.whole(given)

    monkeypatch.setattr(Launches, "start", lambda *launch: None)  # a graph whose replay does nothing
    with pytest.raises(AssertionError, match="failure occurred for item"):
        captures.stage(given, captures.Stage.FOCUS)


def test_what_is_timed_runs_with_tiny_sizes(script, tmp_path, monkeypatch):
    """All tasks of a small model: rows for each, and the control's add up."""
    monkeypatch.setenv("GFNET_COMMIT", "abc1234")
    monkeypatch.setenv("GFNET_PATIENCE", "8")  # a task that takes too long ends the process
    monkeypatch.setattr(script("fixtures"), "KEPT", tmp_path / "kept")
    proof, measuring = script("proof"), script("measuring")
    own = measuring.parser("")
    given = ["--out", str(tmp_path), "--device", "cpu", "--tiny", "--configs", "mobilenetv3_large_100_96_T3"]
    options = own.parse_args(["control", "ladder", *given])
    assert measuring.run_parts(options, own, proof.PARTS) == 0
    rows = {(row["part"], row["way"]): row for row in csv.DictReader((tmp_path / "record.csv").open())}
    assert {row["commit"] for row in rows.values()} == {"abc1234"}
    medians = {way: float(row["p50"]) for (part, way), row in rows.items() if part == "control"}
    passes = float(rows["control", "not the networks', of the device's time"]["passes"])
    networks = medians["networks of a glance"] + (passes - 1) * medians["networks of a focus"]
    device = medians["all of a glance"] + (passes - 1) * medians["all of a focus"]
    share = medians["not the networks', of the device's time"]
    assert share == pytest.approx(100 * (1 - networks / device), abs=0.01)
    agreed = [float(row["agreement"]) for row in rows.values() if row["agreement"]]
    assert len(agreed) >= 5
    assert min(agreed) >= 7 / 8


def test_images_are_the_same_to_the_bit_and_steps_are_kept(script, tmp_path, monkeypatch):
    fixtures = script("fixtures")
    images = fixtures.images_of((224, 224), 3, torch.device("cpu"))
    assert images.shape == (3, 224, 224, 3)
    assert images.sum(dtype=torch.int64).item() == 56_298_907
    assert images[1, 100:102, 57].tolist() == [[127, 109, 128], [129, 112, 129]]
    monkeypatch.setattr(fixtures, "KEPT", tmp_path)
    name = fixtures.CONFIGS[1]
    fixtures.steps_of.cache_clear()
    steps = fixtures.steps_of(name, 2)
    assert len(list(tmp_path.iterdir())) == 1
    fixtures.steps_of.cache_clear()
    monkeypatch.setattr(fixtures, "keep_steps", None)  # the file is enough
    again = fixtures.steps_of(name, 2)
    assert all(torch.equal(one, other) for one, other in zip(steps, again, strict=True))
    model = fixtures.model_of(name, torch.device("cpu"))
    two = fixtures.images_of((224, 224), 2, torch.device("cpu"))
    expected = model.trace(model.normalise(two)).logits.softmax(-1).max(-1)
    torch.testing.assert_close(steps.confidence, expected.values)
    assert torch.equal(steps.label, expected.indices)


def test_the_fixtures_weights_are_the_checkpoints(script, tmp_path):
    from gfnet_fast.checkpoints import load
    from tests.conftest import conformance_fixture

    name = "mobilenetv3_large_100_96_T3"
    expected = load(conformance_fixture(name, tmp_path).path).state_dict()
    found = script("fixtures").model_of(name, torch.device("cpu")).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], v) for k, v in expected.items() if "num_batches" not in k)


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


def test_rows_do_without_git_and_nvidia_smi(script, monkeypatch, tmp_path):
    rows = script("rows")
    monkeypatch.delenv("GFNET_COMMIT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (rows.commit(), rows.driver(), rows.versions()["gpu"]) == ("", "", "")
    hanging = tmp_path / "nvidia-smi"
    hanging.write_text("#!/bin/sh\nexit 9\n")
    hanging.chmod(0o755)
    assert rows.driver() == ""


def test_versions_import_nothing_heavy():
    code = "import rows, sys; print(rows.versions()['torch']); raise SystemExit('torch' in sys.modules)"
    done = subprocess.run(python(code), cwd=BENCH, capture_output=True, text=True)
    assert done.returncode == 0
    assert torch.__version__.startswith(done.stdout.strip())
    assert done.stdout.strip()


def test_a_gpu_that_is_lost_ends_the_process_and_one_that_is_not_does_not(script, monkeypatch, capsys):
    tasks, ran = script("tasks"), []

    def wrong():
        raise RuntimeError("an illegal memory access was encountered")

    plan = [tasks.Task("wrong", wrong, 1), tasks.Task("next", lambda: ran.append(1), 1)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", wrong)
    assert tasks.run_tasks(plan) == 1
    assert not ran
    assert "the GPU is lost" in capsys.readouterr().out
    monkeypatch.setattr(tasks, "lost", lambda: False)
    assert tasks.run_tasks(plan) == 1
    assert ran


def test_shares_and_agreement(script):
    """Eight images in two steps, one class more sure than the other by a known margin."""
    measuring, fixtures = script("measuring"), script("fixtures")
    margin = torch.arange(8.0) + 1
    found = fixtures.Steps(torch.sigmoid(margin).repeat(2, 1), torch.zeros(2, 8, dtype=torch.long))
    row = measuring.shared_thresholds(found, 1.0)  # half of them at each step
    step = torch.where(margin > 4, 1, 2)
    assert measuring.agreement(found, row, torch.zeros(8), step) == (1.0, 1.5)
    wrong = torch.zeros(8)
    wrong[0] = 1
    assert measuring.agreement(found, row, wrong, step)[0] == 7 / 8
    assert measuring.agreement(found, row, torch.zeros(8), torch.ones(8))[0] == 0.5


def test_the_tree_comes_before_what_is_installed(running, monkeypatch, tmp_path):
    """Also its tests, beside a package of that name that is installed."""
    other = tmp_path / "tests"
    other.mkdir()
    (other / "__init__.py").write_text("raise ImportError('the wrong tests')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    environment = running.environment_of(running.Command("it", []), tmp_path / "begun")
    root = str(running.ROOT)
    assert environment["PYTHONPATH"].split(os.pathsep) == [
        root,
        f"{root}/kernels",
        f"{root}/bench",
        str(tmp_path),
    ]
    code = "import tests; print(tests.__file__)"
    done = subprocess.run(python(code), cwd=tmp_path.parent, env=environment, capture_output=True, text=True)
    assert done.stdout.strip().startswith(root), done.stderr
