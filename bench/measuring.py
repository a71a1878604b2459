"""What the measurements on a GPU share: captured baselines, a model and its images, options and rows.

Everything here runs on a CPU as well, where nothing is captured and the clock is the host's.
"""

import argparse
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import expected
import gfnet_kernels as gk
import numpy as np
import torch
import triton
from fixtures import CONFIGS, Steps, config_of
from rows import commit, driver, processor
from tasks import Task, run_tasks
from torch import Tensor

from gfnet_fast._scheduler import Stage
from gfnet_fast.config import GFNetConfig
from gfnet_fast.engine.answers import places_of, room_for
from gfnet_fast.engine.blocks import Admission, Block
from gfnet_fast.engine.capture import captured
from gfnet_fast.engine.engine import Engine
from gfnet_fast.engine.launches import Launches, launches_of
from gfnet_fast.engine.prepare import best_time
from gfnet_fast.engine.runtimes import runtime_of
from gfnet_fast.exits import ALWAYS
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.results import Prediction
from gfnet_fast.tables import merge_rows

STAGES = (Stage.GLANCE, Stage.FOCUS)
KEY = ("part", "config", "way", "runtime", "batch", "dtype", "share", "machine")
FIELDS = (
    *KEY, "unit", "p25", "p50", "p75", "times", "ideal", "agreement", "passes", "images", "rounds",
    "driver", "torch", "triton", "python", "commit",
)  # fmt: skip


