"""One picture of adaptive inference: row by exit step, what was looked at and why it was enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from gfnet_fast.drawing import (
    INK,
    PAPER,
    STEPS,
    Pixels,
    cut,
    draw_box,
    draw_tag,
    font,
    lettered,
    outset,
    place,
)
from gfnet_fast.errors import InputError
from gfnet_fast.results import Prediction

WIDTH = 1400
MARGIN, GAP = 20, 18
LEGEND, HEADER, CAPTION, EMPTY = 46, 190, 58, 56
FRAME, TAG = 4, 20
LARGEST_SCALE, SMALLEST_CELL = 2.0, 190
FAINT, RULE = "#656d76", "#d0d7de"
RIGHT, WRONG = "#1a7f37", "#cf222e"


class Layout(NamedTuple):
    """Where things are, in pixels of the picture.

    drawn : (width, height) of an image; scale : of that to the image's own pixels; cell : width of a column
    tops : the upper edge of the images of each row; size : (width, height) of the picture
    """

    drawn: tuple[int, int]
    scale: float
    cell: int
    tops: tuple[int, ...]
    size: tuple[int, int]

    @classmethod
    def of(cls, canvas: tuple[int, int], columns: int, counts: Sequence[int]) -> Layout:
        """For `columns` images (height, width) a row and `counts` of images that left at each step."""
        room = (WIDTH - 2 * MARGIN - HEADER) // columns - GAP - 2 * FRAME
        width = max(1, min(room, int(canvas[1] * LARGEST_SCALE)))
        scale = width / canvas[1]
        height = max(1, round(canvas[0] * scale))
        cell = max(width + 2 * FRAME, SMALLEST_CELL)
        tops, y = [], MARGIN + LEGEND
        for count in counts:
            tops.append(y + FRAME)
            y += (height + 2 * FRAME + CAPTION if count else EMPTY) + GAP
        return cls(
            (width, height),
            scale,
            cell,
            tuple(tops),
            (2 * MARGIN + HEADER + columns * (cell + GAP) - GAP, y),
        )

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """The upper left pixel (x, y) of an image."""
        return MARGIN + HEADER + FRAME + column * (self.cell + GAP), self.tops[row]

    def box(self, origin: tuple[int, int], size: int) -> Pixels:
        """A crop's first and last pixels (x, y, x, y) within its image as drawn; origin (row, column)."""
        top, left = (round(at * self.scale) for at in origin)
        bottom, right = (round((at + size) * self.scale) - 1 for at in origin)
        return left, top, right, bottom


def draw_exits(
    images: Tensor,
    prediction: Prediction,
    thresholds: Tensor,
    labels: Tensor | None = None,
    names: Sequence[str] | None = None,
    columns: int = 5,
    *,
    patch_size: int,
    macs: Sequence[int] | None = None,
) -> Image.Image:
    """Draw, row by exit step, the first images that left there and what each step of theirs looked at.

    Parameters
    ----------
    images : uint8 ``[N, H, W, 3]``
    prediction : Prediction
        Of those images.
    thresholds : float ``[T]``
        In force when it was made.
    labels : int ``[N]``, optional
        The truth; without, no answer is called right or wrong.
    names : sequence of K str, optional
        Of the classes; without, their numbers.
    columns : int
        Images a row; the picture is about 1,400 pixels wide, and no image is enlarged more than twofold.
    patch_size : int
        Side of the crops, and of the thumbnail, in pixels of the images.
    macs : sequence of T int, optional
        Multiply-adds of an image that leaves at each step.

    Raises
    ------
    InputError
        On images of another shape or dtype, or in another number than labels or predictions.
    """
    count = len(prediction.class_id)
    shape = tuple(images.shape)
    fits = images.dtype == torch.uint8 and images.ndim == 4 and shape[3] == 3
    known = count if labels is None else len(labels)
    if not fits or not len(images) == known == count:
        expected = f"uint8 [{count}, H, W, 3] and as many labels"
        raise InputError(f"figure: expected {expected}, got {images.dtype} {list(shape)} and {known} labels")
    if columns < 1:
        raise InputError(f"columns: expected at least 1, got {columns}")
    exit_step = prediction.exit_step.cpu()
    limits = thresholds.tolist()
    rows = [(exit_step == step).nonzero().flatten().tolist() for step in range(1, len(limits) + 1)]
    layout = Layout.of((shape[1], shape[2]), columns, [len(row) for row in rows])
    picture = Image.new("RGB", layout.size, PAPER)
    draw = ImageDraw.Draw(picture)
    _legend(draw, len(limits), patch_size)
    for row, members in enumerate(rows):
        limit = limits[row] if row + 1 < len(limits) else None
        _header(draw, layout, row, len(members), count, limit, macs[row] if macs else None)
        for column, member in enumerate(members[:columns]):
            origins = [(int(y), int(x)) for y, x in prediction.origins[member, :row]]
            x, y = layout.corner(row, column)
            picture.paste(_image(images[member], origins, layout, patch_size), (x, y))
            width, height = layout.drawn
            draw.rectangle(outset((x, y, x + width - 1, y + height - 1), FRAME), None, STEPS[0], FRAME)
            answer = int(prediction.class_id[member])
            truth = None if labels is None else int(labels[member])
            _caption(draw, layout, (x, y), answer, truth, float(prediction.confidence[member]), limit, names)
    return picture


