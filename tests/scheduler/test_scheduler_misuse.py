"""What a caller may get wrong: an error that names it, no memory taken, nothing changed."""

import copy
import pickle
import signal
import threading
import time
from collections import UserDict

import numpy as np
import pytest

from gfnet_fast import _scheduler
from gfnet_fast._scheduler import (
    Arrivals,
    CostTable,
    Load,
    Machine,
    Mode,
    Objective,
    Scheduler,
    Verdict,
    capacity_without_waits,
    cover,
    simulate,
    simulate_per_batch,
)

COSTS = CostTable([(1, 1.0), (4, 1.6)], [(1, 1.0), (4, 1.6)])
CLASSES = [
    value
    for value in vars(_scheduler).values()
    if isinstance(value, type) and not hasattr(value, "__members__")
]
NAN, INF = float("nan"), float("inf")
NOBODY = np.zeros((0, 3), np.int32)
HUGE = np.broadcast_to(np.int32(0), (2**40, 3))  # four bytes that claim to be twelve tebibytes


def scheduler_with(images=3, **options):
    scheduler = Scheduler(COSTS, **{"capacity": 8, "steps": 2, "linger": 0.0, **options})
    scheduler.admit(images, 0.0)
    return scheduler


def leaving(*slots):
    """Images that exit after the glance, [k, 3]."""
    return np.array([(slot, 1, 0) for slot in slots], np.int32)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_object_that_was_never_made_is_refused(cls):
    bare = cls.__new__(cls)
    arguments = {"admit": (1, 0.0), "plan": (0.0,), "complete": (0, NOBODY, 0.0), "fail": (0, 0.0)}
    arguments |= {"expire": (0.0,)}
    names = [name for name in dir(cls) if not name.startswith("__")]
    for name in names:
        member = getattr(cls, name)
        read = member.fget if isinstance(member, property) else member
        for self in (bare, None, COSTS if cls is not CostTable else Machine()):
            with pytest.raises(TypeError):
                read(self, *arguments.get(name, ()))
    assert names or cls in (Load, Machine)


def test_bare_arguments_are_refused():
    good = (Load(3, [1.0]), Machine(), COSTS)
    for place in range(3):
        arguments = [type(one).__new__(type(one)) if i == place else one for i, one in enumerate(good)]
        with pytest.raises(TypeError, match="expected an object that __init__ has made"):
            simulate(*arguments, capacity=4)
        with pytest.raises(TypeError, match="expected an object that __init__ has made"):
            simulate_per_batch(*arguments, batch=4)
    with pytest.raises(TypeError, match="CostTable"):
        Scheduler(CostTable.__new__(CostTable), capacity=4, steps=2)


def test_what_is_made_cannot_be_made_again():
    load = Load(3, [1.0])
    load.__init__(5, [0.5, 0.5])
    assert simulate(load, Machine(), COSTS, capacity=4).images == 3


def test_no_copies():
    plan = scheduler_with().plan(0.0)
    for one in (COSTS, scheduler_with(), plan, Load(3, [1.0]), Machine()):
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                copied(one)
    assert pickle.loads(pickle.dumps(Mode.LATENCY)) is Mode.LATENCY


@pytest.mark.parametrize(
    ("buckets", "rows", "message"),
    [
        ([(0, 1.0)], 5, "buckets: expected buckets of 1 to 262144 rows, got 0"),
        ([(-5, 1.0)], 5, "buckets: expected buckets of 1 to 262144 rows, got -5"),
        ([(2**31 - 1, 1.0)], 5, "buckets: expected buckets of 1 to 262144 rows, got 2147483647"),
        ([(4, NAN)], 5, "costs above 0 and up to 1e[+]09 seconds, got nan for 4 rows"),
        ([(4, INF)], 5, "costs above 0 and up to 1e[+]09 seconds, got inf for 4 rows"),
        ([(4, -1.0), (2, 1.0)], 5, "costs above 0 and up to 1e[+]09 seconds, got -1 for 4 rows"),
        ([(4, 1.0), (4, 2.0)], 5, "buckets: expected every size once, got 4 twice"),
        ([], 5, "buckets: expected 1 to 256 buckets, got 0"),
        ([(1, 1.0)] * 257, 5, "buckets: expected at most 256 items, got 257"),
        ([(4, 1.0)], 2**31 - 1, "rows: expected 0 to 262144, got 2147483647"),
        ([(4, 1.0)], -1, "rows: expected 0 to 262144, got -1"),
    ],
)
def test_cover_refuses(buckets, rows, message):
    with pytest.raises(ValueError, match=message):
        cover(buckets, rows)
    if rows == 5:
        with pytest.raises(ValueError, match=message.replace("buckets: ", "focus: ")):
            CostTable([(1, 1.0)], buckets)


