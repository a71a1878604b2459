"""A backbone's weights to begin with: where they may be, how tensors are matched, what is refused."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save as safetensors_bytes

from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import CheckpointError, InputError
from gfnet_fast.model.backbones import build_encoder
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training.config import model_config
from gfnet_fast.training.folder import train_folder
from gfnet_fast.training.job import Manner
from gfnet_fast.training.pretrained import in_order, load_pretrained
from tests.training.folder_helpers import QUIET, RESNET, make_job, write_pictures

ARGS = RESNET[1]["backbone_args"]
# Of another port of the network: the names of its modules, by timm's.
PORT = {"conv1": "_stem", "bn1": "_norm", "fc": "_top", "layer": "stage"}


def stock_weights(classes=10, **changes):
    torch.manual_seed(1)
    return timm.create_model("resnet18", num_classes=classes, **{**ARGS, **changes}).state_dict()


def ported(weights):
    """The same tensors in the same order, under the names of another port."""
    names = [re.sub("^(conv1|bn1|fc|layer)", lambda found: PORT[found[0]], name) for name in weights]
    return dict(zip(names, weights.values(), strict=True))


@pytest.fixture(scope="module")
def small():
    return GFNet(model_config("timm/resnet18", 32, 3, 48, 3, **RESNET[1]))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes an installed package of files, whose code must not run; gives its folder."""

    def make(**files):
        inside = {"__init__.py": b"raise SystemExit('imported')", **files}
        root, info = tmp_path / "site", tmp_path / "site" / "tiny_weights-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        (info / "top_level.txt").write_text("tiny_weights\n")
        names = ["tiny_weights.pth", *(f"tiny_weights/{name}" for name in inside)]
        (root / "tiny_weights" / "models").mkdir(parents=True)
        for name, content in zip(names, [b"", *inside.values()], strict=True):
            (root / name).write_bytes(content)
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
        monkeypatch.syspath_prepend(str(root))
        return root / "tiny_weights"

    return make


def saved(weights, path):
    torch.save(weights, path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["tiny-weights", "Tiny.Weights", "tiny_weights"])
def test_weights_of_a_package(small, tmp_path, package, name):
    """By order, as its names are another port's; and what is kept says so."""
    content = saved(ported(stock_weights()), tmp_path / "w.pth")
    package(**{"models/tiny-1234.pth": content})
    model, weights = GFNet(small.config), stock_weights()
    found = load_pretrained(model, name)
    for encoder in (model.global_encoder, model.local_encoder):
        for own, value in weights.items():
            if not own.startswith("fc."):
                assert torch.equal(encoder.backbone.state_dict()[own], value), own
    assert (found.source, found.file, found.matched) == (name, "tiny-1234.pth", "order")
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.left_out == ["_top.weight", "_top.bias"]
    assert len(found.tensors) == len(weights) - 2
    assert found.tensors["_stem.weight"] == "conv1.weight"
    assert found.tensors["stage3.0.bn2.running_var"] == "layer3.0.bn2.running_var"
    assert str(found) == (
        f"tiny-1234.pth: {len(weights) - 2} tensors by order: _stem.weight -> conv1.weight, ...; "
        "left out _top.weight, _top.bias"
    )


@pytest.mark.parametrize(
    ("files", "got"),
    [
        ({}, "got none of its 1; give the file"),
        ({"a.pth": b"", "models/b.pt": b""}, r"got .*/a\.pth, .*/models/b\.pt; give the file"),
    ],
    ids=["none", "several"],
)
def test_a_package_without_one_file_of_weights(small, package, files, got):
    package(**files)
    with pytest.raises(CheckpointError, match=rf"tiny-weights: expected one file of weights .*, {got}"):
        load_pretrained(small, "tiny-weights")


def test_names_that_nothing_has(small, tmp_path):
    message = (
        "expected a file of a backbone's weights, an installed package .*, or 'timm', got the name of none"
    )
    for source in ("no-such-package", str(tmp_path / "w.pth")):
        with pytest.raises(CheckpointError, match=f"{source}: {message}"):
            load_pretrained(small, source)


