"""Files: only regular ones are read, within limits; what is written appears whole or not at all."""

import os
import stat
import threading

import pytest

from gfnet_fast.cli.output import opened
from gfnet_fast.files import parse_json, read_bytes, read_json, read_text, replacing, write_json, write_text
from gfnet_fast.tables import merge_rows
from gfnet_fast.training.state import save_checkpoint, write_torch
from tests.conftest import tiny_model


def test_only_regular_files_are_read_and_nobody_waits(tmp_path):
    pipe, folder, whole = tmp_path / "pipe", tmp_path / "folder", tmp_path / "whole"
    os.mkfifo(pipe)
    folder.mkdir()
    whole.write_bytes(b"12345")
    for path, got in ((pipe, "a pipe"), (folder, "a folder"), ("/dev/zero", "a device")):
        with pytest.raises(OSError, match=f"expected a regular file, got {got}"):
            read_bytes(path, 10)
    with pytest.raises(OSError, match="cannot be"):
        read_bytes("a\0b", 10)
    assert read_bytes(whole, 5) == b"12345"
    with pytest.raises(OSError, match="expected at most 4 bytes, got 5"):
        read_bytes(whole, 4)


def test_text_is_utf8_whatever_the_locale(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes('\ufeff{"café": 1}'.encode())
    assert read_text(path) == '{"café": 1}'
    assert read_json(path) == {"café": 1}
    path.write_bytes("{}".encode("utf-16"))
    with pytest.raises(ValueError, match="utf-8"):
        read_json(path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("NaN", "NaN is not a number"),
        ("[-Infinity]", "Infinity is not"),
        ("{", "Expecting"),
        ("[" * 100_000, "nested too"),
    ],
    ids=["nan", "infinity", "cut off", "deep"],
)
def test_what_is_no_json_is_one_error(text, what):
    with pytest.raises(ValueError, match=what):
        parse_json(text)


def interrupted(path, content, **options):
    with replacing(path, **options) as file:
        file.write(content)
        raise KeyError(file.name)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(KeyError):
        interrupted(path, b"half")
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]
    with replacing(path) as file:
        file.write(b"after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_was_written_before_an_error_can_be_kept(tmp_path):
    path = tmp_path / "results"
    with pytest.raises(KeyError) as raised:
        interrupted(path, b"so far", keep=True)
    (draft,) = tmp_path.iterdir()
    assert raised.value.args == (str(draft),)
    assert draft.name.endswith(".part")
    assert draft.read_bytes() == b"so far"


@pytest.mark.parametrize("mask", [0o022, 0o027], ids=oct)
def test_permissions_are_the_umask_s_or_those_of_the_file_before(tmp_path, mask):
    """Of whatever is written: models, official files and checkpoints of runs, rows and reports."""
    before = os.umask(mask)
    try:
        tiny_model().save_pretrained(tmp_path / "model")
        write_torch(tmp_path / "official.pth.tar", {})
        save_checkpoint(tmp_path, {})
        merge_rows(tmp_path / "rows.csv", ("a",), ("a",), [{"a": "1"}])
        with opened(tmp_path / "report.html") as out:
            out.write("x")
    finally:
        os.umask(before)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert set(found.values()) == {0o666 & ~mask}, found
    assert len(found) == 6
    (tmp_path / "rows.csv").chmod(0o600)
    write_text(tmp_path / "rows.csv", "y")
    assert stat.S_IMODE((tmp_path / "rows.csv").stat().st_mode) == 0o600


def test_a_link_is_replaced_and_never_written_through(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("precious")
    link.symlink_to(victim)
    write_json(link, {"a": 1})
    assert victim.read_text() == "precious"
    assert read_json(link) == {"a": 1}
    assert not link.is_symlink()


def test_many_writers_do_not_meet_and_long_names_fit(tmp_path):
    path, failed = tmp_path / ("n" * 250), []

    def write(number):
        for _ in range(50):
            try:
                write_text(path, str(number) * 1000)
            except OSError as error:
                failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert path.read_text() in {str(number) * 1000 for number in range(4)}
    assert os.listdir(tmp_path) == [path.name]
