"""exits, compact, gru_step, gather and scatter in Triton's interpreter against their references."""

import pytest
import torch
from gfnet_kernels import (
    compact,
    exits,
    exits_reference,
    gather,
    gather_all,
    gather_reference,
    gru_step,
    gru_step_reference,
    scatter,
    scatter_all,
    scatter_reference,
)
from guarded import Guards, assert_near, every_way
from hypothesis import given, settings
from hypothesis import strategies as st
from rules import compact_rule, exit_rule
from torch import Tensor

# The interpreter computes in numpy, which says where infinities cancel; the GPU does not.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
THRESHOLDS = torch.tensor([0.9, 0.6, -1e8])


def name(value: object) -> str:
    return str(value).removeprefix("torch.")


def peaked(rows: int, classes: int, dtype: torch.dtype) -> Tensor:
    """Logits whose largest probabilities spread over (1 / classes, 1), one row not a number."""
    generator = torch.Generator().manual_seed(rows * classes)
    logits = torch.randn(rows, classes, generator=generator)
    logits[torch.arange(rows), torch.randint(0, classes, (rows,), generator=generator)] += torch.linspace(
        0, 14, rows
    )
    logits[rows // 2, classes // 2] = float("nan")
    return logits.to(dtype)


def results_of(guards: Guards, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        guards.out(torch.empty(rows)),
        guards.out(torch.empty(rows, dtype=torch.int32)),
        guards.out(torch.empty(rows, dtype=torch.bool)),
    )


@pytest.mark.parametrize("classes", [1, 63, 1000])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("padding", ["none", "slots", "valid", "by_slot"])
def test_exits(padding: str, dtype: torch.dtype, classes: int) -> None:
    rows = 9
    logits = peaked(rows, classes + 5, dtype)[:, :classes]
    step = torch.tensor([1, 2, 3] * 3, dtype=torch.int32)
    slots = torch.tensor([4, -1, 3, 8, 0, 5, -1, 7, 2], dtype=torch.int32)
    valid = torch.tensor([7], dtype=torch.int32)

    def run(guards: Guards) -> tuple[Tensor, ...]:
        return exits(
            guards.put(logits),
            guards.put(step),
            guards.put(THRESHOLDS),
            slots=None if padding in ("none", "valid") else guards.put(slots),
            valid=guards.put(valid) if padding == "valid" else None,
            by_slot=padding == "by_slot",
            out=results_of(guards, rows),
        )

    confidence, label, exited = every_way(run)
    expected = exits_reference(
        logits,
        step,
        THRESHOLDS,
        slots=None if padding in ("none", "valid") else slots,
        valid=valid if padding == "valid" else None,
        by_slot=padding == "by_slot",
    )
    assert_near(confidence, expected[0])
    assert label.equal(expected[1])
    assert exited.equal(expected[2])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_rows_without_a_probability_leave_at_the_last_step_only(value: float) -> None:
    logits = torch.full((3, 10), value)
    step = torch.tensor([1, 2, 3], dtype=torch.int32)
    always = torch.tensor([-1e8, -1e8, -1e8])
    confidence, label, exited = every_way(lambda g: exits(g.put(logits), step, always, out=results_of(g, 3)))
    assert confidence.isnan().all()
    assert label.tolist() == [-1, -1, -1]
    assert exited.tolist() == [False, False, True]


def test_a_confidence_equal_to_its_threshold_leaves() -> None:
    logits, step = torch.zeros(2, 2), torch.tensor([1, 2], dtype=torch.int32)
    bars = torch.tensor([0.5, 0.5 + 2**-24 * 2, -1e8])
    confidence, _, exited = every_way(lambda g: exits(g.put(logits), g.put(step), bars, out=results_of(g, 2)))
    assert confidence.tolist() == [0.5, 0.5]
    assert exited.tolist() == [True, False]


ROW = st.lists(
    st.sampled_from([-30.0, -1.0, 0.0, 0.5, 2.0, 9.0, float("nan"), float("-inf")]), min_size=3, max_size=3
)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.tuples(ROW, st.integers(1, 3), st.booleans()), min_size=1, max_size=6))
def test_exits_rule(rows: list[tuple[list[float], int, bool]]) -> None:
    logits = torch.tensor([row[0] for row in rows])
    step = torch.tensor([row[1] for row in rows], dtype=torch.int32)
    slots = torch.tensor([i if row[2] else -1 for i, row in enumerate(rows)], dtype=torch.int32)
    _, label, exited = every_way(
        lambda g: exits(
            g.put(logits), g.put(step), THRESHOLDS, slots=g.put(slots), out=results_of(g, len(rows))
        )
    )
    assert [(int(a), bool(b)) for a, b in zip(label, exited, strict=True)] == exit_rule(
        rows, THRESHOLDS.tolist()
    )


@pytest.mark.parametrize("rows", [0, 1, 127, 128, 129, 1000, 4096, 4097, 9000])
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_compact(rows: int, padded: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    slots = torch.randperm(max(rows, 1), generator=generator)[:rows].int()
    exited = torch.rand(rows, generator=generator) < 0.4
    valid = torch.tensor([rows * 3 // 4], dtype=torch.int32)
    if padded:
        slots[::7] = -1

    def run(g: Guards) -> tuple[Tensor, ...]:
        out = g.out(torch.empty(rows, dtype=torch.int32)), g.out(torch.empty(1, dtype=torch.int32))
        return compact(g.put(slots), g.put(exited), valid=g.put(valid) if padded else None, out=out)

    survivors, count = every_way(run)
    rule = compact_rule(slots.tolist(), exited.tolist(), int(valid) if padded else rows)
    assert (survivors.tolist(), int(count)) == rule


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(-1, 9), st.booleans()), min_size=1, max_size=300),
    valid=st.integers(0, 300),
)
def test_compact_rule(rows: list[tuple[int, bool]], valid: int) -> None:
    slots = torch.tensor([row[0] for row in rows], dtype=torch.int32)
    exited = torch.tensor([row[1] for row in rows])
    live = torch.tensor([min(valid, len(rows))], dtype=torch.int32)
    survivors, count = every_way(lambda g: compact(g.put(slots), g.put(exited), valid=g.put(live)))
    assert (survivors.tolist(), int(count)) == compact_rule(slots.tolist(), exited.tolist(), int(live))


