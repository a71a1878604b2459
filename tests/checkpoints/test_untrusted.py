"""Folders and files from strangers: nothing fetched or written, no size taken at its word, no live map."""

import json
import os
import signal
import sys
import threading
import time

import pytest
import torch
from safetensors.torch import save as safetensors_bytes

from gfnet_fast import Predictor
from gfnet_fast.arguments import TIMM, TORCHVISION
from gfnet_fast.checkpoints import load, official, official_checkpoint
from gfnet_fast.checkpoints.machine import Unusable
from gfnet_fast.checkpoints.native import check_table
from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import CheckpointError, DeviceError, GFNetError
from gfnet_fast.model.gfnet import GFNet
from tests.conftest import random_images, tiny_model
from tests.model.test_released import any_weights

watched = []  # (event, what), while it is filled
watching = False


def _watch(event, arguments):
    if not watching:
        return
    if event == "open":
        path, mode, flags = arguments
        if (mode and set(str(mode)) & set("wax+")) or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            watched.append((event, path))
    elif event.startswith(
        ("socket.", "subprocess.", "os.system", "os.exec", "os.mkdir", "os.rename", "urllib.")
    ):
        watched.append((event, str(arguments)[:80]))


sys.addaudithook(_watch)  # stays, since hooks cannot be taken off; it is idle but in `load_quietly`


def load_quietly(folder):
    """:func:`load`, which fetches, starts and writes nothing."""
    global watching
    watched.clear()
    watching = True
    try:
        return load(folder)
    finally:
        watching = False
        assert not watched


@pytest.fixture
def within_seconds():
    def late(*_):
        raise TimeoutError("expected an answer within 10 s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def model():
    return tiny_model(
        backbone_args={"channels": [16, 16, 16, 16], "layers": [1, 1, 1, 1]}, policy_hidden=8, image_size=64
    )


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def configured(folder, **changes):
    path = folder / "config.json"
    head = json.loads(path.read_text())
    head["config"].update(changes)
    path.write_text(json.dumps(head).replace("Infinity", "1e999"))
    return folder


HOSTILE = {
    "pretrained": True,
    "pretrained_cfg": {"url": "http://127.0.0.1:9/x", "num_classes": 7},
    "pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/x"},
    "cache_dir": "/tmp/somewhere",
    "checkpoint_path": "/etc/hostname",
    "weights": "DEFAULT",
    "weights_backbone": "DEFAULT",
    "progress": True,
    "num_classes": 3,
    "classes": 3,
    "model_name": "vit_base_patch16_224",
    "backbone": "timm/resnet18",
    "features_only": True,
    "scriptable": True,
    "self": 1,
    "block": "Bottleneck",
}


@pytest.mark.parametrize("source", ["timm/resnet18", "torchvision/resnet18"])
@pytest.mark.parametrize("name", HOSTILE)
def test_only_arguments_that_shape_a_network_reach_its_factory(folder, source, name):
    configured(folder, backbone=source, backbone_args={name: HOSTILE[name]})
    kind = source.partition("/")[0]
    with pytest.raises(
        CheckpointError, match=f"expected arguments that shape a {kind} network, got '{name}'"
    ):
        load(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers", [1, 2**31, 1, 1]),
        ("layers", [30, 30, 30, 1]),
        ("layers", [65536, -65536, 1, 1]),
        ("depth", 65),
        ("img_size", 1025),
        ("window_size", [8, 17]),
        ("channels", ["a/b"]),
        ("channels", [[1]]),
        ("channels", [float("inf")]),
        ("channels", [10**400]),
        ("channels", [1] * 65),
        ("act_layer", "os.system"),
        ("act_layer", {"name": "relu"}),
        ("stem_width", 10**6),
    ],
)
def test_arguments_are_words_and_numbers_within_limits(name, value):
    with pytest.raises(CheckpointError, match=f"backbone_args: {name}: expected"):
        GFNetConfig("x", "timm/resnet18", 32, 3, 64, backbone_args={name: value})


def test_a_registered_builder_is_called_with_what_it_names():
    from gfnet_fast import register_backbone

    seen = []

    def builder(classes, width=8, **more):
        seen.append((classes, width, more))
        return torch.nn.Linear(1, 1)

    register_backbone("test-untrusted", builder)
    for arguments, message in (
        ({"other": 1}, "expected what test-untrusted's builder names"),
        ({"weights": 1}, "expected none that name weights or files"),
        ({"checkpoint_path": "a"}, "expected none that name weights or files"),
    ):
        with pytest.raises(CheckpointError, match=message):
            GFNet(GFNetConfig("x", "test-untrusted", 32, 3, 64, backbone_args=arguments))
    assert not seen


def test_the_list_of_arguments_has_none_that_fetches():
    words = ("pretrained", "weight", "path", "url", "cache", "cfg", "file", "hub", "checkpoint")
    named = [name for name in (*TIMM, *TORCHVISION) for word in words if word in name]
    assert sorted(named) == ["drop_path_rate", "init_weights"]  # of blocks; whether to draw them at random


