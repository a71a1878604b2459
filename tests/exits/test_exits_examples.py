"""The examples in docs/guides/budgets.md run as they stand."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import gfnet_fast as gf
from gfnet_fast.exits import AuditWarning, CostTable, ModelIdentity, calibrate, device_name
from tests.conftest import random_images, tiny_model

DOCS = Path(__file__).parents[2] / "docs" / "guides" / "budgets.md"


def example(of: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = (block for block in blocks if f"gf.{of}(" in block)
    return found


@pytest.fixture(scope="module")
def setting():
    model = tiny_model(steps=3)
    images = random_images(150, 80)
    probabilities = model.trace(model.normalise(images)).logits.softmax(-1)
    model.calibration = calibrate(
        ModelIdentity.of(model), probabilities.amax(-1), probabilities.argmax(-1) == 0
    ).with_cost(CostTable(device_name("cpu"), (1.0, 2.0, 3.0)))
    return {"gf": gf, "torch": torch, "model": model, "stream": list(images.split(50))}


def test_a_controller_moves_a_predictor_on_a_stream(setting):
    clock = count(step=0.15)  # 3 ms an image, batches of 50
    names = {
        **setting,
        "stream": setting["stream"] * 2,
        "predictor": gf.Predictor(setting["model"], device="cpu", runtime="torch"),
        "time": SimpleNamespace(perf_counter=lambda: next(clock)),
    }
    exec(example("Controller"), names)
    controller, predictor = names["controller"], names["predictor"]
    assert controller.moves == 2
    assert predictor.budget == gf.Budget(thresholds=controller.thresholds)
    before = gf.Controller(setting["model"].calibration, latency_ms=2.0, device="cpu")
    assert controller.position < before.position


def test_an_audit_watches_a_predictor_on_a_stream(setting):
    model = setting["model"]
    for budget, alarmed in ((gf.Budget(max_steps=3), False), (gf.Budget(max_steps=1), True)):
        predictor = gf.Predictor(model, device="cpu", runtime="torch", dtype="float32", budget=budget)
        names = {**setting, "predictor": predictor, "stream": setting["stream"] * 4}
        if alarmed:
            with pytest.warns(AuditWarning):
                exec(example("Audit"), names)
        else:
            exec(example("Audit"), names)
        assert names["audit"].count > 0
        assert names["audit"].alarmed == alarmed
