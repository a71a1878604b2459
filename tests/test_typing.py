"""What a type checker sees of the public names."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gfnet_fast
import gfnet_fast.exits

CLIENT = Path(__file__).parent / "typing" / "client.py"
ROOT = Path(gfnet_fast.__file__).parent.parent


@pytest.mark.parametrize("module", [gfnet_fast, gfnet_fast.exits], ids=lambda module: module.__name__)
def test_python_and_type_checkers_have_the_same_names_from_the_same_places(module):
    (block,) = (
        node
        for node in ast.parse(Path(module.__file__).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    shown = {name.asname: f"{one.module}.{name.name}" for one in block.body for name in one.names}
    assert shown == {name: f"{module.__name__}.{home}.{name}" for name, home in module._HOME.items()}


@pytest.mark.slow
def test_a_strictly_typed_client(tmp_path):
    """No name of the package is Any to it, and one source is one Result."""
    strict = ["--strict", "--follow-imports=silent", "--ignore-missing-imports"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            *strict,
            "--config-file=",
            "--cache-dir=.mypy_cache/client",
            str(CLIENT),
        ],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
