"""Stages as CUDA graphs: one capture for each stage and bucket, on one pool of memory."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from gfnet_fast._scheduler import Stage
from gfnet_fast.engine.stages import Stages

# A capture fails where another thread captures too, or waits for the whole device, as the start of one does.
CAPTURE = Lock()


class Graphs:
    """What `stages.run` does, replayed; has the same `run`.

    A graph reads its slots and steps from buffers of its own and writes its flags there. A replay follows the
    one before on the same stream, so a buffer is never written while it is read. The capture is for one type
    of pixels: another type captures again.
    """

    def __init__(self, stages: Stages, buckets: Sequence[int]) -> None:
        self.stages, self.buckets = stages, buckets
        self._graphs: dict[tuple[Stage, int], tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]] = {}
        self._pixels: torch.dtype | None = None

    def run(self, stage: Stage, slots: Tensor, steps: Tensor) -> Tensor:
        """As :meth:`Stages.run`; any later replay may overwrite the flags, on the same stream."""
        if self._pixels != self.stages.arena.table.dtype:
            with CAPTURE, torch.cuda.device(self.stages.arena.device):
                self._capture_all()
        graph, into_slots, into_steps, exited = self._graphs[stage, len(slots)]
        into_slots.copy_(slots, non_blocking=True)
        into_steps.copy_(steps, non_blocking=True)
        graph.replay()
        return exited

    @torch.no_grad()
    def _capture_all(self) -> None:
        """Largest bucket first, so that the smaller ones fit into its memory."""
        self._pixels = None  # until all are there: a capture that raises is made again
        torch.cuda.synchronize()  # replays of the former graphs may be on their way
        self._graphs.clear()
        pool, aside = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        for bucket in sorted(self.buckets, reverse=True):
            for stage in (Stage.GLANCE, Stage.FOCUS):
                self._graphs[stage, bucket] = self._capture(stage, bucket, pool, aside)
        self._pixels = self.stages.arena.table.dtype

    def _capture(
        self, stage: Stage, bucket: int, pool: Any, aside: torch.cuda.Stream
    ) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]:
        """Rows of padding only: nothing of the arena is read or written."""
        slots = torch.full((bucket,), -1, dtype=torch.int32, device=self.stages.arena.device)
        steps = torch.zeros_like(slots)
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # the convolutions' algorithms and the kernels' compilation are settled before
                self.stages.run(stage, slots, steps)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads go on meanwhile: the predictor's decoders fetch pinned memory.
        with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
            exited = self.stages.run(stage, slots, steps)
        return graph, slots, steps, exited
