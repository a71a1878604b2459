"""What the host takes for a launch: python bench/host.py [--write].

The engine as it is, with stages that cost nothing: a launch is a stub that moves a queue of its own and
fills the record, as a replay does, and whose own time is taken off. No CUDA call is in it: a replay, an
event's record and its query come on top on a GPU. Half of the images leave at every step.

    tensor    predict of one tensor              20 us a launch is the goal
    list      predict of a list of images        and 2 us an image more
    stream    a stream of single images          3 us an image
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rows import commit, processor  # noqa: E402

from gfnet_fast._scheduler import CostTable, Reason, Stage  # noqa: E402
from gfnet_fast.checkpoints import load  # noqa: E402
from gfnet_fast.engine.blocks import Block  # noqa: E402
from gfnet_fast.engine.engine import Engine  # noqa: E402
from gfnet_fast.engine.launches import Launches  # noqa: E402
from gfnet_fast.hub.names import ASSETS  # noqa: E402
from gfnet_fast.tables import merge_rows  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "host.csv"
KEY = ("way", "bucket", "machine")
FIELDS = (
    *KEY, "p25_us_launch", "p50_us_launch", "p75_us_launch", "p50_us_image", "launches", "images", "rounds",
    "python", "torch", "commit",
)  # fmt: skip
BUCKETS = (32, 128)
FLAGS = 1 << 16


class Free(Launches):
    """Launches that cost nothing: who leaves is drawn beforehand.

    Attributes
    ----------
    seconds : what filling the records has taken
    count : launches
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.stages)
        self.steps, self.seconds, self.count = engine.config.steps, 0.0, 0
        self._gone = np.random.default_rng(1).random(FLAGS) < 0.5
        self._queue, self._taken = (np.zeros(engine.capacity, np.int32) for _ in range(2))
        self._head = self._tail = 0

    def start(self, stage: Stage, bucket: int, block: Block) -> None:
        begin = time.perf_counter()
        count = int(block.device.wanted)
        if stage is Stage.GLANCE:
            slots = block.device.slots[:count].numpy()
            steps = np.ones_like(slots)
        else:
            slots = self._queue[np.arange(self._head, self._head + count) % len(self._queue)]
            steps = self._taken[slots] + 1
            self._head += count
        self._taken[slots] = steps
        at = self.count * 997 % (FLAGS - bucket)
        gone = self._gone[at : at + count] | (steps >= self.steps)
        stay, record = slots[~gone], block.record.numpy()
        self._queue[np.arange(self._tail, self._tail + len(stay)) % len(self._queue)] = stay
        self._tail += len(stay)
        record[0] = left = count - len(stay)
        rows = record[2 : 2 + 3 * left].reshape(left, 3)
        rows[:, 0], rows[:, 1], rows[:, 2] = slots[gone], self._taken[slots[gone]], Reason.EXITED.value
        self.count += 1
        self.seconds += time.perf_counter() - begin


class Taken(NamedTuple):
    """Host seconds of a run, its launches and its images."""

    seconds: float
    launches: int
    images: int


def engine_of(bucket: int) -> tuple[Engine, Free]:
    model = load(ASSETS / "digits")
    costs = CostTable([(bucket, 1e-3)], [(bucket, 1e-3)])
    engine = Engine(model, buckets=(bucket,), costs=costs, layout=torch.channels_last, in_flight=2)
    engine._launches = free = Free(engine)
    return engine, free


def ways(engine: Engine, images: Tensor) -> dict[str, Callable[[], Any]]:
    singles = list(images)
    return {
        "tensor": lambda: engine.predict(images),
        "list": lambda: engine.predict(singles),
        "stream": lambda: sum(1 for _ in engine.stream(iter(singles))),
    }


def measure(count: int, rounds: int) -> Iterator[tuple[str, int, list[Taken]]]:
    """Way, bucket and each round's time; the ways and buckets have their turn in each round."""
    found: dict[tuple[str, int], list[Taken]] = {}
    runs = []
    for bucket in BUCKETS:
        engine, free = engine_of(bucket)
        images = torch.zeros(count, *engine.config.canvas, 3, dtype=torch.uint8)
        runs += [(way, bucket, free, run) for way, run in ways(engine, images).items()]
    for turn in range(rounds + 1):
        for way, bucket, free, run in runs:
            before, stub = free.count, free.seconds
            begin = time.perf_counter()
            run()
            seconds = time.perf_counter() - begin - (free.seconds - stub)
            if turn:
                found.setdefault((way, bucket), []).append(Taken(seconds, free.count - before, count))
    for (way, bucket), taken in found.items():
        yield way, bucket, taken


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", action="store_true", help="merge the rows into the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for way, bucket, taken in measure(options.images, options.rounds):
        launch = np.array([one.seconds / one.launches for one in taken]) * 1e6
        low, middle, high = np.quantile(launch, [0.25, 0.5, 0.75])
        image = float(np.median([one.seconds / one.images for one in taken])) * 1e6
        print(
            f"{way:8} {bucket:4}  {middle:7.1f} us a launch ({low:.1f} to {high:.1f})  {image:6.2f} an image"
        )
        rows.append({
            "way": way, "bucket": bucket, "machine": processor(), "p25_us_launch": f"{low:.2f}",
            "p50_us_launch": f"{middle:.2f}", "p75_us_launch": f"{high:.2f}", "p50_us_image": f"{image:.3f}",
            "launches": taken[0].launches, "images": options.images, "rounds": options.rounds,
            "python": sys.version.split()[0], "torch": torch.__version__, "commit": commit(),
        })  # fmt: skip
    if options.write:
        merge_rows(RESULTS, KEY, FIELDS, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
