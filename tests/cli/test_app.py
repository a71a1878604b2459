"""The command line as a whole: completion, examples, and what is said where no command is named."""

import os
import shlex
import subprocess
import sys

import pytest
import typer
from cli_runner import run

from gfnet_fast import __version__
from gfnet_fast.cli.app import app, complete_model
from gfnet_fast.cli.app import run as load_commands
from gfnet_fast.cli.console import count_images, progress
from gfnet_fast.cli.examples import EXAMPLES
from gfnet_fast.hub import known_names


def completed(capsys, monkeypatch, shell, words):
    """What a shell is offered for the last of the words."""
    places = {
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": " ".join(words),
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_GFNET_FAST_COMPLETE": f"complete_{shell}",
    }
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    done = run(capsys)
    assert (done.status, done.err) == (0, "")
    return done.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_options_values_and_models(capsys, monkeypatch, tmp_path, shell):
    monkeypatch.chdir(tmp_path)
    for words, found, absent in (
        (["gfnet-fast", "pre"], ["predict"], "calibrate"),
        (["gfnet-fast", "predict", "--la"], ["--latency-ms"], "--macs"),
        (["gfnet-fast", "convert", "a", "b", "--to", "re"], ["released"], "native"),
        (["gfnet-fast", "predict", "a.png", "--model", "d"], ["digits"], "waste"),
        *(
            (["gfnet-fast", name, "d"], ["digits"], "waste")
            for name in ("info", "eval", "calibrate", "bench")
        ),
    ):
        offered = completed(capsys, monkeypatch, shell, words)
        assert all(word in offered for word in found), words
        assert absent not in offered, words


def test_paths_are_offered_beside_names_and_otherwise_left_to_the_shell(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "[x]", "run"):
        (tmp_path / name).mkdir()
    assert complete_model("di") == ["digits"]
    assert complete_model("d") == ["digits", "densenet121-96", "densenet169-96", "densenet201-96", "data"]
    assert complete_model("") == [*known_names(), "[x]", "data", "run"]
    assert complete_model("[") == complete_model("./d") == []


def test_the_module_is_the_command_and_completes_without_torch(tmp_path):
    code = (
        "import runpy, sys\n"
        "try:\n    runpy.run_module('gfnet_fast', run_name='__main__')\n"
        "except SystemExit as left:\n    sys.exit(left.code or 3 * ('torch' in sys.modules))"
    )
    words = {"COMP_WORDS": "gfnet-fast info di", "COMP_CWORD": "2", "_GFNET_FAST_COMPLETE": "complete_bash"}
    for environment, out in (({}, f"gfnet-fast {__version__}\n"), (words, "digits\n")):
        command = [sys.executable, "-c", code, "--version"]
        options = {"env": {**os.environ, **environment}, "cwd": tmp_path}
        done = subprocess.run(command, capture_output=True, text=True, **options)
        assert (done.returncode, done.stdout, done.stderr) == (0, out, "")


def test_every_command_has_examples_that_it_takes(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gfnet-fast", "--version"])
    load_commands()
    group = typer.main.get_command(app)
    assert list(group.commands) == [name for name in EXAMPLES if name in group.commands]
    for name, command in group.commands.items():
        for line in EXAMPLES[name]:
            program, first, *rest = shlex.split(line)
            assert (program, first) == ("gfnet-fast", name)
            command.make_context(name, rest)
            assert len(line) <= 78, line


def test_help_shows_examples_whole_at_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("predict", "train", "eval"):
        lines = [line.strip() for line in run(capsys, name, "--help").out.splitlines()]
        assert "Examples:" in lines
        assert set(EXAMPLES[name]) <= set(lines)


def test_without_a_command_help_goes_to_stderr(capsys):
    done = run(capsys)
    assert (done.status, done.out) == (2, "")
    assert done.err.index("predict") < done.err.index("calibrate") < done.err.index("demo")
    done = run(capsys, "predcit")
    assert (done.status, done.out) == (2, "")
    assert "Did you mean 'predict'?" in done.err
    assert run(capsys, "--version") == (0, f"gfnet-fast {__version__}\n", "")


def test_images_are_counted_as_they_will_be_found(tmp_path):
    for name in ("a.png", "b.jpg", "c.txt", ".d.png"):
        (tmp_path / name).touch()
    assert count_images([str(tmp_path), str(tmp_path / "c.txt"), "no-such.png"]) == 2 + 1 + 1
    assert count_images([]) == 0
    assert count_images(["no-such.png", str(tmp_path / "*.png")]) is None
    assert count_images([str(tmp_path)], seconds=-1) is None


def test_a_bar_counts_towards_its_total(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for total, shown in ((lambda: 7, "3/7"), (7, "3/7"), (lambda: None, "3 images")):
        with progress("counting", total, False) as done:
            done(3)
        assert shown in capsys.readouterr().err
    with progress("", lambda: pytest.fail("nobody looks"), True) as done:
        done(3)
