"""What only a GPU can show: graphs, pinned copies and events, launches in flight, memory of other libraries.

GFNET_GPU_TESTS=cpu runs what also makes sense on a CPU there, to try the tests themselves.
"""

import itertools
import os
import random
import threading
import time
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from gfnet_fast._scheduler import Reason, Stage
from gfnet_fast.checkpoints import load
from gfnet_fast.data.digits import ClutteredDigits
from gfnet_fast.engine import launches as launches_file
from gfnet_fast.engine.engine import Engine
from gfnet_fast.engine.launches import Launches
from gfnet_fast.engine.prepare import lacks
from gfnet_fast.training.digits import TASK
from tests.conftest import expected_exits, random_images, tiny_model
from tests.engine.engine_helpers import MODES, NEAR, Wrapped, engine_of, near
from tests.engine.test_eager import random_thresholds

DEVICE = os.environ.get("GFNET_GPU_TESTS", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="expected a CUDA GPU, got none"
    ),
]
captured = pytest.mark.skipif(DEVICE != "cuda", reason="expected CUDA graphs, got a CPU")


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@contextmanager
def no_waits():
    """Any wait for the GPU but for an event is an error."""
    if DEVICE == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def skip_unless_computed(dtype):
    if reason := lacks(torch.device(DEVICE), dtype):
        pytest.skip(reason)


class Case(NamedTuple):
    """Images, thresholds between their confidences, and what the trace says at them, on the CPU."""

    images: torch.Tensor
    thresholds: torch.Tensor
    sure: torch.Tensor  # bool [B]: no rounding may change it
    label: torch.Tensor
    step: torch.Tensor
    origins: torch.Tensor


@cache
def case_of(classifier="recurrent", count=60, seed=0):
    """Worked out once a process, for all tests that compare with it."""
    model, images = tiny_model(classifier), random_images(count, 80, seed)
    thresholds = random_thresholds(model, images, seed)
    sure = ~near(model, images, thresholds)
    assert sure.float().mean() > 0.8
    return Case(images, thresholds, sure, *expected_exits(model, images, thresholds))


def assert_as_trace_where_sure(case, out):
    assert torch.equal(out.exit_step.cpu()[case.sure], case.step[case.sure])
    assert torch.equal(out.class_id.cpu()[case.sure], case.label[case.sure])
    assert torch.equal(out.origins.cpu()[case.sure], case.origins[case.sure])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("classifier", ["recurrent", "cascaded"])
def test_graphs_equal_the_trace(classifier, mode):
    engine = Engine(tiny_model(classifier).to(DEVICE), buckets=(1, 8, 16), mode=mode)
    for seed in range(3):
        case = case_of(classifier, 100, seed)
        assert_as_trace_where_sure(case, engine.predict(case.images.to(DEVICE), case.thresholds))


def by_hand(classifier, mode, images):
    """An engine that holds an image in each slot; who leaves when is drawn, whatever is computed."""
    engine = engine_of(
        tiny_model(classifier).to(DEVICE), (1, 2, 8), capacity=len(images), mode=mode, allowed=1e6
    )
    engine.submit(images)
    engine._apply()
    draw, told = np.random.default_rng(0), engine._told
    told.thresholds[:] = np.where(draw.random(told.thresholds.shape) < 0.3, -1e8, np.inf)
    told.limit[:] = draw.choice((0, 2, 3, 4, 4, 4), told.limit.shape)
    for column in engine._batches[0].output:
        column.zero_()
    return engine


def drawn(engine, count, seed=0):
    """Launches: stage, bucket, rows, slots and steps; those of a queue's rows are empty.

    Whoever is not in the queue may have a glance, also a second one.
    """
    draw, ready = random.Random(seed), set()
    for _ in range(count):
        stage, bucket = draw.choice((Stage.GLANCE, Stage.FOCUS)), draw.choice((1, 2, 8))
        pool = sorted(set(range(engine.capacity)) - ready if stage is Stage.GLANCE else ready)
        if pool:
            taken = engine.arena.taken.tolist() if stage is Stage.FOCUS else [0] * engine.capacity
            rows = sorted(draw.sample(pool, draw.randint(1, min(bucket, len(pool)))), key=taken.__getitem__)
            steps = [taken[slot] + 1 for slot in rows]
            padding = bucket - len(rows)
            counted = stage is Stage.FOCUS and engine.stages.queued
            lists = ([], []) if counted else (rows + [-1] * padding, steps + [0] * padding)
            left = yield stage, bucket, len(rows), *(np.array(numbers, np.int32) for numbers in lists)
            ready |= set(rows)
            ready -= set(left)


STATE = ("logits", "confidence", "label", "policy", "memory", "feature_map", "origins")
EXACT = ("queue", "counters", "taken", "room", "thresholds", "limits", "deadlines")


