"""What bench/compared.py says of networks on the same photographs, on values known by hand."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from gfnet_fast.config import RELEASED


@pytest.fixture
def compared(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))
    return importlib.import_module("compared")


def static(compared, macs, right):
    said = (torch.ones(1, len(right)), torch.tensor([right], dtype=torch.bool))
    return compared.Said(said, said, np.array([macs]), 1.0)


def test_a_static_network_between_two_sizes_is_their_mixture(compared):
    small, large = static(compared, 100.0, [0, 0, 1, 1]), static(compared, 200.0, [1, 0, 1, 0])
    seed = compared.Seed({"static-a": small, "static-b": large}, list("abcd"), RELEASED[0])
    for cost, right in (
        (100.0, [0, 0, 1, 1]),
        (125.0, [0.25, 0, 1, 0.75]),
        (200.0, [1, 0, 1, 0]),
        (50.0, [0, 0, 1, 1]),  # none is cheaper than the cheapest
        (900.0, [1, 0, 1, 0]),  # nor better than the dearest
    ):
        assert compared.mixture(seed, cost).tolist() == right


def test_an_interval_is_as_wide_as_the_runs_are_few(compared):
    """Photographs of one run that agree count as one, also those that two splits report."""
    right = np.tile([0.0, 1.0], 50)
    alone = compared.interval(right, [str(number) for number in range(100)])
    twice = compared.interval(np.tile(right, 2), [str(number) for number in range(100)] * 2)
    assert alone == pytest.approx(twice)
    assert alone == pytest.approx((40, 60), abs=1.5)
    assert compared.interval(np.repeat([0.0, 1.0], 50), ["a"] * 50 + ["b"] * 50) == (0, 100)