def _image(pixels: Tensor, origins: list[tuple[int, int]], layout: Layout, patch_size: int) -> Image.Image:
    """One image, enlarged, with its focus boxes and the number of every step."""
    width, height = layout.drawn
    image = Image.fromarray(np.ascontiguousarray(pixels.cpu().numpy())).resize(
        layout.drawn, Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(image)
    boxes = [layout.box(origin, patch_size) for origin in origins]
    for step, box in enumerate(boxes, 1):
        draw_box(draw, box, step, 3)
    tags: list[Pixels] = []
    for step, around in enumerate([(0, 0, width - 1, height - 1), *boxes]):
        tags.append(place((TAG, TAG), around, boxes, tags, layout.drawn, inside=step == 0))
        draw_tag(draw, tags[-1][:2], step, TAG)
    return image


def _legend(draw: ImageDraw.ImageDraw, steps: int, patch_size: int) -> None:
    x, y = MARGIN, MARGIN
    glance = f"the glance: the whole image as a {patch_size} x {patch_size} thumbnail"
    parts = [
        (range(1), glance),
        (range(1, steps), f"focus: {patch_size} x {patch_size} crops, in this order"),
    ]
    for numbers, text in parts:
        for step in numbers:
            draw_tag(draw, (x, y), step, TAG)
            x += 24
        draw.text((x + 4, y + 10), text, INK, font(18), "lm")
        x += 40 + round(draw.textlength(text, font(18)))
    draw.rectangle((x, y + 6, x + 59, y + 13), RULE)
    draw.rectangle((x, y + 6, x + 50, y + 13), RIGHT)
    draw.rectangle((x + 41, y + 1, x + 43, y + 18), INK)
    draw.text((x + 70, y + 10), "confidence; the tick is the threshold", INK, font(18), "lm")


def _header(
    draw: ImageDraw.ImageDraw,
    layout: Layout,
    row: int,
    here: int,
    total: int,
    limit: float | None,
    macs: int | None,
) -> None:
    x, y = MARGIN, layout.tops[row] - FRAME
    draw.line((x, y - GAP // 2, layout.size[0] - MARGIN, y - GAP // 2), RULE)
    draw.text((x, y), f"exit at step {row + 1}", INK, font(24))
    if not here:
        draw.text((MARGIN + HEADER, y + 4), "no image left here", FAINT, font(20))
        return
    lines = [f"{100 * here / total:.1f} % of images"]
    if macs is not None:
        lines.append(f"{macs / 1e6:.1f} M multiply-adds")
    lines.append("the last: all leave" if limit is None else f"threshold {limit:.3f}")
    for at, line in enumerate(lines):
        draw.text((x, y + 36 + 24 * at), line, FAINT, font(17))


def _caption(
    draw: ImageDraw.ImageDraw,
    layout: Layout,
    corner: tuple[int, int],
    answer: int,
    truth: int | None,
    confidence: float,
    limit: float | None,
    names: Sequence[str] | None,
) -> None:
    """Two lines below an image: the answer, and whether it is right; its confidence and the threshold."""
    x, y = corner[0] - FRAME, corner[1] + layout.drawn[1] + FRAME + 6
    names_of = [str(k) if names is None else names[k] for k in (answer, truth) if k is not None]
    verdict = "" if truth is None else "right" if answer == truth else f"wrong, it is {names_of[1]}"
    colour = FAINT if truth is None else RIGHT if answer == truth else WRONG
    said, judged = lettered(names_of[0], 20), lettered(verdict, 20)
    space = draw.textlength("  ", font(20)) if verdict else 0
    room = layout.cell - space - min(judged[1].getlength(judged[0]), layout.cell / 2)
    said = (cut(*said, room), said[1])
    draw.text((x, y), said[0], INK, said[1])
    after = said[1].getlength(said[0]) + space
    draw.text((x + after, y), cut(*judged, layout.cell - after), colour, judged[1])
    numbers = f"{confidence:.3f}" if limit is None else f"{confidence:.3f} >= {limit:.3f}"
    width = layout.cell - 10 - round(draw.textlength("0.000 >= 0.000", font(17)))
    y += 30
    draw.rectangle((x, y + 6, x + width - 1, y + 13), RULE)
    draw.rectangle((x, y + 6, x + round(confidence * (width - 1)), y + 13), colour)
    if limit is not None and 0 <= limit <= 1:
        tick = x + round(limit * (width - 1))
        draw.rectangle((tick - 1, y + 1, tick + 1, y + 18), INK)
    draw.text((x + width + 10, y + 10), numbers, FAINT, font(17), "lm")