@pytest.mark.parametrize("classes", [3, 10])
def test_weights_of_a_file(small, tmp_path, classes):
    """Both encoders get all of it but a classifier for other classes."""
    weights = stock_weights(classes)
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "w.pth")
    model = GFNet(small.config)
    head = model.global_encoder.backbone.fc.weight.clone()
    found = load_pretrained(model, str(tmp_path / "w.pth"))
    for encoder in (model.global_encoder, model.local_encoder):
        for name, value in weights.items():
            if not name.startswith("fc."):
                assert torch.equal(encoder.backbone.state_dict()[name], value), name
    expected = weights["fc.weight"] if classes == 3 else head
    assert torch.equal(model.global_encoder.backbone.fc.weight, expected)
    assert found.left_out == ([] if classes == 3 else ["fc.weight", "fc.bias"])
    assert found.matched == "name"


@pytest.mark.parametrize("by", ["name", "order"])
def test_files_from_before_batches_were_counted(small, tmp_path, by):
    weights = {k: v for k, v in stock_weights().items() if not k.endswith("num_batches_tracked")}
    torch.save(ported(weights) if by == "order" else weights, tmp_path / "w.pth")
    model = GFNet(small.config)
    assert load_pretrained(model, str(tmp_path / "w.pth")).matched == by
    state = model.local_encoder.backbone.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items() if "fc." not in name)
    assert state["bn1.num_batches_tracked"] == 0


def swapped(weights, one, other):
    """With two tensors in each other's places."""
    names = [{one: other, other: one}.get(name, name) for name in weights]
    return {name: weights[name] for name in names}


@pytest.mark.parametrize(
    ("weights", "got"),
    [
        (stock_weights(channels=[16, 16, 16, 32]),
         r"tensor 61 is 'layer4.0.conv1.weight' \[32, 16, 3, 3\] for 'layer4.0.conv1.weight' \[16, 16,"),
        (ported(stock_weights(channels=[16, 16, 16, 32])),
         r"tensor 61 is 'stage4.0.conv1.weight' \[32, 16, 3, 3\] for 'layer4.0.conv1.weight' \[16, 16,"),
        (ported(swapped(stock_weights(), "bn1.weight", "bn1.bias")),
         r"tensor 2 is '_norm.bias' \[64\] for 'bn1.weight' \[64\]"),
        (ported(swapped(stock_weights(), "conv1.weight", "layer1.0.conv1.weight")),
         r"tensor 1 is 'stage1.0.conv1.weight' \[16, 64, 3, 3\] for 'conv1.weight' \[64, 3, 7, 7\]"),
        ({**dict(list(stock_weights().items())[:-1]), "bn1.spare": torch.zeros(10)},
         r"tensor 80 is 'bn1.spare' \[10\] for 'fc.bias' \[3\]"),
        (dict(list(ported(stock_weights()).items())[:-1]), r"79 tensors for 80: 'fc.bias' is over"),
        (ported(stock_weights(in_chans=1)), r"tensor 1 is '_stem.weight' \[64, 1, 7, 7\] for 'conv1.weight'"),
    ],
    ids=["shape", "shape-by-order", "last-part", "order", "one-other-name", "one-missing", "grey"],
)  # fmt: skip
def test_weights_of_another_network(small, tmp_path, weights, got):
    torch.save(weights, tmp_path / "w.pth")
    before = {name: value.clone() for name, value in small.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"w.pth: expected the weights of timm/resnet18, got .*{got}"):
        load_pretrained(small, str(tmp_path / "w.pth"))
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


def test_order_never_contradicts_names(small, tmp_path):
    """Two tensors of one shape: by order each would become the other."""
    weights = swapped(stock_weights(3), "layer1.0.conv2.weight", "layer2.0.conv1.weight")
    weights["stem.weight"] = weights.pop("conv1.weight")
    torch.save({"stem.weight": weights.pop("stem.weight"), **weights}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"'layer2.0.conv1.weight' .* for 'layer1.0.conv2.weight'"):
        load_pretrained(small, str(tmp_path / "w.pth"))


