"""The compiled forms of crop and glance on the CPU: any memory, any number of threads, after a fork."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import gfnet_kernels as gk
import pytest
import torch
from guarded import Guards, assert_near
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TYPES = (torch.uint8, torch.float32, torch.float16, torch.bfloat16)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {  # of images [N, H, W, 3]
    "nhwc": lambda images: images,
    "nchw": lambda images: images.permute(0, 3, 1, 2).contiguous(),
    "turned": lambda images: images.transpose(1, 2).contiguous().transpose(1, 2),
    "every second": lambda images: images.repeat_interleave(2, 2)[:, :, ::2],
    "of four": lambda images: torch.cat([images, images[..., :1]], 3)[..., :3],
}
REPEATED: dict[str, Callable[[Tensor], Tensor]] = {  # strides of zero
    "one line": lambda images: images[:, :1].expand(-1, images.shape[1], -1, -1),
    "one pixel": lambda images: images[:, :1, :1].expand(-1, images.shape[1], images.shape[2], -1),
    "grey": lambda images: images[..., :1].expand(-1, -1, -1, 3),
}


def pixels(dtype: torch.dtype, *shape: int) -> Tensor:
    values = torch.randint(0, 256, shape, dtype=torch.uint8)
    return values if dtype == torch.uint8 else values.div(100).sub(1).to(dtype)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("layout", [*LAYOUTS, *REPEATED])
def test_any_layout_and_type_between_poisoned_guards(layout: str, dtype: torch.dtype) -> None:
    source, repeated = pixels(dtype, 3, 31, 22, 3), REPEATED.get(layout, lambda images: images)
    memory, source = LAYOUTS.get(layout, lambda images: images)(source), repeated(source)
    slots = torch.tensor([2, -1, 0, 1], dtype=torch.int32)
    origins = torch.tensor([[0, 0], [99, -9], [20, 11], [3, 2]], dtype=torch.int32)
    for variant, to in enumerate((torch.float32, torch.bfloat16)):
        guards = Guards(variant)
        images, rows, corners = repeated(guards.put(memory)), guards.put(slots), guards.put(origins)
        for size in (1, 7, 11):
            blank = torch.empty(4, 3, size, size, dtype=to, memory_format=torch.channels_last)
            outs = [guards.out(blank) for _ in range(3)]
            for given in (images, gk.ImageTable.of(list(images))):
                gk.crop(given, rows, corners, size, MEAN, STD, to, out=outs[0])
                assert outs[0].equal(gk.crop_reference(source, slots, origins, size, MEAN, STD, to))
                for out, filter in zip(outs[1:], ("bicubic", "bilinear"), strict=True):
                    gk.glance(given, rows, size, filter, MEAN, STD, to, out=out)
                    assert_near(out, gk.glance_reference(source, slots, size, filter, MEAN, STD, to))
        guards.check()


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (300, 5), (9, 500)], ids=str)
def test_images_of_few_pixels(shape: tuple[int, int], filter: str) -> None:
    images, slots = pixels(torch.uint8, 2, *shape, 3), torch.tensor([1, 0], dtype=torch.int32)
    for size in (1, 2, 3, 64):
        actual = gk.glance(images, slots, size, filter, MEAN, STD, torch.float32, layout="NHWC")
        expected = gk.glance_reference(images, slots, size, filter, MEAN, STD, torch.float32, layout="NHWC")
        assert_near(actual, expected)


@pytest.mark.parametrize("dtype", TYPES[1:], ids=str)
def test_what_is_no_number_stays_where_it_is(dtype: torch.dtype) -> None:
    images, slots = pixels(dtype, 4, 40, 30, 3), torch.arange(4, dtype=torch.int32)
    for image, value in zip(images, (float("nan"), float("inf"), float("-inf"), 6e4), strict=True):
        image[11, 7, 1] = value
    for filter in ("bicubic", "bilinear"):
        actual = gk.glance(images, slots, 13, filter, MEAN, STD, torch.float16)
        assert_near(actual, gk.glance_reference(images, slots, 13, filter, MEAN, STD, torch.float16))
    corners = torch.full((4, 2), 5, dtype=torch.int32)
    expected = gk.crop_reference(images, slots, corners, 13, MEAN, STD, torch.float16)
    actual = gk.crop(images, slots, corners, 13, MEAN, STD, torch.float16)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def test_threads_and_batches_change_no_bit(threads: None) -> None:
    sizes = torch.randint(20, 300, (90, 2)).tolist()
    table = gk.ImageTable.of([pixels(torch.uint8, *sides, 3) for sides in sizes])
    slots = torch.randint(-1, 90, (90,), dtype=torch.int32)
    origins = torch.randint(0, 4, (90, 2), dtype=torch.int32)

    def seen(rows: slice) -> tuple[Tensor, Tensor]:
        return (
            gk.glance(table, slots[rows], 48, "bicubic", MEAN, STD, torch.float32),
            gk.crop(table, slots[rows], origins[rows], 16, MEAN, STD, torch.float32),
        )

    torch.set_num_threads(1)
    expected = seen(slice(None))
    for count in (2, 4):
        torch.set_num_threads(count)
        for one, other in zip(seen(slice(None)), expected, strict=True):
            assert one.equal(other)
    for row in range(0, 90, 11):
        for one, other in zip(seen(slice(row, row + 1)), expected, strict=True):
            assert one.equal(other[row : row + 1])


FORK = """
import os, torch, gfnet_kernels as gk
torch.set_num_threads(2)
images, slots = torch.randint(0, 256, (64, 100, 100, 3), dtype=torch.uint8), torch.arange(64).int()
expected = gk.glance(images, slots, 48, "bicubic", (0, 0, 0), (1, 1, 1), torch.float32)
child = os.fork()
if not child:
    found = gk.glance(images, slots, 48, "bicubic", (0, 0, 0), (1, 1, 1), torch.float32)
    torch.set_num_threads(1)
    os._exit(0 if found.equal(expected) else 1)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_waits_for_no_thread_of_its_parent() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=60, env=environment)


def test_other_threads_run_meanwhile() -> None:
    ticks, ends = [0], threading.Event()

    def tick() -> None:
        while not ends.is_set():
            ticks[0] += 1
            time.sleep(0)

    images, slots = pixels(torch.uint8, 8, 30, 30, 3), torch.arange(8, dtype=torch.int32)
    other = threading.Thread(target=tick)
    other.start()
    try:
        before = ticks[0]
        gk.glance(images, slots, 1500, "bicubic", MEAN, STD, torch.float32)
        assert ticks[0] - before > 20
    finally:
        ends.set()
        other.join()


def test_images_without_pixels_are_refused_where_they_are_read() -> None:
    for shape in ((2, 3, 0, 5), (2, 3, 5, 0)):
        images, slots = torch.zeros(shape, dtype=torch.uint8), torch.tensor([-1], dtype=torch.int32)
        assert not gk.glance(images, slots, 4, "bicubic", MEAN, STD, torch.float32).any()
        with pytest.raises(ValueError, match=r"images\.shape: expected at least one row and one column"):
            gk.glance(images, slots + 1, 4, "bicubic", MEAN, STD, torch.float32)
