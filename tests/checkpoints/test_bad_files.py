"""A checkpoint that is not what it should be: the named error, with expected and got."""

import json
import pickle

import numpy as np
import pytest
import torch

from gfnet_fast.checkpoints import load, official_checkpoint
from gfnet_fast.errors import CheckpointError, DeviceError
from gfnet_fast.model.gfnet import GFNet
from tests.model.test_released import any_weights


@pytest.fixture(scope="module")
def content(small):
    """A small official checkpoint as released; tests change copies of it."""
    model = any_weights(small)
    model.thresholds = torch.tensor([[0.9, 0.8, -1e8], [0.95, 0.9, -1e8]])
    return official_checkpoint(model)


def changed(content, **changes):
    return {**{k: dict(v) if isinstance(v, dict) else v for k, v in content.items()}, **changes}


def saved(tmp_path, content):
    path = tmp_path / "model.pth.tar"
    torch.save(content, path)
    return path


WEIGHT = "module.conv_stem.weight"  # [16, 3, 3, 3]
TENSORS = {
    "missing": (lambda t: None, r"missing local_encoder.backbone.conv_stem.weight \[16, 3, 3, 3\]"),
    "mis-shaped": (lambda t: t[:8], r"expected shape \[16, 3, 3, 3\], got \[8, 3, 3, 3\]"),
    "sparse": (lambda t: t.to_sparse(), "expected a dense tensor, got torch.sparse_coo"),
    "integer": (lambda t: t.long(), "expected a floating-point tensor, got torch.int64"),
    "complex": (lambda t: t.cfloat(), "expected a floating-point tensor, got torch.complex64"),
    "nan": (
        lambda t: t.index_fill(0, torch.tensor([2]), torch.nan),
        "expected finite numbers in float32, got 27 that",
    ),
    "infinite": (
        lambda t: t.index_fill(0, torch.tensor([0]), torch.inf),
        "expected finite numbers in float32, got 27",
    ),
    "too large": (lambda t: t.double() * 1e300, "expected finite numbers in float32"),
    "without numbers": (lambda t: t.to("meta"), "got a tensor without any"),
    "not a tensor": (lambda t: [1.0], "expected a tensor, got list"),
}


@pytest.mark.parametrize(("change", "message"), TENSORS.values(), ids=TENSORS)
def test_a_tensor_that_is_wrong(content, tmp_path, change, message):
    broken = changed(content)
    value = change(broken["model_state_dict"].pop(WEIGHT))
    if value is not None:
        broken["model_state_dict"][WEIGHT] = value
    with pytest.raises(CheckpointError, match=message):
        load(saved(tmp_path, broken))


def test_an_extra_tensor(content, tmp_path):
    broken = changed(content)
    broken["policy"]["other.weight"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match=r"unexpected policy\.other\.weight"):
        load(saved(tmp_path, broken))


def test_a_wrong_tensor_in_the_training_form_is_named_too(content, tmp_path):
    parts = ("model_state_dict", "model_prime_state_dict", "fc", "policy")
    broken = {k: dict(v) for k, v in content.items() if k in parts}
    broken["model_state_dict"][WEIGHT] = broken["model_state_dict"][WEIGHT][:8]
    with pytest.raises(
        CheckpointError, match=r"compared with mobilenetv3_large_100 at 96: .*expected shape \[16"
    ):
        load(saved(tmp_path, broken))


METADATA = {
    "another name": ({"model_name": "resnet51"}, "expected one released configuration"),
    "another patch size": ({"patch_size": 97}, "expected one released configuration"),
    "no number": ({"patch_size": "96"}, "expected model_name, patch_size and flops"),
    "other steps": ({"flops": [1.0, 2.0]}, "expected model_name, patch_size and steps"),
    "no policy": ({"policy": None}, "got no 'policy'"),
    "thresholds of other steps": ({"dynamic_threshold": torch.zeros(39, 5)}, "expected rows of 3 numbers"),
    "thresholds with NaN": ({"dynamic_threshold": torch.full((39, 3), torch.nan)}, "with NaN"),
}


