"""Mutated files and numbers give a result or a named error, in bounded time and memory, and nothing else.

GFNET_FUZZ_SECONDS says how long each reader is fuzzed, GFNET_FUZZ_FIRST from which input on.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.readers import READERS

SECONDS = float(os.environ.get("GFNET_FUZZ_SECONDS", "3"))
FIRST = int(os.environ.get("GFNET_FUZZ_FIRST", "0"))


@pytest.fixture(scope="module")
def fuzzed(request, tmp_path_factory):
    """The folder of the records of all readers that are asked for here, and what they wrote as errors."""
    folder = tmp_path_factory.mktemp("records")
    asked = [item.callspec.params["reader"] for item in request.session.items if item.path == request.path]
    arguments = [",".join(asked), str(FIRST), str(SECONDS), str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.readers", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    return folder, done.stderr


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's peak memory")
@pytest.mark.parametrize("reader", READERS)
def test_whatever_comes_is_read_or_named(fuzzed, reader, capsys):
    folder, errors = fuzzed
    facts = json.loads((folder / f"{reader}.json").read_text())
    assert facts["status"] == 0, f"input {facts['at']} ended it: {facts['status']}\n{errors[-2000:]}"
    assert not facts["faults"], "\n".join(f"input {number}: {what}" for number, what in facts["faults"])
    assert facts["inputs"] >= 10
    with capsys.disabled():
        slowest = f"the slowest {facts['slowest'] * 1e3:.0f} ms (input {facts['slowest_input']})"
        print(f"\n{reader}: {facts['inputs']} inputs, {slowest}, at most {facts['memory'] / 2**20:.0f} MiB")
