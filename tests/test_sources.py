"""Everything that may come as an image: what it is taken for, what it may cost, and what is said of it."""

from __future__ import annotations

import array
import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms, tv_tensors

import gfnet_fast as gf
from gfnet_fast import decoding, pictures, sources
from gfnet_fast.decoding import Decoded, Unusable
from gfnet_fast.files import read_bytes
from gfnet_fast.quiet import _IGNORED, quiet
from gfnet_fast.sources import expand, open_image, read_image
from tests.conftest import random_images, tiny_config, tiny_model

CONFIG = tiny_config()
S = CONFIG.image_size
PIXELS = random_images(1, 90, 3)[0].numpy()[:, :84]


def encoded(format: str = "png", mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, format, **options)
    return file.getvalue()


def png(width: int, height: int, *, depth: int = 8, kind: int = 2, lines: int | None = None) -> bytes:
    """Black; all lines, or so many and then nothing."""
    line = b"\0" * (1 + -(-width * depth * {0: 1, 2: 3, 3: 1, 6: 4}[kind] // 8))
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(line) for _ in range(height if lines is None else lines)) + packer.flush()
    data = data if lines is None else data[:-6]

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(6)) if kind == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + head + palette + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class Bytes:
    """A path whose own form is bytes, as of os.scandir(b"...")."""

    def __init__(self, path):
        self.path = os.fsencode(path)

    def __fspath__(self):
        return self.path


