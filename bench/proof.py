"""What a GPU gives, in one process: python bench/proof.py [PART ...] --out FOLDER.

    control    what a launch has beside the networks, piece by piece (control.py)
    ladder     from the official way to this engine, one technique after another (ladder.py)
    kernels    each kernel beside what torch offers (kernels.py)
    engine     two models, three batches, three shares of exits (engine.py)
    ceilings   copy bandwidth and matrix rate, on random data
    latency    batch 1, by exit step: percentiles, beside the sum of the launches' own times

In this order; the first four without a name. Models and images are made once, and rows go to record.csv,
kernels.csv and engine.csv in the folder as they come. `--tiny --device cpu` goes the same ways without a GPU;
what a task says it is expected to take is for a GPU and the full size then, too.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import control  # noqa: E402
import engine  # noqa: E402
import ladder  # noqa: E402
from measuring import parser, run_parts  # noqa: E402

import kernels  # noqa: E402

PARTS = {
    "control": control.tasks,
    "ladder": ladder.ladder_tasks,
    "kernels": kernels.tasks,
    "engine": engine.tasks,
    "ceilings": ladder.ceiling_tasks,
    "latency": ladder.latency_tasks,
}
USUAL = ("control", "ladder", "kernels", "engine")


def main() -> int:
    own = parser(__doc__)
    options = own.parse_args()
    options.parts = options.parts or USUAL
    return run_parts(options, own, PARTS)


if __name__ == "__main__":
    sys.exit(main())