def test_cover_at_its_limits():
    assert cover([(4, 1.0)], 0) == ([], 0.0)
    sizes, seconds = cover([(1, 1e9)], 2**18)
    assert (len(sizes), seconds) == (2**18, 2**18 * 1e9)
    assert cover([(2**18, 2.0), (1, 3.0)], 2**18, Objective.MEAN_WAIT) == ([2**18], 2.0 * 2**18)
    assert cover([(16, 5.0), (4, 3.0)], 5) == cover([(4, 3.0), (16, 5.0)], 5) == ([16], 5.0)


def test_a_sequence_that_is_too_long_is_not_read():
    class Endless:
        read = 0

        def __len__(self):
            return 2**62

        def __getitem__(self, index):
            self.read += 1
            return (1, 1.0)

    endless = Endless()
    for call in (lambda: cover(endless, 3), lambda: CostTable(endless, [(1, 1.0)]), lambda: Load(1, endless)):
        with pytest.raises(ValueError, match=f"items, got {2**62}"):
            call()
    assert endless.read == 0
    with pytest.raises(ValueError, match="exits: expected at most 1024 items, got 2147483648"):
        Load(1, range(2**31))
    assert simulate(Load(2, [0.0] * 1023 + [1.0]), Machine(), COSTS, capacity=2).passes == 2 * 1024


def test_a_sequence_that_changes_while_it_is_read():
    class Clears:
        def __float__(self):
            exits.clear()
            return 0.5

    exits = [Clears(), 0.5]
    with pytest.raises(IndexError):
        Load(1, exits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 2**31 - 1}, "capacity: expected 1 to 262144"),
        ({"capacity": -1}, "capacity: expected 1 to 262144"),
        ({"steps": 2**31 - 1}, "steps: expected 1 to 1024"),
        ({"steps": 0}, "steps: expected 1 to 1024"),
        ({"in_flight": 2**31 - 1}, "in_flight: expected 1 to 256"),
        ({"in_flight": 0}, "in_flight: expected 1 to 256"),
        ({"patience": 0}, "patience: expected 1 to 2147483647"),
        ({"linger": NAN}, "linger: expected 0 to inf seconds, got nan"),
        ({"linger": -1.0}, "linger: expected 0 to inf seconds, got -1"),
    ],
)
def test_a_scheduler_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        Scheduler(COSTS, **{"capacity": 8, "steps": 2, **options})
    if "steps" not in options:
        with pytest.raises(ValueError, match=message):
            simulate(Load(1, [1.0]), Machine(), COSTS, **{"capacity": 8, **options})


def test_capacity_without_waits():
    table = CostTable([(8, 1.0)], [(32, 1.0)])
    assert capacity_without_waits(table) == 32 + 31 + 8
    assert capacity_without_waits(table, 1) == 31 + 8
    assert capacity_without_waits(table, 256) == 255 * 32 + 31 + 8
    for in_flight in (0, -(2**31), 257, 2**31 - 1):
        with pytest.raises(ValueError, match=f"in_flight: expected 1 to 256, got {in_flight}"):
            capacity_without_waits(table, in_flight)
    wide = CostTable([(2**18, 1.0)], [(2**18, 1.0)])
    with pytest.raises(ValueError, match="capacity without waits: expected 1 to 262144, got 786431"):
        capacity_without_waits(wide)


@pytest.mark.parametrize("now", [NAN, INF, -INF])
def test_times_are_finite(now):
    scheduler = scheduler_with(mode=Mode.THROUGHPUT)
    plan = scheduler.plan(0.0)
    calls = [
        lambda: scheduler.admit(1, now),
        lambda: scheduler.plan(now),
        lambda: scheduler.complete(plan.id, leaving(0, 1, 2), now),
        lambda: scheduler.fail(plan.id, now),
        lambda: scheduler.expire(now),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="now: expected finite seconds, got"):
            call()
    places = scheduler.occupancy()
    assert (places.free, places.in_flight) == (5, 3)
    scheduler.complete(plan.id, leaving(0, 1, 2), 0.0)
    assert len(scheduler.collect()) == 3


