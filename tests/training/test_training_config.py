"""Hyper-parameters: the published ones by family, overrides, refusals."""

from __future__ import annotations

import pytest

from gfnet_fast.config import RELEASED
from gfnet_fast.errors import InputError
from gfnet_fast.training.config import TrainConfig, family_config, model_config

RESNET = (0.01, 1e-4, 1, 60, True)
REGNET = (0.02, 5e-5, 1, 60, True)
EFFICIENTNET = (0.005, 1e-4, 5, 30, False)
MOBILENET = (0.005, 1e-4, 5, 90, False)
# backbone lr, weight decay, auxiliary weight, epochs of stages 1 and 3, whether the global encoder is trained
PUBLISHED = {
    "timm/resnet50": RESNET,
    "timm/densenet121": RESNET,
    "timm/densenet169": RESNET,
    "timm/densenet201": RESNET,
    "timm/regnety_006": REGNET,
    "timm/regnety_008": REGNET,
    "timm/regnety_016": REGNET,
    "timm/efficientnet_b2": EFFICIENTNET,
    "timm/efficientnet_b3": EFFICIENTNET,
    "timm/mobilenetv3_large_100": MOBILENET,
    "timm/mobilenetv3_large_125": MOBILENET,
    # The same families under other names, and backbones without a published recipe.
    "timm/tf_efficientnet_b0": EFFICIENTNET,
    "torchvision/efficientnet_b1": EFFICIENTNET,
    "torchvision/mobilenet_v3_small": MOBILENET,
    "torchvision/regnet_y_400mf": REGNET,
    "torchvision/shufflenet_v2_x1_0": RESNET,
    "torchvision/mobilenet_v2": RESNET,
    "mine": RESNET,
}


def test_every_released_backbone_is_in_the_table():
    assert {config.backbone for config in RELEASED} <= set(PUBLISHED)


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_published_by_family(backbone):
    config = family_config(backbone)
    rate, decay, auxiliary, epochs, train_global = PUBLISHED[backbone]
    assert config.backbone_lr == rate
    assert config.weight_decay == decay
    assert config.auxiliary == auxiliary
    assert config.epochs == (0, epochs, 15, epochs)
    assert config.train_global is train_global
    # The same for all.
    assert config.classifier_lr == (0.1, 0.01)
    assert (config.momentum, config.batch) == (0.9, 256)
    assert (config.policy_lr, config.gamma, config.clip, config.ppo_epochs) == (3e-4, 0.7, 0.2, 1)
    assert (config.action_std, config.value_weight, config.entropy_weight) == (0.1, 0.5, 0.01)
    assert config.reward == "difference"


