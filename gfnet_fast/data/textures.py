"""Hidden textures: a square of a photograph's fine texture on a large smooth canvas, among squares of noise.

Large squares give themselves away in the thumbnail; of small ones it shows only that there is something, and
a crop tells what. The textures are cut from photographs that come with scikit-image and scikit-learn, whose
low frequencies are taken out, so that no class is told by its brightness. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gfnet_fast.errors import InputError

# Class: the function of skimage.data, or the image of scikit-learn's load_sample_image.
PHOTOGRAPHS = {
    "brick": "brick",
    "cat": "chelsea",
    "grass": "grass",
    "gravel": "gravel",
    "print": "page",
    "stars": "hubble_deep_field",
    "temple": "china.jpg",
    "tissue": "immunohistochemistry",
}
# Shares of a photograph's longer side, in order: what a part shows is nowhere in another.
SPLITS = {"train": (0.0, 0.55), "validation": (0.55, 0.75), "test": (0.75, 1.0)}
BLUR = 15
TRIES = 4

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class TexturesTask:
    """How a canvas is composed.

    Attributes
    ----------
    canvas : int
        Side in pixels.
    sizes : (float, float)
        Smallest and largest side of the square of texture, drawn evenly in the logarithm.
    distractors : int
        Most squares of noise on a canvas; one that would touch the texture is left out.
    distractor_sizes : (float, float)
    """

    canvas: int = 192
    sizes: tuple[float, float] = (16.0, 72.0)
    distractors: int = 6
    distractor_sizes: tuple[float, float] = (8.0, 20.0)


@lru_cache(maxsize=1)
def load_photographs() -> dict[str, np.ndarray]:
    """Every class's photograph: float32 ``[H, W]`` grey levels less their local mean.

    Raises InputError where scikit-image or scikit-learn is not installed.
    """
    try:
        import skimage.data
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise InputError(
            f"textures: expected scikit-image and scikit-learn, got no {error.name}: "
            "pip install 'gfnet-fast[train]'"
        ) from error
    found = {}
    for name, source in PHOTOGRAPHS.items():
        image = load_sample_image(source) if source.endswith(".jpg") else getattr(skimage.data, source)()
        grey = torch.from_numpy(np.array(image)).float()
        grey = grey.mean(-1) if grey.ndim == 3 else grey
        padded = F.pad(grey[None, None], [BLUR // 2] * 4, mode="reflect")
        found[name] = (grey - F.avg_pool2d(padded, BLUR, 1)[0, 0]).numpy()
    return found


def regions(split: Split) -> list[np.ndarray]:
    """A split's part of every class's photograph, in the order of the classes: float32 ``[h, w]``."""
    out = []
    for photograph in load_photographs().values():
        axis = int(photograph.shape[1] >= photograph.shape[0])
        first, last = (round(share * photograph.shape[axis]) for share in SPLITS[split])
        out.append(photograph[:, first:last] if axis else photograph[first:last])
    return out


class HiddenTextures:
    """`count` canvases of one split, drawn when asked for; the same for the same arguments.

    Attributes
    ----------
    labels : int64 ``[N]``, every class equally often, give or take one
    boxes : float32 ``[N, 4]``, the texture's top, left, bottom, right in pixels
    """

    classes = tuple(PHOTOGRAPHS)

    def __init__(self, split: Split, count: int, seed: int = 0, task: TexturesTask | None = None) -> None:
        self.task = task = task or TexturesTask()
        self.count, self.seed = count, [seed, list(SPLITS).index(split)]
        self.regions = regions(split)
        rng = np.random.default_rng(self.seed)
        self.labels = torch.from_numpy(rng.permutation(np.arange(count) % len(self.classes)))
        side = _log_uniform(rng, task.sizes, count)
        corner = (rng.random((count, 2)) * (task.canvas - side[:, None] + 1)).astype(np.int64)
        self.boxes = torch.from_numpy(np.concatenate([corner, corner + side[:, None]], 1)).float()

    def __len__(self) -> int:
        return self.count

    def images(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """Canvases: uint8 ``[len(rows), S, S, 3]``, three equal channels."""
        grey = np.stack([self._canvas(int(row)) for row in rows])
        return torch.from_numpy(grey)[..., None].expand(-1, -1, -1, 3)

    def _canvas(self, row: int) -> np.ndarray:
        task, rng = self.task, np.random.default_rng([*self.seed, row])
        size = task.canvas
        field = torch.from_numpy(rng.uniform(90, 160) + rng.uniform(-25, 25, (1, 1, 4, 4))).float()
        image = F.interpolate(field, size=size, mode="bicubic", align_corners=True)[0, 0].numpy()
        image += rng.standard_normal((size, size), np.float32) * 4
        top, left, bottom, right = self.boxes[row].int().tolist()
        contrast = rng.uniform(25, 45)
        image[top:bottom, left:right] += contrast * self._texture(int(self.labels[row]), bottom - top, rng)
        for side in _log_uniform(rng, task.distractor_sizes, int(rng.integers(task.distractors + 1))):
            y, x = rng.integers(0, size - side + 1, 2)
            if y >= bottom or x >= right or y + side <= top or x + side <= left:
                noise = rng.standard_normal((side, side), np.float32)
                image[y : y + side, x : x + side] += rng.uniform(15, 35) * noise
        return image.clip(0, 255).round().astype(np.uint8)

    def _texture(self, label: int, side: int, rng: np.random.Generator) -> np.ndarray:
        """A piece of that side with mean 0 and deviation 1: of some places the one with most contrast."""
        source = self.regions[label]
        places = rng.integers(0, np.array(source.shape) - side + 1, (TRIES, 2))
        pieces = [source[y : y + side, x : x + side] for y, x in places]
        piece = max(pieces, key=lambda p: p.std())
        piece = np.rot90(piece, int(rng.integers(4)))
        return (piece - piece.mean()) / max(piece.std(), 1e-6)


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float], count: int) -> np.ndarray:
    low, high = np.log(bounds).tolist()
    return np.exp(rng.uniform(low, high, count)).round().astype(np.int64)