@pytest.mark.parametrize("zero", [-1e6, -10.0, 0.0, 1.7e9])
def test_deadlines_on_any_clock(zero):
    scheduler = Scheduler(COSTS, capacity=8, steps=2, mode=Mode.DEADLINE)
    scheduler.admit(2, zero, [zero + 1.5, zero + 0.5])
    plan = scheduler.plan(zero)  # one can end in time
    assert (plan.verdict, plan.count) == (Verdict.LAUNCH, 1)
    assert scheduler.collect().steps.tolist() == [0]


ARRAY = r"left: expected an integer array \[k, 3\], got "
SHAPE = r"left: expected shape \[k, 3\], k up to 262144, got "


@pytest.mark.parametrize(
    ("left", "error", "message"),
    [
        ([[0, 1, 0]], TypeError, ARRAY + "list"),
        ([range(2**40)] * 3, TypeError, ARRAY + "list"),
        (None, TypeError, ARRAY + "NoneType"),
        (np.int32(3), TypeError, ARRAY + "numpy.int32"),
        ("abc", TypeError, ARRAY + "str"),
        (np.full((1, 3), "a"), TypeError, ARRAY + "<U1"),
        (np.zeros((1, 3)), TypeError, ARRAY + "float64"),
        (np.ones((1, 3), bool), TypeError, ARRAY + "bool"),
        (np.ones((1, 3), object), TypeError, ARRAY + "object"),
        (np.zeros((1, 3), "datetime64[s]"), TypeError, ARRAY + "datetime64"),
        (np.zeros((1, 3), "i4,i4"), TypeError, ARRAY + r"\[\('f0'"),
        (np.array(1), ValueError, SHAPE + r"\(\)"),
        (np.zeros(3, int), ValueError, SHAPE + r"\(3,\)"),
        (np.zeros((3, 2), int), ValueError, SHAPE + r"\(3, 2\)"),
        (HUGE, ValueError, SHAPE + r"\(1099511627776, 3\)"),
        (np.array([[2**32, 1, 0]]), ValueError, "left: expected numbers of 32 bits, got 4294967296"),
        (np.array([[2**64 - 1, 1, 0]], np.uint64), ValueError, "left: expected slots 0 to 7, got -1"),
        (leaving(0, 1, 2, 2), ValueError, "left: expected at most the 3 rows of the launch, got 4"),
        (leaving(0, 8), ValueError, "left: expected slots 0 to 7, got 8"),
        (leaving(0, -1), ValueError, "left: expected slots 0 to 7, got -1"),
        (leaving(0, 3), ValueError, "left: expected slots of the launch, got 3"),
        (leaving(0, 2, 0), ValueError, "left: expected every slot once, got 0 twice"),
        (np.array([[0, 2, 0]]), ValueError, "left: expected steps 0 to 1 of slot 0, got 2"),
        (np.array([[0, -1, 0]]), ValueError, "left: expected steps 0 to 1 of slot 0, got -1"),
        (np.array([[0, 1, 5]]), ValueError, "left: expected reasons 0 to 4, got 5"),
        (np.array([[0, 1, -1]]), ValueError, "left: expected reasons 0 to 4, got -1"),
    ],
)
def test_records_that_are_none(left, error, message):
    scheduler = scheduler_with()
    plan = scheduler.plan(0.0)
    with pytest.raises(error, match=message):
        scheduler.complete(plan.id, left, 0.0)
    assert scheduler.occupancy().in_flight == 3
    scheduler.complete(plan.id, leaving(2, 0), 0.0)
    assert scheduler.collect().slots.tolist() == [2, 0]
    assert scheduler.occupancy().ready == 1


