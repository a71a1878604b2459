"""How launches are captured and started, on a stand-in for CUDA that notes what it is told."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from gfnet_fast._scheduler import Stage
from gfnet_fast.engine import launches as launches_file
from gfnet_fast.engine.capture import CAPTURE, WARM_UP, capture, captured
from gfnet_fast.engine.launches import TRIES, Graphs, measure
from tests.conftest import random_images
from tests.engine.engine_helpers import Wrapped, assert_as_trace, engine_of
from tests.engine.test_eager import random_thresholds

CUDA = torch.device("cuda")


class Stream:
    def __init__(self, device=None):
        self.waits_for, self.waited = [], 0

    def synchronize(self):
        self.waited += 1

    def wait_stream(self, other):
        self.waits_for.append(other)


class Cuda:
    """The parts of torch.cuda that launches use: the current stream, and captures whose end may raise."""

    def __init__(self):
        self.stream_now, self.graphs, self.failure = Stream(), [], None

    def set_stream(self, stream):
        self.stream_now = stream

    @contextmanager
    def stream(self, stream):
        before, self.stream_now = self.stream_now, stream
        yield
        self.stream_now = before

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        with self.stream(stream):  # torch too stays on it where the end raises
            self.graphs.append((pool, stream))
            yield
            if self.failure:
                raise self.failure


@pytest.fixture
def cuda(monkeypatch):
    fake = Cuda()
    for name, value in {
        "Stream": Stream,
        "current_stream": lambda device: fake.stream_now,
        "set_stream": fake.set_stream,
        "stream": fake.stream,
        "graph": fake.graph,
        "CUDAGraph": mock.Mock,
        "graph_pool_handle": object,
        "device": lambda device: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return fake


def test_many_calls_are_one_graph(cuda):
    """A few calls to warm up, fifty into the graph, and none in a replay."""
    streams = []
    replay = captured(lambda: streams.append(cuda.stream_now) or len(streams), CUDA, 50)
    assert len(streams) == WARM_UP + 50
    assert replay() == replay() == WARM_UP + 50, "what the last call returned"
    assert len(streams) == WARM_UP + 50
    assert cuda.stream_now not in streams
    assert len(set(streams)) == 1


@pytest.mark.parametrize("place", ["warming up", "in the capture", "at its end"])
def test_a_capture_that_raises_leaves_thread_and_lock_as_they_were(cuda, place):
    before, calls = cuda.stream_now, []

    def run():
        calls.append(place)
        if place != "at its end" and len(calls) == (1 if place == "warming up" else WARM_UP + 1):
            raise MemoryError(place)

    cuda.failure, aside = MemoryError(place), Stream()
    with pytest.raises(MemoryError, match=place):
        capture(run, CUDA, stream=aside)
    assert aside.waited == 1, "what had been started reads memory that is written next"
    assert cuda.stream_now is before
    assert not CAPTURE.locked()
    cuda.failure = None
    capture(run, CUDA)
    assert cuda.stream_now is before


@pytest.fixture
def graphs(cuda):
    arena = SimpleNamespace(device=CUDA, table=SimpleNamespace(dtype=torch.uint8))
    return Graphs(SimpleNamespace(arena=arena, run=mock.Mock()))


def test_a_stream_that_is_new_waits_for_the_former_one(cuda, graphs):
    first, second = cuda.stream_now, Stream()
    graphs.begin()
    graphs.begin()
    assert first.waits_for == []
    cuda.stream_now = second
    graphs.begin()
    graphs.begin()
    assert (first.waits_for, second.waits_for) == ([], [first])
    cuda.stream_now = first
    graphs.begin()
    assert (first.waits_for, second.waits_for) == ([second], [first])
    block = mock.Mock()
    graphs.mark(block)
    block.end.record.assert_called_once_with(first)


def test_each_launch_is_captured_once_when_it_is_first_wanted(cuda, graphs):
    blocks, run = [mock.Mock(), mock.Mock()], graphs.stages.run
    keys = [(stage, bucket, block) for stage in Stage for bucket in (1, 8) for block in blocks]
    assert cuda.graphs == []
    for pixels in (torch.uint8, torch.float32, torch.uint8):
        graphs.stages.arena.table.dtype = pixels
        for _ in range(2):
            for key in keys:
                graphs.prepare(*key)
    assert len(cuda.graphs) == 2 * len(keys)
    assert len(set(cuda.graphs)) == 1, "one pool of memory and one stream"
    assert run.call_count == 2 * len(keys) * (WARM_UP + 1)
    assert all(block.clear.call_count == 2 * 4 for block in blocks), "a capture runs on padding"
    for key in keys:
        graphs.start(*key)
    assert run.call_count == 2 * len(keys) * (WARM_UP + 1), "nothing but replays"
    replayed = [graph.replay.call_count for graph in graphs._graphs.values()]
    assert replayed == [1] * len(keys) + [0] * len(keys), "of the type of pixels that is held"


def test_a_capture_that_raises_is_made_again_when_it_is_wanted_again(cuda, graphs):
    block = mock.Mock()
    graphs.prepare(Stage.FOCUS, 8, block)
    cuda.failure = torch.OutOfMemoryError("no room")
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            graphs.prepare(Stage.GLANCE, 8, block)
        graphs.prepare(Stage.FOCUS, 8, block)
    with pytest.raises(KeyError):
        graphs.start(Stage.GLANCE, 8, block)
    cuda.failure = None
    graphs.prepare(Stage.GLANCE, 8, block)
    graphs.start(Stage.GLANCE, 8, block)
    assert len(cuda.graphs) == 1 + 2 + 1


class Operations(TorchDispatchMode):
    """What torch computes: names, without views and memory that is only fetched."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returns = func._schema.returns
        view = any(value.alias_info is not None and not value.alias_info.is_write for value in returns)
        if not view and func is not torch.ops.aten.empty.memory_format:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Unwatched(Wrapped):
    """Launches are left out."""

    def start(self, stage, bucket, block):
        with _disable_current_modes():
            self.inner.start(stage, bucket, block)


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_nothing_is_computed_between_launches(tiny, mode):
    """Neither for images that come, nor for plans, records and answers; a graph holds all there is."""
    images = random_images(40, 80, 32)
    engine = engine_of(tiny, (1, 8), mode=mode)
    thresholds = random_thresholds(tiny, images, 32)
    expected = engine.predict(images, thresholds)
    launches = Unwatched(engine)
    with Operations() as seen:
        out = engine.predict(images)
        engine.predict(list(images))
    assert torch.equal(out.class_id, expected.class_id)
    assert seen.names == []
    with Operations() as seen:
        answers = list(engine.stream(iter(images)))
    assert [answer.class_id for answer in answers] == expected.class_id.tolist()
    on_the_host = {"aten.clone.default"}
    assert set(seen.names) - on_the_host == {"aten.zero_.default"}, "the queue, when the stream has ended"
    engine._launches = launches.inner
    with Operations() as seen:
        engine.predict(images[:8])
    assert len(seen.names) > 50, "launches are seen"


