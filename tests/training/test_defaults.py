"""What a run does where nobody said: sizes by the pictures, the recipe by their number, weights at hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from gfnet_fast.checkpoints import load
from gfnet_fast.data.folder import read_parts
from gfnet_fast.errors import CheckpointError, InputError
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training import defaults, weights
from gfnet_fast.training.config import TrainConfig, model_config
from gfnet_fast.training.defaults import Request, batch_for, decide, recipe
from gfnet_fast.training.distributed import ALONE
from gfnet_fast.training.folder import train_folder
from gfnet_fast.training.job import Manner
from gfnet_fast.training.pretrained import load_pretrained
from gfnet_fast.training.sizes import Pictures, look_at, patch_for, sizes_for
from tests.training.folder_helpers import QUIET, RESNET, TINY, make_job, write_pictures
from tests.training.folder_helpers import weights as trained_weights

LITE = "timm/tf_efficientnet_lite0"


def square(side):
    return Pictures(side, side, (1.0, 1.0))


@pytest.mark.parametrize(
    ("pictures", "size", "whole"),
    [
        (None, 224, False),
        (square(32), 96, False),
        (square(150), 152, False),
        (square(3000), 224, False),
        (Pictures(500, 450, (0.8, 1.6)), 224, False),
        (Pictures(512, 384, (1.33, 1.33)), (260, 192), True),
        (Pictures(1000, 2000, (0.4, 0.6)), (160, 316), True),
        (Pictures(512, 384, (0.75, 1.33)), 224, True),  # upright ones and others
        (Pictures(10, 4000, (0.0025, 0.0025)), (100, 400), True),
    ],
    ids=str,
)  # fmt: skip
def test_a_canvas_suits_the_pictures(pictures, size, whole):
    assert sizes_for(pictures) == (size, whole)


def test_a_patch_is_two_thirds_of_the_canvas_and_fits():
    assert [patch_for(canvas, 32) for canvas in ((224, 224), (96, 96), (260, 192), (112, 448))] == [
        128,
        64,
        128,
        96,
    ]
    assert patch_for((20, 20), 32) == 32  # which the configuration refuses
    assert patch_for((224, 224), 8) == 144


def test_a_network_of_one_size(data, tmp_path):
    request = asked(data, tmp_path, backbone="timm/vit_tiny_patch16_224", pretrained="none")
    with pytest.raises(CheckpointError, match="backbone: expected a network that takes images of any size"):
        decide(request, read_parts(data), ALONE)


def test_headers_of_some_pictures(tmp_path):
    for number in range(300):
        Image.new("L", (40 + number % 3, 20)).save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.iterdir())
    (tmp_path / "0.png").write_bytes(b"none")
    found = look_at(paths)
    assert (found.height, found.width) == (20, 41)
    assert look_at(paths[:1]) is None


@pytest.mark.parametrize("images", [2, 8, 22, 24, 192, 1400, 20_000, 100_000, 300_000])
@pytest.mark.parametrize("begun", ["waste", ""])
def test_a_recipe_for_any_number_of_images(images, begun):
    config = recipe(LITE, images, begun, None, 1, {})
    assert 2 <= config.batch <= images
    assert config.train_global == (not config.epochs[0])
    updates = images // config.batch
    assert updates >= 10 or config.batch <= 8 or config.batch < 16
    if begun and images <= 100_000:
        assert config.optimizer == "adamw"
        assert config.epochs[0] * images < 250_000
        assert config.epochs[0] * updates >= min(20, 5 * images)
    else:
        assert (config.optimizer, config.epochs) == ("sgd", (0, 30, 15, 30))
        assert config.backbone_lr == pytest.approx(0.005 * config.batch / 256)


def test_the_recipe_that_was_tuned_is_given_where_it_was():
    config = recipe(LITE, 1400, "waste", None, 1, {})
    assert (config.epochs, config.batch, config.freeze) == ((6, 5, 5, 2), 32, 0.3)
    assert recipe(LITE, 1400 * 8, "waste", None, 1, {}).epochs == (3, 2, 2, 1)
    given = {"batch": 64, "epochs": (0, 1, 1, 1), "freeze": 0.0}
    config = recipe(LITE, 1400, "waste", None, 1, given)
    assert (config.batch, config.epochs, config.freeze, config.train_global) == (64, (0, 1, 1, 1), 0.0, True)


@pytest.mark.parametrize("name", ["split_run", "accumulate", "batch"])
def test_settings_that_cannot_be_are_refused_before_they_are_used(data, tmp_path, name):
    request = asked(data, tmp_path / "run", training={name: 0}, pretrained="none")
    with pytest.raises(InputError, match=f"^{name}: expected at least"):
        train_folder(request, manner=QUIET)
    assert not (tmp_path / "run").exists()


def test_processes_share_a_batch():
    assert [batch_for(1000, 32, parts) for parts in (1, 3, 8, 64)] == [32, 30, 32, 128]
    with pytest.raises(InputError, match="images: expected at least 16 to train on, for 8 processes"):
        batch_for(12, 32, 8)


# --- weights ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "images")


def asked(data, output, **changes):
    request = Request(data, output, None, None, None, None, {}, {})
    return replace(request, **changes)


def test_nothing_said_begins_with_the_model_of_photographs(data, tmp_path):
    job, pictures, warnings = decide(asked(data, tmp_path), read_parts(data), ALONE)
    assert (job.backbone, job.pretrained, job.patch_size, job.steps, job.image_size) == (
        LITE,
        "waste",
        64,
        2,
        96,
    )
    assert (pictures.height, pictures.width, warnings) == (60, 60, [])


def test_weights_that_are_not_at_hand_are_a_warning(data, tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "at_hand", lambda backbone: False)
    request, parts = asked(data, tmp_path, backbone="timm/resnet18"), read_parts(data)
    job, _, (warning,) = decide(request, parts, ALONE)
    assert (job.pretrained, job.training.optimizer) == ("", "sgd")
    assert warning.startswith("warning: timm/resnet18 begins with random weights")
    monkeypatch.setattr(defaults, "at_hand", lambda backbone: True)
    job, _, warnings = decide(request, parts, ALONE)
    assert (job.pretrained, job.training.optimizer, warnings) == ("timm", "adamw", [])
    # A run that is gone on with began with what it began with.
    recorded = {"pretrained": "", "model": model_config("timm/resnet18", 64, 2, 96, 3).to_dict()}
    job, _, warnings = decide(request, parts, ALONE, recorded)
    assert (job.pretrained, job.training.optimizer, warnings) == ("", "sgd", [])


def test_no_network_is_not_waited_for(monkeypatch):
    def unreachable(request, timeout):
        assert timeout <= 5
        raise OSError

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *name: None)
    assert not weights.at_hand("timm/resnet18")
    assert not weights.at_hand("torchvision/resnet18")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *name: "/a/file")
    assert weights.at_hand("timm/resnet18")


def test_both_encoders_begin_with_the_local_one_of_a_gfnet(tmp_path):
    torch.manual_seed(3)
    other = GFNet(model_config("timm/resnet18", 32, 2, 48, 3, **RESNET[1]))
    other.save_pretrained(tmp_path)
    model = GFNet(model_config("timm/resnet18", 64, 3, 96, 3, **RESNET[1]))
    heads = [encoder.backbone.fc.weight.clone() for encoder in (model.global_encoder, model.local_encoder)]
    found = load_pretrained(model, str(tmp_path))
    ours = [encoder.backbone.state_dict() for encoder in (model.global_encoder, model.local_encoder)]
    for name, value in other.local_encoder.backbone.state_dict().items():
        for head, state in zip(heads, ours, strict=True):
            assert torch.equal(state[name], head if name == "fc.weight" else value) or name == "fc.bias"
    assert found.left_out == ["fc.weight", "fc.bias"]
    assert str(found).startswith(
        f"both encoders begin with the local encoder of {tmp_path}, model.safetensors: "
    )
    with pytest.raises(
        CheckpointError, match="expected a GFNet on timm/convnext_atto, got one on timm/resnet18"
    ):
        load_pretrained(GFNet(model_config("timm/convnext_atto", 32, 2, 48, 3, **TINY)), str(tmp_path))


def test_without_stage_0_a_classifier_begins_as_the_mean_of_the_heads(data, tmp_path):
    network = RESNET[0], {**RESNET[1], "classifier": "cascaded"}
    job = make_job(
        data, tmp_path / "run", network, epochs=(0, 1, 0, 0), backbone_lr=0.0, classifier_lr=(0, 0)
    )
    job = replace(job, training=replace(job.training, local_from_global=True, weight_decay=0.0))
    train_folder(job, manner=QUIET)
    state = trained_weights(tmp_path / "run")
    head = state["global_encoder.backbone.fc.weight"]
    torch.testing.assert_close(state["classifier.fc_2.weight"], torch.cat([head, head], 1) / 2)


def test_a_dry_run_writes_nothing(data, tmp_path, capfd):
    found = train_folder(asked(data, tmp_path / "run"), manner=Manner(device="cpu", dry_run=True))
    said = capfd.readouterr().err
    assert (found, (tmp_path / "run").exists()) == ({}, False)
    assert "classes: 3: a 10, b 10, c 10\n" in said
    assert "images: 24 to train on, 3 held out for thresholds (drawn), 3 for the report (drawn)\n" in said
    assert f"network: {LITE}, 2 steps of 64 px on 96 x 96 px (height x width), the centre" in said
    assert "pretrained: both encoders begin with the local encoder of waste" in said
    assert "3 updates of 8 images an epoch, adamw" in said


def test_the_folder_of_a_run(data, tmp_path):
    """Its backbone is that of the weights; and the same command goes on when these are gone."""
    source = tmp_path / "source"
    GFNet(model_config("timm/resnet18", 32, 2, 48, 3, mean=(0.1, 0.2, 0.3), **RESNET[1])).save_pretrained(
        source
    )
    request = asked(
        data, tmp_path / "run", pretrained=str(source), patch_size=32, model=TINY,
        training={"epochs": (0, 1, 0, 0)},
    )  # fmt: skip
    train_folder(request, manner=QUIET)
    config = load(tmp_path / "run").config
    assert (config.backbone, config.mean, config.image_size) == ("timm/resnet18", (0.1, 0.2, 0.3), 96)
    assert json.loads((tmp_path / "run" / "pretrained.json").read_text())["encoder"] == str(source)
    source.rename(tmp_path / "gone")
    train_folder(request, manner=QUIET)
    assert (
        TrainConfig(**json.loads((tmp_path / "run" / "training.json").read_text())["training"]).patience == 0
    )