def test_encoded_images_are_one_image_each(tmp_path):
    content = encoded()
    expected = read_image(PIXELS, CONFIG)
    path = tmp_path / "one.png"
    path.write_bytes(content)
    with path.open("rb") as file, path.open("rb", buffering=0) as raw:
        later = io.BytesIO(b"before" + content)
        later.seek(6)
        whole = [
            content, bytearray(content), memoryview(content), array.array("B", content), io.BytesIO(content),
            file, raw, later, path, str(path), Bytes(path),
        ]  # fmt: skip
        for source in whole:
            assert sources.is_one(source)
            assert list(expand(source)) == list(expand([source]))
            assert torch.equal(read_image(source, CONFIG), expected)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "bytes|got no byte"),
        (b"text", "got a file of another kind than .*JPEG.*PNG"),
        (io.StringIO("text"), "file: expected one that is open for binary reading, got a text"),
        (memoryview(PIXELS.copy()), "expected an encoded image in one dimension, got memoryview of 3 dim"),
        (array.array("I", [1, 2]), "got array of 1 dimensions and 4 bytes a value"),
        ({"a.png": 1}, "expected a path, .* got dict"),
        (7, "expected a path, .* got int"),
        (np.ma.masked_array(PIXELS, PIXELS > 3), "array: expected one without a mask"),
        (np.broadcast_to(np.uint8(0), (3, 10**6, 10**6)), "array: expected at most 134217728 pixels"),
        (torch.zeros(1, dtype=torch.uint8).expand(3, 10**6, 10**6), "tensor: .* at most 134217728"),
        (np.array([[None]]), r"array: expected uint8 .* got object \[1, 1\]"),
        (np.zeros(4, [("a", np.uint8)]), "array: expected uint8"),
        (torch.zeros(3, S, S, dtype=torch.complex64), "tensor: expected uint8 .* got complex64"),
        (torch.zeros(3, S, S).to(torch.float8_e4m3fn), "tensor: expected uint8 .* got float8"),
        (torch.zeros(3, S, S, device="meta"), "tensor: expected a plain tensor with memory, got .*Meta"),
        (torch.zeros(3, S, S).to_sparse(), "got Tensor that is Sparse"),
        (torch._efficientzerotensor((3, S, S)), "got Tensor that is ZeroTensor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_refused_and_how(source, message):
    with pytest.raises(gf.InputError, match=message):
        read_image(source, CONFIG)


@pytest.mark.parametrize(
    "url",
    [
        "https://x.org/a.jpg",
        "HTTP://x/y?size=1*2",
        "s3://bucket/a.png",
        "data:image/png;base64," + "A" * 9999,
    ],
)
def test_urls_are_named_and_never_fetched(url, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", None)
    assert sources.is_one(url)
    with pytest.raises(
        gf.InputError, match="expected an image file, got a URL, which is not fetched"
    ) as raised:
        read_image(url, CONFIG)
    assert len(str(raised.value)) < 400


def test_a_file_whose_name_begins_as_a_url_is_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data:x.png").write_bytes(encoded())
    assert torch.equal(read_image("data:x.png", CONFIG), read_image(PIXELS, CONFIG))


def test_files_have_their_names(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    with (tmp_path / "a.png").open("rb") as file:
        assert sources.describe(file, 3) == str(tmp_path / "a.png")
    assert sources.describe(io.BytesIO(), 3) == "BytesIO 3"


def test_lazy_and_foreign_tensors_are_the_numbers_they_show():
    plain = torch.randn(3, S, S)
    lazy = torch.complex(torch.zeros_like(plain), -plain).conj().imag
    assert lazy.is_neg()
    assert torch.equal(read_image(lazy, CONFIG), plain)
    assert torch.equal(read_image(plain.clone().requires_grad_(), CONFIG), plain)
    assert torch.equal(read_image(torch.nn.Parameter(plain), CONFIG), plain)
    image = tv_tensors.Image(torch.from_numpy(PIXELS).permute(2, 0, 1))
    assert torch.equal(read_image(image, CONFIG), read_image(PIXELS, CONFIG))


class Raising:
    def __init__(self, error):
        self.error = error

    def __iter__(self):
        raise self.error

    def __fspath__(self):
        raise self.error


class BadPicture(Image.Image):
    @property
    def size(self):
        raise RecursionError


class Mute(Exception):
    def __str__(self):
        raise ValueError


class Unreadable(io.RawIOBase):
    def read(self, size=-1):
        raise MemoryError


def test_one_odd_source_is_one_error_in_its_place(tmp_path):
    from torch._subclasses import FakeTensorMode
    from torch.masked import masked_tensor

    with FakeTensorMode():
        fake = torch.zeros(3, S, S)
    ones = torch.ones(3, S, S)
    itself: list = [PIXELS]
    itself.append(itself)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("link.png")
    closed = (tmp_path / "closed.png").open("xb+")
    closed.close()
    released = memoryview(b"123")
    released.release()
    with pytest.warns(UserWarning, match="prototype"):
        odd = [masked_tensor(ones, ones.bool()), torch.nested.nested_tensor([ones, ones])]
    odd += [
        fake, Raising(MemoryError("none")), Raising(Mute()), BadPicture(), Unreadable(), closed, released,
        tmp_path / "pipe.png", tmp_path / "link.png", "/dev/zero", "\0.png", "\ud800.png",
        "/".join("x" * 3000), b"\x89PNG\r\n\x1a\n",
        torch.nn.parameter.UninitializedParameter(), np.datetime64("now"), object(),
    ]  # fmt: skip
    found = list(found_in([PIXELS, *odd, itself, PIXELS]))
    assert [isinstance(image, Unusable) for _, image in found] == [
        False,
        *[True] * len(odd),
        False,
        True,
        False,
    ]
    texts = [image.why for _, image in found if isinstance(image, Unusable)]
    assert "got a pipe" in texts[9]
    assert "got a device" in texts[11]
    assert "one that holds itself" in texts[-1]
    assert not any("\n" in text or len(text) > 7000 for text in texts)


def found_in(source, ahead=4):
    def take(item):
        return sources.take(item, CONFIG)

    def read(taken):
        return sources.prepare(taken, CONFIG)

    with Decoded(source, take, read, ahead=ahead) as decoded:
        yield from decoded


@pytest.fixture(scope="module")
def predictor():
    return gf.Predictor(tiny_model(), device="cpu", batch=2)


def test_what_an_iterable_raises_ends_the_stream_even_where_it_is_an_input_error(predictor):
    def broken():
        yield PIXELS
        raise gf.InputError("the camera fell")

    stream = predictor.stream(broken(), on_error="return")
    assert next(stream).error is None
    with pytest.raises(gf.InputError, match="the camera fell"):
        next(stream)


def test_odd_sources_leave_the_others_results(predictor):
    expected = predictor(PIXELS)
    stream = predictor.stream([PIXELS, Raising(MemoryError("none")), encoded()], on_error="return")
    first, bad, last = stream
    assert first == expected
    assert (last.class_id, last.origins) == (expected.class_id, expected.origins)
    assert bad.error.endswith("got one that fails (MemoryError: none)")
    assert bad.error.startswith("images[1]: expected a path")
    assert bad.source == "images[1]"
    with pytest.raises(gf.InputError, match="MemoryError: none") as raised:
        predictor([PIXELS, Raising(MemoryError("none"))])
    assert raised.value.__cause__ is raised.value.__context__ is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(8200, 8000, lines=3), "takes at most .* bytes of memory, got 262400000 .8200 x 8000 pixels"),
        (png(6000, 6000, lines=3, kind=6), "bytes of memory, got 288000000"),
        (png(7000, 7000, lines=3, kind=3), "bytes of memory, got 245000000"),
        (png(100, 100, depth=16, kind=0), "expected 8 bits a channel"),
        (png(30_000, 30_000, lines=3), "expected at most 134217728 pixels, got"),
    ],
    ids=["RGB", "RGBA", "P", "16 bits", "pixels"],
)
def test_what_would_take_too_much_memory_is_not_decoded(monkeypatch, content, message):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    with pytest.raises(gf.InputError, match=message):
        open_image(content)


