"""Pictures of results: what is where, on any background and at any size, and where they are written."""

from __future__ import annotations

import dataclasses
import io
import os
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

import gfnet_fast as gf
from gfnet_fast import drawing
from gfnet_fast.annotated import LONGEST_SIDE, SMALLEST_SIDE, WRITTEN
from gfnet_fast.drawing import INK, STEPS, cut, font, lettered, place
from gfnet_fast.figure import WRONG, draw_exits
from tests.conftest import random_images

SIZE = (300, 400)  # height, width
BLUE, ORANGE, PINK = (ImageColor.getrgb(colour) for colour in STEPS[:3])
RESULT = gf.Result(
    "ndarray 0", 3, "owl", 0.8125, 3, ((0, 0), (9, 9)), 1000,
    size=SIZE, boxes=((50.0, 0.0, 350.0, 300.0), (100.4, 80.0, 220.0, 199.6), (200.0, 150.0, 320.0, 270.0)),
    steps=4,
)  # fmt: skip


def plane(value: int, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.new("RGB", size[::-1], (value,) * 3)


def noise(size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def whole(size: tuple[int, int], **changes) -> gf.Result:
    """A result that looked at all of a picture, and then at its middle."""
    height, width = size
    boxes = ((0.0, 0.0, width, height), (width / 4, height / 4, width * 3 / 4, height * 3 / 4))
    return dataclasses.replace(RESULT, size=size, boxes=boxes, **changes)


# --- what is where --------------------------------------------------------------------------------------


def test_boxes_are_at_their_pixels():
    drawn = RESULT.plot(plane(128))
    assert drawn.size == (400, 300)
    for x, y, colour in (
        (50, 290, BLUE), (349, 200, BLUE), (300, 299, BLUE),  # what the centre crop left
        (100, 100, ORANGE), (110, 80, ORANGE), (160, 199, ORANGE),
        (319, 200, PINK), (250, 150, PINK), (250, 269, PINK),
        (20, 200, (128,) * 3), (360, 200, (128,) * 3), (150, 120, (128,) * 3),
    ):  # fmt: skip
        assert drawn.getpixel((x, y)) == colour, (x, y)
    assert drawn.getpixel((99, 120)) == (0, 0, 0), "a black line around"


def test_words_are_the_same_on_any_background():
    drawn = [np.array(RESULT.plot(picture)) for picture in (plane(0), plane(255), noise())]
    same = (drawn[0] == drawn[1]).all(-1) & (drawn[0] == drawn[2]).all(-1)
    assert (drawn[0][:20, :120] == ImageColor.getrgb(INK)).all(-1).mean() > 0.5
    assert same[:20, :120].all(), "the caption in the corner"
    other = np.array(dataclasses.replace(RESULT, label="cat").plot(plane(0)))
    assert not np.array_equal(drawn[0], other)
    assert np.array_equal(drawn[0][30:], other[30:])


@pytest.mark.parametrize(
    "size",
    [(1, 1), (20, 20), (20, 200), (1, 3000), (9000, 2), (159, 160), (160, 160), (300, 3000), (4000, 6000)],
    ids="{0[0]}x{0[1]}".format,
)
def test_any_size(size):
    """Of its own size, or enlarged by a whole factor to what numbers fit onto."""
    drawn = whole(size).plot(plane(200, size))
    factor = drawn.width // size[1]
    assert drawn.size == (size[1] * factor, size[0] * factor)
    assert (factor > 1) == (min(size) < SMALLEST_SIDE and 2 * max(size) <= LONGEST_SIDE)
    assert max(drawn.size) <= max(LONGEST_SIDE, *size)
    if min(drawn.size) >= SMALLEST_SIDE:
        stride = max(1, min(size) // 400)  # lines are wider
        pixels = np.array(drawn)[::stride, ::stride]
        assert (pixels == BLUE).all(-1).any()
        assert (pixels == ORANGE).all(-1).any()
        assert 0.001 < (pixels == ImageColor.getrgb(INK)).all(-1).mean() < 0.2, "the caption"


def test_more_steps_than_colours_and_boxes_that_coincide():
    box = (40.0, 40.0, 200.0, 200.0)
    many = dataclasses.replace(RESULT, exit_step=12, steps=64, boxes=(RESULT.boxes[0], *[box] * 11))
    assert many.plot(plane(0)).size == (400, 300)


@pytest.mark.parametrize("label", [None, "", "a " * 500, "\u202e\x1b[2J\n", "猫", "Größe", "\ud800", "?" * 9])
def test_any_name(label):
    drawn = dataclasses.replace(RESULT, label=label).plot(plane(0))
    assert drawn.size == (400, 300)
    assert np.array(drawn)[:100].max() > 200


def test_letters_that_no_font_has_are_escapes(monkeypatch):
    monkeypatch.setattr(drawing, "FONTS", ("there is none.ttf",))
    assert lettered("Größe \u732b\n", 20) == (r"Gr\xf6\xdfe \u732b\n", font(20))
    assert lettered("plain text", 20) == ("plain text", font(20))


def test_a_font_of_the_system_is_taken_where_it_has_more():
    if drawing._of_the_system("DejaVuSans.ttf", 20) is None:
        pytest.skip("needs the fonts of DejaVu")
    text, found = lettered("Größe", 20)
    assert text == "Größe"
    assert found.getname()[0] != font(20).getname()[0]


def test_long_names_are_cut():
    letters = font(20)
    for width in (0, 5, 60, 200):
        short = cut("a rather long name of a class", letters, width)
        assert letters.getlength(short) <= width
    assert short.startswith("a rather")
    assert short.endswith("...")
    assert cut("owl", letters, 100) == "owl"


def test_places_are_within_and_hide_nothing_where_they_can():
    random.seed(0)
    for _ in range(300):
        width, height = random.randint(20, 90), random.randint(20, 90)
        left, top = random.randint(-5, width), random.randint(-5, height)
        box = (left, top, left + random.randint(1, 60), top + random.randint(1, 60))
        spot = place((20, 15), box, [box], [], (width, height), inside=random.random() < 0.5)
        assert 0 <= spot[0] == spot[2] - 19 < width - 19
        assert 0 <= spot[1] == spot[3] - 14 < height - 14
    box = (50, 50, 80, 80)
    first = place((20, 20), box, [box], [], (200, 200))
    assert (first[2] < 50 or first[0] > 80) or (first[3] < 50 or first[1] > 80)
    second = place((20, 20), box, [box], [first], (200, 200))
    assert second[0] > first[2] or second[1] > first[3] or second[2] < first[0]


def test_exits_are_drawn_without_truth_too():
    images = random_images(3, 80)
    out = gf.Prediction(
        torch.arange(3), torch.full((3,), 0.5), torch.tensor([1, 2, 2]), torch.zeros(3, 3),
        torch.zeros(3, 1, 2, dtype=torch.long),
    )  # fmt: skip

    def shows_wrong(labels, names=None):
        picture = draw_exits(images, out, torch.tensor([0.4, -1e8]), labels, names, patch_size=32)
        return (np.array(picture) == ImageColor.getrgb(WRONG)).all(-1).any()

    assert not shows_wrong(None)
    assert not shows_wrong(None, ["n" * 400, "ö", "c"])
    assert shows_wrong(torch.tensor([2, 2, 0]), ["n" * 400, "ö", "c"])


# --- which picture --------------------------------------------------------------------------------------


def test_every_kind_of_picture_gives_the_same(tmp_path):
    pixels = noise()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    expected = RESULT.plot(Image.fromarray(pixels)).tobytes()
    file = dataclasses.replace(RESULT, path=str(tmp_path / "a.png"))
    assert file.plot().tobytes() == expected
    before = pixels.copy()
    for same in (
        pixels, torch.from_numpy(pixels), torch.from_numpy(pixels).permute(2, 0, 1), content,
        io.BytesIO(content), tmp_path / "a.png", Image.fromarray(pixels).convert("RGBA"),
    ):  # fmt: skip
        assert RESULT.plot(same).tobytes() == expected
    assert np.array_equal(pixels, before), "the picture that was given stays as it is"
    grey = plane(90).convert("L")
    assert RESULT.plot(grey).mode == "RGB"
    assert grey.getextrema() == (90, 90)


def test_a_rotation_that_is_said_in_exif_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    plane(90).save(tmp_path / "turned.jpg", exif=exif)
    result = dataclasses.replace(RESULT, path=str(tmp_path / "turned.jpg"))
    assert result.plot().size == (400, 300)


@pytest.mark.parametrize(
    ("changes", "image", "message"),
    [
        ({}, None, "image: expected the picture of ndarray 0, which was read from no file, got none"),
        ({"path": "no/such.png"}, None, "no/such.png: expected an image file, got nothing there"),
        ({}, plane(0, (300, 401)), "expected the picture that was classified, 400 x 300 pixels, got 401 x"),
        ({}, np.zeros((3, *SIZE), np.float32), "image: expected the original picture as uint8, got float32"),
        ({}, b"text", "expected an image, got a file of another kind"),
        ({}, 7, "source: expected a path, .* got int"),
        ({"error": "x.png: expected"}, None, "expected a result with a prediction to draw, got the error: x"),
        ({"boxes": ()}, plane(0), "expected a result with a prediction to draw, got none"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_cannot_be_drawn(changes, image, message):
    with pytest.raises(gf.InputError, match=message) as raised:
        dataclasses.replace(RESULT, **changes).plot(image)
    assert "\n" not in str(raised.value)


# --- files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*WRITTEN, ".PNG", ".Jpeg"])
def test_the_suffix_says_the_format(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"earlier")
    RESULT.save(path, noise())
    with Image.open(path) as image:
        assert image.format == WRITTEN[suffix.lower()][0]
        assert image.size == (400, 300)
        if suffix == ".png":
            assert image.tobytes() == RESULT.plot(noise()).tobytes()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_where_pictures_are_not_written(tmp_path):
    source = tmp_path / "a.png"
    plane(0).save(source)
    os.link(source, tmp_path / "hard.png")
    (tmp_path / "soft.png").symlink_to(source)
    (tmp_path / "folder.png").mkdir()
    content = source.read_bytes()
    result = dataclasses.replace(RESULT, path=str(source))
    for name, image, message in (
        ("a.png", None, "expected another file than the picture that is read"),
        ("hard.png", None, "expected another file than the picture that is read"),
        ("soft.png", source, "expected another file than the picture that is read"),
        ("x.gif", None, r"expected a path that ends in one of .bmp, .jpeg, .* got .gif"),
        ("x", None, "got none"),
        ("no/x.png", None, "expected a file in a folder that exists, got none of the name"),
        ("folder.png", None, "expected a file in a folder that exists, got a folder"),
    ):
        with pytest.raises(gf.InputError, match=message):
            result.save(tmp_path / name, image)
    assert source.read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 4


def test_a_format_that_cannot_hold_it(tmp_path):
    long = whole((3, 20_000))
    with pytest.raises(gf.InputError, match="expected a picture that WEBP can hold, got 20000 x 3"):
        long.save(tmp_path / "x.webp", plane(0, (3, 20_000)))
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_picture_stays_where_there_is_no_room(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(b"earlier")

    def fails(self, *args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(OSError, match=r"No space left on device: .*x\.png'"):
        RESULT.save(path, plane(0))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x.png", b"earlier")]