@pytest.mark.parametrize(("changes", "message"), METADATA.values(), ids=METADATA)
def test_metadata_that_is_wrong(content, tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        load(saved(tmp_path, changed(content, **changes)))


class Attack:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_would_run_code_is_not_run(tmp_path, write):
    path, target = tmp_path / "model.pth.tar", tmp_path / "target"
    write({"model_state_dict": Attack(target)}, path)
    with pytest.raises(CheckpointError, match="without running code"):
        load(path)
    assert not target.exists()


def test_numbers_that_numpy_wrapped_are_read(content, tmp_path):
    wrapped = changed(content, flops=[np.float64(f) for f in content["flops"]], best_acc=np.float32(0.5))
    assert load(saved(tmp_path, wrapped)).config.classes == 3


def test_files_that_are_none(content, tmp_path):
    with pytest.raises(CheckpointError, match="got nothing there"):
        load(tmp_path / "nothing.pth")
    path = saved(tmp_path, content)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"expected a file that torch.save wrote, got a damaged one"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"expected a file that torch.save wrote"):
        load(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="expected a dictionary, got list"):
        load(path)


def test_a_device_that_is_not_there(content, tmp_path):
    path = saved(tmp_path, content)
    for device in ("cuda:77", "abacus"):
        with pytest.raises(DeviceError, match="expected one that torch can use here"):
            load(path, device=device)


def test_a_config_that_contradicts_the_file(content, small, tmp_path):
    with pytest.raises(CheckpointError, match="expected model_name, patch_size and steps"):
        load(saved(tmp_path, content), config=small.replace(patch_size=128))


@pytest.fixture
def folder(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "native")
    return tmp_path / "native"


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_native_folder_that_is_wrong(tiny, folder):
    config = folder / "config.json"
    good = config.read_text()
    rewrite(config, schema_version=2)
    with pytest.raises(CheckpointError, match="expected schema_version 1, got 2"):
        load(folder)
    config.write_text("{")
    with pytest.raises(CheckpointError, match="expected JSON"):
        load(folder)
    config.write_text(good)
    rewrite(config, labels=["one"])
    with pytest.raises(CheckpointError, match="labels: expected 7 names, got 1"):
        load(folder)
    config.write_text(good)
    rewrite(config, config={**tiny.config.to_dict(), "classes": 8, "macs": None})
    with pytest.raises(CheckpointError, match=r"expected shape \[8"):
        load(folder)
    config.write_text(good)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        load(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="got nothing there"):
        load(folder)


def test_names_that_collide_and_variances_below_zero(content, tmp_path):
    broken = changed(content)
    broken["model_state_dict"]["conv_stem.weight"] = broken["model_state_dict"][WEIGHT] + 1
    with pytest.raises(CheckpointError, match="expected every tensor once"):
        load(saved(tmp_path, broken))
    broken = changed(content)
    broken["policy"]["gru.weight_ih"] = broken["policy"]["gru.weight_ih_l0"]
    with pytest.raises(CheckpointError, match="expected every tensor once"):
        load(saved(tmp_path, broken))
    broken = changed(content)
    broken["model_state_dict"]["module.bn1.running_var"] = torch.full((16,), -5.0)
    with pytest.raises(CheckpointError, match="expected variances of at least 0"):
        load(saved(tmp_path, broken))


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [float("nan")] * 3},
        {"mean": 3},
        {"crop_ratio": "a"},
        {"macs": 5},
        {"backbone": 5},
        {"backbone_args": [1]},
        {"backbone_args": {"zzz": 1}},
        {"glance_head": "no"},
    ],
    ids=str,
)
def test_a_config_json_with_values_that_cannot_be(tiny, folder, change):
    rewrite(folder / "config.json", config={**tiny.config.to_dict(), **change})
    with pytest.raises(CheckpointError, match="expected"):
        load(folder)


def test_a_released_network_with_other_settings_has_no_released_form(small):
    """A file of its form could not say them."""
    model = GFNet(small.replace(steps=4, macs=(1, 2, 3, 4)))
    with pytest.raises(CheckpointError, match=r"released form: .* with other settings; use 'training'"):
        official_checkpoint(model)


def test_a_model_of_one_s_own_has_no_released_form(tiny):
    with pytest.raises(CheckpointError, match="released form: expected one of"):
        official_checkpoint(tiny)
