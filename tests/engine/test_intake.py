"""Images as an engine takes them in: one is looked at for each form, and none gets by that is not right."""

import random

import numpy as np
import pytest
import torch
from gfnet_kernels import entry_of

from gfnet_fast.engine import intake
from gfnet_fast.engine.intake import entries_of
from gfnet_fast.errors import InputError

CPU = torch.device("cpu")


def forms():
    """Images of many sizes and strides, and of torch's classes."""
    base = torch.randint(0, 256, (50, 60, 3), dtype=torch.uint8)
    return [
        base,
        base.clone(),
        base.permute(2, 0, 1).contiguous(),
        base[::2],
        base[:, 5:45],
        base.permute(2, 0, 1),
        torch.nn.Parameter(base, requires_grad=False),
        torch.zeros(1, 1, 3, dtype=torch.uint8).expand(40, 40, 3),
    ]


def test_rows_of_many_are_those_of_each():
    draw = random.Random(1)
    images = [draw.choice(forms()) for _ in range(60)]
    entries, pixels = entries_of(images, 20, CPU)
    assert pixels == torch.uint8
    assert entries.tolist() == [list(entry_of(image)) for image in images]
    batch = torch.randint(0, 256, (7, 40, 90, 3), dtype=torch.uint8)[::2, :, ::3]
    assert entries_of(batch, 20, CPU)[0].tolist() == [list(entry_of(image)) for image in batch]
    assert entries_of([], 20, CPU)[0].shape == (0, 6)


class Wrapper(torch.Tensor):
    """Holds its values elsewhere."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError("nobody may compute with it")


def emptied():
    image = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8)
    image.untyped_storage().resize_(0)
    return image


def strange():
    image = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8)
    return {
        "sparse": image.to_sparse(),
        "meta": image.to("meta"),
        "no memory": torch._efficientzerotensor((40, 40, 3), dtype=torch.uint8),
        "negated": torch.view_as_complex(torch.zeros(40, 40, 3, 2)).conj().imag,
        "wrapped": torch.Tensor._make_wrapper_subclass(Wrapper, (40, 40, 3), dtype=torch.uint8),
        "nested": torch.nested.nested_tensor([image]),
        "an array": image.numpy(),
        "emptied": emptied(),
        "small": image[:10],
        "two axes": image[0],
        "integers": image.int(),
        "double": image.double(),
        "both axes": torch.zeros(3, 40, 3, dtype=torch.uint8),
    }


@pytest.mark.parametrize("kind", strange())
def test_what_is_not_in_order_is_found_wherever_it_stands(kind):
    image = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8)
    for place in (0, 3, 6):
        images = [image.clone() for _ in range(6)]
        entries_of(images, 20, CPU)  # the form is known from now on
        images.insert(place, strange()[kind])
        with pytest.raises(InputError):
            entries_of(images, 20, CPU)


def test_inside_a_transform_an_image_has_no_address():
    image = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8)

    def inside(one):
        with pytest.raises(InputError):
            entries_of([image[0], one], 20, CPU)
        return one

    torch.vmap(inside)(image)


def test_types_do_not_mix_and_forms_are_forgotten(monkeypatch):
    image = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8)
    with pytest.raises(InputError, match="one dtype"):
        entries_of([image, image.float()], 20, CPU)
    monkeypatch.setattr(intake, "MOST_KNOWN", 8)
    for height in range(20, 60):
        entries_of([torch.zeros(height, 40, 3, dtype=torch.uint8)], 20, CPU)
    assert len(intake._KNOWN) <= 8


def test_a_form_that_one_engine_takes_is_refused_where_sides_are_longer():
    image = torch.zeros(40, 40, 3, dtype=torch.uint8)
    assert entries_of([image], 32, CPU)[0].dtype == np.int64
    with pytest.raises(InputError, match="at least 48 pixels"):
        entries_of([image], 48, CPU)
