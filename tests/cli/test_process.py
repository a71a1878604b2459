"""How the process of a command can be started, stopped and looked at."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import warnings

import pytest
from cli_runner import run
from PIL import Image
from rich.cells import cell_len

from gfnet_fast.cli import process
from gfnet_fast.cli.process import main
from gfnet_fast.predictor import Predictor
from gfnet_fast.text import plain
from tests.conftest import random_images, tiny_model

HERE = [sys.executable, "-c", "from gfnet_fast.cli import main; main()"]
BIDI = "\u202e\u2066"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny = tiny_model("cascaded")
    tiny.labels = ("x\x1b[31m\ny", "猫" * 20, "[red]", ":cat:", BIDI, "a" * 30, "ë")
    tiny.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Names as strangers give them; the last is not UTF-8."""
    folder = tmp_path_factory.mktemp("photos")
    names = [
        "b\x1b[2J\x1b]0;owned\x07",
        "c\n  5  0.999  1 of 4  forged.jpg",
        BIDI,
        "[red]x",
        "猫",
        os.fsdecode(b"\xff"),
    ]
    for name, image in zip(names, random_images(len(names), 80, seed=3), strict=True):
        Image.fromarray(image.numpy()).save(folder / f"{name}.png")
    return folder


def shell(line, **options):
    done = subprocess.run(["bash", "-c", line, "bash", *HERE], capture_output=True, timeout=120, **options)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ë 猫 \u3000 \u202f", "plain ë 猫 \u3000 \u202f"),
        ("a\nb\tc\x1b[2J", r"a\nb\tc\x1b[2J"),
        (BIDI, r"\u202e\u2066"),
        ("\ud800\udcff\u2028\x85\x7f", r"\ud800\udcff\u2028\x85\x7f"),
        ("\u0646\u200c\u0627 👩\u200d🔬", "\u0646\u200c\u0627 👩\u200d🔬"),
    ],
    ids=ascii,
)
def test_what_does_not_print_is_shown_escaped(text, shown):
    assert plain(text) == shown


def test_what_an_encoding_lacks_is_shown_escaped():
    assert plain("ë猫", "latin-1") == r"ë\u732b"
    assert plain("ë猫", "ascii") == r"\xeb\u732b"


def test_a_result_is_one_aligned_line_whatever_the_names(capsys, model, photos, tmp_path):
    done = run(capsys, "predict", photos, "-m", model, "-o", tmp_path / "table.txt")
    assert (done.status, done.err.count("\n")) == (0, 1), "the totals"
    text = (tmp_path / "table.txt").read_text("utf-8")
    head, *lines = text.splitlines()
    assert text.count("\n") == len(lines) + 1 == 7
    assert {cell_len(line.split("/4")[0]) for line in lines} == {cell_len(head[: head.index("step")]) + 2}
    for name in (r"b\x1b[2J\x1b]0;owned\x07", r"c\n  5  0.999", r"\u202e\u2066", "[red]x", "猫", r"\udcff"):
        assert sum(name in line.partition("/4")[2] for line in lines) == 1, name
    assert run(capsys, "predict", photos, "-m", model).out == text
    lines = run(capsys, "predict", photos, "-m", model, "-f", "jsonl").out
    assert lines.isascii()
    assert {json.loads(line)["source"] for line in lines.splitlines()} == {str(p) for p in photos.iterdir()}


def test_labels_are_cut_and_aligned_by_width(model):
    from gfnet_fast.cli.writers import Asked, Table
    from gfnet_fast.results import Result

    for encoding, label, shown in (
        ("utf-8", "猫" * 20, "猫" * 12),
        ("utf-8", "猫", " " * 22 + "猫"),
        ("utf-8", "x\x1b[31m\ny", r"           x\x1b[31m\ny".rjust(24)),
        ("latin-1", "猫", r"\u732b".rjust(24)),
        ("utf-8", "a" * 30, "a" * 24),
    ):
        out = io.TextIOWrapper(io.BytesIO(), encoding, write_through=True)
        Table(out, Asked(), 4).write(Result("s", 0, label, 0.5, 1, macs=1))
        line = out.buffer.getvalue().decode(encoding).splitlines()[1]
        assert line == f"{shown}       0.500    1/4       0.0  s"


def test_errors_about_strange_names_are_one_line(capsys, model, photos, tmp_path):
    strange = tmp_path / "[red]\x1b[2J\n\ud800x.png"
    done = run(capsys, "predict", tmp_path / "[red]\x1b[2J\nx.png", "-m", model)
    assert done.status == 3
    assert r"[red]\x1b[2J\nx.png: expected" in done.err
    assert done.err.count("\n") == 2
    for args in (
        ["info", strange],
        ["predict", "x", "-m", strange],
        ["report", strange],
        ["info", "--\x1b[2J"],
    ):
        done = run(capsys, *args)
        assert (done.status != 0, done.err.count("\n"), "\x1b" in done.err) == (True, 1, False), done.err


