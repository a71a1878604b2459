"""What pictures of results are drawn with: boxes of steps, their numbers, letters that a font has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from PIL import ImageDraw, ImageFont

from gfnet_fast.text import plain

INK, PAPER = "#1f2328", "#ffffff"
# Step 1 (the glance), then the focus steps in the order they are taken; all bright enough on dark images.
STEPS = ("#4aa8ff", "#ffa600", "#ff6bd6", "#3ddc84", "#ffee58", "#b48cff", "#ff6f61")

# Where Pillow's own font, which is ASCII and little more, lacks a letter: what systems have, found by name.
FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial.ttf", "Arial Unicode.ttf",
    "msyh.ttc", "segoeui.ttf",
)  # fmt: skip

Pixels = tuple[int, int, int, int]  # the first and last pixels of a box, x, y, x, y
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_NOWHERE = "\uffff"  # no font has it


def colour(step: int) -> str:
    """Of a step; 0 is the glance."""
    return STEPS[step % len(STEPS)]


@lru_cache
def font(size: int) -> Font:
    """Pillow's own, `size` pixels high."""
    return ImageFont.load_default(size)


@lru_cache
def _of_the_system(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def lettered(text: str, size: int) -> tuple[str, Font]:
    """One line of somebody else's text, and the font with most of its letters; escapes for the others."""
    text, best = plain(text), font(size)
    lacking = _lacking(text, best)
    for name in FONTS:
        if not lacking:
            break
        other = _of_the_system(name, size)
        if other is not None and len(still := _lacking(text, other)) < len(lacking):
            best, lacking = other, still
    return "".join(c.encode("unicode_escape").decode() if c in lacking else c for c in text), best


def _lacking(text: str, font: Font) -> set[str]:
    nothing = bytes(font.getmask(_NOWHERE))
    return {c for c in set(text) if not (c.isascii() or c.isspace()) and bytes(font.getmask(c)) == nothing}


def cut(text: str, font: Font, width: float) -> str:
    """`text`, or as much of its beginning as there is room for, and three dots."""
    if font.getlength(text) <= width:
        return text
    kept, most = 0, len(text)
    while kept < most:
        middle = (kept + most + 1) // 2
        fits = font.getlength(f"{text[:middle].rstrip()}...") <= width
        kept, most = (middle, most) if fits else (kept, middle - 1)
    return f"{text[:kept].rstrip()}..." if kept else ""


def draw_box(draw: ImageDraw.ImageDraw, box: Pixels, step: int, width: int) -> None:
    """A frame in a step's colour, its outer edge at `box`, between black lines."""
    line = max(1, width // 3)
    draw.rectangle(outset(box, line), None, "black", width + 2 * line)
    draw.rectangle(box, None, colour(step), width)


def draw_tag(draw: ImageDraw.ImageDraw, at: tuple[int, int], step: int, size: int) -> None:
    """The number of a step (0 is the glance, which shows as 1) on a square of its colour."""
    x, y = at
    draw.rectangle((x, y, x + size - 1, y + size - 1), colour(step))
    draw.text((x + size / 2, y + size / 2), str(step + 1), "black", font(max(1, size * 4 // 5)), "mm")


def place(
    size: tuple[int, int],
    around: Pixels,
    boxes: Sequence[Pixels],
    taken: Sequence[Pixels],
    within: tuple[int, int],
    *,
    gap: int = 2,
    inside: bool = False,
) -> Pixels:
    """The place at a box for something of `size` that hides least: best no box and nothing `taken`.

    Never outside an image of (width, height) `within`, which is at least of that size. `gap`: pixels between.
    """
    left, top, right, bottom = around
    width, height = size
    columns, rows = (left, right - width + 1), (top, bottom - height + 1)
    if inside:
        places = [(x, y) for y in rows for x in columns]
    else:
        places = [(x, y) for y in (top - height - gap + 1, bottom + gap) for x in columns]
        places += [(x, y) for x in (left - width - gap + 1, right + gap) for y in rows]
    found = []
    for order, (x, y) in enumerate(places):
        x, y = min(max(x, 0), within[0] - width), min(max(y, 0), within[1] - height)
        spot = (x, y, x + width - 1, y + height - 1)
        hidden = sum(_overlap(spot, other) for other in boxes)
        hidden += 4 * sum(_overlap(spot, other) for other in taken)
        found.append((hidden, order, spot))
    return min(found)[2]


def _overlap(a: Pixels, b: Pixels) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    return max(width, 0) * max(height, 0)


def outset(box: Pixels, by: int) -> Pixels:
    """A box that is larger by so many pixels on each side."""
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by
