"""What exits, take, compact and deliver have to do, in plain Python."""

import math
from collections.abc import Sequence

STAYS, EXITED, LAST_STEP, DEADLINE, CANCELLED = -1, 0, 1, 2, 4
Terms = tuple[list[float], int, float]  # of a slot: thresholds, limit, deadline


def exit_rule(
    rows: Sequence[tuple[list[float], int, int]], terms: Sequence[Terms], now: float
) -> list[tuple[int, int, int]]:
    """Label, reason and step of the answer of rows (logits, slot, step)."""
    return [
        (-1, STAYS, 0) if slot < 0 else one_exit(logits, step, *terms[slot], now)
        for logits, slot, step in rows
    ]


def one_exit(
    logits: list[float], step: int, thresholds: list[float], limit: int, deadline: float, now: float
) -> tuple[int, int, int]:
    largest = max((v for v in logits if not math.isnan(v)), default=math.nan)
    label, confidence = -1, math.nan
    if not any(math.isnan(v) for v in logits) and not math.isinf(largest):
        label, confidence = logits.index(largest), 1 / sum(math.exp(v - largest) for v in logits)
    if limit == 0:
        return label, CANCELLED, step - 1
    if step > limit:
        return label, LAST_STEP, step - 1
    if deadline <= now:
        return label, DEADLINE, step - 1
    if confidence >= thresholds[step - 1]:
        return label, EXITED, step
    return label, LAST_STEP if step == min(limit, len(thresholds)) else STAYS, step


def take_rule(
    ring: Sequence[int],
    head: int,
    tail: int,
    count: int,
    taken: Sequence[int],
    rows: int,
    by_step: bool = False,
) -> tuple[list[int], list[int]]:
    """Slots and the steps they are about to take."""
    found = [ring[number % len(ring)] for number in range(head, tail)][:count][:rows]
    if by_step:
        found.sort(key=lambda slot: taken[slot])
    padding = rows - len(found)
    return found + [-1] * padding, [taken[slot] + 1 for slot in found] + [0] * padding


def compact_rule(
    rows: Sequence[tuple[int, int, int]], ring: list[int], head: int, tail: int, record: list[int], took: bool
) -> tuple[list[int], list[int], list[int]]:
    """Ring, counters and record after rows (slot, at, reason)."""
    ring, live = list(ring), [row for row in rows if row[0] >= 0]
    for slot, _, reason in live:
        if reason < 0:
            ring[tail % len(ring)] = slot
            tail += 1
    head += len(live) if took else 0
    left = [row for row in live if row[2] >= 0]
    flat = [len(left), tail - head, *(value for row in left for value in row)]
    return ring, [head, tail], flat + record[len(flat) :]


def answer_rule(
    step: int,
    label: list[list[int]],
    confidence: list[list[float]],
    logits: list[list[float]],
    origins: list[list[int]],
) -> tuple[int, float, int, list[float], list[list[int]]]:
    """What an owner gets, from one slot's parts of the arena."""
    if step == 0:
        return -1, math.nan, 0, [math.nan] * len(logits[0]), [[-1, -1]] * (len(origins) - 1)
    newest = 0 if step % 2 else 1
    points = [origins[k - 1] if k <= step else [-1, -1] for k in range(2, len(origins) + 1)]
    return label[newest][0], confidence[newest][0], step, logits[newest], points
