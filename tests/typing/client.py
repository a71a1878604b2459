"""A program that uses the public names; checked by mypy --strict, and never run."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import assert_type

import gfnet_fast as gf


def classify(frame: NDArray[np.uint8], picture: Image.Image, tensor: torch.Tensor) -> list[str | None]:
    model = assert_type(gf.load("waste"), gf.GFNet)
    p = gf.Predictor(model, device="cpu", budget=gf.Budget(macs=1.6e8), audit=gf.Audit(0.01))
    assert_type(gf.Predictor.from_pretrained("waste", batch=8), gf.Predictor)
    assert_type(p.warm_up(images=1000), None)
    one = assert_type(p("a.jpg"), gf.Result)
    for source in (Path("a.jpg"), b"encoded", io.BytesIO(b"encoded"), picture, frame, tensor):
        assert_type(p(source), gf.Result)
    many = assert_type(p(["a.jpg", Path("photos"), picture, frame]), list[gf.Result])
    assert_type(p(Path("photos").iterdir(), on_error="return"), list[gf.Result])
    assert_type(p.stream("photos/", on_error="return"), Iterator[gf.Result])
    out = assert_type(p.predict_batch(tensor, normalised=False), gf.Prediction)
    assert_type(out.class_id, torch.Tensor)
    trace = assert_type(p.trace(["a.jpg"]), gf.Trace)
    assert_type(trace.confidence, torch.Tensor)
    assert_type(p.features("photos/"), torch.Tensor)
    assert_type(p.crops("a.jpg").crops, torch.Tensor)
    assert_type(model.config, gf.GFNetConfig)
    assert_type(model.forward(tensor), torch.Tensor)
    assert_type(p.budget, gf.Budget | None)
    assert_type(one.to_dict(), dict[str, Any])
    try:
        p.budget = gf.Budget(max_steps=2)
    except gf.BudgetError as error:
        assert_type(error, gf.BudgetError)
    return [result.label for result in (one, *many)]
