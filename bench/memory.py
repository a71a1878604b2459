"""Peak memory by the length of a stream and by the number of steps: python bench/memory.py [--images N ...].

Each stream runs in a process of its own, on images made one by one, so that its peak resident size is its
own. The model is the one that comes with the package, with thresholds that let the images leave in even
shares; for the number of steps, a configuration of its size with random weights and no exits.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]


def stream(images: int, steps: int) -> None:
    import dataclasses

    import torch

    import gfnet_fast as gf
    from gfnet_fast.hub.names import ASSETS
    from gfnet_fast.model.gfnet import GFNet

    model = gf.load(ASSETS / "digits")
    if steps:
        model = GFNet(dataclasses.replace(model.config, steps=steps, macs=None)).eval()
    predictor = gf.Predictor(model, device="cpu", runtime="torch")
    shape = (*model.config.canvas, 3)
    made = (torch.randint(256, shape, dtype=torch.uint8) for _ in itertools.repeat(None, images))
    count = sum(1 for _ in predictor.stream(made))
    assert count == images
    # Linux counts in KiB
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--steps", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        stream(*options.one)
        return 0
    runs = [(count, 0) for count in options.images] + [(options.images[0], steps) for steps in options.steps]
    for count, steps in runs:
        command = [sys.executable, __file__, "--one", str(count), str(steps)]
        peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        what = f"{steps} steps" if steps else "own model"
        print(f"{count:>8} images, {what}: {peak} MiB at most", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
