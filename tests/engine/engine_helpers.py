"""What the engine's tests share: engines without a measurement, and comparison with the trace."""

import torch

from gfnet_fast import pool
from gfnet_fast._scheduler import CostTable
from gfnet_fast.engine.engine import Engine
from gfnet_fast.engine.loop import Loop
from gfnet_fast.engine.runtimes.openvino import OpenVINO
from tests.conftest import expected_exits, tiny_model

MODES = ("throughput", "latency", "deadline")
NEAR = 1e-3  # of a pixel, and of a confidence: nearer ones may round to the other side


def affine(buckets, fixed=1e-3, per_row=1e-4):
    rows = [(bucket, fixed + per_row * bucket) for bucket in buckets]
    return CostTable(rows, rows)


def engine_of(model, buckets=(1, 4), **options):
    costs = affine(buckets[-1:] if "invariance" in options else buckets)
    options = {"costs": costs, "layout": torch.channels_last, **options}
    return Engine(model, buckets=buckets, **options)


def small_model(classifier="recurrent", **changes):
    """A tiny one of few layers: to build engines on it takes a time for each."""
    fewer = {"backbone_args": {"channels": [16, 16, 16, 32], "layers": [1, 1, 1, 1]}}
    return tiny_model(classifier, **{**fewer, **changes})


class Wrapped:
    """An engine's launches, with something in between; what is not told otherwise goes to the former ones."""

    def __init__(self, engine):
        self.inner, self.engine = engine._launches, engine
        engine._launches = self

    def __getattr__(self, name):
        return getattr(self.inner, name)


def rows_of(engine, stage, bucket, block):
    """The slots that a launch is about to run, of an engine on a CPU."""
    slots, _ = engine.stages.take(stage, bucket, block)
    return slots[slots >= 0].tolist()


class Lagging(Wrapped):
    """Records that take some looks to come back, as on a GPU."""

    def __init__(self, engine, looks):
        super().__init__(engine)
        self.looks, self.left = looks, {}
        self.most = self.waits = 0

    def mark(self, block):
        self.left[block] = self.looks
        self.most = max(self.most, len(self.left))

    def ended(self, block):
        self.left[block] -= 1
        return self.left[block] < 0

    def wait(self, block):
        self.waits += self.left.pop(block, -1) >= 0


class FakeClock:
    """Moves on by `tick` seconds each time that it is read."""

    def __init__(self, tick=0.0):
        self.now, self.tick = 0.0, tick

    def __call__(self):
        self.now += self.tick
        return self.now


def near(model, images, thresholds):
    """Bool [B]: images whose trace comes within rounding of a threshold or of a pixel's edge; on the CPU."""
    trace = model.trace(model.normalise(images))
    room = torch.tensor(model.config.canvas, device=trace.actions.device) - model.config.patch_size
    place = trace.actions * room
    edge = (place - place.round()).abs() < NEAR
    confidence = trace.logits.softmax(-1).amax(-1)
    return edge.any(-1).any(0) | ((confidence - thresholds[:, None]).abs() < NEAR).any(0)


def assert_as_trace(model, images, thresholds, out):
    label, step, origins = expected_exits(model, images, thresholds)
    assert torch.equal(out.exit_step, step)
    assert torch.equal(out.class_id, label)
    assert torch.equal(out.origins, origins)


def assert_on_trace(model, images, out):
    """Wherever images left: the class and the crops are those of the trace at that step."""
    trace = model.trace(model.normalise(images))
    label, rows = trace.logits.argmax(-1), torch.arange(len(images))
    assert (out.exit_step >= 1).all()
    assert torch.equal(out.class_id, label[out.exit_step - 1, rows])
    torch.testing.assert_close(out.logits, trace.logits[out.exit_step - 1, rows], rtol=1e-3, atol=1e-3)
    taken = torch.arange(2, model.config.steps + 1) <= out.exit_step[:, None]
    expected = trace.origins.permute(1, 0, 2).masked_fill(~taken[:, :, None], -1)
    assert torch.equal(out.origins, expected)


def in_order(engine, count):
    """All answers of `count` images submitted from ticket 0 on, in the order of their tickets."""
    answers = list(engine.collect())
    tickets = torch.cat([torch.from_numpy(a.tickets) for a in answers])
    assert sorted(tickets.tolist()) == list(range(count)), "nothing lost, nothing twice"
    columns = zip(*(a.prediction for a in answers), strict=True)
    return type(answers[0].prediction)(*(torch.cat(column)[tickets.argsort()] for column in columns))


def pretend(monkeypatch, takes):
    """The runtimes that engines are built for from now on, as they come; all run on torch.

    `takes`: seconds of a launch that a contest finds; OpenVINO is here where it has some.
    """
    asked, original = [], Loop.__init__

    def recording(self, model, *, runtime, **options):
        asked.append(runtime)
        original(self, model, **options)
        self.runtime = runtime

    monkeypatch.setattr(Loop, "__init__", recording)
    monkeypatch.setattr(pool, "contest", lambda engines, rows: [takes[engine.runtime] for engine in engines])
    reason = None if "openvino" in takes else "expected OpenVINO, got none"
    monkeypatch.setattr(OpenVINO, "missing", lambda *_: reason)
    monkeypatch.setattr(OpenVINO, "version", lambda _: "1")
    return asked