def test_overrides_leave_the_rest_and_the_table():
    config = family_config("timm/efficientnet_b2", epochs=(1, 2, 3, 4), gamma=0.9)
    assert (config.epochs, config.gamma) == ((1, 2, 3, 4), 0.9)
    assert (config.auxiliary, config.train_global) == (5, False)
    assert family_config("timm/efficientnet_b2").epochs == (0, 30, 15, 30)
    with pytest.raises(TypeError, match="learning_rate"):
        family_config("timm/resnet50", learning_rate=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": (1, 2, 3)}, r"epochs: expected four numbers of at least 0.*\(1, 2, 3\)"),
        ({"epochs": (0, -1, 1, 1)}, "epochs: expected four numbers"),
        ({"batch": 1}, "batch: expected at least 2.*got 1"),
        ({"reward": "confidence"}, "reward: expected one of difference, contrast, got 'confidence'"),
        ({"ppo_epochs": 0}, "ppo_epochs: expected at least 1, got 0"),
        ({"action_std": 0.0}, r"action_std: expected more than 0 to 1e\+30, got 0"),
        ({"action_std": float("inf")}, r"action_std: expected more than 0 to 1e\+30, got inf"),
        ({"batch": 10, "accumulate": 4}, "accumulate: expected a divisor of batch 10, got 4"),
        ({"split_run": 0}, "split_run: expected at least 1, got 0"),
        ({"ema": 1.0}, "ema: expected 0 or more and less than 1, got 1.0"),
        ({"scale": (0.5, 0.1)}, "scale: expected two shares"),
        ({"flip": 1.5}, "flip: expected 0 to 1, got 1.5"),
        ({"backbone_lr": float("nan")}, r"backbone_lr: expected 0 to 1e\+30, got nan"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        (
            {"classifier_lr": (0.1, -1.0)},
            r"classifier_lr: expected two numbers from 0 to 1e\+30, got \(0.1, -1",
        ),
        ({"classifier_lr": (float("nan"), 0.1)}, "classifier_lr: expected two numbers"),
        ({"gamma": 1.1}, "gamma: expected 0 to 1, got 1.1"),
        ({"gamma": float("nan")}, "gamma: expected 0 to 1, got nan"),
        ({"clip": float("nan")}, r"clip: expected 0 to 1e\+30, got nan"),
        ({"value_weight": -0.5}, r"value_weight: expected 0 to 1e\+30, got -0.5"),
        ({"entropy_weight": float("inf")}, r"entropy_weight: expected 0 to 1e\+30, got inf"),
        ({"color_jitter": 1e308}, r"color_jitter: expected 0 to 1e\+30, got 1e\+308"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refusals(change, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**change)


@pytest.mark.parametrize("released", RELEASED, ids=lambda c: f"{c.name}-{c.patch_size}")
def test_released_sizes_give_the_released_network(released):
    sizes = (released.patch_size, released.steps, released.image_size)
    assert model_config(released.backbone, *sizes, 1000) == released
    assert model_config(released.backbone, *sizes, 20).classes == 20


@pytest.mark.parametrize(
    ("backbone", "policy", "classifier", "glance_head"),
    [
        ("timm/resnet34", ("linear", 2048, 1024), "recurrent", False),
        ("timm/densenet161", ("linear", 2048, 1024), "recurrent", False),
        ("timm/regnety_032", ("conv", 32, 256), "recurrent", True),
        ("timm/efficientnet_b0", ("conv", 32, 256), "cascaded", True),
        ("torchvision/mobilenet_v3_small", ("conv", 32, 256), "cascaded", True),
    ],
)
def test_other_networks_have_their_family_s_form(backbone, policy, classifier, glance_head):
    config = model_config(backbone, 64, 4, 160, 7)
    assert (config.policy, config.policy_hidden, config.policy_width) == policy
    assert (config.classifier, config.glance_head) == (classifier, glance_head)
    assert (config.patch_size, config.steps, config.image_size, config.classes) == (64, 4, 160, 7)
    assert config.name == backbone.split("/")[1]
    assert model_config(backbone, 64, 4, 160, 7, policy_width=8, name="mine").policy_width == 8


def test_a_network_s_sizes_are_said_once():
    with pytest.raises(InputError, match="expected fields that nothing else says, got classes, steps"):
        model_config("timm/resnet18", 64, 4, 160, 7, steps=3, classes=2)


IMAGENET, HALF = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        *((f"timm/tf_efficientnet_lite{size}", HALF) for size in range(3)),
        ("timm/mixer_b16_224", HALF),  # as timm says
        ("timm/resnet18", IMAGENET),
        ("timm/efficientnet_b2", IMAGENET),
        ("timm/mobilenetv3_large_125", IMAGENET),  # timm has no weights
        ("torchvision/mobilenet_v3_small", IMAGENET),
    ],
)
def test_mean_and_deviation_of_the_weights(backbone, expected):
    config = model_config(backbone, 64, 4, 160, 7)
    assert (config.mean, config.std) == expected
    other = model_config(backbone, 64, 4, 160, 7, mean=(0.1, 0.2, 0.3))
    assert (other.mean, other.std) == ((0.1, 0.2, 0.3), expected[1])


def test_efficientnet_lite_is_cascaded():
    config = model_config("timm/tf_efficientnet_lite0", 96, 3, 224, 20)
    assert (config.classifier, config.glance_head, config.name) == ("cascaded", True, "tf_efficientnet_lite0")


def test_weights_that_timm_does_not_know():
    with pytest.raises(InputError, match=r"backbone: expected weights that timm knows, got resnet18.mine: "):
        model_config("timm/resnet18.mine", 64, 4, 160, 7)
