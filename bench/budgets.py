"""Are budgets met on objects that nobody calibrated on? `python bench/budgets.py [--images N]`

Thresholds are found on canvases of the validation digits and judged on canvases of the test digits, with the
model that comes with the package: requested and realised multiply-adds over the whole path, and the joint
search against the official one at equal cost. `gfnet-fast calibrate digits --data digits --holdout 0.5`
judges on other canvases of the same digits, which are drawn like those that the thresholds were found on.

`--task textures --model FOLDER` does the same for a model of `python -m gfnet_fast.training.textures`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gfnet_fast.checkpoints import load
from gfnet_fast.evaluation import Steps, trace_steps
from gfnet_fast.exits import (
    ModelIdentity,
    calibrate,
    compare_paths,
    official_shares,
    thresholds_for_shares,
)
from gfnet_fast.exits.official import evaluate_rows
from gfnet_fast.training import digits, textures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=8000, help="canvases of each part")
    parser.add_argument("--task", choices=("digits", "textures"), default="digits")
    parser.add_argument("--model", default="digits", help="folder of a model of that task")
    options = parser.parse_args()
    model, rows = load(options.model), range(options.images)
    task = digits.RECIPE if options.task == "digits" else textures.RECIPE

    def traced(split: str, seed: int) -> Steps:
        return trace_steps(model, task.data(split, options.images, seed), rows)

    found, judged = traced("validation", 100), traced("test", 200)
    identity = ModelIdentity.of(model)
    path = calibrate(identity, found.confidences, found.correct)
    real = evaluate_rows(judged.confidences, judged.correct, path.thresholds, identity.macs)
    assert path.mean_macs is not None
    off = 100 * (real.mean_cost / path.mean_macs - 1)
    span = f"{off.min():+.2f} to {off.max():+.2f} %"
    print(
        f"multiply-adds realised against requested, {len(off)} rows: median {np.median(off):+.2f} %, {span}"
    )
    official = [thresholds_for_shares(found.confidences, row) for row in official_shares(identity.steps)]
    gain = compare_paths(path.thresholds, official, judged.confidences, judged.correct, identity.macs)
    span = f"95 %: {gain.mean_low:+.2f} to {gain.mean_high:+.2f}"
    print(f"joint less official, mean at its costs: {gain.mean:+.2f} percent points ({span})")
    for name, at in (("least", gain.difference.argmin()), ("most", gain.difference.argmax())):
        span = f"simultaneous 95 % band {gain.band_low[at]:+.2f} to {gain.band_high[at]:+.2f}"
        print(f"{name}: {gain.difference[at]:+.2f} at {gain.cost[at] / 1e6:.2f} M ({span})")


if __name__ == "__main__":
    main()