def test_safetensors_keep_no_order(small, tmp_path):
    path, model = tmp_path / "w.safetensors", GFNet(small.config)
    path.write_bytes(safetensors_bytes(stock_weights()))
    assert load_pretrained(model, str(path)).matched == "name"
    path.write_bytes(safetensors_bytes(ported(stock_weights())))
    message = (
        r"got names that differ in \['conv1.weight', 'bn1.weight', .* \(no order to go by in safetensors\)"
    )
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(model, str(path))


def test_a_torchvision_backbone_in_the_order_of_its_definition():
    """Traced, a Swin's merging has its norm before its linear layer, which is defined first."""
    config = GFNetConfig("mine", "torchvision/swin_t", 32, 3, 64)
    with torch.device("meta"):
        own = build_encoder(config.backbone, 1000).backbone.state_dict()
        defined = list(torchvision.models.swin_t().state_dict())
    assert list(own) != defined
    assert in_order(config, "w.pth", {}, own) == defined


def test_damaged_files(small, tmp_path):
    path = tmp_path / "w.pth"
    content = saved(stock_weights(), path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        CheckpointError, match=r"w.pth: expected a file that torch\.save wrote, got a damaged"
    ):
        load_pretrained(small, str(path))
    path.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"w.pth: expected a file that torch\.save wrote, got a text"):
        load_pretrained(small, str(path))
    torch.save({"model": {"conv1.weight": [1.0]}}, path)
    with pytest.raises(CheckpointError, match=r"w.pth: expected tensors by name, got 'conv1.weight': list"):
        load_pretrained(small, str(path))
    torch.save({**stock_weights(), "bn1.weight": torch.full([64], torch.nan)}, path)
    with pytest.raises(CheckpointError, match=r"w.pth: bn1.weight: expected finite numbers .*, got 64"):
        load_pretrained(small, str(path))
    path, content = tmp_path / "w.safetensors", safetensors_bytes(stock_weights())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"w.safetensors: expected a safetensors file, got"):
        load_pretrained(small, str(path))


def test_timm_s_weights_without_a_network(small, monkeypatch):
    def fail(*args, **kwargs):
        assert kwargs["pretrained"] is True
        raise OSError("cannot find the requested files")

    monkeypatch.setattr(timm, "create_model", fail)
    message = "expected resnet18's weights in timm's cache or from the network, got cannot find"
    with pytest.raises(InputError, match=message):
        load_pretrained(small, "timm")


def test_a_run_keeps_and_says_what_it_began_with(small, tmp_path, package, capfd):
    """And leaves nothing where the weights do not fit."""
    data, output = write_pictures(tmp_path / "images", count=4, classes="ab"), tmp_path / "run"
    folder = package(**{"w.pth": saved(ported(stock_weights(channels=[8, 8, 8, 8])), tmp_path / "w.pth")})
    job = make_job(data, output, epochs=(0, 1, 0, 0), batch=4)
    job = replace(job, pretrained="tiny_weights", model={**job.model, "mean": (0.5, 0.25, 0.5)})
    with pytest.raises(
        CheckpointError, match=r"tiny_weights: expected the weights .*, got others: tensor 7 is"
    ):
        train_folder(job, manner=QUIET)
    assert not output.exists()
    content = saved(ported(stock_weights()), folder / "w.pth")
    train_folder(job, manner=Manner(device="cpu"))
    kept = json.loads((output / "pretrained.json").read_text())
    assert kept["sha256"] == hashlib.sha256(content).hexdigest()
    assert (kept["file"], kept["source"], kept["matched"]) == ("w.pth", "tiny_weights", "order")
    assert kept["tensors"]["stage4.0.bn1.bias"] == "layer4.0.bn1.bias"
    said = capfd.readouterr().err.splitlines()
    assert said[1] == "images: 4 to train on, 2 held out for thresholds (drawn), 2 for the report (drawn)"
    assert said[3].startswith("pretrained: w.pth: 78 tensors by order: _stem.weight -> conv1.weight, ...; ")
    assert said[3].endswith("; mean 0.5 0.25 0.5, std 0.229 0.224 0.225")
