"""Launches of fixed shape, planned, run and settled; none waits for the outcome of the one before it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gfnet_kernels import DEADLINE, ERROR, scatter
from numpy.typing import NDArray
from torch import Tensor

from gfnet_fast._scheduler import (
    CostTable,
    Mode,
    Plan,
    Scheduler,
    Stage,
    Verdict,
    capacity_without_waits,
)
from gfnet_fast.engine.answers import Unsettled
from gfnet_fast.engine.arena import Arena
from gfnet_fast.engine.blocks import Admission, Block
from gfnet_fast.engine.launches import launches_of, measure
from gfnet_fast.engine.runtimes import runtime_of
from gfnet_fast.engine.stages import Stages, widths_of
from gfnet_fast.errors import InputError
from gfnet_fast.model.gfnet import GFNet

BUCKETS = (1, 8, 64)
FAR = 1e9  # seconds: the deadline of an image that has none
Array = NDArray[np.int64]


def plain(device: torch.device) -> AbstractContextManager[None]:
    """No gradients, and none of the caller's inference mode or autocast: they change what is computed."""
    if torch.is_inference_mode_enabled() or torch.is_autocast_enabled(device.type):
        return _apart(device)
    return torch.no_grad()


@contextmanager
def _apart(device: torch.device) -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


class Flight(NamedTuple):
    """A launch whose record has not come back yet.

    error : of a launch of one row that could not be computed
    held : memory that it may still read or write
    """

    plan: Plan
    block: Block
    error: str | None
    held: list[Any]