@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
@pytest.mark.parametrize("width", [1, 24, 63, 1100])
@pytest.mark.parametrize("gates", FLOATS, ids=name)
@pytest.mark.parametrize("arena", FLOATS, ids=lambda d: f"arena-{name(d)}")
def test_gru_step(arena: torch.dtype, gates: torch.dtype, width: int, first: bool) -> None:
    if width == 1100 and arena != gates:
        width = 130
    generator = torch.Generator().manual_seed(width)
    slots = torch.tensor([3, -1, 0, 6], dtype=torch.int32)
    state = torch.randn(7, width + 2, generator=generator).to(arena)[:, :width]
    gates_in = (torch.randn(4, 3 * width, generator=generator) * 3).to(gates)
    gates_state = (torch.randn((3 * width,) if first else (4, 3 * width), generator=generator) * 3).to(gates)

    def run(guards: Guards) -> tuple[Tensor, ...]:
        home = guards.out(state, keep=True)
        out = guards.out(torch.empty(4, width, dtype=gates))
        return gru_step(guards.put(gates_in), guards.put(gates_state), home, guards.put(slots), out=out), home

    rows, home = every_way(run)
    expected_home = state.clone()
    assert_near(rows, gru_step_reference(gates_in, gates_state, expected_home, slots))
    assert_near(home, expected_home)


@pytest.mark.parametrize("width", [1, 63, 1500])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.int32, torch.uint8], ids=name)
def test_gather(dtype: torch.dtype, width: int) -> None:
    arena = (torch.arange(5 * (width + 3)) % 251).view(5, -1).to(dtype)[:, :width]
    slots = torch.tensor([4, -1, 0, 0], dtype=torch.int32)
    out = torch.empty(4, width, dtype=dtype)
    (rows,) = every_way(lambda g: (gather(g.put(arena), g.put(slots), out=g.out(out)),))
    assert rows.equal(gather_reference(arena, slots))


@pytest.mark.parametrize("width", [1, 63, 1500])
@pytest.mark.parametrize("stepped", ["plain", "step", "by_slot"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_scatter(dtype: torch.dtype, stepped: str, width: int) -> None:
    arena = (
        torch.zeros(5, width, dtype=dtype) if stepped == "plain" else torch.zeros(5, 3, width, dtype=dtype)
    )
    slots = torch.tensor([4, -1, 0, 2], dtype=torch.int32)
    rows = torch.randn(4, width + 1)[:, :width]
    step = {
        "plain": None,
        "step": torch.tensor([3, 9, 1, 2]).int(),
        "by_slot": torch.tensor([1, 0, 3, 0, 2]).int(),
    }
    by_slot = stepped == "by_slot"

    def run(g: Guards) -> tuple[Tensor, ...]:
        home, at = g.out(arena, keep=True), step[stepped]
        scatter(home, g.put(slots), g.put(rows), None if at is None else g.put(at), by_slot=by_slot)
        return (home,)

    expected = arena.clone()
    scatter_reference(expected, slots, rows, step[stepped], by_slot=by_slot)
    assert_near(every_way(run)[0], expected)


def several_arenas() -> list[Tensor]:
    """Of other widths (more than a program's columns among them), types, strides and numbers of axes."""
    return [
        torch.zeros(5, 1500, dtype=torch.bfloat16),
        torch.zeros(5, 37)[:, :33],
        torch.zeros(5, 3, 64),
        torch.zeros(5, 2, 1, dtype=torch.int32),
        torch.zeros(5, 2, 10),
    ]


def test_gather_all() -> None:
    arenas = [(torch.arange(a.flatten(1).numel()) % 251).view(5, -1).to(a.dtype) for a in several_arenas()]
    slots = torch.tensor([4, -1, 0, 0], dtype=torch.int32)
    found = every_way(lambda g: gather_all([g.put(arena) for arena in arenas], g.put(slots)))
    for rows, arena in zip(found, arenas, strict=True):
        assert rows.equal(gather_reference(arena, slots))


def test_scatter_all() -> None:
    """An arena of two axes takes its row at any step; one of R rows a slot at (step - 1) % R."""
    slots, step = (torch.tensor(four, dtype=torch.int32) for four in ([4, -1, 0, 2], [3, 9, 1, 2]))
    rows = [torch.randn(4, arena.shape[-1]).mul(9).to(arena.dtype) for arena in several_arenas()]
    rows[1] = rows[1][:1]  # one for all of them: stride zero

    def run(g: Guards) -> tuple[Tensor, ...]:
        homes = [g.out(arena, keep=True) for arena in several_arenas()]
        scatter_all(homes, g.put(slots), [g.put(part).expand(4, -1) for part in rows], g.put(step))
        return tuple(homes)

    for found, expected, part in zip(every_way(run), several_arenas(), rows, strict=True):
        scatter_reference(expected, slots, part.expand(4, -1), step if expected.ndim == 3 else None)
        assert found.equal(expected)
