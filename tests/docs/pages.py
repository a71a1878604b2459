"""What a page of the documentation asks to be run.

A fence's language says how: ``python`` and ``sh`` run, what is in ``NOT_CODE`` is shown only. Comments in
the page's source, which no reader sees, say the rest:

    <!-- setup: WHAT      python, up to the comment's end, before what follows it
    <!-- not run: WHY -->           none of the fence that follows runs
    <!-- not run "TEXT": WHY -->    its commands with TEXT (a pattern) in them do not
    <!-- status 3: WHY -->          its last command ends so
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
RUN = ("python", "sh")
NOT_CODE = ("cmake", "cpp", "json", "text", "toml")
_BLOCK = re.compile(
    r"^<!-- setup:[^\n]*\n(?P<setup>.*?)^-->$"
    r"|(?P<marks>(?:^<!-- [^\n]* -->\n)*)^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_MARK = re.compile(r'<!-- (?:not run(?: "(?P<text>.+)")?: (?P<why>.+)|status (?P<status>\d+): .+) -->')


class Block(NamedTuple):
    """`line`: its first, from 1; `skipped`: why it, or its commands with `skip` in them, do not run."""

    language: str
    code: str
    line: int
    setup: bool = False
    skipped: str = ""
    skip: str = ""
    status: int = 0

    @property
    def runs(self) -> bool:
        return self.language in RUN and not (self.skipped and not self.skip)

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block; one that ends in a backslash goes on in the next."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]

    @property
    def run_commands(self) -> list[str]:
        return [line for line in self.commands if not self.skip or not re.search(self.skip, line)]


def pages() -> list[Path]:
    """The README and all pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fences and setups of a page, in order; AssertionError names what is malformed."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in _BLOCK.finditer(text):
        if match["setup"] is not None:
            found.append(Block("python", match["setup"], _line(text, match.start("setup")), setup=True))
            continue
        line = _line(text, match.start("code"))
        where = f"{page.relative_to(ROOT)}:{line}"
        assert match["language"] in RUN + NOT_CODE, f"{where}: expected a language, got {match['language']!r}"
        said = {"why": "", "text": "", "status": "0"}
        for mark in match["marks"].splitlines():
            meant = _MARK.fullmatch(mark)
            assert meant, f"{where}: expected 'not run: WHY' or 'status N: WHY', got {mark!r}"
            said |= {name: value for name, value in meant.groupdict().items() if value}
        status = int(said["status"])
        found.append(Block(match["language"], match["code"], line, False, said["why"], said["text"], status))
    fences = len(re.findall(r"^[ \t]*```", text, re.MULTILINE))
    shown = sum(not block.setup for block in found)
    assert fences == 2 * shown, f"{page.relative_to(ROOT)}: expected {fences / 2:g} fences, read {shown}"
    return found


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
