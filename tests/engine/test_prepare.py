"""A prepared encoder is the network it was made of."""

import pytest
import torch
from torch import nn

from gfnet_fast.engine import prepare
from gfnet_fast.engine.prepare import Prepared, fold_batch_norms, lacks, named_dtype
from gfnet_fast.engine.runtimes import runtimes
from gfnet_fast.errors import DeviceError
from gfnet_fast.model.backbones import TracedEncoder, build_encoder

# Backbone: batch norms that go into a convolution, all batch norms.
FOLDED = {
    "timm/resnet50": (53, 53),
    "timm/densenet121": (59, 121),
    "timm/densenet169": (83, 169),
    "timm/densenet201": (99, 201),
    "timm/regnety_006": (50, 50),
    "timm/regnety_008": (47, 47),
    "timm/regnety_016": (86, 86),
    "timm/mobilenetv3_large_100": (46, 46),
    "timm/mobilenetv3_large_125": (46, 46),
    "timm/efficientnet_b2": (69, 69),
    "timm/efficientnet_b3": (78, 78),
}


def with_statistics(network, seed=0):
    """Batch norms as training leaves them: each with scales, shifts, means and variances of its own."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.7, 1.3),
                (module.bias.data, -0.2, 0.2),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return network.eval()


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("backbone", FOLDED)
@torch.no_grad()
def test_folding_counts_and_changes_no_more_than_rounding(backbone):
    folded, total = FOLDED[backbone]
    torch.manual_seed(0)
    encoder = with_statistics(build_encoder(backbone, 10))
    assert norms(encoder) == total
    images = torch.randn(2, 3, 64, 64)
    before = encoder(images)
    assert fold_batch_norms(encoder, images[:1]) == folded
    assert norms(encoder) == total - folded
    for old, new in zip(before, encoder(images), strict=True):
        assert torch.isfinite(new).all()
        assert (old - new).abs().max() <= 3e-5 * old.abs().max()


@torch.no_grad()
def test_only_what_can_be_folded_is():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.ModuleList(
                nn.Conv2d(4, 4, 3, padding=1, groups=2, stride=s) for s in (1, 1, 1, 2, 1)
            )
            self.norm = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(5))

        def forward(self, x):
            shared = self.conv[0](x)
            x = self.norm[0](shared) + shared  # a second reader of the convolution
            x = self.conv[1](self.norm[1](x))  # the norm comes first
            x = self.conv[2](self.conv[2](x))
            x = self.norm[2](x)  # a convolution that is called twice
            x = self.norm[3](self.conv[3](x))
            last = self.conv[4](x)
            return self.norm[4](last), last  # the caller reads it too

    network = with_statistics(Network())
    images = torch.randn(2, 4, 8, 8)
    before = network(images)
    assert fold_batch_norms(network, images) == 1
    torch.testing.assert_close(network(images), before)


@torch.no_grad()
def test_a_traced_network_and_the_prepared_copy():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    encoder = TracedEncoder(with_statistics(network))
    prepared = Prepared(encoder, (16, 16), 4, torch.float32)
    assert prepared.folded == 1
    assert norms(encoder) == 1, "the original stays as it is"
    images = torch.randn(4, 3, 16, 16)
    for old, new in zip(encoder(images), prepared(images), strict=True):
        torch.testing.assert_close(new, old)
    half = Prepared(encoder, (16, 16), 4, torch.bfloat16)(images.bfloat16())[1]
    torch.testing.assert_close(half.float(), encoder(images)[1], rtol=1.6e-2, atol=1.6e-2)


def test_the_layout_is_chosen_by_replays(monkeypatch):
    """By what `captured` makes of a call, which is a replay on a GPU, and by the better of two turns."""
    made, timed, times = [], [], iter([3.0, 2.0, 1.0, 2.0])

    def captured(run, device):
        made.append((lambda: None, run.func.layout, device))
        return made[-1][0]

    def best_time(run, device):
        timed.append(run)
        return next(times)

    monkeypatch.setattr(prepare, "captured", captured)
    monkeypatch.setattr(prepare, "best_time", best_time)
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    prepared = Prepared(encoder, (16, 16), 4, torch.float32)
    assert timed == [replay for replay, _, _ in made]
    assert [layout for _, layout, _ in made] == 2 * [torch.contiguous_format, torch.channels_last]
    assert prepared.layout == torch.contiguous_format


@pytest.mark.slow
@torch.no_grad()
def test_more_shapes_compile_than_the_compiler_allows_by_itself():
    layer = nn.Linear(3, 2)
    inductor = runtimes()["inductor"]
    with inductor.preparing():
        runs = {rows: inductor.whole(lambda x: layer(x).relu()) for rows in range(1, 11)}
        for rows, run in runs.items():
            torch.testing.assert_close(run(torch.ones(rows, 3)), layer(torch.ones(rows, 3)).relu())


def test_a_precision_that_is_not_there_is_said(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert lacks(cpu, torch.float32) is None
    assert lacks(gpu, torch.float16) is None
    assert "on a CPU, got torch.float16" in lacks(cpu, torch.float16)
    assert "expected float32, bfloat16 or float16, got torch.int8" in lacks(gpu, torch.int8)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert "expected a CPU with AVX-512 for torch.bfloat16" in lacks(cpu, torch.bfloat16)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert lacks(cpu, torch.bfloat16) is None


@pytest.mark.parametrize("name", ["float64", "float8", "", None, 3, torch.float64], ids=str)
def test_a_precision_has_a_name(name):
    assert named_dtype("auto") == named_dtype("float32") == named_dtype(torch.float32) == torch.float32
    assert named_dtype("int8") == torch.int8
    with pytest.raises(DeviceError, match=r"dtype: expected one of auto, float32, bfloat16, .*, int8, got"):
        named_dtype(name)
