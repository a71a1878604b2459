"""The best state of a stage is kept, and how long a run takes is said."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gfnet_fast.data.folder import Part
from gfnet_fast.training import pace
from gfnet_fast.training import run as runs
from gfnet_fast.training.best import Seen, looked_at
from gfnet_fast.training.config import TrainConfig
from gfnet_fast.training.pace import Pace, said
from tests.training.folder_helpers import assert_bit_equal, train, weights, write_pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "images", count=5)


def seen_in_turn(monkeypatch, losses):
    """Looks that see these losses, and what the model was then."""
    states, rest = [], iter(losses)

    def look(self, model, stage):
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return Seen(next(rest), [0.5])

    monkeypatch.setattr(runs.Look, "__call__", look)
    return states


def test_a_stage_ends_with_its_best_state(data, tmp_path, monkeypatch):
    states = seen_in_turn(monkeypatch, [5.0, 3.0, 2.0, 4.0])
    train(data, tmp_path / "run", epochs=(0, 3, 0, 0))
    assert_bit_equal(weights(tmp_path / "run"), states[2])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["heldout_loss"] for row in rows] == [3.0, 2.0, 4.0]


def test_a_stage_may_end_as_it_began(data, tmp_path, monkeypatch):
    states = seen_in_turn(monkeypatch, [1.0, float("inf"), 2.0])
    train(data, tmp_path / "run", epochs=(0, 2, 0, 0))
    assert_bit_equal(weights(tmp_path / "run"), states[0])


def test_patience(data, tmp_path, monkeypatch):
    seen_in_turn(monkeypatch, [5.0, 3.0, 4.0, 3.0, 2.0])
    train(data, tmp_path / "run", epochs=(0, 9, 0, 0), patience=2)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_look_is_a_small_share_of_an_epoch():
    def part(count):
        names = np.array([b"%04d" % row for row in range(count)])
        return Part(None, names, np.arange(count) * 4 // count, names)

    assert len(looked_at(part(24), 192, (224, 224), 4)) == 24
    assert len(looked_at(part(5000), 800, (224, 224), 4)) == 100
    assert len(looked_at(part(5000), 10**6, (224, 224), 4)) == 1000
    found = looked_at(part(5000), 10**6, (4096, 4096), 4)
    assert found.labels.tolist() == [0, 1, 2, 3, 3] or set(found.labels.tolist()) == {0, 1, 2, 3}


def test_the_time_left_by_hand(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    measured = Pace({0: (2, 10, 3.0), 1: (1, 10, 6.0)}, 12.0)
    measured.begin(0)
    known = []
    for _ in range(10):
        now[0] += 1.5  # a batch: half a second a unit
        known.append(measured.batch())
    assert known == [False] * 3 + [True] + [False] * 6
    assert measured.left(1, 0) == pytest.approx((10 * 3 + 10 * 6 + 12) / 2)
    measured.begin(1)
    for _ in range(4):
        assert measured.left(0, 0) == pytest.approx((60 + 12) / 2)  # by the other stage's pace
        now[0] += 6.0
        measured.batch()
    assert measured.left(0, 4) == pytest.approx(6 * 6 + 12)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "5 s"), (33, "35 s"), (150, "2 min 30 s"), (300, "5 min"), (1800, "30 min"), (12_000, "3 h 20 min")],
)
def test_times_in_words(seconds, text):
    assert said(seconds) == text


def test_patience_is_a_number():
    assert TrainConfig(patience=3).patience == 3
    with pytest.raises(ValueError, match="patience: expected at least 0, got -1"):
        TrainConfig(patience=-1)
