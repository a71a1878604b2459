"""Everything the compiled scheduler offers, called with wrong types, sizes and orders, from a seed.

    GFNET_FUZZ_SECONDS=600 python -m pytest -s tests/fuzz/test_fuzz_scheduler.py
    python tests/fuzz/test_fuzz_scheduler.py SEED SECONDS THREADS       # what it runs in a process

What there is to call, and with what, is read from the module and its docstrings. Most arguments are of the
right kind, so that calls get far; what they return is given back to later ones. A call must return or raise
one of REFUSALS, in less than a second of processor time and 2 GiB of address space. The call under way is
written, seed first, to memory that outlives the process: one that ends it, or does not end, is found there.
"""

import collections
import enum
import json
import os
import random
import re
import reprlib
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gfnet_fast import _scheduler as module

SECONDS = float(os.environ.get("GFNET_FUZZ_SECONDS", "5"))
REFUSALS = (ValueError, TypeError, OverflowError, RuntimeError, IndexError)
ROUND = 200  # calls from one seed
LONGEST = 1.0  # seconds of processor time
RESULTS = ["Departures", "Occupancy", "Plan", "Report", "Statistics"]  # which nobody else can make
STUCK = 60  # seconds that a round may take before the process is ended
MEMORY = 2 << 30
INTS = (-(2**63), -(2**31), -5, -1, 0, 1, 255, 256, 257, 1024, 1025, 2**18, 2**18 + 1, 2**22, 2**31 - 1)
BEYOND = (2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**400)
FLOATS = (float("nan"), float("inf"), -float("inf"), -1.0, -0.0, 5e-324, 1e-20, 1e9, 1.1e9, 1e308, -1e308)


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    keyword: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Target:
    """Something to call, by one of its signatures."""

    name: str
    call: object
    signatures: tuple[tuple[Parameter, ...], ...]