def test_a_strip_that_its_resize_would_blow_up_is_not_decoded(monkeypatch):
    """70 pixels wide, 36 million in all: 147 MB decoded, and its rows and all of it resized."""
    strip = png(70, 524_288)
    assert open_image(strip).size == (70, 524_288)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    config = tiny_config(image_size=140, crop_ratio=1.0)
    held = 4 * 70 * 524_288 + 4 * 140 * (524_288 + 2 * 524_288)
    held += 8 * (4 * (70 + 524_288) + 5 * (140 + 2 * 524_288))  # the filter's weights
    with pytest.raises(gf.InputError, match=f"bytes of memory, got {held} "):
        open_image(strip, config.resized)


def bmp_in_runs(side):
    """Black, in four bytes a row: one pixel, and the row ends."""
    data = b"\1\0\0\0" * side + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(data), 0, 0, 256, 0)
    return (
        b"BM"
        + struct.pack("<IHHI", 14 + 40 + 1024 + len(data), 0, 0, 14 + 40 + 1024)
        + head
        + bytes(1024)
        + data
    )


def test_what_few_bytes_make_slow_is_not_decoded(monkeypatch):
    assert open_image(bmp_in_runs(500)).size == (500, 500)
    film = encoded("jpeg", progressive=True)
    assert open_image(film).size == PIXELS.shape[1::-1]
    tiles = [encoded("jpeg2000", tile_size=(side, side)) for side in (16, 2)]
    assert open_image(tiles[0]).size == PIXELS.shape[1::-1]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    with pytest.raises(gf.InputError, match="of a BMP of this kind, which is decoded slowly, got 36000000"):
        open_image(bmp_in_runs(6000))
    monkeypatch.setattr(pictures, "MAX_SCANNED", 20 * PIXELS.shape[0] * PIXELS.shape[1])
    with pytest.raises(gf.InputError, match=r"pixels in all its scans, got \d+ scans of"):
        open_image(film + b"\xff\xda" * 20)
    monkeypatch.setattr(pictures, "MAX_TILES", 100)
    with pytest.raises(gf.InputError, match=r"a JPEG 2000 of at most 100 tiles, got \d+"):
        open_image(tiles[1])


def test_large_images_that_fit_are_decoded():
    assert open_image(png(6000, 8000), tiny_config(image_size=224).resized).size == (6000, 8000)
    assert open_image(png(9000, 9000, kind=0)).size == (9000, 9000)
    assert open_image(png(8000, 8000, depth=1, kind=0)).mode == "L"


def test_a_tile_larger_than_its_image_is_not_decoded():
    entries = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: 40_000, 324: 8, 325: 8}
    ifd = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    tiff = b"II*\0" + struct.pack("<IQ", 16, 0) + struct.pack("<H", len(entries)) + ifd + bytes(4)
    with pytest.raises(gf.InputError, match="bytes of memory, got 3200000000 "):
        open_image(tiff)


def test_a_file_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    with (tmp_path / "long.png").open("wb") as file:
        file.truncate(2**40)
    assert read_bytes("/proc/self/status", 2**20).endswith(b"\n"), "which claims to have no byte"
    with pytest.raises(gf.InputError, match=r"long\.png: .*expected at most \d+ bytes, got 1099511627776"):
        read_image(tmp_path / "long.png", CONFIG)
    monkeypatch.setattr(sources, "MAX_ENCODED", 1000)
    for source in (bytes(1001), memoryview(bytes(1001)), io.BytesIO(bytes(1001))):
        with pytest.raises(gf.InputError, match="bytes: expected at most 1000"):
            read_image(source, CONFIG)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [84, 300])
