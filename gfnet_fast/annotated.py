"""One image's result drawn on its original picture, and saved."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image, ImageDraw

from gfnet_fast.drawing import INK, PAPER, Font, Pixels, cut, draw_box, draw_tag, font, lettered, place
from gfnet_fast.errors import InputError, reason
from gfnet_fast.files import replacing
from gfnet_fast.original import Box
from gfnet_fast.results import Result
from gfnet_fast.sources import Source, picture

SMALLEST_SIDE = 160  # pixels; below, numbers do not fit onto boxes
LONGEST_SIDE = 8192  # beyond it nothing is enlarged to
SMALLEST_TEXT = 12
# Of the mean side (the root of the area), but at most so much of the shorter one.
TEXT, MOST_TEXT = 0.036, 0.1
FAINT = "#c8d0d8"

# What is written, by suffix: Pillow's name of the format, and how. Thin lines keep their colours.
WRITTEN: dict[str, tuple[str, dict[str, int]]] = {
    ".png": ("PNG", {"compress_level": 4}),
    ".jpg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 92}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {}),
}
WRITTEN[".jpeg"], WRITTEN[".tiff"] = WRITTEN[".jpg"], WRITTEN[".tif"]


def draw_result(result: Result, image: Source | None = None) -> Image.Image:
    """What :meth:`~gfnet_fast.results.Result.plot` says."""
    if result.error is not None or not result.boxes:
        got = "none" if result.error is None else f"the error: {result.error}"
        raise InputError(f"{result.source}: expected a result with a prediction to draw, got {got}")
    drawn = _original(result, image).convert("RGB")  # a copy
    factor = _factor(drawn.size)
    if factor > 1:
        drawn = drawn.resize((drawn.width * factor, drawn.height * factor), Image.Resampling.NEAREST)
    text = _text_size(drawn.size)
    line, tag = max(2, text // 8), text * 5 // 4
    glance, *crops = (_pixels(box, factor, drawn.size) for box in result.boxes)
    draw = ImageDraw.Draw(drawn)
    for step, box in enumerate((glance, *crops)):
        draw_box(draw, box, step, line)
    caption = _Caption.of(result, text, drawn.width)
    taken: list[Pixels] = []
    if caption.fits(drawn.size):
        whole = (0, 0, drawn.width - 1, drawn.height - 1)
        taken.append(place(caption.size, whole, crops, [], drawn.size, inside=True))
        caption.draw(draw, taken[0][:2])
    if tag <= min(drawn.size):
        for step, box in enumerate((glance, *crops)):
            gap = 1 + max(1, line // 3)
            taken.append(place((tag, tag), box, crops, taken, drawn.size, gap=gap, inside=step == 0))
            draw_tag(draw, taken[-1][:2], step, tag)
    return drawn


def save_result(result: Result, path: str | os.PathLike[str], image: Source | None = None) -> None:
    """What :meth:`~gfnet_fast.results.Result.save` says."""
    path = Path(os.fsdecode(path))
    if path.suffix.lower() not in WRITTEN:
        known = ", ".join(sorted(WRITTEN))
        raise InputError(f"{path}: expected a path that ends in one of {known}, got {path.suffix or 'none'}")
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"{path}: expected a file in a folder that exists, got {_what(path)}")
    read = result.path if image is None else image
    if isinstance(read, (str, os.PathLike)) and _is_same(path, os.fsdecode(read)):
        raise InputError(f"{path}: expected another file than the picture that is read, got the same")
    drawn = draw_result(result, image)
    format, options = WRITTEN[path.suffix.lower()]
    with replacing(path) as file:
        try:
            drawn.save(file, format, **options)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise type(error)(error.errno, error.strerror, str(path)) from None
            got = f"{drawn.width} x {drawn.height} ({reason(error)})"
            raise InputError(f"{path}: expected a picture that {format} can hold, got {got}") from None


def _what(path: Path) -> str:
    return "a folder" if path.is_dir() else f"none of the name {path.parent}"


def _is_same(path: Path, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):  # one of them is not there
        return False


def _original(result: Result, image: Source | None) -> Image.Image:
    read = result.path if image is None else image
    if read is None:
        expected = f"the picture of {result.source}, which was read from no file"
        raise InputError(f"image: expected {expected}, got none")
    original = picture(read)
    if (original.height, original.width) != result.size:
        assert result.size is not None
        expected = f"the picture that was classified, {result.size[1]} x {result.size[0]} pixels"
        raise InputError(f"{result.source}: expected {expected}, got {original.width} x {original.height}")
    return original


def _factor(size: tuple[int, int]) -> int:
    """How many times a picture is enlarged."""
    return max(1, min(-(-SMALLEST_SIDE // min(size)), LONGEST_SIDE // max(size)))


def _text_size(size: tuple[int, int]) -> int:
    """Height of letters, in pixels, on a picture of (width, height)."""
    mean = (size[0] * size[1]) ** 0.5
    return max(SMALLEST_TEXT, round(min(TEXT * mean, MOST_TEXT * min(size))))


def _pixels(box: Box, factor: int, size: tuple[int, int]) -> Pixels:
    """The first and last pixels of a box, at least one each way."""
    left, top, right, bottom = (round(side * factor) for side in box)
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    return left, top, max(left, right - 1), max(top, bottom - 1)


class _Caption:
    """The class, its confidence and the step, in a line, or in two where one is too long."""

    def __init__(self, lines: list[list[tuple[str, Font, str]]], text: int) -> None:
        self._lines, self._text = lines, text
        self._pad, self._pitch = max(3, text // 3), round(text * 1.3)
        wide = max(sum(self._wide(part) for part in line) + self._gaps(line) for line in lines)
        self.size = (int(wide) + 2 * self._pad + 1, self._pitch * len(lines) + self._pad)

    @classmethod
    def of(cls, result: Result, text: int, room: int) -> _Caption:
        name, letters = lettered(str(result.class_id) if result.label is None else result.label, text)
        plain = font(text)
        numbers = [
            (f"{result.confidence:.3f}", plain, PAPER),
            (f"step {result.exit_step} of {result.steps}", plain, FAINT),
        ]
        one = cls([[(name, letters, PAPER), *numbers]], text)
        if one.size[0] <= 0.7 * room:
            return one
        room -= 2 * one._pad + 1
        return cls([[(cut(name, letters, room), letters, PAPER)], numbers], text)

    def _wide(self, part: tuple[str, Font, str]) -> float:
        return part[1].getlength(part[0])

    def _gaps(self, line: list[tuple[str, Font, str]]) -> float:
        return 0.6 * self._text * (len(line) - 1)

    def fits(self, size: tuple[int, int]) -> bool:
        return self.size[0] <= size[0] and self.size[1] <= size[1]

    def draw(self, draw: ImageDraw.ImageDraw, at: tuple[int, int]) -> None:
        x, y = at
        draw.rectangle((x, y, x + self.size[0] - 1, y + self.size[1] - 1), INK)
        middle = y + (self._pad + self._pitch) / 2
        for line in self._lines:
            left: float = x + self._pad
            for part in line:
                draw.text((left, middle), part[0], part[2], part[1], "lm")
                left += self._wide(part) + 0.6 * self._text
            middle += self._pitch