def test_records_of_counted_launches():
    scheduler = scheduler_with(images=9, capacity=12)
    scheduler.complete(scheduler.plan(0.0).id, leaving(0), 0.0)
    scheduler.complete(scheduler.plan(0.0).id, NOBODY, 0.0)
    plan = scheduler.plan(0.0)
    assert (plan.count, len(plan.slots)) == (4, 0)
    for row, message in (
        ([0, 2, 0], "images that have taken the glance and not left, got slot 0"),
        ([8, 2, 0], "images that have taken the glance and not left, got slot 8"),
        ([4, 3, 0], "steps 0 to 2 of slot 4, got 3"),
        ([4, -1, 0], "steps 0 to 2 of slot 4, got -1"),
    ):
        with pytest.raises(ValueError, match=f"left: expected {message}"):
            scheduler.complete(plan.id, np.array([row]), 0.0)
    scheduler.complete(plan.id, np.array([[4, 2, 1], [1, 1, 4], [2, 2, 1], [3, 2, 0]]), 0.0)
    assert scheduler.collect().slots.tolist() == [0, 4, 1, 2, 3]


def test_the_last_step_is_the_last():
    scheduler = scheduler_with(images=1, mode=Mode.LATENCY)
    scheduler.complete(scheduler.plan(0.0).id, NOBODY, 0.0)
    plan = scheduler.plan(0.0)
    with pytest.raises(
        ValueError, match="left: expected all that have taken step 2, the last, got none of slot 0"
    ):
        scheduler.complete(plan.id, NOBODY, 0.0)


@pytest.mark.parametrize(
    ("deadlines", "error", "message"),
    [
        ([NAN, 9.0], ValueError, "deadlines: expected finite seconds, got nan"),
        ([9.0, INF], ValueError, "deadlines: expected finite seconds, got inf"),
        (["1", "2"], TypeError, "deadlines: expected real numbers, got str"),
        ([9j, 9.0], TypeError, "deadlines: expected real numbers, got complex128"),
        ([None, 9.0], TypeError, "deadlines: expected real numbers, got object"),
        ({0: 1.0, 1: 2.0}, TypeError, "deadlines: expected a sequence"),
        (9.0, TypeError, "deadlines: expected a sequence"),
        ([9.0], ValueError, r"deadlines: expected shape \[2\], got length 1"),
        ([[9.0], [9.0]], TypeError, "deadlines: expected real numbers, got list"),
        (np.full((2, 1), 9.0), ValueError, r"deadlines: expected shape \[2\], got \(2, 1\)"),
        (None, ValueError, "one per image in deadline mode and none in the others, got 0 for 2 images"),
    ],
)
def test_deadlines_that_are_none(deadlines, error, message):
    scheduler = Scheduler(COSTS, capacity=8, steps=2, mode=Mode.DEADLINE)
    with pytest.raises(error, match=message):
        scheduler.admit(2, 0.0, deadlines)
    assert scheduler.occupancy().free == 8
    assert len(scheduler.admit(2, 0.0, range(9, 11))) == 2
    assert len(scheduler.admit(2**40, 0.0, np.broadcast_to(9.0, 2**40))) == 6


def test_a_mapping_is_no_sequence():
    scheduler = Scheduler(COSTS, capacity=8, steps=2, mode=Mode.DEADLINE)
    for mapping in (UserDict({"a": 1.0, "b": 2.0, "c": 3.0}), Mode, {"a": 1.0}):
        for call in (lambda m: Load(1, m), lambda m: cover(m, 3), lambda m: scheduler.admit(len(m), 0.0, m)):
            with pytest.raises(TypeError):
                call(mapping)


def test_launches_end_once():
    scheduler = scheduler_with(images=8, in_flight=2)
    first, second = scheduler.plan(0.0), scheduler.plan(0.0)
    for launch in (-1, 2, 2**63 - 1, -(2**63)):
        with pytest.raises(ValueError, match=f"id: expected a launch in flight, got {launch}"):
            scheduler.complete(launch, NOBODY, 0.0)
    for launch in (2**63, "0", None, 0.0):
        with pytest.raises(TypeError):
            scheduler.complete(launch, NOBODY, 0.0)
    scheduler.complete(second.id, leaving(4, 5, 6, 7), 0.0)
    with pytest.raises(ValueError, match="has been completed or failed already"):
        scheduler.complete(second.id, NOBODY, 0.0)
    with pytest.raises(ValueError, match="has been completed or failed already"):
        scheduler.fail(second.id, 0.0)
    scheduler.fail(first.id, 0.0)
    assert len(scheduler.collect()) == 4
    scheduler.admit(1, 0.0)
    scheduler.close()
    while (alone := scheduler.plan(0.0)).count > 1:
        scheduler.complete(alone.id, leaving(*alone.slots[: alone.count]), 0.0)
    with pytest.raises(
        ValueError, match=f"id: expected a launch of two rows or more, got {alone.id} of one row"
    ):
        scheduler.fail(alone.id, 0.0)


