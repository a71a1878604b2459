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


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's peak memory")
@pytest.mark.parametrize("reader", READERS)
def test_whatever_comes_is_read_or_named(reader, tmp_path, capsys):
    record = tmp_path / "record.json"
    command = [sys.executable, "-m", "tests.fuzz.readers", reader, str(FIRST), str(SECONDS), str(record)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=SECONDS + 120)
    facts = json.loads(record.read_text())
    assert done.returncode == 0, f"input {facts['at']} ended it: {done.returncode}\n{done.stderr[-2000:]}"
    assert not facts["faults"], "\n".join(f"input {number}: {what}" for number, what in facts["faults"])
    assert facts["inputs"] >= 10
    with capsys.disabled():
        slowest = f"the slowest {facts['slowest'] * 1e3:.0f} ms (input {facts['slowest_input']})"
        print(f"\n{reader}: {facts['inputs']} inputs, {slowest}, at most {facts['memory'] / 2**20:.0f} MiB")
