"""Any stock classification backbone becomes an encoder."""

import pytest
import torch
from torch import nn

from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import CheckpointError
from gfnet_fast.model.backbones import Encoder, build_encoder, register_backbone
from gfnet_fast.model.gfnet import GFNet


@pytest.mark.parametrize(
    ("backbone", "channels", "features"),
    [
        ("torchvision/shufflenet_v2_x0_5", 1024, 1024),
        ("torchvision/mobilenet_v2", 1280, 1280),
        ("torchvision/mobilenet_v3_small", 576, 1024),
        ("torchvision/resnet18", 512, 512),
        ("timm/mobilenetv2_050", 1280, 1280),
        ("timm/convnext_atto", 320, 320),
        ("timm/regnety_002", 368, 368),
    ],
)
def test_new_configurations_on_stock_backbones(backbone, channels, features):
    config = GFNetConfig("new", backbone, 64, 3, 160, classes=5)
    model = GFNet(config).eval()
    assert model.map_shape == (channels, 2, 2)
    assert model.feature_dim == features
    assert model.trace(torch.randn(2, 3, 160, 160)).logits.shape == (3, 2, 5)
    assert len(model.config.macs) == 3


def test_a_traced_encoder_computes_what_its_network_does():
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v3_small(num_classes=6).eval()
    register_backbone("test-network", lambda classes: network)
    encoder = build_encoder("test-network", 6).eval()
    images = torch.randn(2, 3, 96, 96)
    feature_map, vector = encoder(images)
    assert torch.equal(feature_map, network.features(images))
    torch.testing.assert_close(encoder.head(vector), network(images))


class Dense(nn.Module):
    """A network with its own way of growing features, as CondenseNet has."""

    def __init__(self, classes: int, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=8, padding=1)
        self.grow = nn.Conv2d(width, width, 3, padding=1, groups=4)
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, self.grow(x).relu()], 1)
        return self.classifier(torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def test_a_network_of_one_s_own_by_name_with_arguments():
    register_backbone("test-dense", Dense)
    model = GFNet(GFNetConfig("own", "test-dense", 32, 3, 64, classes=4, backbone_args={"width": 12})).eval()
    assert model.map_shape == (24, 4, 4)
    assert model.trace(torch.randn(1, 3, 64, 64)).logits.shape == (3, 1, 4)


def test_an_encoder_of_one_s_own_is_taken_as_it_is():
    class Own(Encoder):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.backbone = nn.Conv2d(3, 6, 4, stride=4)
            self.fc = nn.Linear(6, classes)

        def forward(self, x):
            feature_map = self.backbone(x)
            return feature_map, feature_map.mean((2, 3))

    register_backbone("test-own", Own)
    assert isinstance(build_encoder("test-own", 3), Own)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("timm/no_such_model", "expected a timm model"),
        ("torchvision/no_such_model", "expected a torchvision classification model"),
        ("torchvision/squeezenet1_0", "expected a last linear layer"),
        ("resnet50", "expected 'timm/NAME'"),
        ("timm/vit_tiny_patch16_224", "expected a feature map"),
    ],
)
def test_what_is_no_backbone_is_named(backbone, message):
    with pytest.raises(CheckpointError, match=message):
        GFNet(GFNetConfig("new", backbone, 224, 3, 448, classes=5))