class Running:
    """What an engine does with the images that its slots hold; see :class:`Engine` for the arguments.

    What a slot is told, and the images that wait to be admitted, are written by who takes images in.
    """

    def __init__(
        self,
        model: GFNet,
        *,
        dtype: torch.dtype = torch.float32,
        mode: Literal["throughput", "latency", "deadline"] = "throughput",
        buckets: Sequence[int] = BUCKETS,
        capacity: int | None = None,
        invariance: Literal["margin", "batch"] = "margin",
        runtime: str = "torch",
        layout: torch.memory_format | None = None,
        costs: CostTable | None = None,
        in_flight: int | None = None,
        allowed: float = FAR,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        device = model.device
        prepares = runtime_of(runtime, device, dtype)
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
        steps = self.config.steps
        with plain(device), prepares.preparing():
            self.arena = Arena(
                self.capacity,
                patch=self.config.patch_size,
                steps=steps,
                classes=self.config.classes,
                widths=widths_of(model),
                dtype=prepares.kept(dtype),
                device=device,
            )
            self.stages = Stages(
                model,
                self.arena,
                self.buckets[-1],
                runtime=prepares,
                dtype=dtype,
                fixed=fixed or captured,
                queued=self.mode is Mode.THROUGHPUT,
                layout=layout,
            )
            self._blocks = [Block(self.buckets[-1], steps, device) for _ in range(self.in_flight)]
            self._launches = launches_of(self.stages)
            if runtime != "torch" or costs is None:
                warm_up = runtime != "torch" or captured
                measured = measure(self._launches, self._blocks, self.buckets, warm_up=warm_up)
        self.costs = measured if costs is None else costs
        self.runtime = runtime
        self._clock, self._streaming, self._unsettled = clock, False, False
        self._flights: deque[Flight] = deque()
        self._launched = 0
        self._words_told = np.zeros((self.capacity, Admission.width(steps)), np.int64)
        self._told = Admission.of(self._words_told, steps)  # by slot; a free one keeps its last image's
        self._told.ticket[:] = -1
        self._incoming = self._words_told[:0]  # what the images that wait to be admitted will be told
        self._sources = np.full(self.capacity, None)  # of slots, where the images came one by one
        self._singles = False
        self._spare = self._places_to_spare()
        self._next = 0
        self._max_steps = steps
        self._thresholds, self._changed = np.full(steps, np.nan, np.float32), True
        self.thresholds = model.default_thresholds("int8" if dtype == torch.int8 else "float32")
        self.reset()

    def time_of(self, rows: int) -> float:
        """Seconds of a glance and a focus launch of so many rows, measured now; it holds no images."""
        with self._computing():
            table = measure(self._launches, self._blocks, [rows], warm_up=False)
        return table.glance[0][1] + table.focus[0][1]

    def reset(self) -> None:
        """Forget all images, in flight and answered; nothing of them stays behind."""
        self._expect_no_stream()
        self._unsettled = self._changed = True
        while self._flights:  # a launch reads its images, whose memory may be another library's
            self._launches.wait(self._flights[0].block)
            self._flights.popleft()
        self._launches.finish()
        self._left: list[tuple[Array, NDArray[np.int32]]] = []
        self._leaving, self._freed = 0, True
        self._failures: dict[int, str] = {}  # why the launch of a slot alone has failed
        self._errors: dict[int, str] = {}  # the same of a ticket that has left for it
        self._sources[:], self._singles = None, False
        with plain(self.arena.device):
            self._launches.begin()
            self.arena.clear()
        self.scheduler = Scheduler(
            self.costs,
            capacity=self.capacity,
            steps=self.config.steps,
            mode=self.mode,
            in_flight=self.in_flight,
        )
        self._unsettled = False

    @property
    def settled(self) -> bool:
        """Whether it can go on; where not, a call ended in the middle of a step, and it has to be reset."""
        return not self._unsettled

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Round everything that an engine starts: entered once a call."""
        self._expect_settled()
        with plain(self.arena.device):
            self._launches.begin()
            yield

    @property
    def thresholds(self) -> Tensor:
        """float32 ``[T]``; launches planned from now on use what is set here, for all images."""
        return torch.from_numpy(self._thresholds.copy())

    @thresholds.setter
    def thresholds(self, row: Tensor) -> None:
        if tuple(row.shape) != (self.config.steps,):
            raise InputError(f"thresholds: expected [{self.config.steps}], got {list(row.shape)}")
        row_here = row.detach().to("cpu", torch.float32, copy=True).numpy()
        if not np.array_equal(row_here, self._thresholds, equal_nan=True):
            self._thresholds, self._changed = row_here, True

    @property
    def max_steps(self) -> int:
        """No image takes a step beyond this one, from now on."""
        return self._max_steps

    @max_steps.setter
    def max_steps(self, steps: int) -> None:
        if not 1 <= steps <= self.config.steps:
            raise InputError(f"max_steps: expected 1..{self.config.steps}, got {steps}")
        self._max_steps = steps
        self._changed = True

    def _apply(self) -> None:
        """Tell all slots of new thresholds and of a new limit, which any thread may have set."""
        self._changed, arena = False, self.arena
        try:
            for words in (self._words_told, self._incoming):
                told = Admission.of(words, self.config.steps)
                told.thresholds[:] = self._thresholds
                told.limit[told.limit > 0] = self._max_steps
            arena.thresholds.copy_(self._to_device(torch.from_numpy(self._thresholds)))
            arena.limits.masked_fill_(arena.limits > 0, self._max_steps)
        except BaseException:
            self._changed = True
            raise

    def step(self) -> Verdict:
        """Plan, run, complete, collect: one launch at most. Tells what the plan was."""
        self._expect_no_stream()
        with self._computing():
            return self._step()

    def _expect_settled(self) -> None:
        if self._unsettled:
            raise Unsettled("engine: expected reset() after a call that ended in the middle of a step")

    def _expect_no_stream(self) -> None:
        if self._streaming:
            raise InputError("engine: expected no open stream; close it first")

    def _step(self) -> Verdict:
        if self._changed:
            self._apply()
        try:
            now = self._clock()
            plan = self.scheduler.plan(now)
            verdict = plan.verdict
            if verdict is Verdict.LAUNCH:
                self._launch(plan, now)
            if self._flights:
                self._complete(wait=verdict is Verdict.WAIT)
            if verdict is not Verdict.LAUNCH or self._leaving >= self._spare:
                self._let_go()
        except BaseException:
            self._unsettled = True
            raise
        return verdict

    def _places_to_spare(self) -> int:
        """How many places nobody needs back at once: in throughput mode those that keep no launch waiting.

        Whoever leaves waits for so many others, a stream for so many answers and so much room: few together
        take the host as long as a batch.
        """
        if self.mode is not Mode.THROUGHPUT:
            return 0
        return min(self.capacity - capacity_without_waits(self.costs, self.in_flight), self.buckets[-1])

    def _launch(self, plan: Plan, now: float) -> None:
        block = self._blocks[self._launched % self.in_flight]
        stage, bucket, count, text = plan.stage, plan.bucket, plan.count, None
        try:
            self._prepare(stage, bucket, block)
            block.fill(stage, bucket, count, now, plan.slots, plan.steps, self._words_told)
            self._launches.start(stage, bucket, block)
        except Exception as error:
            if self.stages.settling:
                raise
            if count > 1:
                self.scheduler.fail(plan.id, self._clock())
                return
            text = f"{type(error).__name__}: {error}"
            block.fill(stage, bucket, count, now, plan.slots, plan.steps, self._words_told)
            self._launches.drop(stage, bucket, block)
        self._launched += 1
        self._flights.append(Flight(plan, block, text, []))
        self._launches.mark(block)

    def _prepare(self, stage: Stage, bucket: int, block: Block) -> None:
        try:
            self._launches.prepare(stage, bucket, block)
        finally:
            self.stages.settling = False  # what may have run was padding

    def _complete(self, wait: bool) -> None:
        flights, launches = self._flights, self._launches
        while flights and (wait or launches.ended(flights[0].block)):
            launches.wait(flights[0].block)
            plan, block, error, _ = flights.popleft()
            left = block.left()
            self.scheduler.complete(plan.id, left, self._clock())
            self._leaving += len(left)
            if error is not None:
                self._failures |= dict.fromkeys(left[:, 0].tolist(), error)
            wait = False

    def _let_go(self) -> None:
        """Note who has left, and free what they held."""
        left, self._leaving, self._freed = self.scheduler.collect(), 0, True
        if not len(left):
            return
        slots, reasons = left.slots, left.reasons
        if self.mode is Mode.DEADLINE and (late := reasons == DEADLINE).any():
            self._answer(slots[late], left.steps[late])
            if self._flights:
                self._flights[-1].held.append(self._sources[slots])
        tickets = self._told.ticket[slots]
        self._left.append((tickets, reasons))
        if self._singles:
            self._sources[slots] = None
        if self._failures:
            for slot, ticket in zip(
                slots[reasons == ERROR].tolist(), tickets[reasons == ERROR].tolist(), strict=True
            ):
                self._errors[ticket] = self._failures.pop(slot)

    def _answer(self, slots: NDArray[np.int32], steps: NDArray[np.int32]) -> None:
        """Give the newest answers of slots whose time is up; a launch that one is in may have come first."""
        places = self._told.places[slots]
        rows, at, wanted = (self._to_device(torch.from_numpy(n)) for n in (slots, steps, places))
        scatter(self.arena.places, rows, wanted)  # of one that has had no glance the device knows nothing
        self.stages.deliver(rows, torch.full_like(rows, DEADLINE), at)

    def _to_device(self, numbers: Tensor) -> Tensor:
        """Copy a tensor of the host to the device; nothing waits.

        A plain copy to a GPU waits for the whole stream. The pinned memory is torch's own, which is not used
        again before the copy has been made.
        """
        device = self.arena.device
        return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers

    def drain(self) -> None:
        """Take steps until every image has left."""
        self._expect_no_stream()
        with self._computing():
            self._drain()

    def _drain(self) -> None:
        self.scheduler.close()
        try:
            while self._step() is not Verdict.DONE:
                pass
        finally:
            self.scheduler.open()
