"""One tiny case of each kernel against its reference, also for compute-sanitizer.

    python bench/sanitized.py [--device cuda] [OP ...]
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python bench/sanitized.py

Inputs are made and results compared on the host, so that no kernel but these is watched. Each case has a
padded row, and sizes that are no multiple of a block. One that fails does not stop the others.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial

import gfnet_kernels as gk
import torch
from tasks import Task, run_tasks
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SECONDS = 3.0  # for two to six compilations of half a second at most
Move = Callable[[Tensor], Tensor]
Outputs = tuple[Tensor, ...]


def numbers(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def pixels(op: str, move: Move) -> Iterator[tuple[Tensor, Tensor]]:
    """crop and glance, from a tensor and from a table of images of two sizes."""
    batch = torch.randint(0, 256, (2, 3, 45, 39), dtype=torch.uint8)
    several = [torch.randint(0, 256, shape, dtype=torch.uint8) for shape in ((41, 37, 3), (3, 35, 52))]
    slots, origins = numbers(1, -1, 0), numbers((2, 3), (0, 0), (0, 4))
    for images in (batch, several):
        moved = move(images) if isinstance(images, Tensor) else gk.ImageTable.of([move(i) for i in images])
        plain = images if isinstance(images, Tensor) else gk.ImageTable.of(images)
        if op == "crop":
            found = gk.crop(moved, move(slots), move(origins), 33, MEAN, STD, torch.float32)
            yield found, gk.crop_reference(plain, slots, origins, 33, MEAN, STD, torch.float32)
        else:
            for filter in ("bicubic", "bilinear"):
                found = gk.glance(moved, move(slots), 33, filter, MEAN, STD, torch.float32)
                yield found, gk.glance_reference(plain, slots, 33, filter, MEAN, STD, torch.float32)


def exits(move: Move) -> Iterator[tuple[Tensor, Tensor]]:
    logits, step = torch.randn(5, 63) * 4, numbers(1, 2, 3, 1, 2)
    slots, bars = numbers(4, -1, 0, 2, 1), torch.tensor([0.9, 0.6, -1e8])
    found = gk.exits(move(logits), move(step), move(bars), slots=move(slots))
    yield from zip(found, gk.exits_reference(logits, step, bars, slots=slots), strict=True)


def compact(move: Move) -> Iterator[tuple[Tensor, Tensor]]:
    for rows in (5, 4099):  # one block, and a running total over two
        slots, gone = torch.randperm(rows).int(), torch.rand(rows) < 0.4
        slots[::3] = -1
        found = gk.compact(move(slots), move(gone))
        yield from zip(found, gk.compact_reference(slots, gone), strict=True)


def gru_step(move: Move) -> Iterator[tuple[Tensor, Tensor]]:
    gates, state, slots = torch.randn(3, 3 * 37), torch.randn(5, 37), numbers(4, -1, 0)
    moved = move(state)
    rows = gk.gru_step(move(gates), move(gates), moved, move(slots))
    yield rows, gk.gru_step_reference(gates, gates, state, slots)
    yield moved, state


def gather(move: Move) -> Iterator[tuple[Tensor, Tensor]]:
    arenas, slots = (torch.randn(5, 37), torch.randn(5, 1500).bfloat16()), numbers(4, -1, 0)
    found = gk.gather_all([move(arena) for arena in arenas], move(slots))
    yield from zip(found, (gk.gather_reference(arena, slots) for arena in arenas), strict=True)


def scatter(move: Move) -> Iterator[tuple[Tensor, Tensor]]:
    arenas = torch.zeros(5, 3, 37), torch.zeros(5, 1500)
    slots, step = numbers(4, -1, 0), numbers(1, 1, 3)
    rows, moved = [torch.randn(3, arena.shape[-1]) for arena in arenas], [move(arena) for arena in arenas]
    gk.scatter_all(moved, move(slots), [move(part) for part in rows], move(step))
    for arena, part, at in zip(arenas, rows, (step, None), strict=True):
        gk.scatter_reference(arena, slots, part, at)
    yield from zip(moved, arenas, strict=True)


CASES: dict[str, Callable[[Move], Iterator[tuple[Tensor, Tensor]]]] = {
    "crop": partial(pixels, "crop"),
    "glance": partial(pixels, "glance"),
    "exits": exits,
    "compact": compact,
    "gru_step": gru_step,
    "gather": gather,
    "scatter": scatter,
}


def check(op: str, device: str) -> None:
    """All of an op's results against the reference's; AssertionError where they differ."""
    torch.manual_seed(0)

    def move(values: Tensor) -> Tensor:  # a copy also where it stays: an op may write to it
        return values.clone() if device == "cpu" else values.to(device)

    for found, expected in CASES[op](move):
        # glance's coordinate may be fused into what follows: 1e-5 of a pixel, 2e-4 of the range.
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-3, check_stride=False)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"of {', '.join(CASES)}; all without any")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that a case is expected to take")
    options = parser.parse_args()
    ops = options.ops or CASES
    return run_tasks([Task(op, partial(check, op, options.device), options.seconds) for op in ops])


if __name__ == "__main__":
    sys.exit(main())
