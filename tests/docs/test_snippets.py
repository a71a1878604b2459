"""Every snippet of the README and of docs/ runs as it stands, in a folder with what its page names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from pages import ROOT, Block, blocks, pages
from shell import execute
from stand_ins import make

from gfnet_fast import predictor

MARKED = 26  # blocks that do not run, or not all of whose commands do; each further one is a decision


@pytest.fixture(scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def around(tmp_path_factory, _one_thread) -> Path:
    folder = tmp_path_factory.mktemp("around")
    make(folder)
    return folder


@pytest.fixture
def _quick(monkeypatch):
    """Small batches, which engines are prepared for: no snippet has many images."""
    monkeypatch.setitem(predictor.BATCH, "cpu", 4)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("page", pages(), ids=_name)
def test_a_page_runs(page, around, tmp_path, monkeypatch, capsys):
    # Links, since whatever is written is new or takes a file's place.
    here = shutil.copytree(around, tmp_path / "here", copy_function=os.link)
    monkeypatch.chdir(here)
    names = {"__name__": "__main__"}
    for block in blocks(page):
        if block.runs and block.language == "python":
            _python(page, block, names)
        elif block.runs:
            _shell(block, capsys)


def _python(page: Path, block: Block, names: dict) -> None:
    """With the page's own line numbers."""
    exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names)


def _shell(block: Block, capsys) -> None:
    *others, last = block.run_commands
    for command in others:
        assert execute(command, capsys) == 0, command
    assert execute(last, capsys) == block.status, last


def test_what_is_not_run_is_marked_and_rare():
    marked = [f"{_name(page)}:{b.line}: {b.skipped}" for page in pages() for b in blocks(page) if b.skipped]
    assert len(marked) == MARKED, "\n".join(marked)