NUMBERS = {
    "image_size": [2**31, 10**400, 8193, 0, 64.0, True, "64", None],
    "patch_size": [0, -1, 65, 1025, [32]],
    "classes": [2**62, 2**20 + 1, 0],
    "steps": [65, 1, 4.0, True],
    "policy_hidden": [65537],
    "policy_width": [2**62],
    "classifier_width": [2**63, 0],
    "crop_ratio": [5e-324, 1e-12, 0, 1.5, float("inf"), 10**400, "1", True],
    "std": [[1e-300] * 3, [10**400, 1, 1], [1, 1], [0, 1, 1], "111"],
    "mean": [[1e300] * 3, [10**400, 0, 0], [True, 0, 0], {"a": 1}],
    "macs": ["1234", [-4, -3, -2, -1], [1, 2, 3, 1e999], [1, 2, 2, 3], [1, 2, 3, 2**60], {"1": 1}],
    "name": ["a\0b", "\x1b[2J", "\ud800", "x" * 300, [], None, [[[["x" * 80] * 6] * 6] * 6] * 6],
    "backbone": ["timm/\0", "timm/\ud800", 5],
    "policy": [{}, "none"],
    "glance_filter": [["bicubic"], 1],
    "glance_head": [1, None],
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in NUMBERS.items() for v in values])
def test_a_number_or_text_beyond_its_limits_is_named_when_it_is_loaded(folder, key, value):
    with pytest.raises(CheckpointError, match=f"config.json: ({key}: )?expected") as raised:
        load_quietly(configured(folder, **{key: value}))
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    "labels", [5, "0123456", [None] * 7, [[1]] * 7, ["\ud800"] * 7, ["x" * 2000] * 7, {}]
)
def test_labels_are_texts(folder, labels):
    head = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**head, "labels": labels}))
    with pytest.raises(CheckpointError, match=r"config\.json: labels: expected"):
        load_quietly(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "thresholds.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_only_regular_files_are_read(folder, within_seconds, name, kind):
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(GFNetError, match=f"{name}: .*expected a regular file, got a {kind}"):
        load(folder)


def test_an_official_file_that_is_a_pipe(tmp_path, within_seconds):
    os.mkfifo(tmp_path / "model.pth.tar")
    with pytest.raises(CheckpointError, match="expected a regular file, got a pipe"):
        load(tmp_path / "model.pth.tar")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"<!doctype html><html>Not found</html>", "a web page"),
        (b"", "an empty file"),
        ((2**40).to_bytes(8, "little") + b'{"a":', "a header of 1099511627776 bytes"),
        ((2).to_bytes(8, "little") + b"{}" + b"x" * 20, "."),
    ],
)
def test_weights_that_are_something_else(folder, content, what):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(
        CheckpointError, match=rf"model\.safetensors: expected a safetensors file, got {what}"
    ):
        load(folder)


def test_a_configuration_that_is_something_else(folder):
    (folder / "config.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="expected JSON, got a Git LFS pointer"):
        load(folder)
    (folder / "config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(CheckpointError, match="expected a text in UTF-8"):
        load(folder)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.int32, torch.bool, torch.complex64])
def test_weights_of_other_types(model, folder, kind):
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    name = "classifier.fc.weight"
    state[name] = state[name].to(kind)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(state))
    with pytest.raises(CheckpointError, match=r"classifier\.fc\.weight: expected a floating-point tensor"):
        load(folder)


def test_weights_are_no_map_of_their_file(folder):
    loaded, path = load(folder), folder / "model.safetensors"
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    images = random_images(1, 64)[0].numpy()
    wanted = Predictor(loaded, runtime="torch")(images).class_id
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size // 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())
    path.write_bytes(b"")
    assert Predictor(loaded, runtime="torch")(images).class_id == wanted


def test_two_that_save_into_one_folder(model, tmp_path):
    failed = []

    def save():
        try:
            for _ in range(25):
                model.save_pretrained(tmp_path / "model")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=save) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sorted(os.listdir(tmp_path / "model")) == ["config.json", "model.safetensors"]
    load(tmp_path / "model")


def test_saving_follows_no_link(model, tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "model"
    victim.write_text("precious")
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "thresholds.json", "config.json.part"):
        (folder / name).symlink_to(victim)
    model.save_pretrained(folder)
    assert victim.read_text() == "precious"
    load(folder)


def test_what_the_caller_set_changes_no_model(folder):
    wanted = load(folder)
    images = random_images(2, 64)
    expected = wanted.trace(wanted.normalise(images))
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        found = load(folder)
        assert {tensor.dtype for tensor in found.parameters()} == {torch.float32}
        assert found.device == torch.device("cpu")
        again = found.normalise(images)
        assert again.dtype == torch.float32
        assert found.default_thresholds().dtype == torch.float32
        trace = found.trace(again)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    for mine, theirs in zip(trace, expected, strict=True):
        assert torch.equal(mine, theirs)


