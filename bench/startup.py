"""What one picture takes from the command line, beside the imports below it: fresh processes in turn.

The first round fills the disk's cache and does not count. Wall and processor time, medians and quartiles.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PICTURE = str(ROOT / "docs" / "images" / "demo.png")
CONTENDERS = {
    "import torch": ["-c", "import torch"],
    "import torch, torchvision": ["-c", "import torch, torchvision"],
    "import torch, torchvision, timm": ["-c", "import torch, torchvision, timm"],
    "predict with digits": ["-m", "gfnet_fast", "predict", PICTURE, "--model", "digits", "-q"],
    "predict with waste": ["-m", "gfnet_fast", "predict", PICTURE, "--model", "waste", "-q"],
}


def seconds_of(arguments: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one process."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    times = np.array(
        [[seconds_of(one) for one in CONTENDERS.values()] for _ in range(rounds + 1)][1:]
    )  # [rounds, contenders, 2]
    base = np.median(times[:, 0], axis=0)
    print(f"{'':32} {'wall, s (quartiles)':>22} {'x torch':>8} {'processor, s':>22} {'x torch':>8}")
    for place, name in enumerate(CONTENDERS):
        low, middle, high = np.percentile(times[:, place], [25, 50, 75], axis=0)
        cells = [f"{middle[k]:.2f} ({low[k]:.2f} to {high[k]:.2f})" for k in (0, 1)]
        ratios = middle / base
        print(f"{name:32} {cells[0]:>22} {ratios[0]:8.2f} {cells[1]:>22} {ratios[1]:8.2f}")


if __name__ == "__main__":
    main()
