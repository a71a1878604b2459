"""Arrays and tensors: which are images, which numbers are pixels, and what is said of the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import gfnet_fast as gf
from gfnet_fast import arrays
from gfnet_fast.arrays import check_batch
from gfnet_fast.sources import expand, is_one, read_image
from tests.conftest import random_images, tiny_config, tiny_model

CONFIG = tiny_config()
S = CONFIG.image_size
PIXELS = random_images(1, 90, 3)[0].numpy()[:, :84]
GREY = PIXELS[..., 1]
RGBA = np.dstack([PIXELS, GREY])
CANVASES = random_images(3, S, 7)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def predictor(model):
    return gf.Predictor(model, device="cpu", budget=gf.Budget(max_steps=2), batch=2)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (PIXELS.transpose(2, 0, 1), PIXELS),
        (np.asfortranarray(PIXELS), PIXELS),
        (PIXELS[:, :, ::-1].copy()[..., ::-1], PIXELS),
        (GREY, np.dstack([GREY] * 3)),
        (GREY[..., None], np.dstack([GREY] * 3)),
        (GREY[None], np.dstack([GREY] * 3)),
        (RGBA, PIXELS),
        (RGBA.transpose(2, 0, 1), PIXELS),
    ],
    ids=["3HW", "fortran", "BGR-reversed", "HW", "HW1", "1HW", "HW4", "4HW"],
)
def test_every_form_of_a_picture_is_the_same_pixels(form, expected):
    wanted = read_image(expected, CONFIG)
    assert torch.equal(read_image(form, CONFIG), wanted)
    assert torch.equal(read_image(torch.from_numpy(form.copy()), CONFIG), wanted)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", ">f4"])
def test_floats_of_every_type_and_layout(model, dtype):
    exact = model.normalise(CANVASES)[0]
    if dtype == ">f4":
        given = exact.numpy().astype(dtype)
        assert torch.equal(read_image(given, CONFIG), exact)
        return
    given = exact.to(getattr(torch, dtype))
    for form in (given, given.permute(1, 2, 0)):
        read = read_image(form, CONFIG)
        assert (read.dtype, read.shape) == (torch.float32, (3, S, S))
        assert torch.equal(read, given.float())
        batch = check_batch(form[None], CONFIG, CPU)
        assert torch.equal(batch[0].float(), given.float())
        assert batch.dtype != torch.float64


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 90, 3), np.uint8), r"first or last, got \[3, 90, 3\], which may be either; give PIL"),
        (np.zeros((8, 90, 84), np.uint8), r"got uint8 \[8, 90, 84\]; of grey images give list\(x\)"),
        (np.zeros((90, 84, 2), np.uint8), r"or with 1, 3 or 4 channels, .* got uint8 \[90, 84, 2\]"),
        (np.zeros((0, 84, 3), np.uint8), r"got uint8 \[0, 84, 3\]$"),
        (np.zeros((2, 90, 84, 3), np.uint8), r"expected one image, got a batch \[2, 90, 84, 3\]; give list"),
        (GREY > 9, r"got bool \[90, 84\]; give x.astype\('uint8'\) \* 255"),
        (PIXELS.astype(np.uint16), r"got uint16 .*; give \(x // 257\).astype\('uint8'\) where 65535"),
        (PIXELS.astype(np.int64), r"got int64 .*; give x.astype\('uint8'\) where they are from 0 to 255"),
        (torch.zeros(90, 84, 3, dtype=torch.int32), r"tensor: .*; give x.to\(torch.uint8\) where"),
        (PIXELS / 255, r"floats \[3, 80, 80\], .*float64 .*, x.round\(\).*, or \(x \* 255\)"),
        (np.array(["a.jpg", "b.jpg"]), r"got str160 \[2\]; give x.tolist\(\)"),
        (np.array(3, np.uint8), r"got uint8 \[\]"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "x".join(map(str, value.shape)) + str(value.dtype),
)  # fmt: skip
def test_what_is_no_image_is_named_with_what_to_do(array, message):
    with pytest.raises(gf.InputError, match=message):
        read_image(array, CONFIG)


def test_the_advice_works(predictor):
    deep, batch = PIXELS.astype(np.uint16) * 257, np.stack([PIXELS, PIXELS])
    assert len(predictor(list(batch))) == len(predictor([batch])) == len(list(predictor.stream(batch))) == 2
    assert predictor((deep // 257).astype("uint8")) == predictor(PIXELS)
    scaled = PIXELS / 255
    assert predictor((scaled * 255).round().astype("uint8")) == predictor(PIXELS)
    assert len(predictor(list(np.zeros((8, 90, 84), np.uint8)))) == 8
    assert predictor(Image.fromarray(PIXELS[:3])).error is None


def test_a_batch_stands_for_its_images_in_a_list_only(predictor, model):
    batch = model.normalise(CANVASES)
    assert not is_one(batch)
    assert is_one(batch[0])
    assert [image.shape for image in expand([batch, PIXELS])] == [(3, S, S)] * 3 + [(90, 84, 3)]
    for many in (batch, batch.numpy(), CANVASES):
        with pytest.raises(gf.InputError, match="expected one image, or a list, got a batch; give"):
            predictor(many)
    found = [result.class_id for result in predictor([batch])]
    assert found == predictor.predict_batch(batch).class_id.tolist()
    with pytest.raises(gf.InputError, match="expected at least one image"):
        predictor([batch[:0]])


def test_errors_say_which_image_of_a_list(predictor):
    bad = GREY > 9
    results = predictor([PIXELS, b"text", "nothing.png", bad, [PIXELS, bad]], on_error="return")
    begins = [None if result.error is None else result.error.split(": ")[0] for result in results]
    assert begins == [None, "images[1]", "nothing.png", "images[3]", None, "images[5]"]
    assert predictor(bad, on_error="return").error.startswith("array: expected uint8")
    for none in (None, {"a.jpg": 1}):
        with pytest.raises(gf.InputError, match=r"^source: expected a path"):
            predictor(none)
    with pytest.raises(gf.InputError, match=r"^images\[1\]: expected uint8"):
        predictor([PIXELS, bad])


def test_floats_from_0_to_1_are_not_taken_for_normalised(predictor, model):
    """They were, without a word, and nearly every class was wrong."""
    pixels = CANVASES.permute(0, 3, 1, 2) / 255
    normal = model.normalise(CANVASES)
    expected = predictor.predict_batch(normal)
    for dtype in (torch.float16, torch.float32, torch.float64):
        with pytest.raises(
            gf.InputError, match=r"^images: expected normalised .*as of pixels from 0 to 1; say"
        ):
            predictor.predict_batch(pixels.to(dtype))
    for given in (pixels, pixels.double(), pixels.permute(0, 2, 3, 1)):
        found = predictor.predict_batch(given, normalised=False)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    stated = predictor.predict_batch(pixels, normalised=True)
    assert not torch.allclose(stated.logits, expected.logits, atol=0.01)
    assert torch.equal(predictor.predict_batch(normal, normalised=True).logits, expected.logits)
    assert torch.equal(
        predictor.predict_batch(CANVASES, normalised=False).logits, predictor.predict_batch(CANVASES).logits
    ), "bytes are pixels whatever is said of floats"
    one = pixels[0].numpy()
    with pytest.raises(gf.InputError, match=r"^floats: expected normalised numbers, -2\.12 to 2\.64, got"):
        predictor(one)
    with pytest.raises(gf.InputError, match=r"^images\[1\]: expected normalised"):
        predictor([PIXELS, one])
    assert predictor(one, normalised=False).class_id == int(expected.class_id[0])
    assert next(predictor.stream([one], normalised=False)).class_id == int(expected.class_id[0])
    torch.testing.assert_close(
        predictor.trace([one], normalised=False).logits, predictor.trace([normal[0]]).logits
    )


NORMAL = tiny_model().normalise(CANVASES)
PLAIN = CANVASES.permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize(
    "images",
    [
        NORMAL,
        torch.full_like(NORMAL, 2.2),  # white
        torch.zeros_like(NORMAL),  # the mean, and a common stand-in
        torch.full_like(NORMAL, 0.7) - 0.4 * PLAIN,  # fog
        NORMAL + 2 * torch.randn(NORMAL.shape, generator=torch.Generator().manual_seed(1)).clamp(-2, 2),
    ],
    ids=["photographs", "white", "zeros", "fog", "noise"],
)
def test_floats_that_can_be_normalised_are(images):
    assert check_batch(images, CONFIG, CPU) is not None


@pytest.mark.parametrize(
    ("images", "normalised", "message"),
    [
        (PLAIN * 255, None, "got 35 to 222, as of pixels from 0 to 255; give uint8"),
        (PLAIN * 255, False, "from 0 to 1, as normalised=False says, got .*; give uint8 for 0 to 255"),
        (NORMAL, False, "as normalised=False says, got -.*; say normalised=True"),
        (NORMAL * torch.nan, True, "expected finite numbers up to 10000"),
        (NORMAL * torch.inf, False, "expected finite numbers up to 10000"),
        (NORMAL, "no", "normalised: expected True, False or None, got 'no'"),
    ],
)
def test_floats_that_cannot_be_what_is_said(predictor, images, normalised, message):
    with pytest.raises(gf.InputError, match=message):
        predictor.predict_batch(images, normalised=normalised)


def test_overshoot_of_a_resize_is_pixels_still():
    resized = torch.nn.functional.interpolate(PLAIN[:, :, ::7, ::7].round(), size=S, mode="bicubic")
    assert resized.min() < 0
    assert resized.max() > 1
    assert check_batch(resized, CONFIG, CPU, normalised=False) is not None


def test_a_model_whose_normalised_pixels_are_from_0_to_1_takes_them():
    config = tiny_config(mean=(0, 0, 0), std=(1, 1, 1))
    assert torch.equal(check_batch(PLAIN, config, CPU), PLAIN)
    assert torch.equal(check_batch(PLAIN, config, CPU, normalised=False), PLAIN)
    dark = tiny_config(mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(gf.InputError, match="expected normalised numbers, -1 to 1, got"):
        check_batch(PLAIN, dark, CPU)


def test_numbers_are_looked_at_on_a_cpu_only(monkeypatch):
    class Elsewhere(torch.Tensor):
        """On the CPU, and says that it is not."""

        device = torch.device("cuda")

    monkeypatch.setattr(arrays, "_check_numbers", None)
    images = PLAIN.as_subclass(Elsewhere)
    assert arrays.normalised_floats("images", images, CONFIG, None) is images
