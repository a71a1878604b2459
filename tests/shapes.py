"""Made for the first ten minutes: `FOLDER COUNT` gives pictures by class, `--official FILE` a checkpoint.

Each picture shows one shape, of any size, place and colour, on a smooth ground with noise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("cross", "disc", "ring", "triangle")


def draw(shape: str, rng: np.random.Generator, width: int = 320, height: int = 240) -> Image.Image:
    """One picture."""
    ground = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((width, height), 3)
    colour = tuple(rng.integers(0, 256, 3).tolist())
    size = int(rng.integers(60, 140))
    left, top = int(rng.integers(0, width - size)), int(rng.integers(0, height - size))
    box = (left, top, left + size, top + size)
    pen = ImageDraw.Draw(ground)
    third = size // 3
    if shape == "disc":
        pen.ellipse(box, colour)
    elif shape == "ring":
        pen.ellipse(box, None, colour, size // 6)
    elif shape == "triangle":
        pen.polygon([(left, top + size), (left + size, top + size), (left + size // 2, top)], colour)
    else:
        pen.rectangle((left + third, top, left + 2 * third, top + size), colour)
        pen.rectangle((left, top + third, left + size, top + 2 * third), colour)
    noisy = np.asarray(ground) + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def write_folder(folder: Path, each: int, seed: int = 0) -> None:
    """`each` pictures of every class, as FOLDER/CLASS/NUMBER.png."""
    rng = np.random.default_rng(seed)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True)
        for number in range(each):
            draw(shape, rng).save(folder / shape / f"{number}.png")


def write_official(path: Path) -> None:
    """A file of the released form, named as its configuration, with weights that were never trained."""
    import torch

    import gfnet_fast as gf
    from gfnet_fast.checkpoints import official_checkpoint

    name, _, patch_size = path.name.removesuffix(".pth.tar").rpartition("-")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = official_checkpoint(gf.GFNet(gf.released(name, int(patch_size))))
    del content["labels"]  # the authors' files have none
    torch.save(content, path)


if __name__ == "__main__":
    if sys.argv[1] == "--official":
        write_official(Path(sys.argv[2]))
    else:
        write_folder(Path(sys.argv[1]), int(sys.argv[2]))
