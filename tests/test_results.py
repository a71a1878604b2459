"""Results as values: equal, frozen, and able to go to another process by the hundred."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

import gfnet_fast as gf

RESULT = gf.Result("a.jpg", 3, "owl", 0.75, 2, ((1, 2),), 1000, torch.tensor([0.5, float("nan"), -2.0]))
FAILED = gf.Result("b.jpg", error="b.jpg: expected an image file, got nothing there")
COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda result: pickle.loads(pickle.dumps(result)),
    "process": lambda result: pickle.loads(ForkingPickler.dumps(result)),
    "replace": lambda result: dataclasses.replace(result),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_are_equal(copied):
    other = copied(RESULT)
    assert other == RESULT
    assert hash(other) == hash(RESULT)
    assert other.to_dict() == RESULT.to_dict()
    torch.testing.assert_close(other.logits, RESULT.logits, equal_nan=True, rtol=0, atol=0)
    other.logits[0] = other.logits[0]  # may be written
    assert copied(FAILED) == FAILED
    assert copied(FAILED).logits is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        other.class_id = 4


def test_a_copy_has_logits_of_its_own():
    other = copy.deepcopy(RESULT)
    other.logits[0] = 9
    assert RESULT.logits[0] == 0.5


MANY = """
import pickle, resource
from multiprocessing.reduction import ForkingPickler
import torch, torch.multiprocessing
import gfnet_fast as gf
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
kept = []
for k in range(400):
    result = gf.Result(str(k), k, logits=torch.full((5,), float(k)))
    kept.append(pickle.loads(ForkingPickler.dumps(result)))
assert [r.logits.tolist() for r in kept] == [[float(k)] * 5 for k in range(400)]
"""


def test_results_hold_no_file_descriptors():
    subprocess.run([sys.executable, "-c", MANY], check=True, timeout=120)


def test_what_could_not_be_computed_goes_to_another_process_too():
    prediction = gf.Prediction(*(torch.zeros(2) for _ in range(5)))
    error = pickle.loads(pickle.dumps(gf.PassError({1: "MemoryError: no room"}, prediction)))
    assert str(error) == "1 of 2 images failed; image 1: MemoryError: no room"
    assert error.errors == {1: "MemoryError: no room"}
    assert torch.equal(error.prediction.logits, prediction.logits)


def test_the_likeliest_classes():
    names = ("a", "b", "c", "d")
    result = gf.Result("x", 1, "b", 0.5, 1, logits=torch.tensor([0.0, 2.0, 1.0, 1.0]), labels=names)
    likely = result.logits.softmax(0)
    assert [(one.class_id, one.label) for one in result.top(3)] == [(1, "b"), (2, "c"), (3, "d")]
    assert [one.probability for one in result.top()] == pytest.approx(likely[[1, 2, 3, 0]].tolist())
    assert dataclasses.replace(result, labels=None).top(1)[0].label is None
    assert FAILED.top(2) == []
    with pytest.raises(gf.InputError, match="k: expected at least 1, got 0"):
        result.top(0)
