"""What only a GPU can show: graphs, pinned copies and events, launches in flight, memory of other libraries.

GFNET_GPU_TESTS=cpu runs what also makes sense on a CPU there, to try the tests themselves.
"""

import os
import random
import threading
import time
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from gfnet_fast._scheduler import Stage
from gfnet_fast.checkpoints import load
from gfnet_fast.data.digits import ClutteredDigits
from gfnet_fast.engine.engine import Engine
from gfnet_fast.engine.prepare import check_dtype
from gfnet_fast.errors import DeviceError
from gfnet_fast.training.digits import TASK
from tests.conftest import expected_exits, random_images, tiny_model
from tests.engine.engine_helpers import MODES
from tests.engine.test_eager import random_thresholds

DEVICE = os.environ.get("GFNET_GPU_TESTS", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="expected a CUDA GPU, got none"
    ),
]
captured = pytest.mark.skipif(DEVICE != "cuda", reason="expected CUDA graphs, got a CPU")
NEAR = 1e-3  # of a pixel, and of a confidence: nearer ones may round to the other side


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
    try:
        check_dtype(dtype, torch.device(DEVICE))
    except DeviceError as error:
        pytest.skip(str(error))


def launcher(engine):
    """What holds the `run` that the engine's loop calls."""
    return engine._graphs or engine.stages


def near(model, images, thresholds):
    """Bool [B]: images whose trace comes within rounding of a threshold or of a pixel's edge; on the CPU."""
    trace = model.trace(model.normalise(images))
    place = trace.actions * (model.config.image_size - model.config.patch_size)
    edge = (place - place.round()).abs() < NEAR
    confidence = trace.logits.softmax(-1).amax(-1)
    return edge.any(-1).any(0) | ((confidence - thresholds[:, None]).abs() < NEAR).any(0)


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


def filled(classifier):
    """An engine with an image in each slot, glanced at."""
    engine = Engine(
        tiny_model(classifier).to(DEVICE), buckets=(1, 2, 8), capacity=32, layout=torch.channels_last
    )
    engine.arena.put(np.arange(32, dtype=np.int32), random_images(32, 80).to(DEVICE))
    slots = torch.arange(32, dtype=torch.int32, device=DEVICE)
    with torch.no_grad():
        for part in slots.split(8):
            engine.stages.run(Stage.GLANCE, part, torch.ones_like(part))
    return engine


def sequence(count, seed=0):
    """Launches: stage, bucket, slots (some padded), steps in order."""
    draw = random.Random(seed)
    for _ in range(count):
        stage, bucket = draw.choice((Stage.GLANCE, Stage.FOCUS)), draw.choice((1, 2, 8))
        rows = draw.randint(1, bucket)
        slots = draw.sample(range(32), rows) + [-1] * (bucket - rows)
        later = sorted(draw.choice((2, 3, 4)) for _ in range(rows))
        steps = ([1] * rows if stage is Stage.GLANCE else later) + [0] * (bucket - rows)
        yield stage, *(torch.tensor(n, dtype=torch.int32, device=DEVICE) for n in (slots, steps))


STATE = ("logits", "confidence", "label", "policy", "memory", "feature_map", "origins")


@pytest.mark.parametrize("classifier", ["recurrent", "cascaded"])
def test_every_bucket_replayed_in_any_order_does_what_plain_calls_do(classifier):
    one, other = filled(classifier), filled(classifier)
    unsure = 0
    with torch.no_grad():
        for stage, slots, steps in sequence(80):
            for name in STATE:
                getattr(one.arena, name).copy_(getattr(other.arena, name))
            flags = launcher(one).run(stage, slots, steps).clone()
            expected = other.stages.run(stage, slots, steps)
            apart = (one.arena.origins - other.arena.origins).abs().flatten(1).amax(1)
            assert apart.max() <= 1  # rounding at a pixel's edge
            sure, live = apart == 0, slots[slots >= 0].long()
            unsure += int((~sure).sum())
            assert torch.equal(flags[: len(live)][sure[live]], expected[: len(live)][sure[live]])
            assert not flags[len(live) :].any()
            for name in STATE:
                found, plain = getattr(one.arena, name), getattr(other.arena, name)
                torch.testing.assert_close(found[sure], plain[sure], rtol=1e-3, atol=1e-3)
    assert unsure < 20


def test_launches_are_in_flight_and_nothing_waits(monkeypatch):
    model = tiny_model().to(DEVICE)
    engine = Engine(model, buckets=(8,))
    images = random_images(200, 80).to(DEVICE)
    engine.predict(images[:40])  # pinned memory is fetched now, and kernels are loaded
    most, inner = 0, engine._run

    def run(plan):
        nonlocal most
        inner(plan)
        most = max(most, len(engine._flights))

    monkeypatch.setattr(engine, "_run", run)
    engine.reset()
    if DEVICE == "cuda":
        torch.cuda._sleep(50_000_000)  # some 25 ms, so that the host is ahead
    with no_waits():
        engine.predict(images)
    assert most == engine.in_flight == (2 if DEVICE == "cuda" else 1)
    assert engine.scheduler.statistics().waits <= model.config.steps + 1 or DEVICE != "cuda"


def test_a_stream_brings_its_answers_without_a_wait():
    """But for the event of their copies, which is the answers' own."""
    engine = Engine(tiny_model().to(DEVICE), buckets=(8,))
    images = random_images(200, 80).to(DEVICE)
    list(engine.stream(iter(images[:40])))  # pinned memory is fetched now, and kernels are loaded
    with no_waits():
        answers = list(engine.stream(iter(images)))
    assert all(answer.logits.device.type == answer.origins.device.type == "cpu" for answer in answers)
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


class OutOfMemory:
    """Wraps `run`: no memory for every third launch of more than one row."""

    def __init__(self, inner):
        self.inner, self.count, self.failures = inner, 0, 0

    def run(self, stage, slots, steps):
        self.count += 1
        if self.count % 3 == 0 and len(slots) > 1:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return self.inner.run(stage, slots, steps)


def test_out_of_memory_now_and_then_costs_no_image():
    case = case_of()
    engine = Engine(tiny_model().to(DEVICE), buckets=(1, 2, 8))
    failing = OutOfMemory(launcher(engine))
    setattr(engine, "_graphs" if engine._graphs else "stages", failing)
    assert_as_trace_where_sure(case, engine.predict(case.images.to(DEVICE), case.thresholds))
    assert failing.failures > 3


@captured
def test_a_capture_that_fails_is_made_again(monkeypatch):
    model = tiny_model().cuda()
    engine = Engine(model, buckets=(1, 8))
    images = random_images(30, 80).cuda()
    expected = engine.predict(images)
    graphs, inner, calls = engine._graphs, engine._graphs._capture, []

    def capture(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return inner(*arguments)

    monkeypatch.setattr(graphs, "_capture", capture)
    floats = engine.predict(model.normalise(images))  # another type of pixels: all is captured again
    bytes_again = engine.predict(images)
    assert len(calls) == 2 + 4 + 4
    assert torch.equal(floats.exit_step, expected.exit_step)
    assert torch.equal(bytes_again.class_id, expected.class_id)


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
