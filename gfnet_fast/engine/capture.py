"""CUDA graphs: what a function launches, recorded once and replayed as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

# A capture fails where another thread captures too, or waits for the whole device, as the start of one does.
CAPTURE = Lock()
WARM_UP = 3  # calls: the convolutions' algorithms and the kernels' compilation are settled before


@contextmanager
def _same_stream(device: torch.device) -> Iterator[None]:
    """torch leaves a thread on the capture's stream where the end of a capture raises."""
    before = torch.cuda.current_stream(device)
    try:
        yield
    finally:
        torch.cuda.set_stream(before)


@torch.no_grad()
def capture(
    run: Callable[[], Any],
    device: torch.device,
    *,
    pool: Any = None,
    stream: torch.cuda.Stream | None = None,
    times: int = 1,
) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of `times` calls of `run`, on a GPU, and what the last of them returned.

    `run` is called a few times before, and may neither wait nor move its inputs; the calls have ended when
    this returns. Of what is captured nothing has run. `pool` and `stream`: where several graphs share their
    memory. Where it raises, the thread is on the stream that it was on.
    """
    with CAPTURE, torch.cuda.device(device), _same_stream(device):
        aside, here = stream or torch.cuda.Stream(device), torch.cuda.current_stream(device)
        aside.wait_stream(here)
        try:
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    run()
        finally:
            aside.synchronize()  # a call that raises may have started what reads its inputs
        graph = torch.cuda.CUDAGraph()
        # Other threads go on meanwhile: the predictor's decoders fetch pinned memory.
        with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
            for _ in range(times):
                result = run()
    return graph, result


def captured(run: Callable[[], Any], device: torch.device, times: int = 1) -> Callable[[], Any]:
    """`run`, so many times, as one replay that returns what it returned; on a CPU the calls themselves."""
    if device.type != "cuda":
        return run if times == 1 else lambda: [run() for _ in range(times)][-1]
    graph, result = capture(run, device, times=times)

    def replay() -> Any:
        graph.replay()
        return result

    return replay
