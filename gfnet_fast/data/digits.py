"""Cluttered digits: one handwritten digit of any size on a large grey canvas, among fragments of others.

A large digit can be read in the thumbnail; a small one only in a crop that holds it. The digits are the
1,797 of scikit-learn's ``load_digits``: the test part of "Optical Recognition of Handwritten Digits"
(E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning Repository, CC BY 4.0), 8 x 8 pixels, 0..16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

GLYPH = 8
FIELD = 4
NOISE_SIDE = 512
SPLIT_SEED = 20260101
SPLITS = {"train": (0, 1197), "validation": (1197, 1397), "test": (1397, 1797)}

Split = Literal["train", "validation", "test"]


@lru_cache(maxsize=1)
def load_glyphs() -> tuple[np.ndarray, np.ndarray]:
    """All handwritten digits: ``(images uint8 [1797, 8, 8] in 0..16, labels uint8 [1797])``."""
    with (files("gfnet_fast") / "assets" / "digits.npz").open("rb") as file, np.load(file) as archive:
        return archive["images"], archive["labels"]


def split_glyphs(split: Split) -> np.ndarray:
    """Indices into :func:`load_glyphs` of one part: 1,197 train, 200 validation, 400 test; disjoint."""
    first, last = SPLITS[split]
    count = len(load_glyphs()[1])
    return np.sort(np.random.default_rng(SPLIT_SEED).permutation(count)[first:last])


@dataclass(frozen=True)
class DigitsTask:
    """How a canvas is composed.

    Attributes
    ----------
    canvas : int
        Side in pixels.
    sizes : (float, float)
        Smallest and largest side of the digit, drawn evenly in the logarithm.
    fragments : int
        Most pieces of other digits on a canvas; a piece that would touch the digit's box is left out.
    fragment_sizes : (float, float)
        As `sizes`, for the whole digit that a piece is cut from; the piece has half its side.
    """

    canvas: int = 160
    sizes: tuple[float, float] = (14.0, 96.0)
    fragments: int = 12
    fragment_sizes: tuple[float, float] = (16.0, 40.0)


class Plan(NamedTuple):
    """What is on N canvases, each with M strokes of which the first is the digit. Lengths in pixels.

    glyph : int64 ``[N, M]``; keep : bool ``[N, M, 8, 8]``, the glyph's pixels that are drawn
    top_left, side : float32 ``[N, M, 2]``, (row, column); ink : float32 ``[N, M]``, grey levels added
    field : float32 ``[N, 4, 4]``, grey levels of the background; noise_at : int64 ``[N, 2]``
    """

    glyph: np.ndarray
    keep: np.ndarray
    top_left: np.ndarray
    side: np.ndarray
    ink: np.ndarray
    field: np.ndarray
    noise_at: np.ndarray


def plan_canvases(task: DigitsTask, glyphs: np.ndarray, count: int, rng: np.random.Generator) -> Plan:
    """Draw `count` canvases; every digit of `glyphs` is the answer equally often, give or take one."""
    rounds = -(-count // len(glyphs))
    answers = np.concatenate([rng.permutation(glyphs) for _ in range(rounds)])[:count]
    shape = (count, task.fragments)
    glyph = np.concatenate([answers[:, None], rng.choice(glyphs, shape)], axis=1)

    sides = np.concatenate(
        [_log_uniform(rng, task.sizes, (count, 1)), _log_uniform(rng, task.fragment_sizes, shape)], 1
    )
    stretch = np.exp(rng.uniform(-0.15, 0.15, sides.shape))
    side = np.minimum(np.stack([sides * stretch, sides / stretch], axis=-1), task.canvas)
    top_left = rng.random(side.shape) * (task.canvas - side)

    keep = np.ones((*glyph.shape, GLYPH, GLYPH), bool)
    corner = rng.integers(0, GLYPH // 2 + 1, (*shape, 2))
    inside = np.abs(np.arange(GLYPH) + 0.5 - corner[..., None] - GLYPH / 4) < GLYPH / 4
    keep[:, 1:] = inside[:, :, 0, :, None] & inside[:, :, 1, None, :]

    ink = np.concatenate([rng.uniform(110, 190, (count, 1)), rng.uniform(70, 170, shape)], axis=1)
    unit = side[:, 1:] / GLYPH
    piece_from = top_left[:, 1:] + (corner - 1) * unit
    piece_to = piece_from + (GLYPH // 2 + 2) * unit
    digit_from, digit_to = top_left[:, :1], top_left[:, :1] + side[:, :1]
    touches = ((piece_from < digit_to) & (piece_to > digit_from)).all(-1)
    ink[:, 1:] *= ~touches

    field = rng.uniform(15, 45, (count, 1, 1)) + rng.uniform(-12, 12, (count, FIELD, FIELD))
    noise_at = rng.integers(0, NOISE_SIDE - task.canvas, (count, 2))
    single = np.float32
    return Plan(
        glyph,
        keep,
        top_left.astype(single),
        side.astype(single),
        ink.astype(single),
        field.astype(single),
        noise_at,
    )


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float], shape: tuple[int, ...]) -> np.ndarray:
    return np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]), shape))


def draw_canvases(task: DigitsTask, plan: Plan, rows: Sequence[int] | np.ndarray) -> Tensor:
    """Some canvases of a plan: uint8 ``[len(rows), S, S]``.

    Every stroke is its glyph, enlarged by a cubic spline in rows and columns: ``R G C^T`` with R and C
    ``[S, 8]``. Side by side, all strokes of a canvas are one product ``[S, 8 M] @ [8 M, S]``.
    """
    rows = np.asarray(rows)
    glyph, keep, top_left, side, ink, field, noise_at = (torch.from_numpy(part[rows]) for part in plan)
    canvas, (count, strokes) = task.canvas, glyph.shape
    pixels = torch.arange(canvas, dtype=torch.float32, device="cpu") + 0.5
    unit = side / GLYPH
    at = (pixels - top_left[..., None]) / unit[..., None] - 0.5
    weights = _spline(at[..., None] - torch.arange(GLYPH, device="cpu"))
    image = torch.from_numpy(load_glyphs()[0])[glyph] * keep * (ink / 16)[..., None, None]
    by_row = (weights[:, :, 0] @ image).transpose(1, 2).reshape(count, canvas, strokes * GLYPH)
    by_column = weights[:, :, 1].transpose(2, 3).reshape(count, strokes * GLYPH, canvas)

    slope = _spline(pixels[:, None] / canvas * (FIELD - 1) - torch.arange(FIELD, device="cpu"))
    slope = slope / slope.sum(1, keepdim=True)
    grey = torch.baddbmm(slope @ field @ slope.T, by_row, by_column)
    noise = _noise()
    for row, (y, x) in enumerate(noise_at.tolist()):
        grey[row] += noise[y : y + canvas, x : x + canvas]
    return grey.clamp_(0, 255).round_().to(torch.uint8)


def _spline(t: Tensor) -> Tensor:
    """Keys' cubic convolution weight, a = -1/2, at distance t; 0 from distance 2 on."""
    t = t.abs()
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((2.5 - 0.5 * t) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, 0.0))


