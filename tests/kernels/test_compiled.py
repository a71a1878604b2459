"""Every kernel, compiled ahead of time for sm_80 and sm_90 from the arguments its op launches it with."""

import importlib
from collections.abc import Callable

import pytest
import torch
from compiled import Usage, compile_launch, machine_widths, recorded
from gfnet_kernels import (
    ImageTable,
    compact,
    crop,
    deliver,
    exits,
    gather,
    gather_all,
    glance,
    gru_step,
    scatter,
    scatter_all,
    take,
)
from guarded import kernels
from torch import Tensor

CARDS = pytest.mark.parametrize("card", [80, 90], ids=lambda card: f"sm_{card}")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
SOURCES = (torch.uint8, *FLOATS)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SLOTS = torch.zeros(4, dtype=torch.int32)
disassembled: set[tuple[str, int]] = set()


def name(value: object) -> str:
    return str(value).removeprefix("torch.")


def compiled(module: str, kernel: str, card: int, call: Callable[[], object]) -> Usage:
    """Compile what the call launches; no stack, no spills, registers within the file's budget.

    The widths are read off the assembler, and once for each kernel and card off the machine code too.
    """
    owner = importlib.import_module(f"gfnet_kernels.{module}")
    original = getattr(owner, kernel)
    with kernels(), recorded(owner, kernel) as recorder:
        call()
    usage = compile_launch(original, recorder, card)
    print(
        f"{module} {kernel} sm_{card}: {usage.registers} registers, stores {sorted(set(usage.stores))} bits"
    )
    assert (usage.stack, usage.local) == (0, 0)
    assert usage.registers <= (
        owner.REGISTERS_WIDE if recorder.keywords.get("K", 0) > 16384 else owner.REGISTERS
    )
    if (kernel, card) not in disassembled:
        assert machine_widths(usage.cubin) == (set(usage.loads), set(usage.stores))
        disassembled.add((kernel, card))
    return usage


def pictures(ragged: bool, source: torch.dtype) -> Tensor | ImageTable:
    if ragged:
        return ImageTable.of([torch.zeros(224, 200, 3, dtype=source), torch.zeros(3, 300, 224, dtype=source)])
    return torch.zeros(2, 224, 224, 3, dtype=source)


# Every pair of types from a tensor; from a table every source and every target.
PAIRS = [(source, target, False) for source in SOURCES for target in FLOATS]
PAIRS += [(torch.uint8, torch.bfloat16, True), *((both, both, True) for both in FLOATS)]
IMAGES = pytest.mark.parametrize(
    ("source", "target", "ragged"),
    PAIRS,
    ids=[
        f"{name(source)}-{name(target)}-{'table' if ragged else 'tensor'}" for source, target, ragged in PAIRS
    ],
)


@CARDS
@IMAGES
def test_crop(source: torch.dtype, target: torch.dtype, ragged: bool, card: int) -> None:
    images, origins = pictures(ragged, source), torch.zeros(4, 2, dtype=torch.int32)
    usage = compiled("crop", "crop_kernel", card, lambda: crop(images, SLOTS, origins, 96, MEAN, STD, target))
    assert set(usage.stores) == {128}


@CARDS
@IMAGES
def test_glance_bicubic(source: torch.dtype, target: torch.dtype, ragged: bool, card: int) -> None:
    images = pictures(ragged, source)
    usage = compiled(
        "glance", "glance_kernel", card, lambda: glance(images, SLOTS, 96, "bicubic", MEAN, STD, target)
    )
    assert set(usage.stores) == {128}


@CARDS
@pytest.mark.parametrize("target", FLOATS, ids=name)
def test_glance_bilinear(target: torch.dtype, card: int) -> None:
    images = pictures(False, torch.uint8)
    usage = compiled(
        "glance", "glance_kernel", card, lambda: glance(images, SLOTS, 96, "bilinear", MEAN, STD, target)
    )
    assert set(usage.stores) == {128}


@CARDS
@pytest.mark.parametrize("size", [1, 63])
def test_odd_sizes(size: int, card: int) -> None:
    """Sizes of one make arguments constants, odd ones narrow the stores; both have to compile."""
    images = torch.zeros(2, size, 64, 3, dtype=torch.uint8)
    compiled(
        "glance",
        "glance_kernel",
        card,
        lambda: glance(images, SLOTS, size, "bicubic", MEAN, STD, torch.float16),
    )
    origins = torch.zeros(4, 2, dtype=torch.int32)
    compiled(
        "crop", "crop_kernel", card, lambda: crop(images, SLOTS, origins, size, MEAN, STD, torch.float16)
    )


def decided(logits: Tensor, capacity: int = 9, steps: int = 5) -> object:
    """A call of exits."""
    deadlines, now = torch.zeros(capacity).double(), torch.zeros(1).double()
    limits, bars = torch.zeros(capacity).int(), torch.zeros(capacity, steps)
    return exits(logits, SLOTS, SLOTS + 1, bars, limits, deadlines, now)


