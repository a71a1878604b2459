"""Links of the README and the pages, and mentions of pages in the sources, lead somewhere."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import gfnet_kernels
import pytest
from pages import ROOT, pages

import gfnet_fast
import gfnet_fast.exits

SOURCES = ("gfnet_fast", "kernels", "csrc", "tests", "bench", ".ci")
CODE = (".py", ".pyi", ".hpp", ".cpp", ".sh", ".txt")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found = set()
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        plain = unicodedata.normalize("NFKD", heading.replace("`", "")).encode("ascii", "ignore").decode()
        found.add(re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert target.is_relative_to(ROOT / "docs"), link
        if anchor and target.parent.name != "reference":  # its anchors are names, which mkdocs knows
            assert anchor in anchors(target), link


def test_mentions_of_pages_in_the_sources_are_of_pages_that_there_are():
    files = [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "CMakeLists.txt"]
    files += [p for folder in SOURCES for p in (ROOT / folder).rglob("*") if p.suffix in CODE]
    for file in files:
        for mention in re.findall(r"\bdocs/[\w/-]+\.(?:md|png)", file.read_text(encoding="utf-8")):
            assert (ROOT / mention).is_file(), f"{file}: {mention}"


def test_the_reference_has_every_public_name():
    folder = ROOT / "docs" / "reference"
    text = "".join(page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.md")))
    for package in (gfnet_fast, gfnet_fast.exits, gfnet_kernels):
        for name in set(package.__all__) - {"__version__"}:
            assert re.search(rf"\b{name}\b", text), f"{package.__name__}.{name}"


def test_every_page_has_its_place_in_the_site():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    for page in pages()[1:]:
        assert f" {page.relative_to(ROOT / 'docs').as_posix()}\n" in nav, page
