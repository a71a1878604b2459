"""The loop: images in, launches of fixed shape, answers out; no launch waits for the outcome before it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gfnet_fast._scheduler import (
    CostTable,
    Mode,
    Plan,
    Reason,
    Scheduler,
    Verdict,
    capacity_without_waits,
)
from gfnet_fast.engine.answers import Answers, Full
from gfnet_fast.engine.arena import Arena
from gfnet_fast.engine.graphs import Graphs
from gfnet_fast.engine.prepare import check_dtype, compiling
from gfnet_fast.engine.stages import Stages, measure, widths_of
from gfnet_fast.engine.transfer import Arrival, Transfer, to_device
from gfnet_fast.errors import InputError
from gfnet_fast.model.gfnet import GFNet

BUCKETS = (1, 8, 64)
FAR = 1e9  # seconds: the deadline of an image that has none
Images = Tensor | Sequence[Tensor]


@contextmanager
def plain(device: torch.device) -> Iterator[None]:
    """No gradients, and none of the caller's inference mode or autocast: they change what is computed."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


class Flight(NamedTuple):
    """A launch whose outcome has not come back yet."""

    plan: Plan
    outcome: Arrival


class Loop:
    """Images are submitted, steps are taken, answers are collected; see :class:`Engine` for the arguments."""

    def __init__(
        self,
        model: GFNet,
        *,
        dtype: torch.dtype = torch.float32,
        mode: Literal["throughput", "latency", "deadline"] = "throughput",
        buckets: Sequence[int] = BUCKETS,
        capacity: int | None = None,
        invariance: Literal["margin", "batch"] = "margin",
        compile: bool = False,
        layout: torch.memory_format | None = None,
        costs: CostTable | None = None,
        in_flight: int | None = None,
        allowed: float = FAR,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        device = model.device
        check_dtype(dtype, device)
        if list(buckets) != sorted(set(buckets)) or not buckets or buckets[0] < 1:
            raise InputError(f"buckets: expected increasing batch sizes of at least 1, got {list(buckets)}")
        fixed, captured = invariance == "batch", device.type == "cuda"
        self.config, self.mode, self.allowed = model.config, Mode[mode.upper()], allowed
        self.buckets = tuple(buckets[-1:] if fixed else buckets)
        for table in (costs.glance, costs.focus) if costs else ():
            if (given := tuple(rows for rows, _ in table)) != self.buckets:
                raise InputError(f"costs: expected buckets {self.buckets}, got {given}")
        self.in_flight = in_flight or (2 if device.type == "cuda" else 1)
        self.capacity = capacity or (self.in_flight + 2) * self.buckets[-1]
        with plain(device), compiling():
            self.arena = Arena(
                self.capacity,
                patch=self.config.patch_size,
                steps=self.config.steps,
                classes=self.config.classes,
                widths=widths_of(model),
                dtype=dtype,
                device=device,
            )
            self.stages = Stages(
                model,
                self.arena,
                self.buckets[-1],
                dtype=dtype,
                compile=compile,
                fixed=fixed or captured,
                layout=layout,
            )
            self._graphs = Graphs(self.stages, self.buckets) if captured else None
            if compile or costs is None:
                run = (self._graphs or self.stages).run
                measured = measure(self.stages, self.buckets, run, warm_up=compile or captured)
        self.costs = measured if costs is None else costs
        self.compiled = compile
        self._clock, self._streaming = clock, False
        self._transfer = Transfer(device)
        self._flights: deque[Flight] = deque()
        self._tickets = np.zeros(self.capacity, np.int64)
        self._next = 0
        self._max_steps = self.config.steps
        with plain(device):
            self.thresholds = model.default_thresholds()
        self.reset()

    def reset(self) -> None:
        """Forget all images, in flight and answered; nothing of them stays behind."""
        while self._flights:  # a launch reads its images, whose memory may be another library's
            self._flights.popleft().outcome.wait()
        self._done: list[Answers] = []
        self._errors: dict[int, str] = {}
        self.arena.release_all()
        self.scheduler = Scheduler(
            self.costs,
            capacity=self.capacity,
            steps=self.config.steps,
            mode=self.mode,
            in_flight=self.in_flight,
        )
        self.scheduler.set_max_steps(self._max_steps)

    @property
    def thresholds(self) -> Tensor:
        """float32 ``[T]``; launches planned from now on use what is set here."""
        return self._thresholds.clone()

    @thresholds.setter
    def thresholds(self, row: Tensor) -> None:
        if tuple(row.shape) != (self.config.steps,):
            raise InputError(f"thresholds: expected [{self.config.steps}], got {list(row.shape)}")
        self._thresholds = row.detach().to("cpu", torch.float32, copy=True)
        self.arena.thresholds.copy_(to_device(self._thresholds, self.arena.device))

    @property
    def max_steps(self) -> int:
        """No image takes a step beyond this one, from now on."""
        return self._max_steps

    @max_steps.setter
    def max_steps(self, steps: int) -> None:
        if not 1 <= steps <= self.config.steps:
            raise InputError(f"max_steps: expected 1..{self.config.steps}, got {steps}")
        self.scheduler.set_max_steps(steps)
        self._max_steps = steps

    def step(self) -> Verdict:
        """Plan, run, complete, collect: one launch at most. Tells what the plan was."""
        plan = self.scheduler.plan(self._clock())
        with plain(self.arena.device):
            if plan.verdict is Verdict.LAUNCH:
                self._run(plan)
            self._complete(wait=plan.verdict is Verdict.WAIT)
            if self._worth_reading(plan.verdict):
                self._collect()
        return plan.verdict

    def _worth_reading(self, verdict: Verdict) -> bool:
        """Whether to read the answers of those that have left: a batch of them takes as long as one.

        In throughput mode they wait for company in the slots that keep no launch waiting.
        """
        if self.mode is not Mode.THROUGHPUT or verdict is not Verdict.LAUNCH:
            return True
        spare = self.capacity - capacity_without_waits(self.costs, self.in_flight)
        return self.scheduler.occupancy().departed >= min(spare, self.buckets[-1])

    def _run(self, plan: Plan) -> None:
        try:
            run = (self._graphs or self.stages).run
            exited = run(plan.stage, *self._transfer.down(plan))
            self._flights.append(Flight(plan, self._transfer.up(exited)))
        except BaseException as error:
            self.scheduler.fail(plan.id, self._clock())
            if not isinstance(error, Exception):
                raise
            for slot in plan.slots[: plan.count].tolist():
                self._errors[slot] = f"{type(error).__name__}: {error}"

    def _complete(self, wait: bool) -> None:
        while self._flights and (wait or self._flights[0].outcome.ready()):
            plan, outcome = self._flights.popleft()
            (exited,) = outcome.wait()
            self.scheduler.complete(plan.id, exited[: plan.count].numpy(), self._clock())
            wait = False

    def _collect(self) -> None:
        left = self.scheduler.collect()
        if not len(left):
            return
        tickets = self._tickets[left.slots]
        reasons = [Reason(reason) for reason in left.reasons.tolist()]
        found = [self._errors.pop(slot, "") for slot in left.slots.tolist()]
        rows = zip(tickets.tolist(), found, reasons, strict=True)
        errors = {ticket: error for ticket, error, reason in rows if reason is Reason.ERROR}
        prediction = self.arena.read(left.slots, left.steps)
        self._done.append(Answers(tickets, prediction, reasons, errors))
        self.arena.release(left.slots)

    def collect(self) -> list[Answers]:
        """What has left since the last call; computes nothing."""
        done, self._done = self._done, []
        return done

    def submit(self, images: Images, *, wait: bool = True) -> range:
        """Take images in; their tickets. They must stay unchanged until they have left.

        With `wait` it takes steps until all have found room; without, it raises Full and takes none.
        Answers wait in memory until they are collected.

        Parameters
        ----------
        images : uint8 ``[n, H, W, 3]`` or ``[n, 3, H, W]``, normalised floats, or a list of single images,
            whose sizes may differ. All in flight have one dtype.
        """
        self.arena.check(images)
        if not wait and (free := self.scheduler.occupancy().free) < len(images):
            raise Full(
                f"submit: expected at most {free} images, got {len(images)}; wait, or take steps first"
            )
        first = self._next
        while (taken := self._next - first) < len(images):
            if not self._admit(images[taken:]):
                self._make_room()
        return range(first, self._next)

    def _admit(self, images: Images) -> int:
        now = self._clock()
        deadlines = [now + self.allowed] * len(images) if self.mode is Mode.DEADLINE else None
        slots = self.scheduler.admit(len(images), now, deadlines)
        if len(slots):
            self.arena.put(slots, images[: len(slots)])
            self._tickets[slots] = np.arange(self._next, self._next + len(slots))
            self._next += len(slots)
        return len(slots)

    def _make_room(self) -> None:
        """Take a step; where only more images could fill a batch, let it be padded."""
        if self.step() is Verdict.STARVED:
            self.scheduler.close()
            self.step()
            self.scheduler.open()

    def drain(self) -> None:
        """Take steps until every image has left."""
        self.scheduler.close()
        while self.step() is not Verdict.DONE:
            pass
        self.scheduler.open()