def launched(engine, launches, turn, launch):
    """The record of a launch."""
    stage, bucket, *_ = launch
    block = engine._blocks[turn % engine.in_flight]
    launches.prepare(stage, bucket, block)
    block.fill(stage, bucket, launch[2], 0.0, *launch[3:], engine._words_told)
    launches.start(stage, bucket, block)
    launches.mark(block)
    launches.wait(block)
    return block.left().copy(), block._numbers.tolist()


class Calls(Launches):
    """Launches as plain calls, on any device."""

    def wait(self, block):
        if DEVICE == "cuda":
            torch.cuda.synchronize()


@pytest.mark.parametrize("mode", ["throughput", "latency"])
@pytest.mark.parametrize("classifier", ["recurrent", "cascaded"])
@torch.no_grad()
def test_every_bucket_replayed_in_any_order_does_what_plain_calls_do(classifier, mode):
    """Rows that a queue gives and rows that the host has planned; records and queues are the same exactly."""
    images = random_images(32, 80).to(DEVICE)
    one, other = by_hand(classifier, mode, images), by_hand(classifier, mode, images)
    replays, calls = one._launches, Calls(other.stages)
    outputs = [torch.utils._pytree.tree_leaves(engine._batches[0].output) for engine in (one, other)]
    launches, left, reasons, unsure = drawn(other, 90), None, set(), 0
    for turn in itertools.count():
        try:
            launch = launches.send(left)
        except StopIteration:
            break
        for name in STATE + EXACT:
            getattr(one.arena, name).copy_(getattr(other.arena, name))
        for mine, theirs in zip(*outputs, strict=True):
            mine.copy_(theirs)
        (found, counts), (plain, expected) = (
            launched(one, replays, turn, launch),
            launched(other, calls, turn, launch),
        )
        assert counts == expected
        assert found.tolist() == plain.tolist()
        left = plain[:, 0].tolist()
        reasons |= set(plain[:, 2].tolist())
        for name in EXACT:
            assert torch.equal(getattr(one.arena, name), getattr(other.arena, name)), name
        apart = (one.arena.origins - other.arena.origins).abs().flatten(1).amax(1)
        assert apart.max() <= 1  # rounding at a pixel's edge
        sure = apart == 0
        unsure += int((~sure).sum())
        for name in STATE:
            mine, theirs = getattr(one.arena, name)[sure], getattr(other.arena, name)[sure]
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
        rows = torch.from_numpy(other._told.ticket)[sure.cpu()].to(DEVICE)
        for mine, theirs in zip(*outputs, strict=True):
            torch.testing.assert_close(mine[rows], theirs[rows], rtol=1e-3, atol=1e-3, equal_nan=True)
    assert unsure < 20
    assert turn > 60
    assert reasons == {reason.value for reason in (Reason.EXITED, Reason.LAST_STEP, Reason.CANCELLED)}


def test_launches_are_in_flight_and_nothing_waits(monkeypatch):
    model = tiny_model().to(DEVICE)
    engine = Engine(model, buckets=(8,))
    images = random_images(200, 80).to(DEVICE)
    engine.predict(images[:40])  # pinned memory is fetched now, and kernels are loaded
    most, inner = 0, engine._launch

    def launch(plan, now):
        nonlocal most
        inner(plan, now)
        most = max(most, len(engine._flights))

    monkeypatch.setattr(engine, "_launch", launch)
    engine.reset()
    if DEVICE == "cuda":
        torch.cuda._sleep(50_000_000)  # some 25 ms, so that the host is ahead
    with no_waits():
        engine.predict(images)
    assert most == engine.in_flight == (2 if DEVICE == "cuda" else 1)
    assert engine.scheduler.statistics().waits <= model.config.steps + 1 or DEVICE != "cuda"


