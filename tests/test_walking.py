"""Folders and globs: which paths, in which order."""

from __future__ import annotations

import glob
import inspect
import os
import sys
from pathlib import Path

import pytest

from gfnet_fast.errors import InputError
from gfnet_fast.pictures import FORMATS, SUFFIXES
from gfnet_fast.walking import find


def made(root: Path, names: str) -> Path:
    for name in names.split():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def below(root: Path, pattern: str = "") -> list[str]:
    return [Path(found).relative_to(root).as_posix() for found in find(str(root / pattern))]


def test_a_folder_s_images_are_those_of_rglob_in_the_order_of_their_paths(tmp_path):
    made(tmp_path, "b.png a.PNG a/z.jpg a/b/c.webp a-b/x.png a.b/y.tiff notes.txt a/deep.pfm x.png.0a1b.part")
    expected = sorted(p for p in tmp_path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    assert list(find(str(tmp_path))) == expected
    assert below(tmp_path) == ["a/b/c.webp", "a/z.jpg", "a-b/x.png", "a.PNG", "a.b/y.tiff", "b.png"]


def test_hidden_names_are_left_out_unless_they_are_named(tmp_path):
    made(tmp_path, "a.png .a.png .thumbs/b.png __MACOSX/c.png d/__MACOSX/e.png d/.f.png d/g.png")
    assert below(tmp_path) == ["a.png", "d/g.png"]
    assert below(tmp_path, "**") == below(tmp_path, "**/*.png") == ["a.png", "d/g.png"]
    assert below(tmp_path, ".*") == [".a.png"]
    assert below(tmp_path, "d/.*g") == ["d/.f.png"]
    assert below(tmp_path, ".thumbs") == [".thumbs/b.png"]
    assert below(tmp_path, ".thumbs/*") == [".thumbs/b.png"]
    assert below(tmp_path, "__MACOSX/*.png") == ["__MACOSX/c.png"]


def test_links_are_followed_and_loops_are_not(tmp_path):
    made(tmp_path, "in/a.png in/deeper/b.png out/c.png out/d/e.png")
    inside = tmp_path / "in"
    (inside / "to").symlink_to("../out")
    (inside / "again").symlink_to("../out/d")
    (inside / "loop").symlink_to(".")
    (inside / "deeper" / "up").symlink_to("..")
    (inside / "file.png").symlink_to("../out/c.png")
    (inside / "gone.png").symlink_to("nowhere")
    (inside / "self.png").symlink_to("self.png")
    (tmp_path / "out" / "back").symlink_to("../in")
    expected = ["a.png", "again/e.png", "deeper/b.png", "file.png", "to/c.png"]  # to/d is again
    for pattern in ("", "**", "**/*.png", "**/**/*"):
        assert below(inside, pattern) == expected
    assert below(inside, "*/*.png") == [
        "again/e.png", "deeper/b.png", "loop/a.png", "loop/file.png", "to/c.png"
    ]  # fmt: skip


def test_folders_that_all_link_to_each_other_are_entered_once(tmp_path):
    names = [f"f{number:02d}" for number in range(30)]
    made(tmp_path, " ".join(f"{name}/{name}.png" for name in names))
    for name in names:
        for other in names:
            (tmp_path / name / f"to-{other}").symlink_to(f"../{other}")
    assert sorted(path.rpartition("/")[2] for path in below(tmp_path)) == [f"{name}.png" for name in names]


def test_globs_are_the_standard_library_s_where_nothing_is_hidden_or_linked(tmp_path):
    made(tmp_path, "a.png b.jpg x/a.png x/c.png x/y/a.png x/y/x/a.png [z]/q.png d.png/e.png")
    for pattern in ("*.png", "*", "**", "**/*", "**/a.png", "x/**/a.png", "**/x/**/*.png", "?.jpg", "[ab].*"):
        pattern = str(tmp_path / pattern)
        found = {Path(p) for p in glob.glob(pattern, recursive=True)}
        expected = sorted(p for p in found if p.suffix in SUFFIXES and p.is_file())
        assert list(find(pattern)) == expected
    assert below(tmp_path, "[z]") == ["[z]/q.png"]


def test_what_is_no_regular_file_is_left_out(tmp_path):
    made(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    assert below(tmp_path) == below(tmp_path, "*") == ["a.png"]
    for pattern in (f"{tmp_path}/*\0*.png", f"{tmp_path}/{'x' * 300}/*.png", f"{tmp_path}/a.png/*"):
        assert list(find(pattern)) == []


@pytest.mark.parametrize("pattern", ["", "**", "**/*.png", "*/*.png"])
def test_a_folder_that_cannot_be_read_is_an_error_in_its_place(tmp_path, monkeypatch, pattern):
    made(tmp_path, "a/x.png b/x.png c/x.png")
    scandir = os.scandir

    def refusing(path):
        if os.path.basename(path) == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    first, error, last = find(str(tmp_path / pattern))
    assert (first, last) == (tmp_path / "a" / "x.png", tmp_path / "c" / "x.png")
    assert isinstance(error, InputError)
    assert str(error).startswith(f"{tmp_path}/b: expected a folder that can be read")


def test_deep_folders(tmp_path):
    """Deeper than Python's calls may nest."""
    made(tmp_path, "d/" * 200 + "x.png")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 120)
    try:
        (found,) = find(str(tmp_path))
    finally:
        sys.setrecursionlimit(before)
    assert found == tmp_path / ("d/" * 200) / "x.png"


def test_formats_and_suffixes():
    assert {"JPEG", "PNG", "BMP", "GIF", "TIFF", "PPM"} <= set(FORMATS)
    assert {"TGA", "PCX", "DIB"} <= set(FORMATS)
    assert not {"EPS", "PDF", "HDF5", "PSD", "WMF", "MPEG", "ICO", "ICNS"} & set(FORMATS)
    known = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
    assert known <= SUFFIXES
    assert not {".eps", ".pdf", ".pfm", ".ps", ".h5", ".tga"} & SUFFIXES
