"""A pytest plugin for a machine that one has for minutes: PYTHONPATH=bench pytest -p watched.

The JUnit file that GFNET_JUNIT names is written anew whenever a test begins or ends, so that it says what was
running, whatever ended the process; a test that takes more than LIMIT seconds ends it, with what every thread
was doing, also inside a call that no signal interrupts. A test that loses the GPU ends the session. With
GFNET_BEGUN (tasks.py) the same command goes on behind the test that did so. The header says the versions.
"""

import faulthandler
import os
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import expected
import pytest
from rows import versions
from tasks import END, RUNNING, WAITING, Begun, lost, patience

LIMIT = 40.0
STDERR = os.fdopen(os.dup(2), "w")  # pytest takes the standard error itself while a test runs
begun = Begun()
failing = False


class Report:
    """The JUnit file: a case for each test, merged with what an earlier process has written."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.cases: dict[tuple[str, str], ET.Element] = {}
        for case in ET.parse(path).iter("testcase") if path and path.exists() else ():
            self.cases[case.get("classname", ""), case.get("name", "")] = case

    def put(self, test: str, seconds: float = 0.0) -> ET.Element:
        """A new case for a test, in place of the one it had."""
        file, _, name = test.partition("::")
        key = file.removesuffix(".py").replace("/", "."), name
        self.cases[key] = ET.Element("testcase", classname=key[0], name=name, time=f"{seconds:.3f}")
        return self.cases[key]

    def write(self) -> None:
        if not self.path:
            return
        cases = list(self.cases.values())
        counts = {
            word: str(sum(case.find(tag) is not None for case in cases))
            for word, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))
        }
        suite = ET.Element("testsuite", {"name": "gpu", "tests": str(len(cases)), **counts})
        suite.extend(cases)
        part = self.path.with_name(f"{self.path.name}.part")
        ET.ElementTree(suite).write(part, encoding="utf-8", xml_declaration=True)
        part.replace(self.path)


named = os.environ.get("GFNET_JUNIT")
junit = Report(Path(named) if named else None)


def pytest_report_header() -> str:
    return ", ".join(f"{name} {version}" for name, version in versions().items() if version)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    done = [item for item in items if item.nodeid in begun.names]
    items[:] = [item for item in items if item not in done]
    config.hook.pytest_deselected(items=done)


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items:  # after all plugins, so that these are the tests that run
        ET.SubElement(junit.put(item.nodeid), "skipped", message=WAITING)
    junit.write()


def pytest_runtest_logstart(nodeid: str) -> None:
    global failing
    failing = False
    begun.add(nodeid)
    ET.SubElement(junit.put(nodeid), "error", message=RUNNING)
    junit.write()
    faulthandler.dump_traceback_later(patience() * LIMIT, exit=True, file=STDERR)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    global failing
    if (report.when != "call" and report.passed) or (report.when == "teardown" and failing):
        return
    case = junit.put(report.nodeid, report.duration)
    if report.user_properties:
        properties = ET.SubElement(case, "properties")
        for name, value in report.user_properties:
            ET.SubElement(properties, "property", name=name, value=str(value))
    if report.skipped:
        reason: Any = report.longrepr
        ET.SubElement(case, "skipped", message=str(reason[2] if isinstance(reason, tuple) else reason))
    elif report.failed:
        failing = True
        crash = getattr(report.longrepr, "reprcrash", None)
        tag = "failure" if report.when == "call" else "error"
        message = clean(crash.message.partition("\n")[0]) if crash else tag
        ET.SubElement(case, tag, message=message).text = clean(report.longreprtext)


def clean(text: str) -> str:
    """Without what XML or UTF-8 cannot hold."""
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable())


def pytest_runtest_logfinish() -> None:
    faulthandler.cancel_dump_traceback_later()
    junit.write()
    if failing and lost():
        pytest.exit("the GPU is lost to this process; the tests that are left need another one", 1)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A task's line (tasks.py) for each file: what its tests took, and so many should take on a GPU."""
    files = dict[str, list[float]]()
    failed = set[str]()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and (report.when == "call" or not report.passed):
                file = report.nodeid.partition("::")[0]
                files.setdefault(file, []).append(report.duration)
                failed |= {file} if report.failed else set()
    for file, taken in files.items():
        seconds = len(taken) * expected.TEST[Path(file).name]
        word = "failed" if file in failed else "ok"
        name = f"{len(taken)} tests of {file}"
        terminalreporter.write_line(f"== {name}: {word}, {sum(taken):.1f} s, expected {seconds:.1f}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if all(item.nodeid in Begun().names for item in session.items):
        begun.add(END)
