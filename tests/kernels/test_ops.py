"""The public ops on the CPU: equal to the references, visible to torch, and strict about bad input."""

import os
import random
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import gfnet_kernels as gk
import pytest
import torch
import torch.nn.functional as F
from cases import EXIT_CASES, LEFT, addresses, arena_of, blank_answers, exit_tensors
from guarded import assert_near
from hypothesis import given, settings
from hypothesis import strategies as st
from rules import answer_rule, compact_rule, exit_rule, take_rule
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
SLOTS = torch.tensor([2, -1, 0, 0, 1], dtype=torch.int32)
ORIGINS = torch.tensor([[0, 0], [999, -999], [20, 10], [1, 9], [3, 2]], dtype=torch.int32)
THRESHOLDS = torch.tensor([0.9, 0.6, -1e8])
COUNTERS = torch.tensor([2, 3])


def name(value: object) -> str:
    return str(value).removeprefix("torch.")


@pytest.fixture(autouse=True)
def _checked() -> Iterator[None]:
    before = gk.set_debug(True)
    yield
    gk.set_debug(before)


def photos(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


SOURCES: dict[str, Callable[[], Any]] = {
    "nhwc": lambda: photos(3, 33, 23, 3),
    "nchw": lambda: photos(3, 3, 33, 23),
    "view": lambda: photos(5, 40, 60, 3)[1:4, 2:35, 1:47:2],
    "bfloat16": lambda: torch.rand(3, 3, 33, 23).bfloat16(),
    "ragged": lambda: gk.ImageTable.of(
        [photos(41, 29, 3), photos(3, 33, 40), photos(23, 33, 3).transpose(0, 1)]
    ),
    "ragged-alike": lambda: gk.ImageTable.of([photos(33, 23, 3) for _ in range(3)]),
}


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "slots", [SLOTS, SLOTS.clamp(min=0), SLOTS[:0], SLOTS[1:2]], ids=["some", "all", "no", "pad"]
)
def test_crop_and_glance_equal_their_references(slots: Tensor, source: str, dtype: torch.dtype) -> None:
    images, origins = SOURCES[source](), ORIGINS[: len(slots)].clamp(0, 10)
    actual = gk.crop(images, slots, origins, 13, MEAN, STD, dtype)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert actual.equal(gk.crop_reference(images, slots, origins, 13, MEAN, STD, dtype))
    for filter in ("bicubic", "bilinear"):
        actual = gk.glance(images, slots, 9, filter, MEAN, STD, dtype)
        assert actual.is_contiguous(memory_format=torch.channels_last)
        assert_near(actual, gk.glance_reference(images, slots, 9, filter, MEAN, STD, dtype))


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
def test_glance_is_interpolate_of_the_normalised_images(filter: str) -> None:
    images = photos(3, 224, 224, 3)
    values = images.permute(0, 3, 1, 2).float().div(255)
    values = (values - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    expected = F.interpolate(values, size=(96, 96), mode=filter, align_corners=True)
    slots = torch.arange(3, dtype=torch.int32)
    assert_near(gk.glance(images, slots, 96, filter, MEAN, STD, torch.float32), expected)
    assert_near(gk.glance(values, slots, 96, filter, (0, 0, 0), (1, 1, 1), torch.float32), expected)
    assert gk.glance_reference(images, slots, 96, filter, MEAN, STD, torch.float32).equal(expected)


def test_many_images_take_several_blocks() -> None:
    images, slots = photos(40, 100, 90, 3), torch.randperm(40).int()
    origins = torch.randint(0, 27, (40, 2), dtype=torch.int32)
    table = gk.ImageTable.of(list(images))
    for source in (images, table):
        actual = gk.crop(source, slots, origins, 64, MEAN, STD, torch.float32)
        assert actual.equal(gk.crop_reference(images, slots, origins, 64, MEAN, STD, torch.float32))
        actual = gk.glance(source, slots, 32, "bicubic", MEAN, STD, torch.float32)
        assert_near(actual, gk.glance_reference(images, slots, 32, "bicubic", MEAN, STD, torch.float32))


def test_caller_owned_buffers_are_written_and_returned() -> None:
    images, slots = photos(3, 33, 23, 3), SLOTS
    out = torch.full((5, 3, 9, 9), float("nan")).contiguous(memory_format=torch.channels_last)
    assert gk.glance(images, slots, 9, "bicubic", MEAN, STD, torch.float32, out=out) is out
    assert_near(out, gk.glance_reference(images, slots, 9, "bicubic", MEAN, STD, torch.float32))


def ints(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def terms(slots: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Thresholds, limits and deadlines of slots with three steps, none of them pressed; now."""
    deadlines = torch.full((slots,), float("inf"), dtype=torch.float64)
    limits = torch.full((slots,), 3, dtype=torch.int32)
    return THRESHOLDS.repeat(slots, 1), limits, deadlines, torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize("classes", [1, 7, 1000, 1001])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_exits(padded: bool, dtype: torch.dtype, classes: int) -> None:
    logits = torch.randn(64, classes)
    logits[torch.arange(64), torch.randint(0, classes, (64,))] += torch.linspace(0, 14, 64)
    logits[5] = float("nan")
    logits[6, classes // 2] = float("inf")
    slots, steps = torch.randperm(80).int()[:64], torch.randint(1, 4, (64,)).int()
    if padded:
        slots[::5], steps[::5] = -1, 0
    bars, limits, deadlines, now = terms(80)
    limits, deadlines[::9] = torch.randint(0, 5, (80,)).int(), -1.0
    arguments = logits.to(dtype), slots, steps, bars, limits, deadlines, now
    for one, other in zip(gk.exits(*arguments), gk.exits_reference(*arguments), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@settings(deadline=None)
@given(EXIT_CASES)
def test_exits_rule(case: Any) -> None:
    for op in (gk.exits, gk.exits_reference):
        _, *found = op(*exit_tensors(*case))
        assert list(zip(*(part.tolist() for part in found), strict=True)) == exit_rule(*case)


@settings(deadline=None)
@given(
    ring=st.permutations(range(7)),
    head=st.integers(0, 2**40),
    waiting=st.integers(0, 7),
    count=st.integers(0, 9),
    taken=st.lists(st.integers(0, 3), min_size=7, max_size=7),
    rows=st.integers(0, 9),
    by_step=st.booleans(),
)
def test_take_rule(
    ring: list[int], head: int, waiting: int, count: int, taken: list[int], rows: int, by_step: bool
) -> None:
    counters = torch.tensor([head, head + waiting])
    for op in (gk.take, gk.take_reference):
        found = op(ints(*ring), counters, ints(count), ints(*taken), rows, by_step=by_step)
        expected = take_rule(ring, head, head + waiting, count, taken, rows, by_step)
        assert tuple(part.tolist() for part in found) == expected
    assert counters.tolist() == [head, head + waiting]


@settings(deadline=None)
@given(rows=LEFT, head=st.integers(0, 2**40), waiting=st.integers(0, 9), took=st.booleans())
def test_compact_rule(rows: list[tuple[int, int, int]], head: int, waiting: int, took: bool) -> None:
    slots, at, reason = torch.tensor(rows, dtype=torch.int32).view(-1, 3).unbind(1)
    ring, record = list(range(500, 509 + len(rows))), [-7] * (3 * len(rows) + 5)
    tail = head + (len(rows) if took else waiting)
    for op in (gk.compact, gk.compact_reference):
        written = ints(*ring), torch.tensor([head, tail]), ints(*record)
        op(slots, reason, at, *written, took=took)
        assert tuple(part.tolist() for part in written) == compact_rule(rows, ring, head, tail, record, took)


def test_a_ring_of_65536() -> None:
    ring, counters, taken = (
        torch.randperm(65536).int(),
        torch.tensor([70000, 70000 + 65536]),
        SLOTS.new_zeros(65536),
    )
    slots, steps = gk.take(ring, counters, ints(2**31 - 1), taken, 65536)
    assert slots.equal(ring.roll(-(70000 - 65536)))
    assert (steps == 1).all()
    record, stays = ints(*[0] * (2 + 3 * 65536)), torch.rand(65536) < 0.5
    gk.compact(slots, stays.int().neg(), steps, ring, counters, record, took=True)
    kept = slots[stays]
    assert counters.tolist() == [70000 + 65536, 70000 + 65536 + len(kept)]
    assert record[:2].tolist() == [65536 - len(kept), len(kept)]
    assert ring.roll(-(70000 - 65536))[: len(kept)].equal(kept)


def test_a_queue_of_any_length() -> None:
    """Glances and focus launches against a deque; GFNET_QUEUE_ROWS sets how many rows, 300,000 without."""
    gk.set_debug(False)  # what the debug checks look for is compared here
    draw, capacity, rows = random.Random(0), 700, int(os.environ.get("GFNET_QUEUE_ROWS", "300000"))
    ring, counters, count = torch.full((701,), -9).int(), torch.zeros(2, dtype=torch.int64), ints(0)
    taken, record = torch.zeros(capacity).int(), torch.zeros(2 + 3 * 256).int()
    idle, queue = deque(range(capacity)), deque[int]()
    while rows > 0:
        bucket = draw.choice((1, 64, 256, 256))
        focus = bool(queue) and (len(idle) < bucket or draw.random() < 0.7)
        if focus:
            wanted, by_step = draw.randint(0, 300), draw.random() < 0.2
            slots, steps = gk.take(ring, counters, count.fill_(wanted), taken, bucket, by_step=by_step)
            live = [queue[i] for i in range(min(wanted, len(queue), bucket))]
            if by_step:
                live.sort(key=taken.tolist().__getitem__)
            padding = [-1] * (bucket - len(live))
            assert slots.tolist() == live + padding
            assert steps.tolist() == [*(taken[live] + 1).tolist(), *[0] * len(padding)]
            if draw.random() < 0.1:
                continue  # the launch failed, and nothing has moved
            for _ in live:
                queue.popleft()
        else:
            live = [idle.popleft() for _ in range(min(bucket, len(idle)))]
            slots = ints(*live, *[-1] * (bucket - len(live)))
            steps = torch.where(slots < 0, 0, 1).int()
        reasons = draw.choices((-1, 0, 1, 2, 4), (4, 1, 1, 1, 1), k=bucket)
        taken[live] = steps[: len(live)]
        gk.compact(slots, ints(*reasons), steps, ring, counters, record, took=focus)
        left = [row for row in zip(live, steps.tolist(), reasons, strict=False) if row[2] >= 0]
        queue.extend(slot for slot, reason in zip(live, reasons, strict=False) if reason < 0)
        idle.extend(slot for slot, _, _ in left)
        assert record[:2].tolist() == [len(left), len(queue)]
        assert record[2 : 2 + 3 * len(left)].tolist() == [value for row in left for value in row]
        rows -= len(live)


@pytest.mark.parametrize(("classes", "steps"), [(1, 1), (10, 5), (1000, 3)])
def test_deliver(classes: int, steps: int) -> None:
    """Two owners far apart, a slot that nobody owns, rows that stay, and one that has no answer."""
    slots, at = ints(6, -1, 0, 3, 5, 2, 4), ints(steps, 1, 1, steps, 0, 1, 1)
    reason, arena = ints(gk.EXITED, 0, gk.STAYS, gk.DEADLINE, gk.CANCELLED, gk.LAST_STEP, 0), None
    arena, owned = arena_of(7, classes, steps), {6: (0, 2), 0: (0, 0), 3: (1, 1), 5: (1, 2), 2: (0, 1)}
    expected = [part.tolist() for _ in range(2) for part in blank_answers(3, classes, steps)]
    for slot, step in ((6, steps), (3, steps), (5, 0), (2, 1)):
        owner, row = owned[slot]
        for field, value in enumerate(answer_rule(step, *(part[slot].tolist() for part in arena))):
            expected[5 * owner + field][row] = value
    for op in (gk.deliver, gk.deliver_reference):
        owners = [blank_answers(3, classes, steps) for _ in range(2)]
        places = torch.zeros(7, 5, dtype=torch.int64)
        for slot, (owner, row) in owned.items():
            places[slot] = addresses(owners[owner], row)
        op(slots, reason, at, *arena, places)
        for part, values in zip((*owners[0], *owners[1]), expected, strict=True):
            wanted = torch.tensor(values, dtype=part.dtype).view_as(part)
            torch.testing.assert_close(part, wanted, rtol=0, atol=0, equal_nan=True)


def test_addresses_between_values_are_refused_before_anything_is_written() -> None:
    owner, arena = blank_answers(2, 3, 2), arena_of(2, 3, 2)
    places = torch.stack([addresses(owner, 0), addresses(owner, 1)])
    for field, offset in ((0, 4), (1, 2), (2, 4), (3, 1), (4, 4)):
        wrong = places.clone()
        wrong[1, field] += offset
        with pytest.raises(ValueError, match="places: expected multiples of"):
            gk.deliver(ints(0, 1), ints(0, 0), ints(1, 1), *arena, wrong)
    assert all(part.eq(-77).all() for part in owner)


def test_gru_step_is_torch_gru() -> None:
    cell = torch.nn.GRU(20, 16, batch_first=True).requires_grad_(False)
    x, state, slots = torch.randn(3, 2, 20), torch.randn(8, 16), torch.tensor([5, 0, 3], dtype=torch.int32)
    expected, _ = cell(x)
    for k in range(2):
        gates_in = F.linear(x[:, k], cell.weight_ih_l0, cell.bias_ih_l0)
        gates_state = F.linear(gk.gather(state, slots), cell.weight_hh_l0, cell.bias_hh_l0)
        rows = gk.gru_step(gates_in, cell.bias_hh_l0 if k == 0 else gates_state, state, slots)
        torch.testing.assert_close(rows, expected[:, k])
        assert state[slots.long()].equal(rows)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_rows_equal_their_references(dtype: torch.dtype) -> None:
    arena, slots = torch.randn(5, 3, 7).to(dtype), torch.tensor([4, -1, 0], dtype=torch.int32)
    rows, step = torch.randn(3, 7), torch.tensor([3, 0, 1], dtype=torch.int32)
    other = arena.clone()
    gk.scatter(arena, slots, rows, step)
    gk.scatter_reference(other, slots, rows, step)
    assert arena.equal(other)
    newest, plain = torch.zeros(5, 2, 7), torch.zeros(5, 7, dtype=dtype)
    gk.scatter_all((plain, newest, arena), slots, (rows, 2 * rows, 3 * rows), step)
    for home, part, at in ((plain, rows, None), (newest, 2 * rows, step), (arena, 3 * rows, step)):
        expected = home.clone().zero_() if home is not arena else other
        gk.scatter_reference(expected, slots, part, at)
        assert home.equal(expected)
    for found, home in zip(gk.gather_all((plain, newest[:, 1]), slots), (plain, newest[:, 1]), strict=True):
        assert found.equal(gk.gather_reference(home, slots))
    cascade = arena.flatten(1)[:, :14]
    assert gk.gather(cascade, slots).equal(gk.gather_reference(cascade, slots))
    gates, state = torch.randn(3, 21).to(dtype), torch.randn(5, 7)
    mirror = state.clone()
    torch.testing.assert_close(
        gk.gru_step(gates, gates, state, slots), gk.gru_step_reference(gates, gates, mirror, slots)
    )
    torch.testing.assert_close(state, mirror)


def test_a_confidence_equal_to_its_threshold_leaves() -> None:
    logits, steps, slots = torch.randn(40, 10) * 3, torch.ones(40).int(), torch.arange(40).int()
    _, limits, deadlines, now = terms(40)
    shares = logits.softmax(1).amax(1)
    for bars, reason in ((shares, gk.EXITED), (shares.nextafter(torch.tensor(2.0)), gk.STAYS)):
        thresholds = torch.stack([bars, bars, bars], 1)
        found = gk.exits(logits, slots, steps, thresholds, limits, deadlines, now)[2]
        assert (found == reason).all()


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_but_padding(rows: int) -> None:
    slots, arena = torch.full((rows,), -1, dtype=torch.int32), torch.randn(4, 6)
    before, gates = arena.clone(), torch.randn(rows, 18)
    for out in (gk.gather(arena, slots), gk.gru_step(gates, gates, arena, slots)):
        assert out.equal(torch.zeros(rows, 6))
    gk.scatter(arena, slots, torch.randn(rows, 6))
    assert arena.equal(before)
    confidence, label, reason, at = gk.exits(torch.randn(rows, 5), slots, slots, *terms(4))
    assert confidence.equal(torch.zeros(rows))
    assert (label == -1).all()
    assert (reason == gk.STAYS).all()
    assert (at == 0).all()
    ring, counters, record = ints(1, 2), torch.tensor([3, 4]), ints(*[9] * (2 + 3 * rows))
    gk.compact(slots, reason, at, ring, counters, record, took=True)
    assert (ring.tolist(), counters.tolist(), record.tolist()) == ([1, 2], [3, 4], [0, 1] + [9] * 3 * rows)
    taken, steps = gk.take(ring, counters, ints(0), ints(0, 0, 0), rows)
    assert taken.equal(slots)
    assert (steps == 0).all()
    gk.deliver(slots, at, at, *arena_of(4, 5, 3), torch.full((4, 5), 1))


def test_a_table_of_mirrored_images() -> None:
    """Strides below zero, which torch's tensors cannot have but other libraries' images can."""
    image, slots = photos(20, 31, 3), torch.arange(4).int()
    address, height, width, row, column, channel = gk.entry_of(image)
    bottom, right, blue = 19 * row, 30 * column, 2 * channel
    entries = [
        (address + bottom, height, width, -row, column, channel),
        (address + right, height, width, row, -column, channel),
        (address + blue, height, width, row, column, -channel),
        (address + bottom + right + blue, height, width, -row, -column, -channel),
    ]
    table = gk.ImageTable(torch.tensor(entries), torch.uint8)
    flipped = torch.stack([image.flip(axis) for axis in ((0,), (1,), (2,), (0, 1, 2))])
    origins = torch.tensor([[0, 0], [7, 18], [7, 0], [3, 5]], dtype=torch.int32)
    actual = gk.crop(table, slots, origins, 13, MEAN, STD, torch.float32)
    assert actual.equal(gk.crop_reference(flipped, slots, origins, 13, MEAN, STD, torch.float32))
    actual = gk.glance(table, slots, 9, "bicubic", MEAN, STD, torch.float32)
    assert_near(actual, gk.glance_reference(flipped, slots, 9, "bicubic", MEAN, STD, torch.float32))


def test_a_table_keeps_its_images() -> None:
    picture = photos(20, 31, 3)
    table = gk.ImageTable.of([picture.clone()])
    rubbish = [torch.full((20, 31, 3), 7, dtype=torch.uint8) for _ in range(50)]
    slots, origins = torch.zeros(1, dtype=torch.int32), torch.zeros(1, 2, dtype=torch.int32)
    actual = gk.crop(table, slots, origins, 20, MEAN, STD, torch.float32)
    assert actual.equal(gk.crop(picture[None], slots, origins, 20, MEAN, STD, torch.float32))
    assert len(rubbish) == 50


def test_defaults_of_torch_do_not_matter() -> None:
    arguments = inputs()
    expected = pipeline(*inputs())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            actual = pipeline(*arguments)
    finally:
        torch.set_default_dtype(before)
    assert_same(actual, expected)


def test_results_carry_no_gradient() -> None:
    weight, slots = torch.nn.Parameter(torch.randn(3, 4)), torch.tensor([2, 0], dtype=torch.int32)
    arena = torch.zeros(3, 4)
    gk.scatter(arena, slots, gk.gather(weight, slots) + weight[:2])
    results = (arena, gk.gather(weight, slots), *gk.exits(weight, ints(0, 1, 2), ints(1, 1, 1), *terms(3)))
    assert not any(result.requires_grad for result in results)


def test_a_mode_sees_every_op() -> None:
    """The short cut past the dispatcher is taken only where nobody looks."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Witness(TorchDispatchMode):
        seen: set[str] = set()  # noqa: RUF012

        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.add(str(op))
            return op(*args, **(kwargs or {}))

    with Witness() as witness:
        actual = pipeline(*inputs())
    assert_same(actual, pipeline(*inputs()))
    assert len({name for name in witness.seen if name.startswith("gfnet_kernels.")}) == 9


def pipeline(
    images: Tensor, slots: Tensor, origins: Tensor, weight: Tensor, state: Tensor
) -> tuple[Tensor, ...]:
    """Every op once, as an engine would chain them."""
    seen = gk.glance(images, slots, 8, "bicubic", MEAN, STD, torch.float32).mean((2, 3))
    seen = seen + gk.crop(images, slots, origins, 8, MEAN, STD, torch.float32).mean((2, 3))
    gates = seen @ weight
    rows = gk.gru_step(gates, gates, state, slots) + gk.gather(state, slots)
    limits, hours = slots.new_full((3,), 3), rows.new_full((4,), 9.0, dtype=torch.float64)
    bars, ring, record = THRESHOLDS.expand(3, 3), slots.clamp(min=0), slots.new_zeros(11)
    decided = gk.exits(rows, slots, torch.ones_like(slots), bars, limits, hours[:3], hours[3:] - 1)
    gk.scatter(state, slots, rows)
    counters = COUNTERS.clone()
    waiting = gk.take(ring, counters, slots[2:] + 2, ring, 2)
    gk.compact(slots, *decided[2:], ring, counters, record, took=False)
    nobody = slots.new_zeros(3, 5, dtype=torch.int64)
    logits, origins = rows[:, None].expand(3, 2, 4).contiguous(), slots.new_zeros(3, 2, 2)
    gk.deliver(
        slots,
        *decided[2:],
        origins[:, :, :1].contiguous(),
        logits[..., :1].contiguous(),
        logits,
        origins,
        nobody,
    )
    return *decided, state, *waiting, ring, counters, record


def inputs() -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    slots = torch.tensor([2, -1, 0], dtype=torch.int32)
    return photos(3, 20, 21, 3), slots, ORIGINS[2:].clamp(0, 9), torch.randn(3, 12), torch.randn(3, 4)


def assert_same(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_compiles_over_a_table() -> None:
    table, slots = gk.ImageTable.of([photos(20, 21, 3), photos(3, 30, 17)]), torch.tensor([1, 0]).int()
    compiled = torch.compile(gk.glance, fullgraph=True, backend="aot_eager")
    actual = compiled(table, slots, 8, "bicubic", MEAN, STD, torch.float32)
    assert actual.equal(gk.glance(table, slots, 8, "bicubic", MEAN, STD, torch.float32))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(backend: str) -> None:
    compiled = torch.compile(pipeline, fullgraph=True, backend=backend)
    assert_same(compiled(*inputs()), pipeline(*inputs()))


def test_exports() -> None:
    class Pipeline(torch.nn.Module):
        def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
            return pipeline(*args)

    program = torch.export.export(Pipeline(), inputs())
    names = {str(node.target) for node in program.graph.nodes if "gfnet_kernels" in str(node.target)}
    assert len(names) == 9
    assert_same(program.module()(*inputs()), pipeline(*inputs()))


def opcheck_cases() -> dict[str, tuple[Any, ...]]:
    images, slots, origins, _, state = inputs()
    planar, out = images.permute(0, 3, 1, 2), torch.empty(3, 3, 8, 8, memory_format=torch.channels_last)
    table = gk.ImageTable.of(list(images))
    gates, rows = torch.randn(3, 12), torch.randn(3, 4)
    owner, delivered = blank_answers(3, 4, 3), arena_of(3, 4, 3)
    places = torch.stack([addresses(owner, row) for row in range(3)])
    opcheck_cases.owner = owner  # kept as long as somebody may write to it
    ring, counters, record = ints(0, 1, 2, 3), torch.tensor([2, 4]), torch.zeros(11).int()
    ops = torch.ops.gfnet_kernels
    return {
        "glance": (ops.glance, planar, slots, out, "bicubic", MEAN, STD, None),
        "glance-table": (ops.glance, table.entries, slots, out, "bilinear", MEAN, STD, torch.uint8),
        "crop": (ops.crop, planar, slots, origins, out, MEAN, STD, None),
        "exits": (
            ops.exits,
            rows,
            slots,
            ints(1, 0, 3),
            *terms(3),
            torch.empty(3),
            *ints((1,) * 3, (2,) * 3, (3,) * 3),
        ),
        "compact": (ops.compact, slots, ints(-1, 0, 1), ints(1, 2, 3), ring, counters, record, False),
        "take": (ops.take, ring, counters, ints(2), ints(0, 0, 0, 1), True, slots.clone(), slots.clone()),
        "deliver": (ops.deliver, slots, ints(0, 0, 1), ints(1, 1, 3), *delivered, places),
        "gru_step": (ops.gru_step, gates, gates, state, slots, rows),
        "gather": (ops.gather, [state, state[:, 1:]], slots, [rows, rows[:, 1:].clone()]),
        "scatter": (ops.scatter, [rows, rows.clone()], slots, None, [state, state.clone()]),
    }


@pytest.mark.parametrize("case", opcheck_cases())
def test_opcheck(case: str) -> None:
    op, *arguments = opcheck_cases()[case]
    torch.library.opcheck(op.default, tuple(arguments))


def small(**change: Any) -> dict[str, Any]:
    base = {"images": photos(3, 20, 21, 3), "slots": SLOTS[[0, 2]], "size": 8}
    return base | {"mean": MEAN, "std": STD, "dtype": torch.float32} | change


ORIGIN = torch.tensor([[0, 0], [12, 13]], dtype=torch.int32)
BAD_CROPS: dict[str, tuple[dict[str, Any], str]] = {
    "origin below": ({"origins": ORIGIN - 1}, r"origins at row 0: expected 0\.\.\[12, 13\], got \[-1, -1\]"),
    "origin above": ({"origins": ORIGIN + 1}, r"origins at row 1: expected .*, got \[13, 14\]"),
    "slot above": ({"slots": torch.tensor([3, 0]).int()}, r"slots: expected -1\.\.2, got 0\.\.3"),
    "slot below": ({"slots": torch.tensor([-2, 0]).int()}, r"slots: expected -1\.\.2, got -2\.\.0"),
    "size above": ({"size": 21}, r"size: expected at most the image's \(20, 21\), got 21"),
    "size zero": ({"size": 0}, "size: expected at least 1, got 0"),
    "lengths": ({"origins": ORIGIN[:1]}, r"origins\.shape: expected \(2, 2\), got \(1, 2\)"),
    "origins' type": ({"origins": ORIGIN.long()}, r"origins\.dtype: expected torch\.int32, got torch\.int64"),
    "slots' type": ({"slots": SLOTS[[0, 2]].long()}, r"slots\.dtype: expected torch\.int32"),
    "images' type": ({"images": torch.zeros(3, 20, 21, 3).double()}, r"images\.dtype: .* got torch\.float64"),
    "type out": ({"dtype": torch.float64}, r"dtype: .* got torch\.float64"),
    "images' device": (
        {"images": torch.zeros(3, 20, 21, 3, device="meta")},
        r"slots\.device: expected meta, got cpu",
    ),
    "origins' device": ({"origins": ORIGIN.to("meta")}, r"origins\.device: expected cpu, got meta"),
    "channels": ({"images": photos(3, 20, 21, 4)}, "3 channels"),
    "which channels": ({"images": photos(3, 3, 21, 3)}, "layout: expected NCHW or NHWC"),
    "mean": ({"mean": (0.0,)}, "mean and std: expected 3 values each"),
    "std": ({"std": (1.0, 0.0, 1.0)}, r"mean and std: expected up to 1e\+18, and std from 1e-18, got"),
    "huge std": ({"std": (1.0, 1e30, 1.0)}, "mean and std: expected up to"),
    "mean NaN": ({"mean": (0.0, float("nan"), 0.0)}, "mean and std: expected up to"),
    "mean infinite": ({"mean": (0.0, 0.0, float("-inf"))}, "mean and std: expected up to"),
    "out's shape": ({"out": torch.zeros(2, 3, 9, 9)}, r"out\.shape: expected \(2, 3, 8, 8\)"),
    "out's memory": ({"out": torch.zeros(2, 3, 8, 8)}, "out memory: expected torch.channels_last"),
}


@pytest.mark.parametrize("case", BAD_CROPS)
def test_bad_crops(case: str) -> None:
    change, message = BAD_CROPS[case]
    with pytest.raises(ValueError, match=message):
        gk.crop(**({"origins": ORIGIN} | small(**change)))


def test_bad_tables() -> None:
    table = gk.ImageTable.of([photos(20, 21, 3), photos(9, 30, 3)])
    origins = torch.tensor([[0, 0], [0, 19]], dtype=torch.int32)
    slots = torch.tensor([0, 1], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"size: expected at most the image's \[9, 30\], got 12"):
        gk.crop(table, slots, origins, 12, MEAN, STD, torch.float32)
    with pytest.raises(ValueError, match=r"origins at row 1: expected 0\.\.\[1, 22\], got \[0, 23\]"):
        gk.crop(table, slots, origins + torch.tensor([0, 4]).int(), 8, MEAN, STD, torch.float32)
    with pytest.raises(ValueError, match=r"slots: expected -1\.\.1, got 1\.\.2"):
        gk.glance(table, slots + 1, 8, "bicubic", MEAN, STD, torch.float32)
    with pytest.raises(ValueError, match=r"dtype: expected torch\.uint8, got torch\.float32"):
        gk.ImageTable.of([photos(20, 21, 3), torch.zeros(3, 9, 9)])
    with pytest.raises(ValueError, match=r"entries.shape: expected \(slots, 6\), got \(2, 5\)"):
        gk.ImageTable(table.entries[:, :5], torch.uint8)


def test_a_table_of_addresses_between_values() -> None:
    image = torch.zeros(20, 21, 3)
    entries = torch.tensor([gk.entry_of(image)])
    entries[0, 0] += 2
    with pytest.raises(ValueError, match=r"table's addresses: expected multiples of 4 for torch\.float32"):
        gk.glance(gk.ImageTable(entries, torch.float32), SLOTS[2:3], 8, "bicubic", MEAN, STD, torch.float32)


def negated(tensor: Tensor) -> Tensor:
    """The same numbers, whose sign torch takes when they are read."""
    lazy = torch._neg_view(-tensor)  # as x.conj().imag is, but contiguous
    assert lazy.is_neg()
    return lazy


def test_lazily_negated_tensors_are_what_they_show() -> None:
    images, slots, origins, weight, state = inputs()
    floats = images.float()
    expected = pipeline(floats, slots, origins, weight, state)
    lazy = negated(state_before := inputs()[4])
    actual = pipeline(negated(floats), slots, origins, negated(weight), lazy)
    assert_same(actual, expected)
    assert not torch.equal(lazy, state_before), "the state was advanced in place"
    for halves in (floats.half(), floats.bfloat16()):  # whose values are converted on the way
        for rows in (slice(0, 1), slice(None)):
            arguments = slots[rows], origins[rows], 8, MEAN, STD, torch.float32
            assert gk.crop(negated(halves), *arguments).equal(gk.crop(halves, *arguments))
        arguments = slots, 8, "bicubic", MEAN, STD, torch.float32
        assert gk.glance(negated(halves), *arguments).equal(gk.glance(halves, *arguments))
    table = gk.ImageTable.of([negated(image) for image in floats])
    seen = gk.crop(table, slots, origins, 8, MEAN, STD, torch.float32)
    assert seen.equal(gk.crop(floats, slots, origins, 8, MEAN, STD, torch.float32))
    out = negated(torch.zeros(3, 4))
    assert gk.gather(state, slots, out=out) is out
    assert torch.equal(out, gk.gather(state, slots))
    with pytest.raises(ValueError, match="image: expected values as they are in memory"):
        gk.entry_of(negated(floats[0]))


def odd_tensors() -> dict[str, Callable[[Tensor], Tensor]]:
    from torch.masked import masked_tensor

    return {
        "sparse": lambda t: t.to_sparse(),
        "mkldnn": lambda t: t.float().to_mkldnn(),
        "masked": lambda t: masked_tensor(t, torch.ones_like(t, dtype=torch.bool)),
        "nested": lambda t: torch.nested.as_nested_tensor(t),
    }


@pytest.mark.filterwarnings("ignore:The PyTorch API of")
@pytest.mark.parametrize("kind", odd_tensors())
def test_tensors_that_hold_their_values_elsewhere_are_refused(kind: str) -> None:
    """One at a time, wherever an op takes one; a state in another layout ended the process."""
    odd = odd_tensors()[kind]
    images, slots, origins, _, state = inputs()
    gates, rows, out = torch.randn(3, 12), torch.randn(3, 4), torch.empty(3, 4)
    steps, shares, counters = torch.ones(3).int(), torch.empty(3), torch.tensor([0, 1])
    decided = [rows, slots, steps, *terms(3), shares, *(slots.clone() for _ in range(3))]
    left = [slots, slots, slots, steps, counters, torch.zeros(11).int()]
    calls: dict[str, tuple[Callable[..., object], list[Tensor]]] = {
        "glance": (lambda i, s: gk.glance(i, s, 8, "bicubic", MEAN, STD, torch.float32), [images, slots]),
        "crop": (lambda i, s, o: gk.crop(i, s, o, 8, MEAN, STD, torch.float32), [images, slots, origins]),
        "exits": (lambda *a: gk.exits(*a[:7], out=a[7:]), decided),
        "take": (lambda *a: gk.take(*a[:4], 3, out=a[4:]), [steps, counters, steps[:1], steps, slots, slots]),
        "compact": (lambda *a: gk.compact(*a, took=False), left),
        "deliver": (gk.deliver, [slots, slots, slots, *arena_of(3, 4, 3), torch.zeros(3, 5).long()]),
        "gru": (lambda g, b, s, at, to: gk.gru_step(g, b, s, at, out=to), [gates, gates, state, slots, out]),
        "gather": (lambda a, s, to: gk.gather(a, s, out=to), [state, slots, out]),
        "gather_all": (lambda a, s: gk.gather_all([state, a], s), [state, slots]),
        "scatter": (lambda a, s, r: gk.scatter(a, s, r), [state, slots, rows]),
        "scatter_all": (lambda a, s, r, k: gk.scatter_all([a], s, [r], k), [state, slots, rows, steps]),
        "table": (lambda i: gk.ImageTable.of([i]), [images[0]]),
        "entry": (gk.entry_of, [images[0].float()]),
    }
    for name, (call, tensors) in calls.items():
        for place, tensor in enumerate(tensors):
            try:
                strange = odd(tensor)
            except (RuntimeError, TypeError, ValueError):  # there is none of this dtype or shape
                continue
            with pytest.raises(ValueError, match=r"expected a (dense|plain) tensor"):
                call(*tensors[:place], strange, *tensors[place + 1 :])
            assert name


ONE = torch.ones(2, dtype=torch.int32)
ROW = torch.zeros(1, 4)
POINT = torch.tensor(1, dtype=torch.int32)


def decided(logits: Tensor = torch.zeros(2, 3), **change: Tensor) -> object:  # noqa: B008
    names = ("thresholds", "limits", "deadlines", "now")
    base = {"slots": ONE - 1, "steps": ONE} | dict(zip(names, terms(2), strict=True))
    return gk.exits(logits, **(base | change))


def took(**change: Any) -> object:
    base = {
        "queue": ONE,
        "counters": torch.tensor([0, 2]),
        "count": ONE[:1],
        "taken": ints(0, 0, 0),
        "rows": 2,
    }
    return gk.take(**(base | change))


def left(**change: Any) -> object:
    base = {"slots": ONE, "reason": ONE, "at": ONE, "queue": ONE.clone(), "counters": torch.tensor([0, 1])}
    return gk.compact(**(base | {"record": torch.zeros(8).int(), "took": False} | change))


def delivered(**change: Tensor) -> object:
    names = ("label", "confidence", "logits", "origins")
    base = {"slots": ints(0, 1), "reason": ONE, "at": ONE} | dict(zip(names, arena_of(2, 4, 3), strict=True))
    return gk.deliver(**(base | {"places": torch.zeros(2, 5).long()} | change))


BAD_CALLS: dict[str, tuple[Callable[[], object], str]] = {
    "filter": (
        lambda: gk.glance(**small(filter="nearest")),
        "filter: expected bilinear or bicubic, got nearest",
    ),
    "step zero": (lambda: decided(steps=ONE - 1), r"steps: expected 1\.\.3, got 0\.\.0"),
    "step four": (lambda: decided(steps=ONE + 3), r"steps: expected 1\.\.3, got 4\.\.4"),
    "steps": (lambda: decided(steps=ONE[:1]), r"steps\.shape: expected \(2\), got \(1,\)"),
    "slots": (lambda: decided(slots=ONE + 1), r"slots: expected -1\.\.1, got 2\.\.2"),
    "limits": (lambda: decided(limits=-ONE), r"limits: expected 0\.\.2147483647, got -1\.\.-1"),
    "limits' number": (lambda: decided(limits=ONE[:1]), r"limits\.shape: expected \(2\)"),
    "deadlines": (lambda: decided(deadlines=torch.zeros(2)), r"deadlines\.dtype: expected torch\.float64"),
    "now": (lambda: decided(now=torch.zeros(2).double()), r"now\.shape: expected \(1\), got \(2,\)"),
    "no thresholds": (lambda: decided(thresholds=torch.zeros(2, 0)), "thresholds: expected one per step"),
    "logits": (lambda: decided(torch.zeros(2, 3).int()), r"logits\.dtype: .* got torch\.int32"),
    "classes": (lambda: decided(torch.zeros(2, 32769)), r"classes: expected 1\.\.32768"),
    "head and tail": (lambda: took(counters=torch.tensor([4, 3])), r"counters: expected 0 <= head <= tail"),
    "more than all": (lambda: took(counters=torch.tensor([0, 3])), r"counters: expected .* got \[0, 3\]"),
    "a slot that waits": (lambda: took(queue=ONE + 4), r"queue: expected 0\.\.2, got 5\.\.5"),
    "count": (lambda: took(count=-ONE[:1]), r"count: expected 0\.\.2147483647, got -1\.\.-1"),
    "rows taken": (lambda: took(rows=65537), r"rows: expected 0\.\.65536, got 65537"),
    "queue": (lambda: took(queue=ONE[:0]), "queue: expected at least one place, got 0"),
    "places in steps": (lambda: took(queue=ONE.repeat(2)[::2]), "queue: expected a contiguous tensor"),
    "by step": (
        lambda: gk.take(*(t.to("meta") for t in (ONE, ONE.long(), ONE[:1], ONE)), 2, by_step=True),
        "by_step: expected a CPU, got meta",
    ),
    "reason": (lambda: left(reason=ONE.bool()), r"reason\.dtype: expected torch\.int32, got torch\.bool"),
    "rows": (lambda: left(slots=torch.zeros(65537).int()), "slots: expected at most 65536 rows"),
    "record": (lambda: left(record=ONE.repeat(2)), "record: expected at least 8 numbers, got 4"),
    "room": (lambda: left(reason=-ONE), "queue: expected room for 2 more, got 2 places"),
    "not so many": (lambda: left(took=True), "counters: expected 2 rows taken from the head"),
    "overlap": (lambda: left(queue=(shared := ONE.repeat(4)), record=shared), "a buffer apart from"),
    "at": (lambda: delivered(at=ONE + 3), r"at: expected 0\.\.3, got 4\.\.4"),
    "places": (lambda: delivered(places=torch.zeros(2, 4).long()), r"places\.shape: expected \(any, 5\)"),
    "half an owner": (lambda: delivered(places=torch.eye(2, 5).long() * 8), "places: expected all addresses"),
    "label": (lambda: delivered(label=torch.zeros(2, 3, 1).int()), r"label\.shape: expected \(2, 2, 1\)"),
    "arena in steps": (
        lambda: delivered(logits=torch.zeros(2, 2, 8)[..., ::2]),
        "logits: expected a contiguous tensor",
    ),
    "overlap in part": (
        lambda: gk.gather((arena := torch.zeros(5, 4))[:4], ONE, out=arena[3:]),
        "outs: expected a buffer apart from arenas, got one that overlaps it",
    ),
    "state and rows": (
        lambda: gk.gru_step(*[torch.zeros(2, 12)] * 2, (state := torch.zeros(3, 4)), ONE, out=state[1:]),
        "state: expected a buffer apart from out",
    ),
    "one row for all": (lambda: gk.scatter(ROW.expand(3, 4), ONE[:1], ROW), "arena: expected rows apart"),
    "rows that overlap": (
        lambda: gk.scatter(torch.zeros(9).as_strided((3, 4), (2, 1)), ONE[:1], ROW),
        "arena: expected rows apart",
    ),
    "steps that overlap": (
        lambda: gk.scatter(torch.zeros(3, 1, 4).expand(3, 2, 4), ONE[:1], ROW, ONE[:1]),
        "arena: expected rows apart",
    ),
    "one state for all": (
        lambda: gk.gru_step(torch.zeros(1, 12), torch.zeros(1, 12), ROW.expand(3, 4), ONE[:1]),
        "state: expected rows apart",
    ),
    "repeat": (lambda: gk.gather(torch.zeros(1, 4), ONE), r"slots: expected -1\.\.0, got 1\.\.1"),
    "twice": (lambda: gk.scatter(torch.zeros(2, 4), ONE, torch.zeros(2, 4)), "slots: expected no slot twice"),
    "step": (
        lambda: gk.scatter(torch.zeros(2, 3, 4), ONE[:1], torch.zeros(1, 4), ONE[:1] * 0),
        r"step: expected 1\.\.2147483647, got 0\.\.0",
    ),
    "no arenas": (lambda: gk.gather_all([], ONE), "arenas: expected at least one, got 0"),
    "no rows a slot": (
        lambda: gk.scatter(torch.zeros(2, 0, 4), ONE, torch.zeros(2, 4), ONE),
        "arena: expected at least one row a slot",
    ),
    "arenas": (
        lambda: gk.scatter_all([torch.zeros(2, 4)] * 2, ONE, [torch.zeros(2, 4)], ONE),
        "rows: expected one tensor for each of 2 arenas, got 1",
    ),
    "gates": (
        lambda: gk.gru_step(torch.zeros(2, 9), torch.zeros(2, 12), torch.zeros(3, 4), ONE),
        r"gates_in\.shape: expected \(2, 12\), got \(2, 9\)",
    ),
    "no row axis": (lambda: gk.gather(torch.zeros(4, 3), POINT), r"slots\.shape: expected \(any\), got \(\)"),
    "no list": (lambda: left(slots=POINT), r"slots\.shape: expected \(any\), got \(\)"),
    "no logits": (lambda: decided(POINT.float()), r"logits\.shape: expected \(any, any\)"),
    "no step": (
        lambda: gk.scatter_all([torch.zeros(2, 2, 4)], ONE[:1], [ROW]),
        r"arena\.shape: expected \(any, any\), got \(2, 2, 4\)",
    ),
    "no gates": (
        lambda: gk.gru_step(torch.zeros(2, 12), torch.zeros(2, 12), torch.zeros(3, 4), POINT),
        r"slots\.shape: expected \(any\), got \(\)",
    ),
    "no window": (
        lambda: gk.crop(**(small(slots=POINT) | {"origins": ORIGIN})),
        r"slots\.shape: expected \(any\)",
    ),
    "no columns": (lambda: gk.gather(torch.zeros(4, 0), ONE), "arena: expected at least one column"),
    "arena": (lambda: gk.gather(torch.zeros(4, 3).T, ONE), "arena: expected adjacent columns"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls(case: str) -> None:
    call, message = BAD_CALLS[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_import_needs_torch_and_triton_only() -> None:
    code = "import gfnet_kernels, sys; assert not {'timm', 'torchvision', 'gfnet_fast'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"], check=True)