def test_a_stream_s_answers_come_without_a_wait_and_its_memory_goes_back():
    """Launches write them to page-locked memory: there is nothing to wait for but their records."""
    engine = Engine(tiny_model().to(DEVICE), buckets=(8,))
    images = random_images(200, 80).to(DEVICE)
    list(engine.stream(iter(images[:40])))  # pinned memory is fetched now, and kernels are loaded
    stream = engine.stream(iter(images))
    with no_waits():
        answers = list(itertools.islice(stream, len(images)))
    assert next(stream, None) is None  # its end waits for the GPU
    columns = [column for answer in answers for column in (answer.logits, answer.origins)]
    assert all(column.device.type == "cpu" and not column.is_pinned() for column in columns)
    expected = engine.predict(images)
    assert [answer.class_id for answer in answers] == expected.class_id.tolist()
    torch.testing.assert_close(torch.stack([answer.logits for answer in answers]), expected.logits.cpu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_same_to_the_bit_in_any_company(dtype):
    skip_unless_computed(dtype)
    engine = Engine(tiny_model().to(DEVICE), buckets=(16,), invariance="batch", dtype=dtype)
    images = random_images(40, 80).to(DEVICE)
    expected = engine.predict(images)
    for rows in (torch.tensor([7]), torch.arange(40).flip(0), torch.arange(17)):
        out = engine.predict(images[rows.to(DEVICE)])
        assert all(torch.equal(a, b[rows.to(DEVICE)]) for a, b in zip(out, expected, strict=True))


# Least shares of the images with the class and the exit step of the float32 trace.
AGREEMENT = {torch.float32: 0.99, torch.float16: 0.95, torch.bfloat16: 0.85}


@pytest.mark.parametrize("dtype", AGREEMENT, ids=str)
def test_agreement_of_a_trained_model(dtype, record_property):
    skip_unless_computed(dtype)
    model = load(Path(str(files("gfnet_fast") / "assets" / "digits")))
    images = ClutteredDigits("test", 512, seed=77, task=TASK).images(range(512))
    thresholds = model.default_thresholds()
    label, step, _ = expected_exits(model, images, thresholds)
    out = Engine(model.to(DEVICE), dtype=dtype, buckets=(8, 64)).predict(images.to(DEVICE), thresholds)
    same = ((out.class_id.cpu() == label) & (out.exit_step.cpu() == step)).float().mean()
    record_property("agreement", f"{float(same):.4f}")
    assert same >= AGREEMENT[dtype]


def test_images_of_another_library_on_a_stream_of_its_own():
    """By DLPack, and late: torch's stream waits for the producer's, and the engine runs on torch's."""
    library = np if DEVICE == "cpu" else pytest.importorskip("cupy")
    case = case_of()
    engine = Engine(tiny_model().to(DEVICE), buckets=(1, 8))

    def foreign():
        found = library.asarray(case.images.numpy())
        for _ in range(50):  # the images are there late
            found = 255 - (255 - found)
        return [torch.from_dlpack(library.ascontiguousarray(image)) for image in found]

    if DEVICE == "cpu":
        taken = foreign()
    else:
        with library.cuda.Stream(non_blocking=True):
            taken = foreign()
    assert_as_trace_where_sure(case, engine.predict(taken, case.thresholds))


class OutOfMemory(Wrapped):
    """No memory for every third launch of more than one row."""

    count = failures = 0

    def start(self, stage, bucket, block):
        self.count += 1
        if self.count % 3 == 0 and bucket > 1:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        self.inner.start(stage, bucket, block)


def test_out_of_memory_now_and_then_costs_no_image():
    case = case_of()
    engine = Engine(tiny_model().to(DEVICE), buckets=(1, 2, 8))
    failing = OutOfMemory(engine)
    assert_as_trace_where_sure(case, engine.predict(case.images.to(DEVICE), case.thresholds))
    assert failing.failures > 3


@pytest.fixture
def captures(monkeypatch):
    """How often a graph has been captured; those whose turn is in `fail` have no memory."""
    seen = SimpleNamespace(count=0, fail=())

    def capture(*given, **named):
        seen.count += 1
        if seen.count in seen.fail:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return inner(*given, **named)

    inner = launches_file.capture
    monkeypatch.setattr(launches_file, "capture", capture)
    return seen


@captured
def test_a_capture_that_fails_is_a_launch_that_is_tried_again(captures):
    case, captures.fail = case_of(), (1, 3)
    engine = engine_of(tiny_model().cuda(), (1, 8))
    assert captures.count == 0, "with costs that are given nothing is captured before it is needed"
    assert_as_trace_where_sure(case, engine.predict(case.images.cuda(), case.thresholds))
    assert engine.scheduler.statistics().failures == 2
    assert captures.count == len(engine._launches._graphs) + 2


@captured
def test_each_type_of_pixels_is_captured_once(captures):
    model = tiny_model().cuda()
    engine, images = Engine(model, buckets=(1, 8)), random_images(30, 80).cuda()
    assert captures.count == 2 * 2 * engine.in_flight
    for _ in range(3):
        of_bytes, of_floats = engine.predict(images), engine.predict(model.normalise(images))
        assert torch.equal(of_bytes.exit_step, of_floats.exit_step)
    assert (
        2 * 2 * engine.in_flight < captures.count == len(engine._launches._graphs) <= 4 * 2 * engine.in_flight
    )


@captured
def test_streams_of_the_caller_follow_each_other():
    """A stream that is new waits for what was replayed on the former one."""
    case = case_of()
    engine, images = Engine(tiny_model().cuda(), buckets=(1, 8)), case.images.cuda()
    for _ in range(3):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())  # for the images
        torch.cuda._sleep(20_000_000)
        tickets = engine.submit(images[:8])  # the former stream is busy when the next one takes over
        engine.step()
        with torch.cuda.stream(side):
            engine.drain()
            (answers,) = engine.collect()
        assert sorted(answers.tickets.tolist()) == list(tickets)
        assert_as_trace_where_sure(case, engine.predict(images, case.thresholds))


