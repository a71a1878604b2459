"""The process around a predictor: torch's defaults, forks, streams that are left open."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import gfnet_fast as gf
from gfnet_fast.data.digits import ClutteredDigits
from gfnet_fast.training.digits import TASK

DIGITS = Path(gf.__file__).parent / "assets" / "digits"
COUNT = 6


@pytest.fixture(scope="module")
def frames():
    return ClutteredDigits("test", COUNT, 0, TASK).images(range(COUNT)).contiguous()


def everything(frames):
    """Loaded anew: a batch of bytes and of floats, a stream of both, the trace, thresholds and canvases."""
    model = gf.load(DIGITS)
    options = {"device": "cpu", "runtime": "torch", "batch": 4}
    predictor = gf.Predictor(model, audit=gf.Audit(0.999, share=1.0), **options)
    floats = model.normalise(frames)
    mixed = [frames.numpy()[0], *floats.numpy()[1:3], frames[3], floats[4]]
    out = predictor.predict_batch(frames)
    results = [*predictor.stream(mixed), *gf.Predictor(model, mode="latency", **options).stream(mixed)]
    again = ClutteredDigits("test", 2, 5, TASK)
    return [
        *out, *predictor.predict_batch(floats), *(result.logits for result in results),
        model.trace(floats).logits, predictor.thresholds, again.images([0, 1]), again.labels,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def expected(frames):
    return everything(frames)


@pytest.mark.parametrize("default", [torch.float64, torch.float16, "meta"], ids=str)
def test_torch_s_defaults_change_nothing(frames, expected, default):
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    try:
        if default == "meta":
            torch.set_default_device(default)
        else:
            torch.set_default_dtype(default)
        found = everything(frames)
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
    assert torch.get_default_device() == device
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.device) == (other.dtype, other.device)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


FORK = f"""
import os, signal, sys
import numpy as np, torch
torch.set_num_threads(2)
import gfnet_fast as gf
predictor = gf.Predictor(gf.load({str(DIGITS)!r}), device="cpu", runtime="torch", batch=8)
frames = list(np.random.default_rng(0).integers(0, 256, (16, 192, 192, 3), dtype=np.uint8))
floats = predictor.model.normalise(torch.from_numpy(np.stack(frames)))
expected = [result.class_id for result in predictor.stream(frames)]
predictor.predict_batch(floats)
stream = predictor.stream(frames * 8)
next(stream)
predictor._pool._lock.acquire()  # by a thread that is not there in the child
child = os.fork()
if not child:
    signal.alarm(60)
    try:
        list(stream)
    except gf.DeviceError as error:
        assert "got one that forked from it" in str(error)
        assert [result.class_id for result in predictor.stream(frames)] == expected
        assert predictor.predict_batch(floats).class_id.tolist() == expected
        assert torch.get_num_threads() == 1
        os._exit(7)
    os._exit(1)
predictor._pool._lock.release()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert len(list(stream)) == 16 * 8 - 1
assert torch.get_num_threads() == 2
"""


LEFT_OPEN = """
import itertools
stream = predictor.stream(itertools.repeat(np.zeros((200, 200, 3), np.uint8)))
itself = [stream]
itself.append(itself)
print(next(stream).error)
try:
    raise ValueError
except ValueError as error:
    error.stream = stream
    sys.modules["held"] = error  # let go of last of all
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["OMP_WAIT_POLICY"] = "passive"  # threads that spin take a core from those that work
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=180, env=environment
    )


def test_a_fork_computes_what_its_parent_does_and_a_stream_is_left_open_at_the_end():
    """One program for both: to import torch takes most of its time."""
    done = run(FORK + LEFT_OPEN)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")


def test_streams_that_are_forgotten_leave_no_thread(frames):
    predictor = gf.Predictor(gf.load(DIGITS), device="cpu", runtime="torch", batch=4)
    before = threading.active_count()
    for _ in range(3):
        next(predictor.stream(itertools.cycle(frames.numpy())))
    held = [predictor.stream(itertools.cycle(frames.numpy()))]
    held.append(held)
    next(held[0])
    del held
    gc.collect()
    predictor.stream(np.zeros((3, 3), np.uint8))  # never begun
    assert threading.active_count() == before
    assert len(predictor._pool._idle) == len(predictor._pool._engines)
