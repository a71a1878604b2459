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
    logits, bars = torch.randn(5, 63) * 4, torch.tensor([0.9, 0.6, -1e8]).repeat(5, 1)
    slots, steps, limits = numbers(4, -1, 0, 2, 1), numbers(1, 0, 3, 1, 2), numbers(3, 0, 1, 5, 3)
    times = torch.tensor([9.0, 9, 9, 9, 1, 5]).double()
    terms = bars, limits, times[:5], times[5:]
    found = gk.exits(move(logits), move(slots), move(steps), *map(move, terms))
    yield from zip(found, gk.exits_reference(logits, slots, steps, *terms), strict=True)


def take(move: Move) -> Iterator[tuple[Tensor, Tensor]]:
    """Over the ring's end, fewer than are wanted, and more than a program has."""
    for places, rows in ((7, 5), (300, 290)):
        ring, taken = torch.randperm(places).int(), torch.randint(0, 5, (places,)).int()
        counters, count = torch.tensor([5 * places - 2, 6 * places - 5]), numbers(rows - 1)
        found = gk.take(move(ring), move(counters), move(count), move(taken), rows)
        yield from zip(found, gk.take_reference(ring, counters, count, taken, rows), strict=True)


def compact(move: Move) -> Iterator[tuple[Tensor, Tensor]]:
    for rows in (5, 4099):  # one block, and a running total over two
        slots, reason = torch.randperm(rows).int(), torch.randint(-1, 2, (rows,)).int()
        slots[::3] = -1
        written = (
            torch.arange(rows).int(),
            torch.tensor([rows - 2, 2 * rows - 2]),
            torch.zeros(2 + 3 * rows).int(),
        )
        moved = [move(part) for part in written]
        gk.compact(move(slots), move(reason), move(reason + 2), *moved, took=True)
        gk.compact_reference(slots, reason, reason + 2, *written, took=True)
        yield from zip(moved, written, strict=True)


def deliver(move: Move) -> Iterator[tuple[Tensor, Tensor]]:
    """One owner of three answers, with a slot that nobody owns and a row that stays."""
    slots, reason, at = numbers(4, -1, 0, 2, 1), numbers(0, 0, -1, 4, 1), numbers(3, 0, 1, 0, 2)
    label, confidence = torch.randint(0, 9, (5, 2, 1)).int(), torch.rand(5, 2, 1)
    logits, origins = torch.randn(5, 2, 1500), torch.randint(0, 9, (5, 3, 2)).int()
    rows = slots, reason, at, label, confidence, logits, origins
    answers = torch.zeros(3).long(), torch.zeros(3), torch.zeros(3).long(), torch.zeros(3, 1500)
    owner = [*answers, torch.zeros(3, 2, 2).long()]
    moved, places = [move(part) for part in owner], torch.zeros(2, 5, 5).long()
    for row, slot in enumerate((4, 2, 0)):
        for side, parts in enumerate((moved, owner)):
            places[side, slot] = torch.tensor([part[row].data_ptr() for part in parts])
    there = (move(slots), move(reason), move(at), move(label), move(confidence), move(logits), move(origins))
    gk.deliver(*there, move(places[0]))
    gk.deliver_reference(*rows, places[1])
    yield from zip(moved, owner, strict=True)


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
    "take": take,
    "compact": compact,
    "deliver": deliver,
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
        torch.testing.assert_close(
            found.cpu(), expected, rtol=1e-5, atol=1e-3, equal_nan=True, check_stride=False
        )


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