@CARDS
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_exits(dtype: torch.dtype, card: int) -> None:
    """Rows of 1,000 classes load 128 bits at a time, not word by word."""
    usage = compiled("exits", "exits_kernel", card, lambda: decided(torch.zeros(4, 1000, dtype=dtype)))
    assert 128 in usage.loads
    assert len(usage.loads) <= 2 + 6


@CARDS
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("classes", [1, 1001, 32768])
def test_exits_of_other_widths(classes: int, dtype: torch.dtype, card: int) -> None:
    compiled("exits", "exits_kernel", card, lambda: decided(torch.zeros(4, classes, dtype=dtype)))


@CARDS
@pytest.mark.parametrize("places", [1, 8192, 10000])
@pytest.mark.parametrize("rows", [1, 64, 65536])
def test_take(rows: int, places: int, card: int) -> None:
    ring, counters = torch.zeros(places, dtype=torch.int32), torch.zeros(2, dtype=torch.int64)
    compiled("queue", "take_kernel", card, lambda: take(ring, counters, SLOTS[:1], ring, rows))


@CARDS
@pytest.mark.parametrize("took", [False, True], ids=["glance", "focus"])
@pytest.mark.parametrize(("rows", "places"), [(1, 1), (64, 8192), (1024, 8192), (65536, 100000)])
def test_compact(rows: int, places: int, took: bool, card: int) -> None:
    row, ring = torch.zeros(rows, dtype=torch.int32), torch.zeros(places, dtype=torch.int32)
    counters, record = torch.zeros(2, dtype=torch.int64), torch.zeros(2 + 3 * rows, dtype=torch.int32)
    compiled(
        "queue", "compact_kernel", card, lambda: compact(row, row, row, ring, counters, record, took=took)
    )


@CARDS
@pytest.mark.parametrize(("classes", "steps"), [(1, 1), (10, 3), (1000, 5), (16384, 100)])
def test_deliver(classes: int, steps: int, card: int) -> None:
    numbers, shares = torch.zeros(9, 2, 1, dtype=torch.int32), torch.zeros(9, 2, 1)
    logits, origins = torch.zeros(9, 2, classes), torch.zeros(9, steps, 2, dtype=torch.int32)
    places = torch.zeros(9, 5, dtype=torch.int64)
    usage = compiled(
        "deliver",
        "deliver_kernel",
        card,
        lambda: deliver(SLOTS, SLOTS, SLOTS, numbers, shares, logits, origins, places),
    )
    assert set(usage.stores) <= {32, 64}


@CARDS
@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
@pytest.mark.parametrize(
    ("gates", "arena"),
    [*((both, both) for both in FLOATS), (torch.float16, torch.float32), (torch.bfloat16, torch.float32)],
    ids=name,
)
def test_gru_step(gates: torch.dtype, arena: torch.dtype, first: bool, card: int) -> None:
    back = torch.zeros(3072, dtype=gates) if first else torch.zeros(4, 3072, dtype=gates)
    state = torch.zeros(9, 1024, dtype=arena)
    usage = compiled(
        "state",
        "gru_kernel",
        card,
        lambda: gru_step(torch.zeros(4, 3072, dtype=gates), back, state, SLOTS),
    )
    assert set(usage.stores) == {128}


@CARDS
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_gather_and_scatter(dtype: torch.dtype, card: int) -> None:
    arena, rows = torch.zeros(9, 5, 2048, dtype=dtype), torch.zeros(4, 2048, dtype=dtype)
    usage = compiled("rows", "gather_kernel", card, lambda: gather(arena.flatten(1), SLOTS))
    assert set(usage.stores) == {128}
    usage = compiled("rows", "scatter_kernel", card, lambda: scatter(arena, SLOTS, rows, SLOTS + 1))
    assert set(usage.stores) == {128}


@CARDS
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_rows_of_several_arenas(dtype: torch.dtype, card: int) -> None:
    """What a launch of the engine moves: of other widths, types and numbers of axes, in one kernel."""
    arenas = (
        torch.zeros(9, 18432, dtype=dtype),
        torch.zeros(9, 1024),
        torch.zeros(9, 5, 2048, dtype=dtype),
        torch.zeros(9, 2, 1000),
        torch.zeros(9, 2, 1),
        torch.zeros(9, 2, 1, dtype=torch.int32),
    )
    rows = [torch.zeros(4, arena.shape[-1], dtype=arena.dtype) for arena in arenas]
    compiled("rows", "scatter_kernel", card, lambda: scatter_all(arenas, SLOTS, rows, SLOTS + 1))
    flat = [arena.flatten(1) for arena in arenas]
    compiled("rows", "gather_kernel", card, lambda: gather_all(flat, SLOTS))
    words = arenas[1], torch.zeros(9, 5, dtype=torch.int64), torch.zeros(9, 1, dtype=torch.float64)
    packed = (
        rows[1],
        *(torch.zeros(4, 12, dtype=arena.dtype)[:, 2 : 2 + arena.shape[1]] for arena in words[1:]),
    )
    compiled("rows", "scatter_kernel", card, lambda: scatter_all(words, SLOTS, packed))
