"""One captured launch of each stage against plain calls, and a few images through the engine.

    python bench/captures.py [--device cuda]

For the model that comes with the package and for MobileNetV3, in float32 without TF32. Without a GPU nothing
is captured, and the same calls are made twice. The engine's answers are compared with the trace's.
"""

import argparse
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from tasks import Task, run_tasks
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import expected  # noqa: E402
from fixtures import CONFIGS, FEW, Steps, images_of, model_of, steps_of  # noqa: E402
from measuring import agreement, shared_thresholds, steady  # noqa: E402

from gfnet_fast._scheduler import CostTable, Stage  # noqa: E402
from gfnet_fast.checkpoints import load  # noqa: E402
from gfnet_fast.data.digits import ClutteredDigits  # noqa: E402
from gfnet_fast.engine.engine import Engine  # noqa: E402
from gfnet_fast.engine.prepare import exact_float32  # noqa: E402
from gfnet_fast.hub.names import ASSETS  # noqa: E402
from gfnet_fast.model.gfnet import GFNet  # noqa: E402
from gfnet_fast.training.digits import TASK  # noqa: E402

ROWS = 4

STATE = (
    "logits", "confidence", "label", "policy", "memory", "feature_map", "origins", "taken", "queue",
    "counters",
)  # fmt: skip
Given = tuple[GFNet, Tensor, Steps]


@cache
def digits(device: torch.device) -> Given:
    """The model that comes with the package, canvases of its kind, and what its steps say."""
    model = load(ASSETS / "digits")
    images = ClutteredDigits("test", FEW, seed=77, task=TASK).images(range(FEW))
    found = model.trace(model.normalise(images)).logits.softmax(-1).max(-1)
    return model.to(device), images.to(device), Steps(found.values, found.indices)


def mobilenet(device: torch.device) -> Given:
    model = model_of(CONFIGS[1], device)
    images = images_of(model.config.canvas, FEW, device)
    return model, images, steps_of(CONFIGS[1], FEW)


@cache
def engine_of(model: GFNet) -> Engine:
    """Without a measurement: its costs and its layout are given."""
    costs = CostTable([(ROWS, 1e-3)], [(ROWS, 1e-3)])
    return Engine(model, buckets=(ROWS,), costs=costs, layout=torch.channels_last)


@torch.no_grad()
def stage(given: Callable[[], Given], which: Stage) -> None:
    """A replay leaves the arena and the record as a plain call does; AssertionError where it does not."""
    model, images, _ = given()
    engine = engine_of(model)
    with exact_float32(), steady(engine, images[:ROWS]) as at:
        state = {name: getattr(engine.arena, name) for name in STATE}
        state |= {"record": at.blocks[which].record} | at.output._asdict()
        before = {name: values.clone() for name, values in state.items()}

        def from_before(call: Callable[[Stage], None]) -> dict[str, Tensor]:
            for name, values in before.items():
                state[name].copy_(values)
            call(which)
            return {name: values.clone() for name, values in state.items()}

        wanted, found = from_before(at.call), from_before(at.start)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)  # names the tensor that differs


def whole(given: Callable[[], Given]) -> None:
    """Classes and exit steps of the engine are the trace's, for all images but one at most."""
    model, images, steps = given()
    row = shared_thresholds(steps, 0.5)
    with exact_float32():
        out = engine_of(model).predict(images, row)
    same, _ = agreement(steps, row, out.class_id, out.exit_step)
    assert same >= 1 - 1 / FEW, f"expected the trace's class and exit step, got {same:.3f} of them"


def same_images(device: torch.device) -> None:
    """The images of a device are the host's, to the bit."""
    here, there = (images_of((224, 224), FEW, at).cpu() for at in (torch.device("cpu"), device))
    torch.testing.assert_close(there, here, rtol=0, atol=0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    device = torch.device(parser.parse_args().device)
    tasks = [Task("images", partial(same_images, device), expected.CAPTURED)]
    for name, given in (("digits", digits), ("mobilenetv3", mobilenet)):
        make = partial(given, device)
        tasks += [
            Task(f"{name}: glance captured", partial(stage, make, Stage.GLANCE), expected.CAPTURED),
            Task(f"{name}: focus captured", partial(stage, make, Stage.FOCUS), expected.CAPTURED),
            Task(f"{name}: engine", partial(whole, make), expected.CAPTURED),
        ]
    return run_tasks(tasks)


if __name__ == "__main__":
    sys.exit(main())
