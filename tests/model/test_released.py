"""All fourteen released configurations load, run and cost what was published."""

import pytest
import torch

from gfnet_fast.checkpoints import load, official_checkpoint
from gfnet_fast.checkpoints.tensors import skeleton
from gfnet_fast.config import RELEASED, GFNetConfig, released
from gfnet_fast.errors import CheckpointError
from gfnet_fast.hub.names import published as by_name
from gfnet_fast.model.macs import static_macs

# Millions of multiply-adds: the backbone at full size, then cumulative by exit step, to the last digit
# that is published.
PUBLISHED = {
    ("resnet50", 96): (4089, 761, 1569, 2376, 3183, 3990),
    ("resnet50", 128): (4089, 1345, 2766, 4186, 5607, 7027),
    ("densenet121", 96): (2834, 528, 1083, 1638, 2193, 2748),
    ("densenet169", 96): (3360, 626, 1291, 1956, 2622, 3287),
    ("densenet201", 96): (4291, 798, 1640, 2481, 3323, 4165),
    ("regnety_600m", 96): (601, 118, 235, 353, 471, 589),
    ("regnety_800m", 96): (797, 154, 308, 463, 617, 771),
    ("regnety_1.6g", 96): (1612, 305, 610, 915, 1219, 1524),
    ("mobilenetv3_large_100", 96): (217, 43, 88, 135),
    ("mobilenetv3_large_100", 128): (217, 73, 149, 226),
    ("mobilenetv3_large_125", 128): (355, 120, 242, 365),
    ("efficientnet_b2", 128): (994, 217, 437, 658, 880),
    ("efficientnet_b3", 128): (1827, 317, 636, 957, 1280),
    ("efficientnet_b3", 144): (1827, 432, 868, 1306, 1745),
}


def any_weights(config):
    """A model with some finite weights, without the seconds that a proper initialisation takes."""
    model = skeleton(config).to_empty(device="cpu").eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.fill_(1.0) if name.endswith("running_var") else tensor.uniform_(-0.05, 0.05)
        else:
            tensor.zero_()
    return model


IDS = [f"{c.name}-{c.patch_size}" for c in RELEASED]


@pytest.mark.parametrize("config", RELEASED, ids=IDS)
def test_multiply_adds_are_the_published_ones(config):
    model = skeleton(config)
    counted = [static_macs(model), *model.config.macs]
    for ours, published in zip(counted, PUBLISHED[config.name, config.patch_size], strict=True):
        # 0.5 %, and half of the last digit, to which the published figures are rounded.
        assert ours / 1e6 == pytest.approx(published, rel=5e-3, abs=0.5)
    stated = by_name()[f"{config.name}-{config.patch_size}"]
    assert stated.config.macs == model.config.macs
    assert stated.parameters == sum(p.numel() for p in model.parameters())


@pytest.fixture
def without_denormals():
    """Weights that were never trained let activations vanish, and denormals cost a hundred times as much."""
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def uncounted(monkeypatch):
    """Multiply-adds that take no time: those of each configuration are counted above, once."""
    for module in ("model.gfnet", "checkpoints.tensors"):
        monkeypatch.setattr(
            f"gfnet_fast.{module}.count_macs", lambda model: tuple(range(1, model.config.steps + 1))
        )


@pytest.mark.parametrize("config", RELEASED, ids=IDS)
@pytest.mark.usefixtures("without_denormals", "uncounted")
def test_runs_with_any_class_count_and_is_recognised_by_its_tensors(config, tmp_path):
    model = any_weights(config.replace(classes=11))
    images = torch.randn(1, 3, config.image_size, config.image_size)
    trace = model.trace(images)
    assert trace.logits.shape == (config.steps, 1, 11)
    assert trace.actions.shape == trace.origins.shape == (config.steps - 1, 1, 2)
    path = tmp_path / "training.pth.tar"
    torch.save(official_checkpoint(model, "training"), path)
    again = load(path)
    path.unlink()
    assert again.config == model.config
    ours, theirs = model.state_dict(), again.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_released_names_the_choices():
    assert released("efficientnet_b3", 144).patch_size == 144
    for name, size in (("efficientnet_b3", None), ("resnet50", 64), ("resnet51", None)):
        with pytest.raises(CheckpointError, match="expected one released configuration"):
            released(name, size)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 1},
        {"patch_size": 300},
        {"glance_filter": "lanczos"},
        {"macs": [1, 2]},
        {"macs": [5, 4, 3, 2]},
        {"classes": 0},
        {"std": [0, 1, 1]},
        {"crop_ratio": 0},
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_is_refused(change):
    values = {"name": "x", "backbone": "timm/resnet18", "patch_size": 96, "steps": 4, "image_size": 224}
    with pytest.raises(CheckpointError, match="expected"):
        GFNetConfig(**{**values, **change})


def test_a_configuration_survives_json():
    for config in RELEASED:
        assert GFNetConfig.from_dict(config.to_dict()) == config
    with pytest.raises(CheckpointError, match=r"unknown fields \['patchsize'\]"):
        GFNetConfig.from_dict({**RELEASED[0].to_dict(), "patchsize": 3})
    with pytest.raises(CheckpointError, match="missing fields"):
        GFNetConfig.from_dict({"name": "x"})
