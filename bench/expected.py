"""What the runs on a GPU should take, counted before one is there: seconds, of which none is a measurement.

A count is what the plan does (engines, captures, passes, rounds, tests); its price is below. Prices of the
host are seconds of a processor that were read off on a CPU, and high for a machine with more cores; prices of
the GPU are guesses for an H100. A task may take twice its seconds (tasks.py), and `gpu.py --dry` fails where
the sum is more than the plan has.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gfnet_fast.config import GFNetConfig

START = 6.0  # a process until its first task: 3.1 s of a processor here, and files read for the first time
CONTEXT = 2.0  # CUDA's context, the libraries' handles
BUILD = 20.0  # the compiled modules: 50 s of a processor here, several files at once there
COMPILED = 0.5  # a kernel for one set of types: 0.06 to 0.5 s on a CPU
KERNELS = 11  # that an engine's two stages launch, by their types
CAPTURE = 0.2  # one, beside its calls
LAYOUTS = 4  # captures that choose an encoder's layout
IN_FLIGHT = 2  # launches, each with captures of its own
# Beside what it takes otherwise, with compiled networks: the first engine, the static way, what is in the
# caches then.
COMPILING = {"control": 90.0, "ladder": 60.0, "engine": 30.0}
CAPTURED = 4.0  # of captures.py: a model, plain calls, a capture of each stage
SANITIZED = 60.0  # four tools side by side, at least; they get what is left
# Of a network family: seconds to make a model here; of a pass of 128 rows in bfloat16, captured; of an image
# the official way; kernels of a pass.
MODEL = {"resnet50": 9.0, "mobilenetv3_large_100": 2.0}
PASS = {"resnet50": 1.5e-3, "mobilenetv3_large_100": 0.5e-3}
OFFICIAL = {"resnet50": 0.45e-3, "mobilenetv3_large_100": 0.2e-3}
LAUNCHES = {"resnet50": 230, "mobilenetv3_large_100": 260}
PIECES = 21  # of two launches, that control captures
LAUNCH = 10e-6  # of the host, a kernel that is not captured
TEST = {"test_gpu.py": 1.2, "test_engine_gpu.py": 2.0}  # three compilations; an engine, its captures, a trace


def passes(config: GFNetConfig, images: int, batch: int, steps: float) -> float:
    """`steps` passes of all images, captured; a small batch takes a third of a batch of 128 at least."""
    return images / batch * steps * PASS[config.name] * max(batch / 128, 0.3)


def plain(config: GFNetConfig, images: int, batch: int, steps: float) -> float:
    """The same, launched kernel by kernel in float32: twice the time, or the host's."""
    host = LAUNCHES[config.name] * LAUNCH
    return images / batch * steps * max(host, 2 * PASS[config.name] * batch / 128)


def engine(config: GFNetConfig, buckets: int) -> float:
    """One prepared: its layout chosen; each stage, bucket and place in flight captured and measured."""
    return 1.0 + captures(config, LAYOUTS + 2 * buckets * IN_FLIGHT)


def captures(config: GFNetConfig, count: int) -> float:
    """So many graphs of a pass, each after three plain calls."""
    return count * (4 * LAUNCHES[config.name] * LAUNCH + CAPTURE)


def whole(config: GFNetConfig, images: int) -> float:
    """The backbone at full size: its layout chosen on a batch, then captured in two batch sizes; calls and
    replays of each.
    """
    ratio = math.prod(config.canvas) / config.patch_size**2
    batch = plain(config, min(images, 128), 128, ratio)
    return 2.0 + captures(config, LAYOUTS + 2) + 5 * LAYOUTS * batch + 10 * plain(config, images, 128, ratio)


def mean_steps(config: GFNetConfig, share: float) -> float:
    weights = [share ** (k + 1) for k in range(config.steps)]
    return sum(k * w for k, w in enumerate(weights, 1)) / sum(weights)


def control(config: GFNetConfig, images: int, batch: int, rounds: int, share: float, many: int) -> float:
    """A model, an engine, graphs of `many` calls, four of them passes, and one of each launch, all timed."""
    graphs = 4 * many * LAUNCHES[config.name] * LAUNCH + captures(config, PIECES + 2)
    timed = (rounds + 1) * 6 * many * PASS[config.name]
    runs = (rounds + 2) * passes(config, images, batch, mean_steps(config, share))
    return MODEL[config.name] + KERNELS * COMPILED + engine(config, 1) + graphs + timed + runs


def ladder(config: GFNetConfig, images: int, few: int, batch: int, rounds: int, share: float) -> float:
    """Nine ways, each `rounds` times, once more to warm up, and once for its answers."""
    steps = config.steps
    ours = passes(config, images, batch, mean_steps(config, share)) + passes(config, few, batch, steps)
    others = few * OFFICIAL[config.name] + 4 * plain(config, few, batch, steps)
    return engine(config, 1) + whole(config, few) + (rounds + 2) * (ours + others)


def engine_rows(config: GFNetConfig, images: int, few: int, batch: int, rounds: int, shares: int) -> float:
    """An engine of three buckets beside five ways, at each share of exits."""
    steps = config.steps
    ours = passes(config, images, batch, 1) + passes(config, few, batch, steps)
    ours += shares * passes(config, images, batch, mean_steps(config, 0.5))
    others = few * OFFICIAL[config.name] + shares * plain(config, few, batch, steps)
    return engine(config, 3) + whole(config, few) + (rounds + 2) * (ours + others)


def kernels(cases: int, contenders: int, seconds: float) -> float:
    """Each case's kernel compiled and checked, each contender timed; half as long again for slow calls."""
    return 2.0 + cases * COMPILED + 1.5 * contenders * seconds


def latency(config: GFNetConfig, images: int, rounds: int) -> float:
    """An engine of one row, `images` one by one, its launches alone, and two ways beside it."""
    one = config.steps * (PASS[config.name] + 100e-6)
    prepared = engine(config, 1) + captures(config, 2) + whole(config, 1)
    return MODEL[config.name] + prepared + images * one + 10 * rounds * one
