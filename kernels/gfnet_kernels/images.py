"""Where pixels come from: one tensor of equal images, or a table of addresses for images of any size.

    entries [slots, 6] int64    address, height, width, row stride, column stride, channel stride (elements)

With a cat of uint8 [480, 640, 3] and a dog of uint8 [3, 100, 80], ImageTable.of([cat, dog]).entries is

    [[<cat>, 480, 640, 1920, 3, 1],
     [<dog>, 100,  80,   80, 1, 8000]]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from gfnet_kernels._library import FLOAT_DTYPES, PLAIN, expect, expect_dense
from torch import Tensor

IMAGE_DTYPES = (torch.uint8, *FLOAT_DTYPES)
TRITON_DTYPES = {
    torch.uint8: tl.uint8,
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}
ENTRY = 6


@dataclass(frozen=True)
class ImageTable:
    """Images of different sizes and layouts, by slot.

    Attributes
    ----------
    entries
        int64 [slots, 6] on the images' device: address, height, width, then the strides of row, column and
        channel in elements. An arena may rewrite rows in place; a row that no slot names is never read.
    dtype
        The pixels' type: uint8, float32, float16 or bfloat16, one for all.
    sources
        Tensors to keep alive as long as the table; empty when somebody else owns the memory.
    """

    entries: Tensor
    dtype: torch.dtype
    sources: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        expect_dense("entries", self.entries)
        shape = tuple(self.entries.shape)
        expect(len(shape) == 2 and shape[1] == ENTRY, "entries.shape", f"(slots, {ENTRY})", shape)
        expect(self.entries.dtype == torch.int64, "entries.dtype", torch.int64, self.entries.dtype)
        expect(self.entries.is_contiguous(), "entries", "a contiguous tensor", self.entries.stride())
        expect(self.dtype in IMAGE_DTYPES, "images.dtype", IMAGE_DTYPES, self.dtype)

    @classmethod
    def of(cls, images: Sequence[Tensor], layout: str | None = None) -> "ImageTable":
        """Table of the given images ([H, W, 3] or [3, H, W], any strides), slot i being images[i]."""
        expect(len(images) > 0, "images", "at least one", 0)
        images = [plain("images", image).resolve_conj().resolve_neg() for image in images]
        first = images[0]
        for image in images:
            expect(image.dtype == first.dtype, "images.dtype", first.dtype, image.dtype)
            expect(image.device == first.device, "images.device", first.device, image.device)
        rows = [entry_of(image, layout) for image in images]
        return cls(torch.tensor(rows, dtype=torch.int64, device=first.device), first.dtype, tuple(images))


def entry_of(image: Tensor, layout: str | None = None) -> tuple[int, int, int, int, int, int]:
    """The six numbers of one image's row in a table: [H, W, 3] or [3, H, W], any strides.

    ValueError where the image's values are not what lies there: negated lazily, say, or a subclass's own.
    """
    image = in_memory("image", image)
    planar = channels_first(image[None], None if layout is None else f"N{layout.removeprefix('N')}")[0]
    channel, row, column = planar.stride()
    return image.data_ptr(), planar.shape[1], planar.shape[2], row, column, channel


def plain(what: str, tensor: Tensor) -> Tensor:
    """A tensor of torch's own class whose values lie at its address, though conjugated or negated perhaps.

    Of a subclass that stores its values as torch does (torchvision's images, say) it is that memory.
    ValueError for what lies elsewhere: another layout, no device's memory, a wrapper, a mask beside it.
    """
    expect(isinstance(tensor, Tensor), what, "a tensor", type(tensor).__name__)
    kind = type(tensor)
    if kind not in PLAIN and kind.__torch_dispatch__ is Tensor.__torch_dispatch__:
        with torch._C.DisableTorchFunctionSubclass():
            tensor = tensor.as_subclass(Tensor)
    elif kind not in PLAIN:
        expect(False, what, "a plain tensor", kind.__name__)
    known = torch._C._dispatch_keys(tensor).raw_repr()
    if known not in _PLAIN_KEYS:
        keys = str(torch._C._dispatch_keys(tensor))
        strange = [name for name in _STRANGE_KEYS if name in keys]
        expect(
            not strange, what, "a plain tensor with memory", f"{kind.__name__} that is {', '.join(strange)}"
        )
        _PLAIN_KEYS.add(known)
    return tensor


def in_memory(what: str, tensor: Tensor) -> Tensor:
    """As :func:`plain`; ValueError also where the values are conjugated or negated when they are read."""
    tensor = plain(what, tensor)
    lazy = tensor.is_neg() or tensor.is_conj()
    expect(not lazy, what, "values as they are in memory", "ones that are negated or conjugated when read")
    return tensor


# Parts of the names of dispatch keys, of tensors that hold no values or hold them in another form.
_STRANGE_KEYS = (
    "Batched", "FuncTorch", "Functionalize", "Meta", "Mkldnn", "Nested", "Python", "Quantized", "Sparse",
    "Vulkan", "XLA", "ZeroTensor",
)  # fmt: skip
_PLAIN_KEYS: set[int] = set()


def channels_first(images: Tensor, layout: str | None = None) -> Tensor:
    """View of images as [N, 3, H, W], whatever the strides.

    ``layout`` is "NCHW" or "NHWC". None takes the axis of length 3, and asks where both could be channels.
    """
    expect(images.ndim == 4, "images.shape", "[N, H, W, 3] or [N, 3, H, W]", tuple(images.shape))
    first, last = images.shape[1] == 3, images.shape[3] == 3
    expect(layout in (None, "NCHW", "NHWC"), "layout", "NCHW, NHWC or None", layout)
    expect(
        layout is not None or not (first and last),
        "layout",
        "NCHW or NHWC for a shape with both",
        tuple(images.shape),
    )
    if layout is None:
        layout = "NCHW" if first else "NHWC"
    expect(first if layout == "NCHW" else last, f"images.shape ({layout})", "3 channels", tuple(images.shape))
    return images if layout == "NCHW" else images.permute(0, 3, 1, 2)


def open_images(images: "Tensor | ImageTable", layout: str | None) -> tuple[Tensor, torch.dtype | None]:
    """What the ops take: a [N, 3, H, W] view and None, or a table's entries and its pixels' type."""
    if isinstance(images, ImageTable):
        return images.entries, images.dtype
    expect_dense("images", images)
    planar = channels_first(images, layout)
    expect(planar.dtype in IMAGE_DTYPES, "images.dtype", " or ".join(map(str, IMAGE_DTYPES)), planar.dtype)
    return planar, None


def image_list(images: "Tensor | ImageTable", layout: str | None) -> Sequence[Tensor]:
    """The images by slot, each [3, H, W]: what the references loop over."""
    if not isinstance(images, ImageTable):
        return list(channels_first(images, layout))
    expect(len(images.sources) == len(images.entries), "sources", len(images.entries), len(images.sources))
    return [
        source.as_strided((3, height, width), (channel, row, column), source.storage_offset())
        for source, (_, height, width, row, column, channel) in zip(
            images.sources, images.entries.tolist(), strict=True
        )
    ]


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Float32 of [..., 3, H, W] pixels: uint8 over 255, then minus mean, over std."""
    values = pixels.float().div(255) if pixels.dtype == torch.uint8 else pixels.float()
    shape = (3, 1, 1)
    centre, spread = (values.new_tensor(three).view(shape) for three in (mean, std))
    return (values - centre) / spread


def affine(mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> tuple[float, ...]:
    """Three scales and three biases: pixel * scale + bias is the normalised value."""
    unit = 255.0 if dtype == torch.uint8 else 1.0
    return (*(1.0 / (unit * s) for s in std), *(-m / s for m, s in zip(mean, std, strict=True)))


@triton.jit
def open_image(
    images, slot, height, width, image_stride, row_stride, column_stride, channel_stride,
    DTYPE: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Pointer to a slot's first pixel, its size and its strides."""
    if RAGGED:
        entry = images + slot * 6
        pixels = tl.load(entry).to(tl.pointer_type(DTYPE))
        height = tl.load(entry + 1)
        width = tl.load(entry + 2)
        row_stride = tl.load(entry + 3)
        column_stride = tl.load(entry + 4)
        channel_stride = tl.load(entry + 5)
    else:
        pixels = images + slot * image_stride
    return pixels, height, width, row_stride, column_stride, channel_stride


@triton.jit
def by_channel(channel, first, second, third):
    """One of three scalars for each element's channel."""
    return tl.where(channel == 0, first, tl.where(channel == 1, second, third))
