"""How a launch is run and when it has ended: as plain calls on a CPU, as one replay on a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gfnet_fast._scheduler import CostTable, Stage
from gfnet_fast.engine.blocks import Admission, Block
from gfnet_fast.engine.capture import capture
from gfnet_fast.engine.prepare import best_time
from gfnet_fast.engine.stages import Stages


class Launches:
    """Launches as plain calls: one has ended when it has been called."""

    def __init__(self, stages: Stages) -> None:
        self.stages = stages

    def begin(self) -> None:
        """What is started from now on goes to the caller's stream, behind what was started before."""

    def prepare(self, stage: Stage, bucket: int, block: Block) -> None:
        """Make what a launch of this size on this block needs; the block is overwritten where it is used."""

    def start(self, stage: Stage, bucket: int, block: Block) -> None:
        """Run what the block says; where it raises, nothing has changed."""
        self.stages.run(stage, bucket, block)

    def drop(self, stage: Stage, bucket: int, block: Block) -> None:
        """Instead of a launch of one row that raises."""
        self.stages.drop(stage, bucket, block)

    def mark(self, block: Block) -> None:
        """Note the end of what has been started on a block."""

    def ended(self, block: Block) -> bool:
        """Whether the record has come back."""
        return True

    def wait(self, block: Block) -> None:
        """Until then."""

    def finish(self) -> None:
        """Until all that was started has ended."""

    def used(self, tensors: Iterable[Tensor]) -> None:
        """Keep the memory of tensors that are let go until what was started on them has ended."""


class Graphs(Launches):
    """Launches as replays: a graph for each stage, bucket, block and type of pixels, captured on demand.

    All share one pool of memory: they follow each other on one stream. A capture that raises is a launch that
    has failed: its rows are tried again in a smaller bucket, whose graph needs less.
    """

    def __init__(self, stages: Stages) -> None:
        super().__init__(stages)
        self.device = stages.arena.device
        self._graphs: dict[tuple[torch.dtype, Stage, int, Block], torch.cuda.CUDAGraph] = {}
        self._pool, self._aside = torch.cuda.graph_pool_handle(), torch.cuda.Stream(self.device)
        self._stream: torch.cuda.Stream | None = None

    def begin(self) -> None:
        stream = torch.cuda.current_stream(self.device)
        if self._stream is not None and stream != self._stream:
            stream.wait_stream(self._stream)
        self._stream = stream

    def prepare(self, stage: Stage, bucket: int, block: Block) -> None:
        """Warm-ups and captures run on rows of padding: nothing of the arena is read or written."""
        if self._key(stage, bucket, block) not in self._graphs:
            block.clear()
            graph, _ = capture(
                lambda: self.stages.run(stage, bucket, block),
                self.device,
                pool=self._pool,
                stream=self._aside,
            )
            self._graphs[self._key(stage, bucket, block)] = graph

    def start(self, stage: Stage, bucket: int, block: Block) -> None:
        self._graphs[self._key(stage, bucket, block)].replay()

    def mark(self, block: Block) -> None:
        block.end.record(self._stream)

    def ended(self, block: Block) -> bool:
        return bool(block.end.query())

    def wait(self, block: Block) -> None:
        block.end.synchronize()

    def finish(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()

    def used(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:  # made on whatever stream was the caller's then
            tensor.record_stream(torch.cuda.current_stream(self.device))

    def _key(self, stage: Stage, bucket: int, block: Block) -> tuple[torch.dtype, Stage, int, Block]:
        return self.stages.arena.table.dtype, stage, bucket, block


def launches_of(stages: Stages) -> Launches:
    return Graphs(stages) if stages.arena.device.type == "cuda" else Launches(stages)


def measure(
    launches: Launches, blocks: Sequence[Block], buckets: Sequence[int], *, warm_up: bool
) -> CostTable:
    """Seconds of each stage at each bucket, largest first, on blank images in an engine that holds none.

    What the blocks' launches need is made on the way. `warm_up`: whether a bucket's first call is special.
    """
    arena, config = launches.stages.arena, launches.stages.config
    rows = min(arena.capacity, buckets[-1])
    blank = torch.zeros(*config.canvas, 3, dtype=torch.uint8, device=arena.device)
    words = np.zeros((rows, Admission.width(config.steps)), np.int64)
    told = Admission.of(words, config.steps)
    told.entry[:] = blank.data_ptr(), *blank.shape[:2], *blank.stride()
    told.deadline[:], told.limit[:] = np.inf, 1
    told.room[:] = np.subtract(config.canvas, config.patch_size)
    arena.hold(torch.uint8)
    arena.fill(rows)
    full = arena.counters.clone()

    def launch(stage: Stage, bucket: int) -> None:
        count = min(rows, bucket)
        slots = np.arange(bucket, dtype=np.int32)
        slots[count:] = -1
        steps = np.where(slots < 0, 0, 1 if stage is Stage.GLANCE else 2)
        arena.taken.fill_(1)
        arena.counters.copy_(full)
        launches.wait(blocks[0])
        blocks[0].fill(stage, bucket, count, 0.0, slots, steps, words)
        launches.start(stage, bucket, blocks[0])
        launches.mark(blocks[0])

    launches.begin()
    for bucket in reversed(buckets):
        for stage in (Stage.GLANCE, Stage.FOCUS):
            for block in blocks:
                launches.prepare(stage, bucket, block)
    launch(Stage.GLANCE, buckets[-1])  # the first large launch fetches memory from the system, at a price

    def timed(stage: Stage) -> list[tuple[int, float]]:
        arena.fill(rows)
        best = dict.fromkeys(buckets, math.inf)
        for again in range(TRIES):
            for bucket in reversed(buckets):
                warm = warm_up and not again
                seconds = best_time(lambda: launch(stage, bucket), arena.device, warm_up=warm)  # noqa: B023
                best[bucket] = min(best[bucket], seconds)
            if is_plausible(best):
                break
        return list(best.items())

    costs = CostTable(timed(Stage.GLANCE), timed(Stage.FOCUS))
    launches.finish()
    arena.clear()
    return costs


TRIES = 4
"""Measurements of a stage whose rows seem to cost more in a larger launch, before that is believed."""


def is_plausible(seconds: Mapping[int, float]) -> bool:
    """Whether a row costs less the larger the launch is, from the smallest bucket on.

    Where it does not, a moment in which others had the machine is likelier than a cache that is too small.
    """
    rows = [taken / bucket for bucket, taken in seconds.items()]
    return rows == sorted(rows, reverse=True)