@pytest.mark.parametrize(
    ("load", "machine", "message"),
    [
        ({"images": -1}, {}, "images: expected 0 to 1073741824, got -1"),
        ({"images": 2**63 - 1}, {}, "images: expected 0 to 1073741824"),
        ({"exits": []}, {}, "exits: expected 1 to 1024 steps, got 0"),
        ({"exits": [NAN, 0.5]}, {}, "exits: expected 0 to 1, got nan"),
        ({"exits": [-0.5, 1.5]}, {}, "exits: expected 0 to 1, got -0.5"),
        ({"burst": 0}, {}, "burst: expected 1 to 2147483647, got 0"),
        ({"rate": NAN}, {}, "rate: expected 1e-09 to 1.79769e[+]308, got nan"),
        ({"rate": 5e-324}, {}, "rate: expected 1e-09"),
        ({"rate": INF}, {}, "rate: expected 1e-09"),
        ({"allowed": NAN}, {}, "allowed: expected 0 to 1e[+]09 seconds, got nan"),
        ({"allowed": -1.0}, {}, "allowed: expected 0 to 1e[+]09 seconds, got -1"),
        ({}, {"devices": -1}, "devices: expected 1 to 256, got -1"),
        ({}, {"sync": NAN}, "sync: expected 0 to 1e[+]09 seconds, got nan"),
        ({}, {"sync": INF}, "sync: expected 0 to 1e[+]09 seconds, got inf"),
        ({}, {"issue": -1.0}, "issue: expected 0 to 1e[+]09 seconds, got -1"),
    ],
)
def test_a_simulation_refuses(load, machine, message):
    settings = {"images": 10, "exits": [0.5, 0.5], "arrivals": Arrivals.BURSTS, "rate": 10.0, **load}
    arguments = (Load(**settings), Machine(**machine), COSTS)
    with pytest.raises(ValueError, match=message):
        simulate(*arguments, capacity=4)
    with pytest.raises(ValueError, match=message):
        simulate_per_batch(*arguments, batch=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch: expected 1 to 262144, got 0"),
        ({"batch": 2**31 - 1}, "batch: expected 1 to 262144, got 2147483647"),
        ({"overlap": 0}, "overlap: expected 1 to 256, got 0"),
        ({"linger": NAN}, "linger: expected 0 to inf seconds, got nan"),
        ({"batch": 2**18, "overlap": 17}, "devices x overlap x batch: expected 1 to 4194304, got 4456448"),
    ],
)
def test_batches_that_cannot_be_simulated(options, message):
    with pytest.raises(ValueError, match=message):
        simulate_per_batch(Load(10, [1.0]), Machine(), COSTS, **{"batch": 4, **options})


def test_a_simulation_ends_though_costs_are_below_the_clocks_precision():
    quick = CostTable([(1, 1e-20)], [(1, 1e-20)])
    load = Load(3, [0.5, 0.5], allowed=1.0)
    report = simulate(load, Machine(sync=2.0), quick, capacity=3, mode=Mode.DEADLINE, in_flight=1)
    assert (report.images, report.worst) == (3, 1.0)


@pytest.mark.parametrize("way", [simulate, simulate_per_batch], ids=lambda way: way.__name__)
def test_a_signal_ends_a_simulation(way):
    def stop(number, frame):
        raise TimeoutError("stop")

    size = {"capacity": 8} if way is simulate else {"batch": 8}
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    begin = time.perf_counter()
    try:
        with pytest.raises(TimeoutError, match="stop"):
            way(Load(2**30, [0.5, 0.5]), Machine(), COSTS, **size)  # takes minutes
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.perf_counter() - begin < 10


def test_a_simulation_is_not_disturbed_by_other_threads():
    def run():
        report = simulate(Load(200_000, [0.5, 0.5], seed=3), Machine(devices=2), COSTS, capacity=64)
        return report.makespan, report.launches, report.mean

    alone, together = run(), []
    threads = [threading.Thread(target=lambda: together.append(run())) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        scheduler = scheduler_with()
        scheduler.complete(scheduler.plan(0.0).id, leaving(0, 1, 2), 0.0)
    assert together == [alone] * 3
