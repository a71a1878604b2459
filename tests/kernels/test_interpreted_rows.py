"""All ops but glance and crop in Triton's interpreter, against their references and plain rules."""

import random
from typing import Any

import pytest
import torch
from cases import EXIT_CASES, LEFT, addresses, arena_of, blank_answers, exit_tensors
from gfnet_kernels import (
    CANCELLED,
    DEADLINE,
    EXITED,
    LAST_STEP,
    STAYS,
    compact,
    deliver,
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
    take,
)
from guarded import TOLERANCE, Guards, assert_near, every_way
from hypothesis import given, settings
from hypothesis import strategies as st
from rules import answer_rule, compact_rule, exit_rule, take_rule
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


def ints(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def results_of(guards: Guards, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    numbers = torch.empty(rows, dtype=torch.int32)
    return guards.out(torch.empty(rows)), guards.out(numbers), guards.out(numbers), guards.out(numbers)


def terms(slots: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Thresholds, limits and deadlines of slots, some cancelled, late or at their limit; now."""
    limits, deadlines = torch.full((slots,), 3).int(), torch.full((slots,), float("inf")).double()
    limits[::4], limits[1::4], limits[-1] = 1, 9, 0
    deadlines[2], deadlines[7] = 7.0, 6.5  # now counts as late
    return THRESHOLDS.repeat(slots, 1), limits, deadlines, torch.tensor([7.0]).double()


@pytest.mark.parametrize("classes", [1, 63, 1000])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_exits(dtype: torch.dtype, classes: int) -> None:
    slots, steps = ints(4, -1, 3, 8, 0, 5, -1, 7, 2), ints(1, 0, 3, 1, 2, 3, 0, 2, 3)
    inputs = peaked(9, classes + 5, dtype)[:, :classes], slots, steps, *terms(9)
    found = every_way(lambda g: exits(*map(g.put, inputs), out=results_of(g, 9)))
    expected = exits_reference(*inputs)
    assert_near(found[0], expected[0])
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert one.equal(other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_rows_without_a_probability_leave_at_the_last_step_only(value: float) -> None:
    bars, limits, deadlines = torch.full((3, 3), -1e8), ints(3, 3, 3), torch.full((3,), float("inf")).double()
    inputs = torch.full((3, 10), value), ints(2, 1, 0), ints(1, 2, 3), bars, limits, deadlines
    now = torch.zeros(1).double()
    confidence, *found = every_way(lambda g: exits(*map(g.put, inputs), now, out=results_of(g, 3)))
    assert confidence.isnan().all()
    assert [part.tolist() for part in found] == [[-1, -1, -1], [STAYS, STAYS, LAST_STEP], [1, 2, 3]]


def test_a_confidence_equal_to_its_threshold_leaves() -> None:
    bars = torch.tensor([[0.5, 0, 0], [0, 0.5 + 2**-24 * 2, 0]])
    deadlines = torch.full((2,), float("inf")).double()
    inputs = torch.zeros(2, 2), ints(0, 1), ints(1, 2), bars, ints(3, 3), deadlines, torch.zeros(1).double()
    confidence, _, reason, _ = every_way(lambda g: exits(*map(g.put, inputs), out=results_of(g, 2)))
    assert confidence.tolist() == [0.5, 0.5]
    assert reason.tolist() == [EXITED, STAYS]


@settings(max_examples=25, deadline=None)
@given(EXIT_CASES)
def test_exits_rule(case: Any) -> None:
    rows, slots, now = case
    inputs = exit_tensors(*case)
    _, *found = every_way(lambda g: exits(*map(g.put, inputs), out=results_of(g, len(rows))))
    assert list(zip(*(part.tolist() for part in found), strict=True)) == exit_rule(rows, slots, now)


@pytest.mark.parametrize("places", [1, 7, 300])
@pytest.mark.parametrize(
    ("waiting", "count", "rows"), [(0, 9, 4), (5, 3, 4), (5, 9, 4), (300, 300, 257), (3, 2, 0)]
)
def test_take(places: int, waiting: int, count: int, rows: int) -> None:
    """From a ring that is empty, part full and full, over its end, at numbers that no int32 holds."""
    head = 2**33 // places * places + places - 1
    tail = head + min(waiting, places)
    ring, taken = torch.randperm(places).int(), torch.randint(0, 5, (places,)).int()
    inputs, out = (ring, torch.tensor([head, tail]), ints(count), taken), torch.empty(rows).int()
    found = every_way(lambda g: take(*map(g.put, inputs), rows, out=(g.out(out), g.out(out))))
    rule = take_rule(ring.tolist(), head, tail, count, taken.tolist(), rows)
    assert tuple(part.tolist() for part in found) == rule


def compacted(rows: list[tuple[int, int, int]], places: int, head: int, tail: int, took: bool) -> None:
    """Compare rows (slot, at, reason) with the rule, in a ring and a record of other values."""
    slots, at, reason = torch.tensor(rows, dtype=torch.int32).view(-1, 3).unbind(1)
    ring, record = list(range(500, 500 + places)), [-7] * (2 + 3 * len(rows) + 4)

    def run(g: Guards) -> tuple[Tensor, ...]:
        written = ints(*ring), torch.tensor([head, tail]), ints(*record)
        queue, counters, left = (g.out(part, keep=True) for part in written)
        compact(g.put(slots), g.put(reason), g.put(at), queue, counters, left, took=took)
        return queue, counters, left

    rule = compact_rule(rows, ring, head, tail, record, took)
    assert tuple(part.tolist() for part in every_way(run)) == rule


@pytest.mark.parametrize("took", [False, True], ids=["glance", "focus"])
@pytest.mark.parametrize("rows", [0, 1, 127, 128, 129, 1000, 4096, 4097, 9000])
def test_compact(rows: int, took: bool) -> None:
    draw = random.Random(rows)
    slots = [slot if slot % 7 else -1 for slot in draw.sample(range(rows + 3), rows)]
    drawn = [(slot, draw.randint(0, 5), draw.choice([-1, -1, -1, 0, 1, 2, 4])) for slot in slots]
    head = (rows + 3) * 2**31 + rows // 2
    compacted(drawn, rows + 3, head, head + (rows if took else 2), took)


@settings(max_examples=25, deadline=None)
@given(rows=LEFT, head=st.integers(0, 2**40), waiting=st.integers(0, 9), took=st.booleans())
def test_compact_rule(rows: list[tuple[int, int, int]], head: int, waiting: int, took: bool) -> None:
    compacted(rows, len(rows) + 9, head, head + (len(rows) if took else waiting), took)


@pytest.mark.parametrize(("classes", "steps"), [(1, 1), (10, 2), (63, 5), (1500, 3)])
def test_deliver(classes: int, steps: int) -> None:
    """Two owners, a slot that nobody owns, rows that stay, and one that has no answer."""
    slots, at = ints(6, -1, 0, 3, 5, 2, 4), ints(steps, 1, 1, steps, 0, 1, 1)
    reason = ints(EXITED, EXITED, STAYS, DEADLINE, CANCELLED, LAST_STEP, EXITED)
    arena, owned = arena_of(7, classes, steps), {6: (0, 2), 0: (0, 0), 3: (1, 1), 5: (1, 2), 2: (0, 1)}

    def run(g: Guards) -> tuple[Tensor, ...]:
        owners = [[g.out(part, keep=True) for part in blank_answers(3, classes, steps)] for _ in range(2)]
        places = torch.zeros(7, 5, dtype=torch.int64)
        for slot, (owner, row) in owned.items():
            places[slot] = addresses(owners[owner], row)
        deliver(*map(g.put, (slots, reason, at, *arena)), g.put(places))
        return *owners[0], *owners[1]

    found = every_way(run)
    expected = [part.tolist() for _ in range(2) for part in blank_answers(3, classes, steps)]
    for slot, step in ((6, steps), (3, steps), (5, 0), (2, 1)):
        owner, row = owned[slot]
        for field, value in enumerate(answer_rule(step, *(part[slot].tolist() for part in arena))):
            expected[5 * owner + field][row] = value
    for part, values in zip(found, expected, strict=True):
        wanted = torch.tensor(values, dtype=part.dtype).view_as(part)
        torch.testing.assert_close(part, wanted, rtol=0, atol=0, equal_nan=True)


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
@pytest.mark.parametrize("stepped", ["plain", "step"])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.int64, torch.float64], ids=name)
def test_scatter(dtype: torch.dtype, stepped: str, width: int) -> None:
    arena = (
        torch.zeros(5, width, dtype=dtype) if stepped == "plain" else torch.zeros(5, 3, width, dtype=dtype)
    )
    slots, step = ints(4, -1, 0, 2), ints(3, 9, 1, 2) if stepped == "step" else None
    rows = torch.randn(4, width + 1)[:, :width]
    if dtype in (torch.int64, torch.float64):  # whose values float32 does not hold, in columns of one block
        rows = (torch.arange(4 * (width + 3)).view(4, -1) + 2**40).to(dtype)[:, 2 : width + 2]

    def run(g: Guards) -> tuple[Tensor, ...]:
        home = g.out(arena, keep=True)
        scatter(home, g.put(slots), g.put(rows), step if step is None else g.put(step))
        return (home,)

    (found,), expected = every_way(run), arena.clone()
    scatter_reference(expected, slots, rows, step)
    torch.testing.assert_close(found, expected, **TOLERANCE.get(dtype, {"rtol": 0, "atol": 0}))


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


def test_scatter_all_without_steps() -> None:
    """Columns of one packed block of int64, and float64 beside them."""
    packed, slots = torch.arange(4 * 9).view(4, 9) + 2**40, ints(4, -1, 0, 2)
    arenas = torch.zeros(5, 5).long(), torch.zeros(5, 1, dtype=torch.float64), torch.zeros(5, 2).int()
    rows = packed[:, 2:7], packed.view(torch.float64)[:, 7:8], packed.view(torch.int32)[:, 16:]

    def run(g: Guards) -> tuple[Tensor, ...]:
        homes, block = [g.out(arena, keep=True) for arena in arenas], g.put(packed)
        parts = block[:, 2:7], block.view(torch.float64)[:, 7:8], block.view(torch.int32)[:, 16:]
        scatter_all(homes, g.put(slots), parts)
        return tuple(homes)

    for found, arena, part in zip(every_way(run), arenas, rows, strict=True):
        scatter_reference(arena, slots, part)
        assert found.equal(arena)