def test_a_small_official_file_cannot_claim_a_large_model(small, tmp_path):
    """200,000 classes in numbers that all lie at one place: 0.2 MiB that say they are gigabytes."""
    content = official_checkpoint(any_weights(small), "training")
    for part in ("fc", "policy", "model_state_dict", "model_prime_state_dict"):
        for name, tensor in content[part].items():
            wide = tensor.shape if tensor.ndim < 2 or tensor.shape[0] != 3 else (200_000, *tensor.shape[1:])
            content[part][name] = torch.zeros((), dtype=tensor.dtype).expand(wide)
    torch.save(content, tmp_path / "model.pth.tar")
    assert (tmp_path / "model.pth.tar").stat().st_size < 300_000
    began = time.process_time()
    with pytest.raises(CheckpointError, match="expected a tensor of at most its 1 numbers"):
        load(tmp_path / "model.pth.tar")
    assert time.process_time() - began < 4


def test_tensors_that_share_their_numbers_are_refused(small, tmp_path):
    content = official_checkpoint(any_weights(small), "training")
    parts = ("fc", "policy", "model_state_dict", "model_prime_state_dict")
    largest = max(tensor.numel() for part in parts for tensor in content[part].values())
    shared = torch.zeros(largest, dtype=torch.float16)
    for part in parts:
        for name, tensor in content[part].items():
            if tensor.is_floating_point():
                content[part][name] = shared[: tensor.numel()].view(tensor.shape)
    torch.save(content, tmp_path / "model.pth.tar")
    with pytest.raises(CheckpointError, match="expected tensors of their own"):
        load(tmp_path / "model.pth.tar")


def test_thresholds_that_hold_themselves():
    ring = []
    ring.append(ring)
    for table in (
        ring,
        [ring],
        [[0.5, 0.4, 10**400]],
        [["0.5", 0.4, -1e8]],
        "abc",
        {},
        [[0.5, 0.4]] * 70_000,
    ):
        with pytest.raises(CheckpointError, match="a file: thresholds: expected rows of 3 numbers"):
            check_table("a file", table, 3)
    for table in (
        torch.ones(2, 3).cfloat(),
        torch.full((1, 3), torch.nan),
        torch.ones(70_000, 3),
        Unusable("x"),
    ):
        with pytest.raises(CheckpointError, match="a file: thresholds: expected rows of 3 numbers"):
            check_table("a file", table, 3)
    assert torch.equal(check_table("a file", torch.ones(1, 3, requires_grad=True), 3), torch.ones(1, 3))


def test_tables_beside_the_weights_are_bounded(folder, monkeypatch):
    """Masks of windows are buffers that no file holds: a small folder must not ask for gigabytes of them."""
    model = GFNet(
        GFNetConfig(
            "windows", "timm/swin_tiny_patch4_window7_224", 64, 2, 64, classes=2, policy_width=8,
            classifier_width=8, backbone_args={
                "img_size": 64, "window_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 1]
            },
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    assert load(folder).config.name == "windows"
    monkeypatch.setattr("gfnet_fast.checkpoints.tensors.MAX_UNSAVED", 1000)
    with pytest.raises(CheckpointError, match="whose tables beside its weights take at most 1000 bytes, got"):
        load(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("patch_size", 10**5000, "expected model_name, patch_size and flops"),
        ("patch_size", -(10**5000), "expected model_name, patch_size and flops"),
        ("model_name", ["x" * 80] * 100, "expected model_name, patch_size and flops"),
        ("budgeted_batch_classification", [[10**400] * 2, [50.0] * 2], None),
        ("budgeted_batch_classification", [[50.0] * 2, [10**400] * 2], None),
        ("budgeted_batch_classification", 5, None),
    ],
    ids=["huge", "huge, negative", "a list", "costs", "accuracies", "a number"],
)
def test_metadata_of_an_official_file(key, value, message):
    content = {"model_name": "resnet50", "patch_size": 96, "flops": [1.0], key: value}
    if message is None:
        assert official._stored_curve(value, 2) is None
    else:
        with pytest.raises(CheckpointError, match=message) as raised:
            official._from_metadata("a file", content, {"fc": {}}, None)
        assert len(str(raised.value)) < 400


@pytest.mark.parametrize("device", ["hpu", "privateuseone", 10**30, "abacus", [], "meta"])
def test_a_device_that_is_none(folder, device):
    with pytest.raises(DeviceError, match="device: expected one that torch can use here"):
        load(folder, device=device)


def test_a_model_that_cannot_be_written_leaves_its_folder_as_it_was(model, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(model, "labels", ("\ud800",) * 7)
    with pytest.raises(CheckpointError, match="labels: expected texts"):
        model.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
