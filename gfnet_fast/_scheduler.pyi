"""Plans which images run next, in which batch; computes nothing. Limits too: docs/internals/scheduler.md.

A number out of range raises ValueError, "name: expected A, got B", before anything is taken or changed; what
is of another type raises TypeError. Times are seconds and finite, on any clock.
"""

import enum
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

class Stage(enum.Enum):
    GLANCE = 0
    FOCUS = 1

class Mode(enum.Enum):
    THROUGHPUT = 0
    LATENCY = 1
    DEADLINE = 2

class Verdict(enum.Enum):
    LAUNCH = 0  # run the plan's slots now
    WAIT = 1  # nothing to launch until an outcome comes back
    STARVED = 2  # nothing to launch until images are admitted, the scheduler is closed, or wake_at
    DONE = 3  # closed, and every image has departed

class Reason(enum.Enum):
    EXITED = 0  # its outcome said so
    LAST_STEP = 1  # it took the last step it may take
    DEADLINE = 2  # its time was up, or no further step could end in time
    ERROR = 3  # a launch of this image alone failed
    CANCELLED = 4  # nobody wants its answer any more

class Objective(enum.Enum):
    DEVICE_TIME = 0
    MEAN_WAIT = 1

class Arrivals(enum.Enum):
    AT_ONCE = 0
    POISSON = 1
    BURSTS = 2

class CostTable:
    def __init__(self, glance: Sequence[tuple[int, float]], focus: Sequence[tuple[int, float]]) -> None: ...
    @property
    def glance(self) -> list[tuple[int, float]]: ...
    @property
    def focus(self) -> list[tuple[int, float]]: ...

class Plan:
    verdict: Verdict
    id: int
    stage: Stage
    bucket: int
    count: int
    wake_at: float  # when to ask again although nothing has happened
    # [bucket]; empty of a counted launch: a focus launch in throughput mode takes what the device has ready
    slots: NDArray[np.int32]  # -1 is padding
    steps: NDArray[np.int32]  # the step each row is about to take, ascending; padding is 0

class Departures:
    slots: NDArray[np.int32]  # [n]
    steps: NDArray[np.int32]  # [n]; the answer is the prediction of this step; 0: there is none
    reasons: NDArray[np.int32]  # [n]; Reason
    def __len__(self) -> int: ...

class Occupancy:
    free: int
    waiting: int
    ready: int
    in_flight: int
    departed: int

class Statistics:
    admitted: int
    passes: int
    padded_rows: int
    launches: int
    failures: int
    waits: int
    glance_launches: list[int]  # by bucket, smallest first
    focus_launches: list[int]
    departed: list[int]  # by Reason
    fill: float

class Scheduler:
    def __init__(
        self,
        costs: CostTable,
        *,
        capacity: int,
        steps: int,
        mode: Mode = Mode.THROUGHPUT,
        in_flight: int = 2,
        patience: int = 64,
        linger: float = 0.005,
    ) -> None: ...
    # deadlines: real numbers [count], in deadline mode only; those beyond the capacity are not looked at
    def admit(self, count: int, now: float, deadlines: ArrayLike | None = None) -> NDArray[np.int32]: ...
    def plan(self, now: float) -> Plan: ...
    # left: [k, 3], slot, steps, reason of each image that leaves; int32 in C order is not copied
    def complete(self, id: int, left: NDArray[np.integer], now: float) -> None: ...
    # a launch of one row that failed is completed, with Reason.ERROR
    def fail(self, id: int, now: float) -> None: ...
    def expire(self, now: float) -> None: ...
    def collect(self) -> Departures: ...
    def close(self) -> None: ...
    def open(self) -> None: ...
    @property
    def capacity(self) -> int: ...
    def occupancy(self) -> Occupancy: ...
    def statistics(self) -> Statistics: ...

class Load:
    def __init__(
        self,
        images: int,
        exits: Sequence[float],
        *,
        arrivals: Arrivals = Arrivals.AT_ONCE,
        rate: float = 0.0,
        burst: int = 1,
        allowed: float = 0.0,
        seed: int = 1,
    ) -> None: ...

class Machine:
    def __init__(self, *, devices: int = 1, sync: float = 0.0, issue: float = 0.0) -> None: ...

class Report:
    images: int
    unanswered: int
    passes: int
    padded_rows: int
    launches: int
    waits: int
    makespan: float
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    worst: float
    throughput: float
    share_of_ideal: float
    occupancy: float
    padding: float

# Both release the interpreter lock, and end early with what a signal handler raises.
def simulate(
    load: Load,
    machine: Machine,
    costs: CostTable,
    *,
    capacity: int,
    mode: Mode = Mode.THROUGHPUT,
    in_flight: int = 2,
    patience: int = 64,
    linger: float = 0.005,
) -> Report: ...
def simulate_per_batch(
    load: Load, machine: Machine, costs: CostTable, *, batch: int, overlap: int = 1, linger: float = 0.005
) -> Report: ...
def capacity_without_waits(costs: CostTable, in_flight: int = 2) -> int: ...
def cover(
    buckets: Sequence[tuple[int, float]], rows: int, objective: Objective = Objective.DEVICE_TIME
) -> tuple[list[int], float]: ...
