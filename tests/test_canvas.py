"""Images that are not square: sizes, preprocessing, crops, and an engine that says what the trace says."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from gfnet_fast.checkpoints import load, official_checkpoint
from gfnet_fast.checkpoints.official import check_official
from gfnet_fast.config import GFNetConfig
from gfnet_fast.data.folder import TrainingReader
from gfnet_fast.engine.eager import EagerEngine
from gfnet_fast.engine.launches import measure
from gfnet_fast.errors import CheckpointError, InputError
from gfnet_fast.figure import STEPS, Layout, draw_exits
from gfnet_fast.model.gfnet import crop_origins
from gfnet_fast.model.macs import static_macs
from gfnet_fast.predictor import Predictor
from gfnet_fast.results import Prediction
from gfnet_fast.sources import open_image, read_image
from gfnet_fast.training.config import checked, model_config
from gfnet_fast.training.evaluate import oracle_crops, saliency_crops, step_logits
from gfnet_fast.ways import official, static
from tests.conftest import random_images, tiny_config, tiny_model
from tests.engine.engine_helpers import MODES, assert_as_trace, engine_of
from tests.engine.test_eager import random_thresholds
from tests.test_sources import png

WIDE = (48, 112)
PHOTOGRAPHS = {"landscape": (60, 90), "portrait": (130, 70)}  # height, width


def images_of(canvas: tuple[int, int], count: int, seed: int = 0) -> torch.Tensor:
    """uint8 ``[count, *canvas, 3]``."""
    height, width = canvas
    return random_images(count, max(canvas), seed)[:, :height, :width].contiguous()


def photograph(name: str) -> Image.Image:
    return Image.fromarray(images_of(PHOTOGRAPHS[name], 1)[0].numpy())


@pytest.fixture(scope="module")
def model():
    return tiny_model(image_size=WIDE, crop_ratio=None)


# --- sizes ----------------------------------------------------------------------------------------------


def test_a_size_survives_json_and_a_native_folder(model, tmp_path):
    for size, expected in ((80, 80), ([80, 80], 80), ([48, 112], WIDE), (WIDE, WIDE)):
        config = tiny_config(image_size=size, crop_ratio=None)
        assert config.image_size == expected
        assert GFNetConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["image_size"] == [48, 112]
    assert (config.canvas, tiny_config().canvas) == (WIDE, (80, 80))
    model.save_pretrained(tmp_path)
    assert load(tmp_path).config == model.config


@pytest.mark.parametrize(
    "size", ["288x", "288", [0, 48], [48, 8193], [288], [], [48, 48, 3], [48, True], [48.0, 64], {"a": 48}]
)
def test_a_size_that_cannot_be_is_refused(size):
    with pytest.raises(CheckpointError, match="image_size: expected a whole number from 1 to 8192, or two"):
        tiny_config(image_size=size)


def test_limits_hold_for_both_sides():
    with pytest.raises(CheckpointError, match=r"patch_size: expected at most 31 \(image_size\), got 32"):
        tiny_config(image_size=(31, 64))
    with pytest.raises(CheckpointError, match=r"crop_ratio: expected none, or 0.5 to 1, .* got 0.4"):
        tiny_config(image_size=(64, 4096), crop_ratio=0.4)
    assert tiny_config(image_size=(64, 4096), crop_ratio=0.5).resize_to == (128, 8192)


def test_only_images_that_are_not_square_are_seen_whole_by_default():
    def ratio(size, **more):
        return model_config("timm/resnet18", 32, 3, size, 5, **more).crop_ratio

    assert (ratio(80), ratio((80, 80)), ratio(WIDE)) == (0.875, 0.875, None)
    assert (ratio(80, crop_ratio=None), ratio(WIDE, crop_ratio=0.9)) == (None, 0.9)
    assert model_config("timm/resnet50", 96, 5, (224, 224), 1000).name == "resnet50"


def test_a_ratio_is_a_setting():
    values = {"crop_ratio": "0.9", "resize_filter": "bicubic"}
    assert checked(GFNetConfig, values, "here") == {"crop_ratio": 0.9, "resize_filter": "bicubic"}
    assert checked(GFNetConfig, {"crop_ratio": "null"}, "here") == {"crop_ratio": None}
    assert checked(GFNetConfig, {"image_size": "48,112"}, "here") == {"image_size": WIDE}
    with pytest.raises(InputError, match="here: crop_ratio: expected a number or null, got 'all'"):
        checked(GFNetConfig, {"crop_ratio": "all"}, "here")


def test_the_official_forms_are_refused(model):
    for form in ("released", "training"):
        with pytest.raises(CheckpointError, match=r"official form: .* got 48 x 112 pixels"):
            official_checkpoint(model, form)
    with pytest.raises(CheckpointError, match="got 80 x 80 pixels and crop_ratio None"):
        check_official(tiny_config(crop_ratio=None))
    check_official(tiny_config())


def test_the_backbone_is_counted_on_the_whole_canvas():
    square, wide = (static_macs(tiny_model(image_size=size)) for size in (64, (64, 96)))
    head = 32 * 7
    assert 2 * (wide - head) == 3 * (square - head)


# --- preprocessing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("size", [WIDE, (112, 48), 80], ids=str)
def test_the_whole_picture_is_what_pillow_s_resize_gives(name, size, filter):
    config = tiny_config(image_size=size, crop_ratio=None, resize_filter=filter)
    height, width = config.canvas
    expected = photograph(name).resize((width, height), Image.Resampling[filter.upper()])
    seen = read_image(photograph(name), config)
    assert seen.shape == (height, width, 3)
    assert np.array_equal(seen.numpy(), np.array(expected))


def test_a_ratio_covers_the_canvas_and_cuts_the_centre():
    """96 x 128 is covered: a landscape by its height or its width, whichever asks for more."""
    config = tiny_config(image_size=(48, 64), crop_ratio=0.5)
    assert config.resize_to == (96, 128)
    sizes = {(60, 90): (96, 144), (100, 100): (128, 128), (130, 70): (237, 128), (96, 128): (96, 128)}
    assert {size: config.resized(*size) for size in sizes} == sizes
    tall = photograph("portrait").resize((128, 237), Image.Resampling.BILINEAR)
    expected = np.array(tall)[94:142, 32:96]  # (237 - 48) / 2 = 94.5, rounded to even
    assert np.array_equal(read_image(photograph("portrait"), config).numpy(), expected)


def test_a_thin_picture_whose_filter_takes_much_memory_is_not_decoded(monkeypatch):
    """8 million weights of 4 x 8 bytes a pixel of its side."""
    thread = png(1, 2**23, kind=0, lines=3)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    config = tiny_config(image_size=WIDE, crop_ratio=None)
    held = 2**23 + 112 * (2**23 + 48) + 8 * (4 * (2**23 + 1) + 5 * (48 + 112))
    with pytest.raises(InputError, match=f"bytes of memory, got {held} "):
        open_image(thread, config.resized)


def test_images_of_another_form_are_refused(model):
    predictor = Predictor(model, device="cpu")
    turned = torch.zeros(1, 112, 48, 3, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"uint8 or floats \[B >= 1, 48, 112, 3\] or \[B, 3, 48, 112\]"):
        predictor.predict_batch(turned)
    with pytest.raises(InputError, match=r"expected a float32 tensor \[B >= 1, 3, 48, 112\]"):
        model.trace(model.normalise(turned))
    with pytest.raises(
        InputError, match=r"array: expected floats \[3, 48, 112\], .* got float32 \[3, 112, 48\]"
    ):
        read_image(np.zeros((3, 112, 48), np.float32), model.config)
    whole = torch.randn(3, 48, 112)
    assert torch.equal(read_image(whole, model.config), whole)


# --- crops ----------------------------------------------------------------------------------------------


def test_actions_span_both_sides():
    actions = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    assert crop_origins(actions, (48, 32), 16).tolist() == [[0, 0], [32, 16], [16, 8], [32, 0]]
    assert crop_origins(actions, (48, 32), 32).tolist() == [[0, 0], [16, 0], [8, 0], [16, 0]]


def test_crops_without_training_are_where_their_names_say(model):
    """A 2 x 4 map over 48 x 112 pixels: cell (r, c) is centred on pixel (24 r + 12, 28 c + 14)."""

    def origins(actions):
        return crop_origins(actions, WIDE, 32).tolist()

    maps = torch.zeros(2, 3, 2, 4)
    maps[0, 0, 1, 1] = maps[1, 0, 0, 2] = 5.0
    assert origins(saliency_crops(model)(maps, 2)) == [[16, 26], [0, 54]]
    boxes = torch.tensor([[20.0, 90.0, 30.0, 100.0], [16.0, 40.0, 40.0, 60.0]])
    assert origins(oracle_crops(boxes, model)(maps, 2)) == [[9, 79], [12, 34]]


@pytest.mark.parametrize("mode", MODES)
def test_engines_equal_the_trace(model, mode):
    images = images_of(WIDE, 9, 3)
    thresholds = random_thresholds(model, images, 3)
    trace = model.trace(model.normalise(images))
    assert trace.origins[..., 0].max() <= 16 < trace.origins[..., 1].max(), "both sides are looked at"
    engine = engine_of(model, (1, 4), mode=mode)
    for same in (images, list(images.permute(0, 3, 1, 2))):
        assert_as_trace(model, images, thresholds, engine.predict(same, thresholds))
    assert_as_trace(model, images, thresholds, EagerEngine(model, 5).predict(images, thresholds))
    never = model.default_thresholds()
    torch.testing.assert_close(engine.predict(images, never).logits, trace.logits[-1], rtol=1e-4, atol=1e-4)


def test_launches_are_timed_on_blank_canvases(model):
    engine = engine_of(model, (1, 2))
    costs = measure(engine._launches, engine._blocks, engine.buckets, warm_up=False)
    assert [bucket for bucket, _ in costs.focus] == [1, 2]
    images = images_of(WIDE, 5)
    assert_as_trace(model, images, model.default_thresholds(), engine.predict(images))


def test_training_and_the_baselines_see_what_the_trace_sees(model):
    images = images_of(WIDE, 6, 4)
    trace = model.trace(model.normalise(images))
    torch.testing.assert_close(step_logits(model, images.split(4)), trace.logits, rtol=1e-3, atol=1e-3)
    assert torch.equal(official(model, images, 4)()[0], trace.logits[-1].argmax(-1))
    encoder = model.local_encoder
    with torch.no_grad():
        whole = encoder.head(encoder(model.normalise(images))[1]).argmax(1)
    assert torch.equal(static(model, images, 4)()[0], whole)


# --- training crops, and the picture of exits -----------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 80), (80, 40), 64], ids=str)
def test_training_crops_have_the_canvas_s_form_within_a_third(size, tmp_path):
    config = tiny_config(image_size=size, crop_ratio=None)
    height, width = config.canvas
    reader = TrainingReader(config)
    crop = reader.transform.transforms[0]
    image = Image.new("RGB", (1000, 1000))
    random.seed(0)
    forms = []
    for _ in range(300):
        _, _, rows, columns = crop.get_params(image, (0.1, 0.3), crop.ratio)
        forms.append(columns / rows / (width / height))
    assert 0.74 < min(forms) < 0.78
    assert 1.28 < max(forms) < 1.35
    photograph("landscape").save(tmp_path / "x.png")
    assert reader(tmp_path / "x.png").shape == (height, width, 3)


@pytest.mark.parametrize("canvas", [(40, 80), (80, 40)], ids=str)
def test_a_figure_keeps_the_form_and_the_places(canvas):
    height, width = canvas
    at = (8, 48) if width > height else (48, 8)
    out = Prediction(
        class_id=torch.zeros(2, dtype=torch.long),
        confidence=torch.full((2,), 0.5),
        exit_step=torch.tensor([1, 2]),
        logits=torch.zeros(2, 3),
        origins=torch.tensor([[[-1, -1]], [list(at)]]),
    )
    limits = torch.tensor([0.9, -1e8])
    picture = draw_exits(images_of(canvas, 2), out, limits, torch.zeros(2), patch_size=32)
    layout = Layout.of(canvas, 5, [1, 1])
    assert layout.drawn == (2 * width, 2 * height)
    assert picture.size == layout.size
    top, left = 2 * at[0], 2 * at[1]
    assert layout.box(at, 32) == (left, top, left + 63, top + 63)
    x, y = layout.corner(1, 0)
    colours = [tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5)) for colour in STEPS[:2]]
    edge = {picture.getpixel((x + column, y + top + 63)) for column in range(left + 24, left + 40)}
    assert edge == {colours[1]}
    below, beside = (x + width, y + 2 * height), (x + 2 * width, y + height)
    assert {picture.getpixel(below), picture.getpixel(beside)} == {colours[0]}, "the frame is around it"