class Unmarked(Wrapped):
    """The end of one launch, which has run, cannot be noted."""

    def __init__(self, engine, which):
        super().__init__(engine)
        self.which, self.started = which, []

    def start(self, stage, bucket, block):
        self.started.append(stage)
        self.inner.start(stage, bucket, block)

    def mark(self, block):
        if len(self.started) == self.which:
            raise RuntimeError("no event")


@pytest.mark.parametrize("stage", Stage)
def test_a_launch_that_has_run_is_not_run_again(tiny, stage):
    """Its error is the caller's: a second run would take recurrent state two steps on."""
    images = random_images(20, 80, 31)
    thresholds = random_thresholds(tiny, images, 31)
    engine = engine_of(tiny, (1, 8))
    every = Unmarked(engine, None)
    assert_as_trace(tiny, images, thresholds, engine.predict(images, thresholds))
    engine._launches = every.inner
    which = every.started.index(stage) + 1
    failing = Unmarked(engine, which)
    with pytest.raises(RuntimeError, match="no event"):
        engine.predict(images, thresholds)
    assert failing.started == every.started[:which]
    assert engine.scheduler.occupancy().free == engine.capacity
    assert engine.arena.counters.tolist() == [0, 0]
    failing.which = None
    assert_as_trace(tiny, images, thresholds, engine.predict(images, thresholds))


@pytest.mark.parametrize("busy", [0, 1, 2, 100])
def test_a_busy_moment_is_no_cost(tiny, monkeypatch, busy):
    """Rows that seem to cost more in a larger launch are measured again, and believed in the end."""
    engine, turns = engine_of(tiny, (1, 4)), []

    def best_time(run, device, *, warm_up):
        run()
        turns.append(warm_up)
        size = (4, 1)[(len(turns) - 1) % 2]
        return 9.0 if size == 4 and len(turns) <= 2 * busy else 1.0 + size / 10

    monkeypatch.setattr(launches_file, "best_time", best_time)
    costs = measure(engine._launches, engine._blocks, engine.buckets, warm_up=True)
    assert costs.glance == [(1, 1.1), (4, 9.0 if busy >= TRIES else 1.4)]
    assert costs.focus == [(1, 1.1), (4, 9.0 if busy == 100 else 1.4)]
    tries = [min(busy + 1, TRIES), TRIES if busy == 100 else 1]
    assert turns == [again == 0 for count in tries for again in range(count) for _ in range(2)]
