"""The kernels on a GPU: against their references, and inside a captured graph without a wait.

GFNET_GPU_TESTS=cpu tries the tests themselves on a CPU, where the ops are plain torch.
"""

import os

import gfnet_kernels as gk
import pytest
import torch
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


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("shape", [(1, 7), (63, 1000), (1024, 1000), (5, 21841), (65536, 10)], ids=str)
def test_exits_and_compact(shape: tuple[int, int], dtype: torch.dtype) -> None:
    rows, classes = shape
    logits = (torch.randn(rows, classes, device=DEVICE) * 4).to(dtype)
    step = torch.randint(1, 4, (rows,), dtype=torch.int32, device=DEVICE)
    slots = torch.randperm(rows, device=DEVICE).int()
    slots[1::9] = -1
    bars = torch.tensor(THRESHOLDS, device=DEVICE)
    actual = gk.exits(logits, step, bars, slots=slots)
    expected = gk.exits_reference(logits, step, bars, slots=slots)
    assert_near(actual[0], expected[0])
    assert actual[1].equal(expected[1])
    sure = (expected[0] - bars[step.long() - 1]).abs() > 1e-5
    assert actual[2][sure].equal(expected[2][sure])
    for one, other in zip(gk.compact(slots, actual[2]), gk.compact_reference(slots, actual[2]), strict=True):
        assert one.equal(other)


def test_compact_keeps_every_random_mask() -> None:
    """Thousands of draws: how many rows, who stays, who is padding, and a count of valid rows."""
    draw = torch.Generator().manual_seed(3)
    wrong = torch.zeros((), dtype=torch.int64, device=DEVICE)
    for turn in range(3000):
        most = (16, 300, 5000)[turn % 3]
        rows = int(torch.randint(1, most, (), generator=draw))
        slots = torch.randperm(rows, generator=draw).int().to(DEVICE)
        slots.masked_fill_((torch.rand(rows, generator=draw) < 0.1).to(DEVICE), -1)
        gone = (torch.rand(rows, generator=draw) < torch.rand((), generator=draw)).to(DEVICE)
        valid = numbers(int(torch.randint(0, rows + 1, (), generator=draw))) if turn % 2 else None
        found = gk.compact(slots, gone, valid=valid)
        expected = gk.compact_reference(slots, gone, valid=valid)
        wrong += sum((one != other).sum() for one, other in zip(found, expected, strict=True))
    assert int(wrong) == 0


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
    bars, step = torch.tensor(THRESHOLDS, device=DEVICE), numbers(1, 2, 3)

    def run() -> tuple[Tensor, Tensor]:
        seen = gk.glance(images, slots, 96, "bicubic", MEAN, STD, torch.float32).mean((2, 3))
        seen = seen + gk.crop(images, slots, origins, 96, MEAN, STD, torch.float32).mean((2, 3))
        rows = gk.gru_step(seen @ weight, seen @ weight, state, slots)
        return gk.compact(slots, gk.exits(rows, step, bars, slots=slots)[2])

    start = state.clone()
    expected = [result.clone() for result in run()]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    state.copy_(start)
    torch.cuda.set_sync_debug_mode("error")
    try:
        graph.replay()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(one.equal(other) for one, other in zip(captured, expected, strict=True))
