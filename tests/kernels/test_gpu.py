"""The kernels on a GPU: against their references, and inside a captured graph without a wait.

GFNET_GPU_TESTS=cpu tries the tests themselves on a CPU, where the ops are plain torch.
"""

import os

import gfnet_kernels as gk
import pytest
import torch
from cases import addresses, arena_of, blank_answers
from guarded import assert_near
from torch import Tensor

DEVICE = os.environ.get("GFNET_GPU_TESTS", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="expected a CUDA GPU, got none"
    ),
]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
THRESHOLDS = (0.9, 0.6, -1e8)


def name(value: object) -> str:
    return str(value).removeprefix("torch.")


def numbers(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def photos(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=DEVICE)
    return pixels if dtype == torch.uint8 else (pixels.float() / 255).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("pixels", [torch.uint8, *FLOATS], ids=name)
@pytest.mark.parametrize("source", ["tensor", "table"])
def test_crop_and_glance(source: str, pixels: torch.dtype, dtype: torch.dtype) -> None:
    images: Tensor | list[Tensor] = photos(3, 224, 224, 3, dtype=pixels)
    if source == "table":
        images = [photos(224, 260, 3, dtype=pixels), photos(3, 230, 300, dtype=pixels)]
    given = images if isinstance(images, Tensor) else gk.ImageTable.of(images)
    slots, origins = numbers(1, -1, 0, 1), numbers((128, 128), (0, 0), (7, 3), (0, 128))
    actual = gk.crop(given, slots, origins, 96, MEAN, STD, dtype)
    assert_near(actual, gk.crop_reference(given, slots, origins, 96, MEAN, STD, dtype))
    for filter in ("bicubic", "bilinear"):
        actual = gk.glance(given, slots, 96, filter, MEAN, STD, dtype)
        expected = gk.glance_reference(given, slots, 96, filter, MEAN, STD, dtype)
        # Compilers may fuse the coordinate's product with what follows: 1e-5 of a pixel, 2e-4 of the range.
        assert_near(actual, expected, **({"atol": 1e-3} if dtype == torch.float32 else {}))


def terms(slots: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Thresholds, limits and deadlines of slots, some cancelled, late or at their limit; now."""
    limits = torch.randint(0, 5, (slots,), dtype=torch.int32, device=DEVICE)
    deadlines = torch.full((slots,), float("inf"), dtype=torch.float64, device=DEVICE)
    deadlines[::7] = 7.0
    bars = torch.tensor(THRESHOLDS, device=DEVICE).repeat(slots, 1)
    return bars, limits, deadlines, torch.tensor([7.0], dtype=torch.float64, device=DEVICE)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("shape", [(1, 7), (63, 1000), (1024, 1000), (5, 21841), (65536, 10)], ids=str)
def test_exits(shape: tuple[int, int], dtype: torch.dtype) -> None:
    rows, classes = shape
    logits = (torch.randn(rows, classes, device=DEVICE) * 4).to(dtype)
    steps = torch.randint(1, 4, (rows,), dtype=torch.int32, device=DEVICE)
    slots = torch.randperm(rows, device=DEVICE).int()
    slots[1::9] = -1
    inputs = logits, slots, steps, *terms(rows)
    actual, host = gk.exits(*inputs), [part.cpu() for part in inputs]
    expected = [part.to(DEVICE) for part in gk.exits(*host)]  # row by row the reference takes too long
    assert_near(actual[0], expected[0])
    assert actual[1].equal(expected[1])
    bars = inputs[3][slots.clamp(min=0).long(), steps.long() - 1]
    sure = (expected[0] - bars).abs() > 1e-5
    for one, other in zip(actual[2:], expected[2:], strict=True):
        assert one[sure].equal(other[sure])


def test_a_ring_keeps_its_order() -> None:
    """Thousands of launches of any size, who stays at random, against the same on the host."""
    draw, capacity = torch.Generator().manual_seed(3), 5000
    ring, counters, record = (
        torch.arange(capacity).int(),
        torch.tensor([3, 3 + capacity]),
        torch.zeros(15002).int(),
    )
    host = ring, counters, record
    device = tuple(part.to(DEVICE) for part in host)
    taken = torch.randint(0, 5, (capacity,), generator=draw).int()
    taken_there, wrong = taken.to(DEVICE), torch.zeros((), dtype=torch.int64, device=DEVICE)
    for turn in range(2000):
        rows, count = (int(n) for n in torch.randint(1, (16, 300, 5000)[turn % 3], (2,), generator=draw))
        expected = gk.take(*host[:2], torch.tensor([count]).int(), taken, rows)
        found = gk.take(*device[:2], numbers(count), taken_there, rows)
        reason = torch.randint(-1, 5, (rows,), generator=draw).int()
        took = turn % 4 > 0
        reason[:] = reason if took else reason.abs()  # rows that the ring has still may not join it again
        gk.compact(expected[0], reason, expected[1], *host, took=took)
        gk.compact(found[0], reason.to(DEVICE), found[1], *device, took=took)
        for one, other in zip((*found, *device), (*expected, *host), strict=True):
            wrong += (one != other.to(DEVICE)).sum()
        if int(counters[1] - counters[0]) < 300:
            counters[1] = counters[0] + capacity
            device[1].copy_(counters)
    assert int(wrong) == 0


@pytest.mark.parametrize(("classes", "steps"), [(1, 1), (10, 5), (1500, 3)])
@pytest.mark.parametrize("pinned", [False, True], ids=["device", "host"])
def test_deliver(pinned: bool, classes: int, steps: int) -> None:
    """To memory of the device, and to memory of the host that the device writes itself."""
    slots, at = numbers(6, -1, 0, 3, 5, 2, 4), numbers(steps, 1, 1, steps, 0, 1, 1)
    reason, arena = numbers(0, 0, -1, 2, 4, 1, 0), arena_of(7, classes, steps)
    owned, host = {6: 2, 0: 0, 3: 1, 5: 3, 2: 4}, [blank_answers(5, classes, steps) for _ in range(2)]
    there = [part.pin_memory() if pinned and DEVICE == "cuda" else part.to(DEVICE) for part in host[0]]
    places = torch.zeros(2, 7, 5, dtype=torch.int64)
    for slot, row in owned.items():
        places[0, slot], places[1, slot] = addresses(tuple(there), row), addresses(host[1], row)
    gk.deliver(slots, reason, at, *(part.to(DEVICE) for part in arena), places[0].to(DEVICE))
    gk.deliver_reference(slots.cpu(), reason.cpu(), at.cpu(), *arena, places[1])
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    for one, other in zip(there, host[1], strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_state_and_rows(dtype: torch.dtype) -> None:
    slots, step = numbers(3, -1, 0, 5), numbers(1, 1, 3, 2)
    gates, state = torch.randn(4, 3072, device=DEVICE).to(dtype), torch.randn(7, 1024, device=DEVICE)
    mirror = state.clone()
    rows = gk.gru_step(gates, gates, state, slots)
    assert_near(rows, gk.gru_step_reference(gates, gates, mirror, slots), atol=1e-3)
    assert_near(state, mirror, rtol=1e-5)
    assert gk.gather(state, slots).equal(gk.gather_reference(state, slots))
    arena = torch.zeros(7, 3, 1024, device=DEVICE, dtype=dtype)
    other = arena.clone()
    gk.scatter(arena, slots, rows, step)
    gk.scatter_reference(other, slots, rows, step)
    assert arena.equal(other)
    arenas = [torch.zeros(7, 1024, device=DEVICE, dtype=dtype), torch.zeros(7, 2, 1024, device=DEVICE)]
    gk.scatter_all(arenas, slots, [rows, rows], step)
    for found, at in zip(arenas, (None, step), strict=True):
        expected = torch.zeros_like(found)
        gk.scatter_reference(expected, slots, rows, at)
        assert found.equal(expected)
    for found, arena in zip(gk.gather_all([state, arenas[0]], slots), (state, arenas[0]), strict=True):
        assert found.equal(gk.gather_reference(arena, slots))


@pytest.mark.skipif(DEVICE != "cuda", reason="expected CUDA graphs, got a CPU")
def test_one_graph_replays_all_ops_without_a_wait() -> None:
    images, slots, origins = photos(3, 224, 224, 3), numbers(2, -1, 0), numbers((9, 9), (0, 0), (1, 2))
    state, weight = torch.randn(3, 8, device=DEVICE), torch.randn(3, 24, device=DEVICE)
    inputs, count, taken = terms(3), numbers(2), numbers(0, 1, 2)
    ring, counters, record = numbers(2, 0, 1), torch.tensor([4, 6], device=DEVICE), numbers(*[0] * 11)
    arena, owner = [part.to(DEVICE) for part in arena_of(3, 8, 3)], blank_answers(3, 8, 3)
    owner = tuple(part.to(DEVICE) for part in owner)
    places = torch.stack([addresses(owner, row) for row in range(3)]).to(DEVICE)

    def run() -> tuple[Tensor, ...]:
        seen = gk.glance(images, slots, 96, "bicubic", MEAN, STD, torch.float32).mean((2, 3))
        seen = seen + gk.crop(images, slots, origins, 96, MEAN, STD, torch.float32).mean((2, 3))
        rows = gk.gru_step(seen @ weight, seen @ weight, state, slots)
        due, steps = gk.take(ring, counters, count, taken, 3)
        decided = gk.exits(rows, due, steps, *inputs)
        gk.compact(due, *decided[2:], ring, counters, record, took=True)
        gk.deliver(due, *decided[2:], *arena, places)
        return (*decided, due, steps)

    written = state, ring, counters, record, *owner
    start = [part.clone() for part in written]
    expected = [*run(), *(part.clone() for part in written)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for part, before in zip(written, start, strict=True):
        part.copy_(before)
    torch.cuda.set_sync_debug_mode("error")
    try:
        graph.replay()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip((*captured, *written), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
