"""What the tests of the kernels draw, and the tensors of it."""

import math

import torch
from hypothesis import strategies as st
from rules import Terms
from torch import Tensor

ROW = st.lists(
    st.sampled_from([-30.0, -1.0, 0.0, 0.5, 2.0, 9.0, float("nan"), float("-inf")]), min_size=3, max_size=3
)
TERMS = st.tuples(
    st.lists(st.sampled_from([-1e8, 0.4, 0.7, 0.95, math.inf]), min_size=3, max_size=3),
    st.integers(0, 4),
    st.sampled_from([math.inf, math.inf, 6.0, 7.0]),
)
# Rows (logits, slot, step), the terms of three slots, and now.
EXIT_CASES = st.tuples(
    st.lists(st.tuples(ROW, st.integers(-1, 2), st.integers(1, 3)), min_size=1, max_size=8),
    st.lists(TERMS, min_size=3, max_size=3),
    st.sampled_from([5.0, 6.5, 7.0]),
)
# Rows (slot, at, reason).
LEFT = st.lists(st.tuples(st.integers(-1, 99), st.integers(0, 5), st.integers(-1, 4)), max_size=300)


def exit_tensors(
    rows: list[tuple[list[float], int, int]], slots: list[Terms], now: float
) -> tuple[Tensor, ...]:
    """The seven arguments of exits."""
    logits, slot, step = zip(*rows, strict=True)
    bars, limits, deadlines = zip(*slots, strict=True)
    return (
        torch.tensor(logits),
        torch.tensor(slot, dtype=torch.int32),
        torch.tensor(step, dtype=torch.int32),
        torch.tensor(bars),
        torch.tensor(limits, dtype=torch.int32),
        torch.tensor(deadlines, dtype=torch.float64),
        torch.tensor([now], dtype=torch.float64),
    )


def arena_of(slots: int, classes: int, steps: int) -> tuple[Tensor, ...]:
    """Labels, confidences, logits and origins, each value its own."""
    return (
        torch.arange(2 * slots).int().view(slots, 2, 1),
        torch.arange(2 * slots).view(slots, 2, 1) / 64,
        torch.arange(2.0 * slots * classes).view(slots, 2, classes),
        torch.arange(2 * slots * steps).int().view(slots, steps, 2),
    )


def blank_answers(count: int, classes: int, steps: int) -> tuple[Tensor, ...]:
    """One owner's memory for `count` answers, in the order of `places`."""
    return (
        torch.full((count,), -77),
        torch.full((count,), -77.0),
        torch.full((count,), -77),
        torch.full((count, classes), -77.0),
        torch.full((count, steps - 1, 2), -77),
    )


def addresses(owner: tuple[Tensor, ...], row: int) -> Tensor:
    """int64 [5]: where an owner wants its answer number `row`."""
    return torch.tensor([part[row].data_ptr() for part in owner])