def static_graphed(
    model: GFNet, images: Tensor, batch: int, runtime: str, dtype: torch.dtype
) -> Callable[[], Tensor]:
    """The local backbone and its own head on whole images, S x S, at its best: one graph for all of them.

    Prepared by a runtime, its input normalised by one kernel; in batches of `batch` or a quarter of it,
    whichever is faster. Gives the classes.
    """
    config, head, device = model.config, model.local_encoder.head, images.device
    side, _ = config.canvas
    prepares, size = runtime_of(runtime, device, dtype), min(batch, len(images))
    encoder = prepares.whole(prepares.encoder(model.local_encoder, config.canvas, size, dtype, None))
    corner = torch.zeros(len(images), 2, dtype=torch.int32, device=device)
    rows = torch.arange(len(images), dtype=torch.int32, device=device)

    def job(size: int) -> Callable[[], Tensor]:
        @torch.no_grad()
        def run() -> Tensor:
            found = []
            for part in rows.split(size):
                whole = corner[: len(part)]
                view = gk.crop(images, part, whole, side, config.mean, config.std, dtype)
                found.append(head(encoder(view)[1].float()))
            return torch.cat(found).argmax(1)

        return captured(run, device)

    with prepares.preparing():
        jobs = [job(size) for size in sorted({min(batch, len(images)), max(1, batch // 4)})]
    return min(jobs, key=lambda run: best_time(run, device, 0))


def told_of(engine: Engine, images: Tensor, output: Prediction) -> np.ndarray:
    """What slots are told of images that take all steps, int64 ``[n, W]``; the engine holds none."""
    entries, steps = engine._entries(images), engine.config.steps
    words = np.zeros((len(entries), Admission.width(steps)), np.int64)
    told = Admission.of(words, steps)
    told.entry[:], told.places[:] = entries, places_of(output)
    told.room[:] = entries[:, 1:3] - engine.config.patch_size
    told.deadline[:], told.limit[:], told.thresholds[:] = np.inf, steps, np.inf
    return words


class Steady(NamedTuple):
    """Launches of one full batch that can be repeated, see :func:`steady`.

    rows : the batch
    blocks : by stage, filled; those of the focus stand at step 2
    output : where the answers go
    """

    launches: Launches
    rows: int
    blocks: dict[Stage, Block]
    output: Prediction

    def call(self, stage: Stage) -> None:
        """The launch as plain calls."""
        self.launches.stages.run(stage, self.rows, self.blocks[stage])

    def start(self, stage: Stage) -> None:
        """The launch as an engine makes it: on a GPU one replay."""
        self.launches.start(stage, self.rows, self.blocks[stage])


@contextmanager
def steady(engine: Engine, images: Tensor) -> Iterator[Steady]:
    """In it a glance answers all of these images, and a focus launch takes them to step 2 and loses none.

    So the queue always has a full batch, and either may be run at any time, as often as one likes. The images
    are as many as a bucket has rows; the model has three steps or more.
    """
    engine.reset()
    arena, stages, rows, steps = engine.arena, engine.stages, len(images), engine.config.steps
    output = room_for(rows, engine.config, images.device)
    told = told_of(engine, images, output)
    Admission.of(told, steps).thresholds[:, 0] = ALWAYS
    take, glanced, slots = gk.take, torch.ones_like(arena.taken), np.arange(rows, dtype=np.int32)

    def take_at_two(
        queue: Tensor, counters: Tensor, count: Tensor, _: Tensor, *more: Any, **named: Any
    ) -> Any:
        return take(queue, counters, count, glanced, *more, **named)

    blocks = {stage: Block(rows, steps, images.device) for stage in STAGES}
    with mock.patch.object(gk, "take", take_at_two):
        launches = launches_of(stages)
        for step, (stage, block) in enumerate(blocks.items(), 1):
            launches.prepare(stage, rows, block)
            block.fill(stage, rows, rows, 0.0, slots, np.full_like(slots, step), told)
        arena.fill(rows)
        found = Steady(launches, rows, blocks, output)
        found.call(Stage.GLANCE)
        yield found
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    engine.reset()


def shared_thresholds(found: Steps, share: float) -> Tensor:
    """Thresholds at which these images leave in shares p, p^2, ..., p^T, scaled to sum to one."""
    confidence = found.confidence
    steps, count = confidence.shape
    weights = torch.tensor([share ** (k + 1) for k in range(steps)], dtype=torch.float64)
    leave = (weights / weights.sum() * count).round().long()
    row, here = torch.full((steps,), -1e8), torch.ones(count, dtype=torch.bool)
    for step in range(steps - 1):
        order = confidence[step].masked_fill(~here, -1).sort(descending=True)
        last = int(min(leave[step], here.sum())) - 1
        row[step] = (
            (order.values[max(last, 0)] + order.values[min(last + 1, count - 1)]) / 2 if last >= 0 else 2.0
        )
        here &= confidence[step] < row[step]
    return row


def agreement(found: Steps, row: Tensor, classes: Tensor, exits: Tensor) -> tuple[float, float]:
    """Share of the first images with the trace's class and exit step at these thresholds; mean passes."""
    confidence, label = (values[:, : len(classes)] for values in found)
    reached = confidence >= row[:, None]
    reached[-1] = True
    step = reached.float().argmax(0) + 1
    same = (exits.cpu() == step) & (classes.cpu() == label[step - 1, torch.arange(len(classes))])
    return float(same.float().mean()), float(exits.float().mean())


def machine(device: torch.device) -> str:
    """A GPU's name, or the processor's and its threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


class Table:
    """The rows of a run, written as they come."""

    def __init__(self, options: argparse.Namespace) -> None:
        device = torch.device(options.device)
        self.path: Path = options.out / "record.csv"
        self.about = {
            "machine": machine(device), "driver": driver() if device.type == "cuda" else "",
            "torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version(),
            "commit": commit(), "rounds": options.rounds,
        }  # fmt: skip

    def add(self, samples: np.ndarray, unit: str, **row: object) -> float:
        """A row of the quartiles of `samples`; its median."""
        low, middle, high = np.quantile(samples, [0.25, 0.5, 0.75])
        numbers = {"p25": f"{low:.6g}", "p50": f"{middle:.6g}", "p75": f"{high:.6g}", "unit": unit}
        full = dict.fromkeys(FIELDS, "") | self.about | row | numbers
        merge_rows(self.path, KEY, FIELDS, [full])
        shown = (str(full[name]) for name in KEY[:-1])
        notes = (f"{name} {full[name]}" for name in ("times", "ideal", "agreement", "passes") if full[name])
        print(" ".join(filter(None, shown)), f"{middle:.6g} {unit}", *notes, flush=True)
        return float(middle)


def kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of a script of tasks."""
    own = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own.add_argument("parts", nargs="*", metavar="PART", help="all without any")
    own.add_argument("--out", type=Path, required=True, help="the folder of the tables")
    own.add_argument("--device", default="cuda")
    own.add_argument("--configs", nargs="+", default=CONFIGS, help="names of conformance fixtures")
    own.add_argument("--images", type=int, default=8192)
    own.add_argument("--batch", type=int, default=128)
    own.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    own.add_argument("--share", type=float, default=0.5)
    own.add_argument("--rounds", type=int, default=7)
    own.add_argument("--baselines", type=int, default=512, help="images for what runs all steps")
    own.add_argument("--runtime", default="torch", help="torch or inductor")
    own.add_argument("--tiny", action="store_true", help="small sizes, to see that the paths run")
    return own


def sized(options: argparse.Namespace) -> argparse.Namespace:
    """The options as they are, or with sizes that make every path quick: rows then say nothing else."""
    if not options.tiny:
        return options
    small = {"images": 8, "batch": 4, "baselines": 4, "rounds": 1, "dtype": "float32"}
    return argparse.Namespace(**(vars(options) | small))


def each_config(
    options: argparse.Namespace,
    part: str,
    run: Callable[[argparse.Namespace, str], object],
    seconds: Callable[[GFNetConfig], float],
) -> list[Task]:
    """A task for each model; `seconds` without the compiler's."""
    given, more = sized(options), (options.runtime == "inductor") * expected.COMPILING.get(part, 0.0)
    return [
        Task(f"{part} {config}", partial(run, given, config), seconds(config_of(config)) + more)
        for config in options.configs
    ]


Parts = Mapping[str, Callable[[argparse.Namespace], Sequence[Task]]]


def run_parts(options: argparse.Namespace, own: argparse.ArgumentParser, parts: Parts) -> int:
    """The tasks of the parts that the command line names, or of all; the exit status."""
    if unknown := set(options.parts) - set(parts):
        own.error(f"parts: expected some of {', '.join(parts)}, got {', '.join(sorted(unknown))}")
    torch.manual_seed(0)
    return run_tasks([task for name in options.parts or parts for task in parts[name](options)])
