"""docs/predict.md: its snippets run, in their order."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

GUIDE = Path(__file__).parent.parent / "docs" / "predict.md"


def test_the_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg", "photos/c.jpg", "photos/d.jpg"):
        Image.radial_gradient("L").save(name)
    names: dict = {}
    snippets = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)
    for snippet in snippets:
        exec(compile(snippet, str(GUIDE), "exec"), names)
    assert len(snippets) >= 7
    assert [result.error for result in names["results"]] == [None] * 4
    assert names["same"].class_id.tolist() == names["p"].predict_batch(names["normal"]).class_id.tolist()
    assert len(names["maps"]) == names["p"].config.steps - 1
    assert names["vectors"].shape[:2] == names["trace"].confidence.shape
    assert "c.jpg" in capsys.readouterr().out