@lru_cache(maxsize=1)
def _noise() -> Tensor:
    """Grey-level noise, of which every canvas takes a window."""
    values = np.random.default_rng(SPLIT_SEED).normal(0, 5, (NOISE_SIDE, NOISE_SIDE))
    return torch.from_numpy(values.astype(np.float32))


class ClutteredDigits(Dataset):
    """`count` canvases of one split, drawn when asked for; item: ``(uint8 [S, S, 3], label)``.

    The same canvases for the same arguments. :meth:`set_epoch` draws new ones, so that training never
    sees a canvas twice.

    Attributes
    ----------
    labels : int64 ``[N]``
    sources : int64 ``[N]``, which handwritten digit is the answer
    boxes : float32 ``[N, 4]``, the answer's top, left, bottom, right in pixels
    """

    classes = tuple("0123456789")

    def __init__(self, split: Split, count: int, seed: int = 0, task: DigitsTask | None = None) -> None:
        self.task = task or DigitsTask()
        self.split, self.count, self.seed = split, count, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the canvases of another epoch; epoch 0 is what a new data set holds."""
        rng = np.random.default_rng([self.seed, epoch, list(SPLITS).index(self.split)])
        self.plan = plan_canvases(self.task, split_glyphs(self.split), self.count, rng)
        self.sources = self.plan.glyph[:, 0]
        self.labels = torch.from_numpy(load_glyphs()[1][self.sources]).long()
        first, side = self.plan.top_left[:, 0], self.plan.side[:, 0]
        self.boxes = torch.from_numpy(np.concatenate([first, first + side], axis=1))

    def __len__(self) -> int:
        return self.count

    def images(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """Canvases: uint8 ``[len(rows), S, S, 3]``, three equal channels."""
        return draw_canvases(self.task, self.plan, rows)[..., None].expand(-1, -1, -1, 3)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.images([row])[0].contiguous(), int(self.labels[row])

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, int]]:
        """A batch at once, as torch's data loader asks for it."""
        return list(zip(self.images(rows), self.labels[rows].tolist(), strict=True))
