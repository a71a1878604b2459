"""The recipe of the model that comes with the package: cluttered digits, on two cores in minutes.

``python -m gfnet_fast.training.digits --output FOLDER`` trains it anew, ``--evaluate FOLDER`` measures it.
"""

from __future__ import annotations

from typing import Any, cast

from gfnet_fast.config import GFNetConfig
from gfnet_fast.data.digits import ClutteredDigits, DigitsTask, Split
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training import recipe
from gfnet_fast.training.config import TrainConfig

# Pieces of half these sizes: a thumbnail shows that a small digit is there, but not which.
TASK = DigitsTask(canvas=192, sizes=(14.0, 72.0), fragment_sizes=(10.0, 22.0))

CONFIG = GFNetConfig(
    name="digits",
    backbone="timm/resnet18",
    backbone_args={"channels": [16, 32, 64, 96], "layers": [1, 1, 1, 1], "output_stride": 8},
    patch_size=32,
    steps=4,
    image_size=192,
    crop_ratio=1.0,
    policy="linear",
    policy_hidden=256,
    policy_width=128,
    classifier_width=128,
    classes=10,
)

TRAINING = TrainConfig(
    epochs=(8, 3, 16, 5),
    batch=128,
    backbone_lr=0.02,
    classifier_lr=(0.1, 0.05),
    thumbnail_lr=0.05,
    policy_lr=1e-3,
    ppo_epochs=4,
    amp=True,
)


def _canvases(split: str, count: int, seed: int) -> ClutteredDigits:
    return ClutteredDigits(cast(Split, split), count, seed=seed, task=TASK)


RECIPE = recipe.Recipe(
    CONFIG, TRAINING, _canvases, canvases=16_384, window_epochs=10, window_lr=0.1, jitter=10
)


def evaluate(model: GFNet, count: int = 4000, seed: int = 200) -> dict[str, Any]:
    """Accuracy at each step with this policy and others, and what the default thresholds do; test digits."""
    return recipe.evaluate(RECIPE, model, count, seed)


if __name__ == "__main__":
    recipe.main(RECIPE, __doc__)
