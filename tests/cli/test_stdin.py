"""An image on standard input."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from gfnet_fast.cli.process import SOME_FAILED
from tests.cli.cli_runner import run


@pytest.fixture
def encoded(tmp_path):
    path = tmp_path / "a.png"
    Image.radial_gradient("L").save(path)
    return path


def predict(capsys, monkeypatch, content, *sources):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    done = run(capsys, "predict", *sources, "-m", "digits", "-f", "jsonl", "-q", "--runtime", "torch")
    return done, [json.loads(line) for line in done.out.splitlines()]


def test_a_dash_is_the_image_on_stdin(capsys, monkeypatch, encoded):
    done, (first, second) = predict(capsys, monkeypatch, encoded.read_bytes(), "-", encoded)
    assert done.status == 0
    assert first["class_id"] == second["class_id"]
    done, (found, nothing) = predict(capsys, monkeypatch, encoded.read_bytes(), "-", "-")
    assert done.status == SOME_FAILED, "it has no byte left the second time"
    assert found["class_id"] == first["class_id"]
    assert nothing["error"].startswith("images[1]: expected an encoded image, got no byte")
