"""What exits and compact have to do, in plain Python."""

import math


def exit_rule(rows: list[tuple[list[float], int, bool]], thresholds: list[float]) -> list[tuple[int, bool]]:
    """Label and exit flag of rows (logits, step, live)."""
    return [one_exit(*row, thresholds) if row[2] else (-1, False) for row in rows]


def one_exit(logits: list[float], step: int, live: bool, thresholds: list[float]) -> tuple[int, bool]:
    last = step == len(thresholds)
    largest = max((v for v in logits if not math.isnan(v)), default=math.nan)
    if any(math.isnan(v) for v in logits) or math.isinf(largest):
        return -1, last
    confidence = 1 / sum(math.exp(v - largest) for v in logits)
    return logits.index(largest), last or confidence >= thresholds[step - 1]


def compact_rule(slots: list[int], exited: list[bool], valid: int) -> tuple[list[int], int]:
    """Survivors filled up with -1, and their count."""
    kept = [slot for slot, gone in zip(slots[:valid], exited[:valid], strict=True) if slot >= 0 and not gone]
    return kept + [-1] * (len(slots) - len(kept)), len(kept)
