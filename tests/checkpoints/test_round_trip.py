"""What is written is what is read."""

import torch

from gfnet_fast.checkpoints import load
from tests.conftest import tiny_model


def same(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_native_folder_keeps_everything(tiny, tmp_path):
    tiny.labels = tuple("abcdefg")
    tiny.thresholds = torch.tensor([[0.5, 0.6, 0.7, -1e8], [0.9, 0.9, 0.9, -1e8]])
    tiny.default_row = 1
    try:
        tiny.save_pretrained(tmp_path / "native")
        again = load(tmp_path / "native")
    finally:
        tiny.labels, tiny.thresholds, tiny.default_row, labels = None, None, 0, tiny.labels
    assert same(tiny, again)
    assert again.config == tiny.config
    assert again.labels == labels
    assert torch.equal(again.default_thresholds(), torch.tensor([0.9, 0.9, 0.9, -1e8]))
    assert not again.training
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_is_written_over_in_place(tmp_path):
    for seed in (0, 1):
        model = tiny_model(seed=seed)
        model.save_pretrained(tmp_path)
        assert same(model, load(tmp_path))


def test_buffers_that_no_state_dict_holds_are_made_anew(tmp_path):
    model = tiny_model(
        backbone="timm/swinv2_cr_tiny_ns_224",
        backbone_args={"img_size": 64, "depths": [1, 1, 1, 1]},
        patch_size=64,
    )
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert not any(buffer.is_meta for buffer in again.buffers())
    images = torch.randn(2, 3, 80, 80)
    assert torch.equal(model.trace(images).logits, again.trace(images).logits)


def test_an_official_curve_becomes_a_calibration_and_survives_the_native_folder(small, tmp_path):
    from gfnet_fast.checkpoints import official_checkpoint
    from gfnet_fast.exits import Budget
    from tests.model.test_released import any_weights

    model = any_weights(small)
    model.thresholds = torch.tensor([[0.5, 0.4, -1e8], [0.7, 0.6, -1e8], [0.9, 0.8, -1e8]])
    content = official_checkpoint(model)
    low, _, high = model.config.macs
    curve = [[low * 1.1, low * 1.5, high * 0.9], [70.0, 74.0, 73.0]]
    torch.save({**content, "budgeted_batch_classification": curve}, tmp_path / "official.pth.tar")
    official = load(tmp_path / "official.pth.tar")
    assert torch.equal(official.default_thresholds(), model.thresholds[1])
    official.save_pretrained(tmp_path / "native")
    native = load(tmp_path / "native")
    assert torch.equal(native.default_thresholds(), model.thresholds[1])
    for m in (official, native):
        row = m.calibration.resolve(Budget(macs=low * 1.5))
        assert row.tolist() == model.thresholds[1].tolist()
    torch.save({**content, "budgeted_batch_classification": [[0.0] * 3] * 2}, tmp_path / "official.pth.tar")
    assert torch.equal(load(tmp_path / "official.pth.tar").default_thresholds(), model.thresholds[2])
