"""The package as it is published: one version everywhere, a citation, types that are found."""

import re
import sys
from pathlib import Path

import gfnet_kernels
import yaml

import gfnet_fast

ROOT = Path(__file__).parent.parent


def test_changelog_and_citation_name_the_version():
    (newest, when), *_ = re.findall(
        r"^## \[(.+?)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert newest == gfnet_fast.__version__
    assert when == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", when)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == gfnet_fast.__version__
    assert ("date-released" in citation) == (when != "unreleased")


def test_the_citation_is_of_this_software_and_the_two_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    project = (ROOT / "pyproject.toml").read_text()
    assert f'license = "{citation["license"]}"' in project
    assert [author["name"] for author in citation["authors"]] == re.findall(
        r'authors = .*name = "(.+)" }', project
    )
    papers = {paper["url"]: (paper["year"], len(paper["authors"])) for paper in citation["references"]}
    assert papers == {
        "https://arxiv.org/abs/2010.05300": (2020, 6),
        "https://arxiv.org/abs/2201.03014": (2023, 7),
    }
    assert all(f'"{url}"' in project for url in papers)


def test_both_packages_are_typed_and_found_by_paths():
    """An editable install is two paths; an import hook would hide types from checkers."""
    homes = [Path(package.__file__).parent for package in (gfnet_fast, gfnet_kernels)]
    assert all((home / "py.typed").is_file() for home in homes)
    assert {str(home.parent) for home in homes} <= {str(Path(path).resolve()) for path in sys.path}
