"""glance and crop in Triton's interpreter against their references."""

import pytest
import torch
from gfnet_kernels import ImageTable, crop, crop_reference, entry_of, glance, glance_reference
from guarded import Guards, assert_near, every_way, kernels
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SOURCES = (torch.uint8, torch.float32, torch.float16, torch.bfloat16)
TARGETS = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("nhwc", "nchw", "view", "transposed", "ragged")
SLOTS = torch.tensor([2, -1, 0, 0, 1], dtype=torch.int32)


def name(value: object) -> str:
    return str(value).removeprefix("torch.")


def pixels(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=dtype, generator=generator)
    return torch.rand(shape, generator=generator).to(dtype)


def pictures(layout: str, height: int, width: int, dtype: torch.dtype) -> Tensor | list[Tensor]:
    """Three images in some layout; ragged: of three sizes, the smallest height x width."""
    if layout == "nhwc":
        return pixels((3, height, width, 3), dtype)
    if layout == "nchw":
        return pixels((3, 3, height, width), dtype)
    if layout == "view":
        return pixels((5, height + 4, 2 * width + 3, 3), dtype)[1:4, 3 : height + 3, 2 : 2 * width + 2 : 2]
    if layout == "transposed":
        return pixels((3, width, height, 3), dtype).transpose(1, 2)
    return [
        pixels((height + 5, width + 2, 3), dtype),
        pixels((3, height, width + 7), dtype),
        pixels((width, height, 3), dtype).transpose(0, 1),
    ]


def place(guards: Guards, images: Tensor | list[Tensor]) -> Tensor | ImageTable:
    if isinstance(images, Tensor):
        return guards.put(images)
    table = ImageTable.of([guards.put(image) for image in images])
    return ImageTable(guards.put(table.entries), table.dtype, table.sources)


def blank(size: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(len(SLOTS), 3, size, size, dtype=dtype, memory_format=torch.channels_last)


def check_crop(
    layout: str,
    height: int,
    width: int,
    size: int,
    source: torch.dtype,
    target: torch.dtype,
) -> None:
    images = pictures(layout, height, width, source)
    bottom, right = height - size, width - size
    origins = torch.tensor(
        [[0, 0], [9999, -9999], [bottom, right], [bottom // 2, right], [0, right // 2]]
    ).int()

    def run(guards: Guards) -> tuple[Tensor, ...]:
        given = place(guards, images), guards.put(SLOTS), guards.put(origins)
        return (crop(*given, size, MEAN, STD, target, out=guards.out(blank(size, target))),)

    given = place(Guards(0), images)
    expected = crop_reference(given, SLOTS, origins, size, MEAN, STD, target)
    assert_near(every_way(run)[0], expected)


def check_glance(
    layout: str, height: int, width: int, size: int, filter: str, source: torch.dtype, target: torch.dtype
) -> None:
    images = pictures(layout, height, width, source)

    def run(guards: Guards) -> tuple[Tensor, ...]:
        given = place(guards, images), guards.put(SLOTS)
        return (glance(*given, size, filter, MEAN, STD, target, out=guards.out(blank(size, target))),)

    expected = glance_reference(place(Guards(0), images), SLOTS, size, filter, MEAN, STD, target)
    assert_near(every_way(run)[0], expected)


@pytest.mark.parametrize("target", TARGETS, ids=name)
@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_crop_types(source: torch.dtype, target: torch.dtype) -> None:
    check_crop("nhwc", 17, 19, 11, source, target)


@pytest.mark.parametrize("size", [1, 16, 43, 48])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_crop_layouts(layout: str, size: int) -> None:
    check_crop(layout, size + 3, size + 8, size, torch.uint8, torch.float32)


@pytest.mark.parametrize("layout", ["nhwc", "ragged"])
def test_crop_whole_image(layout: str) -> None:
    check_crop(layout, 12, 12, 12, torch.uint8, torch.bfloat16)


def test_padded_rows_read_no_image() -> None:
    """Not even that of slot 0, which here has no address yet."""
    image, slots = pixels((14, 17, 3), torch.uint8), torch.tensor([1, -1], dtype=torch.int32)
    origins = torch.tensor([[3, 5], [3, 5]], dtype=torch.int32)

    def run(guards: Guards) -> tuple[Tensor, ...]:
        entries = torch.tensor([(0, 14, 17, 51, 3, 1), entry_of(guards.put(image))])
        table = ImageTable(guards.put(entries), torch.uint8)
        cut = crop(table, guards.put(slots), guards.put(origins), 9, MEAN, STD, torch.float32)
        return cut, glance(table, guards.put(slots), 6, "bilinear", MEAN, STD, torch.float32)

    cut, seen = every_way(run)
    picture = image[None].expand(2, -1, -1, -1)
    assert_near(cut, crop_reference(picture, slots, origins, 9, MEAN, STD, torch.float32))
    assert_near(seen, glance_reference(picture, slots, 6, "bilinear", MEAN, STD, torch.float32))


def test_mirrored_tables() -> None:
    """Strides below zero: upside down, mirrored, and from blue to red."""
    image, slots = pixels((14, 17, 3), torch.uint8), torch.tensor([0], dtype=torch.int32)
    flipped, origins = image.flip((0, 1, 2))[None], torch.tensor([[3, 5]], dtype=torch.int32)

    def run(guards: Guards) -> tuple[Tensor, ...]:
        given = guards.put(image)
        address, height, width, *strides = entry_of(given)
        address += 13 * strides[0] + 16 * strides[1] + 2 * strides[2]
        entries = torch.tensor([(address, height, width, *(-stride for stride in strides))])
        table = ImageTable(guards.put(entries), torch.uint8)
        cut = crop(table, guards.put(slots), guards.put(origins), 9, MEAN, STD, torch.float32)
        return cut, glance(table, guards.put(slots), 6, "bicubic", MEAN, STD, torch.float32)

    cut, seen = every_way(run)
    assert_near(cut, crop_reference(flipped, slots, origins, 9, MEAN, STD, torch.float32))
    assert_near(seen, glance_reference(flipped, slots, 6, "bicubic", MEAN, STD, torch.float32))


@pytest.mark.parametrize("target", TARGETS, ids=name)
@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_glance_types(source: torch.dtype, target: torch.dtype) -> None:
    check_glance("nhwc", 23, 19, 7, "bicubic", source, target)


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_glance_layouts(layout: str, filter: str) -> None:
    check_glance(layout, 31, 26, 12, filter, torch.uint8, torch.float32)


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(9, 7, 1), (1, 1, 5), (1, 6, 4), (2, 2, 2), (4, 5, 9), (40, 33, 18)],
    ids=lambda v: str(v),
)
def test_glance_sizes(height: int, width: int, size: int, filter: str) -> None:
    check_glance("nhwc", height, width, size, filter, torch.uint8, torch.float32)


def test_glance_of_224_at_96() -> None:
    """The released size, where float32 coordinates are coarsest."""
    images = pixels((1, 224, 224, 3), torch.uint8)
    slots = torch.zeros(1, dtype=torch.int32)
    with kernels():
        actual = glance(images, slots, 96, "bicubic", MEAN, STD, torch.float32)
    assert_near(actual, glance_reference(images, slots, 96, "bicubic", MEAN, STD, torch.float32))
