"""Inside a model: all steps of any source, and the module as torch's own tools find it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gfnet_fast as gf
from gfnet_fast.model.gfnet import crop_patches
from gfnet_fast.sources import read_image
from tests.conftest import random_images

PICTURES = list(random_images(5, 100, 4).numpy())


@pytest.fixture(scope="module")
def predictor(tiny):
    return gf.Predictor(tiny, device="cpu", batch=2)


@pytest.fixture(scope="module")
def images(tiny):
    return torch.stack([read_image(picture, tiny.config) for picture in PICTURES])


def test_traces_are_the_model_s_in_batches(predictor, tiny, images):
    expected = tiny.trace(tiny.normalise(images))
    found = predictor.trace(PICTURES)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.origins, expected.origins)
    assert found.confidence.shape == (tiny.config.steps, 5)
    torch.testing.assert_close(found.confidence, found.logits.softmax(-1).max(-1).values)
    one = predictor.trace(PICTURES[3])
    torch.testing.assert_close(one.logits, expected.logits[:, 3:4], rtol=1e-4, atol=1e-4)


def test_batches_are_bounded(predictor, monkeypatch):
    sizes, unroll = [], type(predictor.model).unroll

    def recording(self, images):
        sizes.append(len(images))
        return unroll(self, images)

    monkeypatch.setattr(type(predictor.model), "unroll", recording)
    predictor.features(picture for picture in PICTURES)
    assert sizes == [2, 2, 1]


def test_features_are_what_the_encoders_gave(predictor, tiny, images):
    seen = []
    hooks = [
        encoder.register_forward_hook(lambda module, given, output: seen.append(output[1]))
        for encoder in (tiny.global_encoder, tiny.local_encoder)
    ]
    tiny.trace(tiny.normalise(images))
    for hook in hooks:
        hook.remove()
    found = predictor.features(PICTURES)
    assert found.shape == (tiny.config.steps, 5, tiny.feature_dim)
    torch.testing.assert_close(found, torch.stack(seen), rtol=1e-4, atol=1e-4)


def test_crops_are_the_canvas_s_own_pixels(predictor, tiny, images):
    thumbnails, crops = predictor.crops(PICTURES)
    origins, size = predictor.trace(PICTURES).origins, tiny.config.patch_size
    planar = images.permute(0, 3, 1, 2)
    for step, places in enumerate(origins):
        assert torch.equal(crops[step].permute(0, 3, 1, 2), crop_patches(planar, places, size))
    small = tiny.thumbnail(planar.float()).round().clamp(0, 255).permute(0, 2, 3, 1)
    assert thumbnails.shape == (5, size, size, 3)
    assert (thumbnails.float() - small).abs().max() <= 1


def test_what_cannot_be_used(predictor):
    for see in (predictor.trace, predictor.features, predictor.crops):
        with pytest.raises(gf.InputError, match=r"images\[1\]: expected uint8"):
            see([PICTURES[0], np.zeros((3, 4), bool)])
        with pytest.raises(gf.InputError, match="expected at least one image, got none"):
            see([])

    def broken():
        yield PICTURES[0]
        raise RuntimeError("the camera fell")

    with pytest.raises(RuntimeError, match="the camera fell"):
        predictor.trace(broken())


def test_the_module_is_called_as_any_other(tiny, images):
    normal = tiny.normalise(images)
    logits = tiny(normal)
    assert torch.equal(logits.detach(), tiny.trace(normal).logits)
    logits[-1].sum().backward()
    reached = [name for name, parameter in tiny.named_parameters() if parameter.grad is not None]
    tiny.zero_grad(set_to_none=True)
    assert any(name.startswith("global_encoder") for name in reached)
    assert any(name.startswith("local_encoder") for name in reached)
    with pytest.raises(gf.InputError, match="expected a float32 tensor"):
        tiny(images)


@pytest.mark.slow
def test_torch_exports_it_for_any_batch(tiny, images):
    normal = tiny.normalise(images)
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=2, max=64)
        exported = torch.export.export(tiny, (normal[:3],), dynamic_shapes=({0: batch},)).module()
        torch.testing.assert_close(exported(normal), tiny(normal), rtol=1e-4, atol=1e-4)