def parameters(text: str) -> tuple[Parameter, ...]:
    """Those of ``"self: module.Class, count: int, *, mode: module.Mode = ..."``."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    found, keyword = [], False
    for part in map(str.strip, parts):
        name, _, annotation = part.partition(":")
        keyword |= part == "*"
        if annotation:
            kind = kind_of(annotation.partition(" = ")[0])
            found.append(Parameter(name, kind, keyword, " = " in annotation))
    return tuple(found)


def kind_of(annotation: str) -> str:
    if own := re.search(re.escape(module.__name__) + r"\.(\w+)", annotation):
        return own[1]
    for word, kind in (
        ("Sequence[tuple", "pairs"),
        ("Sequence", "shares"),
        ("Float", "float"),
        ("Int", "int"),
    ):
        if word in annotation:
            return kind
    return "array"


def signatures(call: object) -> tuple[tuple[Parameter, ...], ...]:
    found = re.findall(r"^(?:\d+\. )?\w+\((.*)\) -> ", call.__doc__ or "", re.MULTILINE)
    return tuple(parameters(text) for text in found if not text.startswith("*args"))


def discover() -> list[Target]:
    """Every function, constructor, method and property of the module."""
    targets = []
    for name in sorted(dir(module)):
        value = getattr(module, name)
        if isinstance(value, type) and not issubclass(value, enum.Enum):
            made = signatures(value.__init__) if "__init__" in vars(value) else ((),)
            targets.append(Target(name, value, tuple(one[1:] for one in made)))
            me = Parameter("self", name)
            for inner, member in sorted(vars(value).items()):
                if isinstance(member, property):
                    targets.append(Target(f"{name}.{inner}", member.fget, ((me,),)))
                elif type(member).__name__ == "instancemethod" and not inner.startswith("_pybind11"):
                    targets.append(Target(f"{name}.{inner}", member, signatures(member)))
        elif callable(value) and not isinstance(value, type):
            targets.append(Target(name, value, signatures(value)))
    return targets


class Lies:
    """A sequence that claims to be endless."""

    def __len__(self):
        return 2**62

    def __getitem__(self, index):
        return (1, 1.0)


class Raises:
    def refuse(self, *arguments):
        raise ValueError("refused")

    __len__ = __getitem__ = __iter__ = __float__ = __index__ = __int__ = __bool__ = __array__ = refuse


class Poses:
    """Claims another class."""

    def __init__(self, cls):
        self.cls = cls

    __class__ = property(lambda self: self.cls)


class Reenters:
    """A number whose reading calls the schedulers that there are."""

    def __init__(self, objects):
        self.objects = objects

    def __float__(self):
        for scheduler in self.objects["Scheduler"]:
            try:
                scheduler.plan(1.0)
                scheduler.collect()
            except REFUSALS:
                pass
        return 1.0

    def __index__(self):
        return int(float(self))


CLASSES = {name: value for name, value in vars(module).items() if isinstance(value, type)}
MADE = {name: value for name, value in CLASSES.items() if not issubclass(value, enum.Enum)}
JUNK = (
    *(None, True, "x", "", b"x", 1.5, 1j, (), [], {}, set(), object(), len, int, lambda: 1, ...),
    *(range(5), range(2**31), range(2**62), [[1.0], [2.0]], [None], ["1", "2"], [True] * 4, [(1,), (2, 3)]),
    *(
        [(1, 1.0, 2.0)],
        [(1, 1.0)] * 300,
        [0.5] * 2000,
        {1: 2.0},
        iter([1.0]),
        bytearray(4),
        memoryview(b"abcd"),
    ),
    *(
        np.float32(1),
        np.int64(3),
        np.bool_(True),
        np.str_("x"),
        np.array(1.0),
        np.array([]),
        np.zeros((2, 2)),
    ),
    *(np.array(["a"]), np.array([None, 1]), np.zeros(4, ">f4"), np.zeros(4, "M8[s]"), np.zeros(4, "i4,f8")),
    *(np.zeros(8, bool)[::-2], np.zeros(4, complex), np.full(4, np.nan), np.zeros(4, np.float16)),
    *(np.broadcast_to(False, 2**40), np.broadcast_to(1.0, (2**20, 2**20)), np.ma.masked_all(4)),
    *(Lies(), Raises(), [Raises()], [(Raises(), 1.0)], [Lies()]),
    *CLASSES.values(),
    *(member for cls in CLASSES.values() if issubclass(cls, enum.Enum) for member in cls),
    *(Poses(cls) for cls in MADE.values()),
)


@dataclass
class Pools:
    """What calls have returned, newest last."""

    objects: dict[str, list] = field(default_factory=lambda: collections.defaultdict(list))
    ints: list[int] = field(default_factory=lambda: [1, 4])
    arrays: list[np.ndarray] = field(default_factory=list)
    named: dict[str, int] = field(default_factory=dict)  # properties of what was returned last

    def keep(self, value: object) -> None:
        if type(value).__module__ == module.__name__ and not isinstance(value, enum.Enum):
            pool = self.objects[type(value).__name__]
        elif isinstance(value, np.ndarray):
            pool = self.arrays
        elif type(value) is int:
            pool = self.ints
        else:
            return
        pool.append(value)
        del pool[:-4]


class Caller:
    """Random calls of random targets. Raises AssertionError at a fault."""

    def __init__(self, targets: list[Target], pools: Pools, record: int, place: int):
        self.targets, self.pools, self.record, self.place = targets, pools, record, place
        self.properties = {
            name: [target for target in targets if target.name.startswith(f"{name}.") and is_property(target)]
            for name in CLASSES
        }
        self.called = collections.Counter()
        self.returned = collections.Counter()
        self.raised = collections.Counter()
        self.longest = (0.0, "")

    def round(self, seed: int) -> None:
        self.random, self.seed = random.Random(seed), seed
        self.clock = self.random.choice((-50.0, 0.0, 1e9))
        for target in self.targets:
            if target.name in CLASSES:
                self.call(target, wrong=0.0)
        # Half of the calls are of one class's methods, so that orders come about.
        methods = [target for target in self.targets if "." in target.name and not is_property(target)]
        owner = self.random.choice(methods).name.partition(".")[0]
        favoured = [target for target in methods if target.name.startswith(f"{owner}.")]
        for _ in range(ROUND):
            target = self.random.choice(favoured if self.random.random() < 0.5 else self.targets)
            if is_property(target) and self.random.random() < 0.8:
                continue
            self.clock += self.random.choice((0.0, 0.0, 0.01, 1.0))
            self.call(target, wrong=self.random.choice((0.0, 0.0, 0.0, 0.3)))

    def call(self, target: Target, wrong: float) -> None:
        positional, keywords = self.arguments(target, wrong)
        told = [reprlib.repr(one) for one in positional]
        told += [f"{name}={reprlib.repr(one)}" for name, one in keywords.items()]
        line = f"seed {self.seed}: {target.name}({', '.join(told)})"
        os.pwrite(self.record, line[:999].encode("ascii", "replace").ljust(1000, b"\0"), 1000 * self.place)
        self.called[target.name] += 1
        begin = time.thread_time()
        try:
            value = target.call(*positional, **keywords)
        except REFUSALS as error:
            value = None
            self.raised[type(error).__name__] += 1
        except BaseException as error:
            raise AssertionError(f"{type(error).__name__}: {error} of {line}") from error
        else:
            self.returned[target.name] += 1
        took = time.thread_time() - begin
        assert took < LONGEST, f"{took:.1f} s for {line}"
        self.longest = max(self.longest, (took, line))
        self.pools.keep(value)
        read = {}
        for one in self.properties.get(type(value).__name__, ()):
            self.called[one.name] += 1
            self.returned[one.name] += 1
            read[one.name.partition(".")[2]] = one.call(value)
        for one in read.values():
            self.pools.keep(one)
        numbers = {name: one for name, one in read.items() if type(one) is int}
        if all(number >= 0 for number in numbers.values()):  # a plan that is no launch has none
            self.pools.named.update(numbers)

    def arguments(self, target: Target, wrong: float) -> tuple[list[object], dict[str, object]]:
        positional, keywords = [], {}
        for parameter in self.random.choice(target.signatures or ((),)):
            if parameter.optional and self.random.random() < 0.5:
                continue
            value = self.wrong() if self.random.random() < wrong else self.right(parameter, edge=wrong / 2)
            if parameter.keyword or parameter.optional or keywords or self.random.random() < 0.05:
                keywords[parameter.name] = value
            else:
                positional.append(value)
        if self.random.random() < wrong / 5:
            positional = positional[:-1] if self.random.random() < 0.5 else [*positional, self.wrong()]
        if self.random.random() < wrong / 10:
            keywords["unheard_of"] = self.wrong()
        return positional, keywords

    def wrong(self) -> object:
        kind = self.random.randrange(8)
        if kind == 0:
            cls = self.random.choice(list(MADE.values()))
            return cls.__new__(cls)
        if kind == 1:
            return Reenters(self.pools.objects)
        if kind == 2:
            return self.random.choice((*INTS, *BEYOND, *FLOATS))
        pools = [one for pool in list(self.pools.objects.values()) for one in list(pool)]
        return self.random.choice(pools if kind == 3 and pools else JUNK)

    def right(self, parameter: Parameter, edge: float) -> object:
        draw, kind = self.random, parameter.kind
        if kind == "int":
            value = draw.choice(
                (draw.randrange(1, 10), draw.randrange(1, 10), draw.choice(list(self.pools.ints)))
            )
            if draw.random() < 0.8:
                value = self.pools.named.get(parameter.name, value)
            value = draw.choice(INTS) if draw.random() < edge else value
            # A simulation rightly takes as long as it has images.
            return value % 30 if parameter.name == "images" and 0 < value < 2**30 else value
        if kind == "float":
            return (
                draw.choice(FLOATS) if draw.random() < edge else draw.choice((self.clock, draw.random(), 0.0))
            )
        if kind == "pairs":
            sizes = draw.sample(range(1, 13), draw.randint(1, 4))
            sizes += [draw.choice(INTS)] if draw.random() < edge else []
            pairs = [
                (size, draw.choice(FLOATS) if draw.random() < edge / 4 else draw.uniform(0.01, 2))
                for size in sizes
            ]
            return draw.choice((list, tuple))(pairs)
        if kind == "shares":
            shares = [draw.random() for _ in range(draw.randint(1, 6))]
            shares = [share / sum(shares) for share in shares]
            return [*shares, *[0.0] * 1020] if draw.random() < edge / 4 else shares
        if kind == "array":
            return self.leaving() if parameter.name == "left" else self.array()
        members = getattr(CLASSES[kind], "__members__", {})
        pool = list(members.values()) or list(self.pools.objects[kind])
        newest = pool[-1:] if draw.random() < 0.6 and not members else pool
        return draw.choice(newest) if pool else None

    def array(self) -> object:
        draw = self.random
        lengths = (self.pools.named.get("count", 1), draw.choice(list(self.pools.ints)))
        length = min(draw.choice(lengths), 2**18 + 1)
        made = [
            lambda: [draw.random() < 0.5 for _ in range(min(length, 100))],
            lambda: np.full(
                max(length, 0), draw.choice((0, 1, 255)), draw.choice((bool, np.uint8, np.int64))
            ),
            lambda: np.full(max(length, 0), self.clock + draw.uniform(-1, 20)),
            lambda: draw.choice(list(self.pools.arrays) or [None]),
        ]
        return draw.choice(made)()

    def leaving(self) -> np.ndarray:
        """Images that leave: mostly those of an array that a call has returned."""
        draw = self.random
        rows = draw.choice(
            [one for one in self.pools.arrays if one.ndim == 1 and one.dtype == np.int32] or [np.arange(4)]
        )
        rows = rows[: draw.randrange(len(rows) + 1)]
        columns = [
            rows,
            np.full(len(rows), draw.choice((0, 1, 1, 2, 3))),
            np.full(len(rows), draw.randrange(-1, 6)),
        ]
        return np.stack(columns, axis=1).astype(draw.choice(("i4", "i4", "i8", ">i4", "u4")))


def is_property(target: Target) -> bool:
    return target.name.partition(".")[2] != "" and type(target.call).__name__ != "instancemethod"


def work(seed: int, seconds: float, threads: int, record: int) -> dict[str, object]:
    """Rounds from `seed` on until the time is over; several threads share their objects."""
    targets, faults = discover(), []
    callers = [Caller(targets, Pools(), record, place) for place in range(threads)]
    shared = Pools().objects
    end = time.perf_counter() + seconds

    def run(place: int) -> None:
        caller = callers[place]
        try:
            for number in range(place, sys.maxsize, threads):
                signal.alarm(STUCK)
                caller.pools = Pools()  # a round depends on its seed alone, but for what threads share
                if threads > 1:
                    caller.pools.objects = shared
                caller.round(seed + number)
                if faults or time.perf_counter() > end:
                    return
        except BaseException as error:
            faults.append(f"{type(error).__name__}: {error}")

    others = [threading.Thread(target=run, args=(place,)) for place in range(1, threads)]
    for other in others:
        other.start()
    run(0)
    for other in others:
        other.join()
    total = {
        key: sum((getattr(one, key) for one in callers), collections.Counter())
        for key in ("called", "returned")
    }
    return {
        "faults": faults,
        "calls": total["called"].total(),
        "raised": sum((one.raised for one in callers), collections.Counter()),
        "longest": max(one.longest for one in callers),
        "peak_kib": int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]),
        "never_called": sorted({target.name for target in targets} - set(total["called"])),
        "never_returned": sorted({target.name for target in targets} - set(total["returned"])),
    }


def fuzz(seed: int, seconds: float, threads: int) -> dict:
    """The same in a process of its own; fails where it has found a fault."""
    record = os.memfd_create("calls")
    command = [sys.executable, __file__, str(seed), str(seconds), str(threads), str(record)]
    single = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }  # threads that are not needed take address space
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds + 3 * STUCK,
        env={**os.environ, **single},
        pass_fds=(record,),
    )
    calls = [line.strip() for line in os.pread(record, 1000 * threads, 0).decode().split("\0") if line]
    os.close(record)
    assert done.returncode == 0, f"status {done.returncode} after {calls}: {done.stderr[-2000:]}"
    report = json.loads(done.stdout)
    print(report)
    assert report["faults"] == []
    return report


def test_one_caller():
    report = fuzz(1, SECONDS * 0.6, 1)
    assert report["never_called"] == []
    assert report["never_returned"] == RESULTS


def test_callers_in_threads():
    assert fuzz(1_000_000_000, SECONDS * 0.4, 3)["never_called"] == []


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    descriptor = int(sys.argv[4]) if len(sys.argv) > 4 else os.memfd_create("calls")
    print(json.dumps(work(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), descriptor)))
