"""Runs the interpreted tests where triton can interpret.

Triton decides at import whether kernels are compiled or interpreted, and one process can only have one of
them. So the tests in ``test_interpreted_*.py`` run in a second pytest with TRITON_INTERPRET=1, started once
collection is done; here each of them only waits for its own report and repeats it.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
REPORT = "GFNET_KERNELS_TEST_REPORT"
CHILD = pytest.StashKey["Child"]()


class Child:
    """The second pytest and the reports it writes, one JSON line a test and phase."""

    def __init__(self, config: pytest.Config, names: list[str]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.report = Path(self.folder.name, "report")
        chosen = Path(self.folder.name, "chosen")
        chosen.write_text("\n".join(names))
        self.reports: dict[str, dict[str, str]] = {}
        environment = os.environ | {"TRITON_INTERPRET": "1", REPORT: str(self.report)}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [f"--confcutdir={Path(__file__).parent}", f"@{chosen}"]
        self.process = subprocess.Popen(
            command,
            cwd=config.rootpath,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""

    def outcome(self, name: str) -> dict[str, str]:
        """A test's report, waiting for the second pytest to end."""
        if self.process.poll() is None or not self.reports:
            self.output += self.process.communicate()[0] or ""
            for line in self.report.read_text().splitlines() if self.report.exists() else []:
                entry = json.loads(line)
                if self.reports.get(entry["name"], {}).get("outcome") != "failed":
                    self.reports[entry["name"]] = entry
        missing = {
            "outcome": "failed",
            "text": f"The interpreted run has no report of it:\n{self.output[-4000:]}",
        }
        return self.reports.get(name, missing)

    def close(self) -> None:
        """End the second pytest if it still runs."""
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def is_interpreted(item: pytest.Item) -> bool:
    return item.path.name.startswith("test_interpreted_")


def pytest_collection_finish(session: pytest.Session) -> None:
    names = [item.nodeid for item in session.items if is_interpreted(item)]
    if names and not INTERPRETED and not session.config.option.collectonly:
        session.config.stash[CHILD] = Child(session.config, names)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if INTERPRETED or not is_interpreted(pyfuncitem):
        return None
    report = pyfuncitem.config.stash[CHILD].outcome(pyfuncitem.nodeid)
    if report["outcome"] == "failed":
        pytest.fail(report["text"], pytrace=False)
    if report["outcome"] == "skipped":
        pytest.skip(report["text"])
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if REPORT in os.environ and (report.when == "call" or report.outcome != "passed"):
        entry = {"name": report.nodeid, "outcome": report.outcome, "text": report.longreprtext}
        with open(os.environ[REPORT], "a") as file:
            file.write(json.dumps(entry) + "\n")


def pytest_unconfigure(config: pytest.Config) -> None:
    if CHILD in config.stash:
        config.stash[CHILD].close()
