"""Writes data/drift.npz: a recorded stream whose difficulty and speed drift. Run from the repository root."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from exit_tasks import make_task

PHASES = ((6000, 0.0, 1.0), (4000, 0.5, 1.0), (6000, 1.0, 1.0), (8000, -0.4, 1.0), (8000, 0.0, 1.25))
"""Images, difficulty, slowdown: as calibrated, harder by and by, hard, suddenly easy, a slower device."""


def main() -> None:
    parts = [make_task(count, seed=500 + i, hard=hard) for i, (count, hard, _) in enumerate(PHASES)]
    confidences = np.concatenate([part.confidences[:-1] for part in parts], axis=1)
    slowdown = np.concatenate([np.full(count, slow, np.float16) for count, _, slow in PHASES])
    stored = np.rint(confidences * 65535).astype(np.uint16)
    np.savez_compressed(Path(__file__).parent / "data" / "drift.npz", confidences=stored, slowdown=slowdown)


if __name__ == "__main__":
    main()
