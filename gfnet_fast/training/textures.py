"""A second task from the same recipe: fine textures of photographs, hidden in large canvases.

``python -m gfnet_fast.training.textures --output FOLDER`` trains it, ``--evaluate FOLDER`` measures it. It
needs scikit-image and scikit-learn, whose photographs it cuts the textures from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from gfnet_fast.data.textures import HiddenTextures, Split, TexturesTask
from gfnet_fast.training import digits, recipe

TASK = TexturesTask()
CONFIG = digits.CONFIG.replace(name="textures", classes=len(HiddenTextures.classes))
TRAINING = replace(digits.TRAINING, epochs=(6, 3, 12, 4))


def _canvases(split: str, count: int, seed: int) -> HiddenTextures:
    return HiddenTextures(cast(Split, split), count, seed=seed, task=TASK)


RECIPE = recipe.Recipe(CONFIG, TRAINING, _canvases, canvases=8192, window_epochs=10, window_lr=0.1, jitter=8)

if __name__ == "__main__":
    recipe.main(RECIPE, __doc__)