def test_grey_images_are_coloured_when_they_are_small(mode, filter, side):
    """Equal to the bit to the official order: colours first."""
    config = tiny_config(resize_filter=filter)
    grey = Image.fromarray(PIXELS).resize((side, 90)).convert("L")
    image = grey.convert(mode) if mode not in ("HSV", "LAB", "PA") else Image.merge(mode, [grey] * len(mode))
    official = transforms.Compose(
        [
            transforms.Resize(
                int(config.image_size / config.crop_ratio), transforms.InterpolationMode(filter)
            ),
            transforms.CenterCrop(config.image_size),
        ]
    )
    try:
        expected = torch.from_numpy(np.array(official(image.convert("RGB"))))
    except ValueError:
        pytest.skip("Pillow does not convert this mode")
    assert torch.equal(read_image(image, config), expected)


@pytest.mark.parametrize("format", ["png", "gif", "tiff", "bmp", "ppm", "jpeg", "webp", "tga", "mpo"])
def test_the_first_image_of_a_file(format, tmp_path):
    others = [Image.fromarray(PIXELS[::-1]), Image.fromarray(255 - PIXELS)]
    film = (
        {"save_all": True, "append_images": others} if format in ("png", "gif", "tiff", "webp", "mpo") else {}
    )
    content = encoded(format, **film)
    expected = Image.open(io.BytesIO(content)).convert("RGB")
    assert np.array_equal(open_image(content).convert("RGB"), expected)
    (tmp_path / "x.bin").write_bytes(content)
    assert torch.equal(read_image(tmp_path / "x.bin", CONFIG), read_image(expected, CONFIG))


def test_folders_give_what_this_pillow_decodes():
    code = """if True:
    from PIL import features
    check = features.check
    features.check = lambda name: name not in ("avif", "jpg_2000") and check(name)
    from gfnet_fast.pictures import FORMATS, SUFFIXES
    assert not {"AVIF", "JPEG2000"} & set(FORMATS)
    assert not {".avif", ".jp2"} & SUFFIXES and {".webp", ".jpg"} <= SUFFIXES
    """
    subprocess.run([sys.executable, "-c", code], check=True)
    common = {".jpg", ".jpeg", ".jfif", ".jpe", ".mpo", ".png", ".apng", ".gif", ".tif", ".webp", ".bmp"}
    assert common <= pictures.SUFFIXES
    assert not pictures.SUFFIXES & {".ico", ".pdf", ".eps", ".svg", ".avifs", ".pfm", ".mpg"}


def test_documents_and_programs_are_refused(tmp_path):
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\nshowpage\n"
    for content in (postscript, b"%PDF-1.4\n", encoded("ico"), encoded("icns")):
        with pytest.raises(gf.InputError, match="got a file of another kind"):
            open_image(content)


def test_errors_hold_no_pixels(monkeypatch, tmp_path):
    """Of 12 damaged images of 64 MiB each, decoded one at a time, none outlives its error."""
    monkeypatch.setattr(decoding, "DECODERS", 1)
    side = 4096
    (tmp_path / "cut.png").write_bytes(png(side, side, lines=side - 1))

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    before, seen = resident(), []
    for _, found in found_in([tmp_path / "cut.png"] * 12, ahead=12):
        assert "fails to decode" in found.why
        seen.append(resident() - before)
    assert max(seen) < 200


WARNING = """
import io, struct, warnings, threading, zlib
from PIL import Image
from gfnet_fast.sources import open_image, read_image
from gfnet_fast.quiet import quiet
def chunk(k, d): return struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))
side = 9700  # Pillow's own doubts begin at 89 million pixels
z = zlib.compressobj(1); d = b"".join(z.compress(bytes(1 + side)) for _ in range(side)) + z.flush()
head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
big = b"\\x89PNG\\r\\n\\x1a\\n" + head + chunk(b"IDAT", d) + chunk(b"IEND", b"")
assert open_image(big).size == (side, side)
with warnings.catch_warnings():
    assert open_image(big).size == (side, side)
assert open_image(big).size == (side, side)
"""


def test_pillow_s_doubts_are_not_shown_and_others_warnings_are():
    code = WARNING + "\nwith quiet():\n    t = threading.Thread(target=warnings.warn, args=('mine',))\n"
    code += "    t.start(); t.join()\nwarnings.warn('mine too')\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.count("UserWarning") == 2
    assert "Bomb" not in done.stderr


def test_filters_stay_as_they_were():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet(), quiet():
            pass
        with quiet():
            pass
        assert warnings.filters.count(_IGNORED) == 1
        with pytest.raises(UserWarning):
            warnings.warn("heard", stacklevel=1)