def test_names_of_models_are_not_markup(capsys, tmp_path):
    name = "x[/y] [red]:cat:"
    tiny_model("cascaded", name=name).save_pretrained(tmp_path / "model")
    done = run(capsys, "info", tmp_path / "model")
    assert (done.status, name in done.out) == (0, True), done


def test_quiet_is_quiet(capsys, model, photos, monkeypatch):
    stream = Predictor.stream

    def loud(self, source, **options):
        warnings.warn("one\x1b[2J\nline", RuntimeWarning, stacklevel=1)
        logging.getLogger("somebody").warning("else")
        yield from stream(self, source, **options)

    monkeypatch.setattr(Predictor, "stream", loud)
    done = run(capsys, "predict", photos, "-m", model)
    assert r"warning: one\x1b[2J\nline" in done.err.splitlines()
    done = run(capsys, "predict", photos, "missing.png", "-m", model, "-q", "--audit", 0.5)
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["error", "1 of 7 inputs failed"]
    assert not logging.root.manager.disable


def test_an_interrupt_is_one_line_at_any_time(capsys, monkeypatch):
    """While the commands are imported, in a command, and where somebody ends the process."""

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    def ended(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the process goes on")

    before = signal.getsignal(signal.SIGTERM)
    for place, happens in (
        ("app.run", interrupted),
        ("checkpoint.check_new", interrupted),
        ("checkpoint.check_new", ended),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"gfnet_fast.cli.{place}", happens)
            assert run(capsys, "convert", "digits", "x") == (130, "", "interrupted\n"), place
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("out_too", [True, False], ids=["one-terminal", "results-elsewhere"])
def test_a_progress_bar_leaves_results_alone(capsys, model, photos, monkeypatch, out_too):
    monkeypatch.setenv("TERM", "xterm")
    capsys.readouterr()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: out_too)
    monkeypatch.setattr(sys, "argv", ["gfnet-fast", "predict", str(photos), "-m", str(model), "-f", "jsonl"])
    with pytest.raises(SystemExit) as left:
        main()
    out, err = capsys.readouterr()
    assert (left.value.code, out.count("\n"), "images" in out) == (0, 6, False)
    assert ("100%" in err) is not out_too, "a bar, but not where lines are progress enough"


def test_missing_descriptors(tmp_path):
    """Quick starts: neither loads torch."""
    code, out, err = shell('"$@" --version >&-')
    assert (code, out, err) == (1, "", "error: stdout: expected to be open, got a closed descriptor\n")
    code, out, err = shell('"$@" --version >/dev/full')
    assert (code, err.endswith("No space left on device\n"), err.count("\n")) == (1, True, 1)
    assert shell('"$@" --version >&- 2>&-; echo $?') == (0, "1\n", "")
    assert shell('"$@" --version <&- 2>&- | wc -l') == (0, "1\n", "")
    assert shell('"$@" no-such-command 2>/dev/full; echo $?') == (0, "2\n", "")
    look = "import os; from gfnet_fast.cli import process; process._open_missing()"
    look += "; print(os.open('x', 65)); os.write(2, b'!')"
    code, out, err = shell(f'"$1" -c "{look}" <&- 2>&-', cwd=tmp_path)
    assert (code, out, (tmp_path / "x").read_bytes()) == (0, "3\n", b"")


def test_results_without_a_place_for_messages(model, photos, tmp_path):
    """Standard error closed: results are the same, and no message lands in a file that got its number."""
    line = '"$@" predict {0} missing.png -m {1} -f jsonl -o {2} <&- >&- 2>&-; echo $? > {3}'
    paths = (photos, model, tmp_path / "results.jsonl", tmp_path / "status")
    shell(line.format(*map(str, paths)))
    assert (tmp_path / "status").read_text() == "3\n"
    rows = [json.loads(row) for row in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 7
    assert ["error" in row for row in rows] == [False] * 6 + [True]


def test_the_exit_of_what_the_system_refuses(capsys, monkeypatch):
    for error, message in (
        (PermissionError(13, "Permission denied", "/some\nwhere"), r"error: /some\nwhere: Permission denied"),
        (UnicodeEncodeError("ascii", "ë", 0, 1, "ordinal not in range"), "error: text: expected one that"),
        (MemoryError(), "error: memory: expected enough for this, got too little (MemoryError)"),
        (RecursionError(), "error: input: expected less nesting, got more than can be followed"),
    ):

        def fails(error=error):
            raise error

        monkeypatch.setattr("gfnet_fast.cli.app.run", fails)
        done = run(capsys)
        assert (done.status, done.err.startswith(message), done.err.count("\n")) == (1, True, 1), done.err
    assert process.FAILED == 1