def test_engines_are_built_beside_other_threads():
    """As in a predictor: decoders fetch pinned memory meanwhile, and another call captures too."""
    ended, found, errors = threading.Event(), {}, []
    models = [tiny_model().to(DEVICE) for _ in range(2)]

    def pin():
        while not ended.is_set():
            image = torch.zeros(random.randint(1, 1 << 20), dtype=torch.uint8)
            if DEVICE == "cuda":
                image.pin_memory().cuda(non_blocking=True)

    def build(name):
        try:
            engine = Engine(models[name], buckets=(1, 8))
            found[name] = engine.predict(random_images(30, 80).to(DEVICE))
        except BaseException as error:
            errors.append(error)

    decoder = threading.Thread(target=pin)
    builders = [threading.Thread(target=build, args=(name,)) for name in range(2)]
    for thread in (decoder, *builders):
        thread.start()
    for thread in builders:
        thread.join()
    ended.set()
    decoder.join()
    assert not errors
    assert torch.equal(found[0].class_id, found[1].class_id)


@captured
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="expected two GPUs")
def test_a_gpu_that_is_not_the_current_one():
    case = case_of()
    engine = Engine(tiny_model().to("cuda:1"), buckets=(1, 8))
    assert_as_trace_where_sure(case, engine.predict(case.images.to("cuda:1"), case.thresholds))


class Traffic:
    """Bursts of images of several forms through one engine; every answer is on the trace of its image."""

    def __init__(self, mode, seed):
        self.draw = random.Random(seed)
        model = tiny_model()
        images = random_images(160, 80, seed)
        self.pool = images[~near(model, images, torch.full((model.config.steps,), -1.0))]
        trace = model.trace(model.normalise(self.pool))
        self.labels = trace.logits.argmax(-1)
        self.places = trace.origins.permute(1, 0, 2)
        self.sure = (trace.logits.topk(2, -1).values.diff(dim=-1).abs()[..., 0] > NEAR).all(0)
        self.steps = model.config.steps
        self.engine = Engine(tiny_model().to(DEVICE), mode=mode, buckets=(1, 4, 16), allowed=30, capacity=48)
        self.sent: dict[int, int] = {}
        self.answered = 0

    def burst(self):
        rows = [self.draw.randrange(len(self.pool)) for _ in range(self.draw.randint(1, 60))]
        batch = self.pool[rows].to(DEVICE)
        form = self.draw.randrange(3)
        if form == 1:
            batch = batch.permute(0, 3, 1, 2).contiguous()
        self.sent.update(zip(self.engine.submit(list(batch) if form == 2 else batch), rows, strict=True))

    def turn(self):
        """What a minute of a day may bring."""
        what = self.draw.random()
        if what < 0.3:
            self.burst()
        elif what < 0.35:
            self.engine.thresholds = torch.tensor(
                [self.draw.uniform(0.1, 1.1) for _ in range(self.steps - 1)] + [-1e8]
            )
        elif what < 0.4:
            self.engine.max_steps = self.draw.randint(1, self.steps)
        elif what < 0.45:
            self.engine.drain()
        else:
            self.engine.step()
        self.check()

    def check(self):
        for answers in self.engine.collect():
            assert not answers.errors
            rows = torch.tensor([self.sent.pop(ticket) for ticket in answers.tickets.tolist()])
            out = type(answers.prediction)(*(values.cpu() for values in answers.prediction))
            sure = self.sure[rows]
            assert torch.equal(out.class_id[sure], self.labels[out.exit_step - 1, rows][sure])
            taken = torch.arange(2, self.steps + 1) <= out.exit_step[:, None]
            assert torch.equal(out.origins, self.places[rows].masked_fill(~taken[:, :, None], -1))
            self.answered += len(rows)


@pytest.mark.parametrize("mode", MODES)
def test_random_traffic(mode):
    """GFNET_TRAFFIC_SECONDS: of all three modes together."""
    traffic = Traffic(mode, seed=5)
    until = time.monotonic() + float(os.environ.get("GFNET_TRAFFIC_SECONDS", "6")) / 3
    while time.monotonic() < until or traffic.answered < 200:
        traffic.turn()
    traffic.engine.drain()
    traffic.check()
    assert not traffic.sent, "every image is answered, and once"
    assert traffic.engine.scheduler.occupancy().free == traffic.engine.capacity
