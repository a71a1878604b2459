"""The int8 form in a native folder: kept with its weights, refused with others; nothing else is believed."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from gfnet_fast.checkpoints import load
from gfnet_fast.errors import BudgetError, CheckpointError, DeviceError
from gfnet_fast.exits import BudgetWarning
from gfnet_fast.exits.files import to_json
from gfnet_fast.predictor import Predictor
from tests.cli.cli_runner import run

pytest.importorskip("openvino")
pytest.importorskip("nncf")

from tests.quantisation.int8_helpers import found_exits, int8_model, pictures, small_model

NAMES = ("classifier", "global_encoder", "local_encoder", "policy")
FILES = [f"int8-{name}.{suffix}" for name in NAMES for suffix in ("bin", "xml")]
ALL = sorted(["int8.json", "thresholds.int8.json", *FILES])
ANEW = "make them anew with `gfnet-fast quantize`"


@pytest.fixture(autouse=True)
def no_other_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", BudgetWarning)
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8") / "model"
    int8_model().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "model"))


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if "int8" in path.name}


def same(mine, theirs):
    """Whether two int8 forms are equal to the last bit."""
    parts = [
        (dict(q.graphs), q.weights, dict(q.kept), to_json(q.calibration), json.loads(json.dumps(q.about)))
        for q in (mine, theirs)
    ]
    return parts[0] == parts[1]


def one_line(folder, kind=CheckpointError):
    with pytest.raises(kind) as raised:
        load(folder)
    said = str(raised.value)
    assert said.startswith(f"{folder}/")
    assert "\n" not in said
    assert len(said) < 900
    return said.removeprefix(f"{folder}/")


def rewritten(folder, **changes):
    head = json.loads((folder / "int8.json").read_text())
    (folder / "int8.json").write_text(json.dumps({**head, **changes}))


def forged(folder, name, change):
    """The folder with another file, whose digest int8.json says; what a stranger can write."""
    content = change((folder / name).read_bytes())
    (folder / name).write_bytes(content)
    files = json.loads((folder / "int8.json").read_text())["files"]
    rewritten(folder, files={**files, name: hashlib.sha256(content).hexdigest()})


def test_a_round_trip(folder, tmp_path):
    model, again = int8_model(), load(folder)
    assert sorted(files_of(folder)) == ALL
    assert same(again.quantised, model.quantised)
    assert again.quantised.weights == again.weights_digest()
    assert again.calibration.model.precision == "float32"
    assert again.quantised.calibration.model.precision == "int8"
    again.save_pretrained(tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(folder)


def test_copies_carry_it_while_the_weights_are_the_same(capsys, folder, tmp_path):
    model = load(folder)
    for name, *options in (("copy",), ("half", "--half")):
        assert run(capsys, "convert", folder, tmp_path / name, *options).status == 0
    assert run(capsys, "convert", tmp_path / "half", tmp_path / "back").status == 0
    assert not torch.equal(load(tmp_path / "back").classifier.fc.weight, model.classifier.fc.weight)
    for name in ("copy", "half", "back"):
        assert files_of(tmp_path / name) == files_of(folder)
        assert same(load(tmp_path / name).quantised, model.quantised)
    copied = copy.deepcopy(model)
    assert same(copied.quantised, model.quantised)
    copied.save_pretrained(tmp_path / "deep")
    assert files_of(tmp_path / "deep") == files_of(folder)


def test_without_thresholds_none_are_written_or_left(folder):
    int8_model(calibrated=False).save_pretrained(folder)
    assert sorted(files_of(folder)) == [name for name in ALL if name != "thresholds.int8.json"]
    assert load(folder).quantised.calibration is None


def test_a_model_without_it_leaves_none_behind(folder):
    small_model().save_pretrained(folder)
    assert files_of(folder) == {}
    assert load(folder).quantised is None


def test_weights_that_were_trained_on(folder, tmp_path):
    model = load(folder)
    digest = model.weights_digest()
    with torch.no_grad():
        model.local_encoder.backbone.first.bias.add_(1)
    model.calibration = model.thresholds = None
    with pytest.raises(DeviceError) as raised:
        Predictor(model, "cpu", "int8")
    assert str(raised.value) == (
        f"dtype int8: expected networks made of the model's weights, got those of others; {ANEW}"
    )
    with pytest.warns(BudgetWarning) as said:
        model.save_pretrained(tmp_path / "other")
    left_out = f"the networks in int8 are left out: they were made of other weights; {ANEW}"
    assert [str(warning.message) for warning in said] == [left_out]
    assert said[0].filename == __file__
    assert files_of(tmp_path / "other") == {}
    (folder / "thresholds.json").unlink()
    shutil.copy(tmp_path / "other/model.safetensors", folder)
    wanted = f"expected networks made of the weights {model.weights_digest()}, got those of '{digest}'"
    with pytest.warns(BudgetWarning) as said:
        assert load(folder).quantised is None
    assert [str(each.message) for each in said] == [
        f"{folder}/int8.json: {wanted}; they are left out; {ANEW}"
    ]
    assert said[0].filename == __file__
    with pytest.warns(BudgetWarning, match="the networks in int8 are left out"):  # in its place, too
        model.save_pretrained(folder)
    assert files_of(folder) == {}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_whole(folder, name):
    content = (folder / name).read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for broken in (content[:-1], bytes(flipped), content + b"\n", b""):
        (folder / name).write_bytes(broken)
        assert one_line(folder).startswith(f"{name}: expected the SHA-256 ")
    (folder / name).unlink()
    assert one_line(folder).startswith(f"{name}: ")


def test_networks_in_each_other_s_place(folder):
    for suffix in ("xml", "bin"):
        first, second = (folder / f"int8-{name}_encoder.{suffix}" for name in ("global", "local"))
        content = first.read_bytes()
        second.replace(first)
        second.write_bytes(content)
    assert one_line(folder).startswith("int8-global_encoder.xml: expected the SHA-256 ")


HEADS = {
    "half written": (lambda text: text[: len(text) // 2], "line 12"),
    "empty": (lambda text: "", "Expecting value"),
    "10 MB": (lambda text: text + " " * 10_000_000, "expected at most 4194304 bytes"),
    "deep": (lambda text: "[" * 1_000_000, "nested too deeply"),
    "a list": (lambda text: "[1, 2]", "schema_version None"),
    "NaN": (lambda text: text.replace('"schema_version": 1', '"schema_version": NaN'), "NaN is not a number"),
    "no UTF-8": (lambda text: b"\xff\xfe{}", "codec can't decode"),
}


@pytest.mark.parametrize(("change", "message"), HEADS.values(), ids=HEADS)
def test_a_head_that_is_none(folder, change, message):
    content = change((folder / "int8.json").read_text())
    (folder / "int8.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    said = one_line(folder)
    assert said.startswith("int8.json: expected what `gfnet-fast quantize` writes, got ")
    assert said.endswith(f"; {ANEW}")
    assert message in said


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("schema_version", [-1, 0, 2, 1.0, True, "1", None, [1]]),
        ("weights", [None, 5, ["a"], {}]),
        ("files", [None, [], {}, "x", {"../../x": "a"}, {"int8-policy.xml": "a"}]),
        ("kept", [None, [], {}, "x", 7, {"policy": []}, dict.fromkeys(NAMES, 1)]),
        ("kept", [{name: ["a", 1] for name in NAMES}, dict.fromkeys(NAMES, "abc")]),
        ("about", [None, [], "x", 1]),
    ],
)
def test_a_head_of_other_types(folder, key, values):
    for value in values:
        rewritten(folder, **{key: value})
        said = one_line(folder)
        assert said.startswith("int8.json: expected what `gfnet-fast quantize` writes, got "), value
        assert key in said or "layer" in said


@pytest.mark.parametrize("digest", [5, None, ["x"], "a" * 100_000, ""])
def test_digests_that_are_none(folder, digest):
    files = json.loads((folder / "int8.json").read_text())["files"]
    rewritten(folder, files={**files, "int8-policy.bin": digest})
    assert one_line(folder).startswith("int8-policy.bin: expected the SHA-256 ")


def test_a_link_a_pipe_or_a_folder_in_its_place(folder):
    (folder / "int8-policy.bin").unlink()
    (folder / "int8-policy.bin").mkdir()
    assert one_line(folder) == "int8-policy.bin: expected a regular file, got a folder"
    (folder / "int8.json").unlink()
    (folder / "int8.json").symlink_to("nowhere")
    assert one_line(folder).startswith("int8.json: expected what")


BOMB = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "xxxx"><!ENTITY c "&b;&b;">]>'
HEADER = b'<?xml version="1.0"?>'
CONST = b'type="Const"'


def replaced(old, new, count=1):
    def change(content):
        assert old in content
        return content.replace(old, new, count)

    return change


TOPOLOGIES = {
    "a document type": (replaced(HEADER, BOMB), "a document type"),
    "a comment": (replaced(b"<layers>", b"<!-- x --><layers>"), "a document type, a comment"),
    "UTF-16": (lambda text: text.decode().encode("utf-16"), "can't decode"),
    "UTF-16 that says so": (
        lambda text: text.decode().replace("?>", ' encoding="utf-16"?>', 1).encode("utf-16-le"),
        "another encoding",
    ),
    "EBCDIC": (
        lambda text: b'<?xml version="1.0" encoding="cp037"?>' + BOMB[21:].decode().encode("cp037"),
        "can't decode",
    ),
    "a namespace": (replaced(b"<net ", b'<net xmlns="x" '), "a namespace"),
    "half": (lambda text: text[: len(text) // 2], "expected a network of OpenVINO's, got "),
    "no XML": (lambda text: b"\x01" * 100, "not well-formed"),
    "deep": (lambda text: b"<a>" * 100_000, "no element found"),
    "long": (lambda text: text + b" " * 2**24, "expected at most 16777216 bytes"),
    "an unknown operation": (replaced(b'type="Convolution"', b'type="Sort"'), "the operation 'Sort'"),
    "a loop": (replaced(b'type="Convolution"', b'type="TensorIterator"'), "the operation 'TensorIterator'"),
    "a file": (replaced(b'type="Convolution"', b'type="ReadValue"'), "the operation 'ReadValue'"),
    "a custom operation": (replaced(b'version="opset1"', b'version="extension"'), "of 'extension'"),
    "of no set": (replaced(b' version="opset1"', b""), "of ''"),
    "a constant beyond the end": (replaced(b'offset="0"', b'offset="99999999"'), "a constant of "),
    "a constant before the beginning": (replaced(b'offset="0"', b'offset="-4"'), "a constant of "),
    "a constant larger than it is": (replaced(b'shape="" offset=', b'shape="9" offset='), "a constant of "),
    "a constant as large as can be": (
        replaced(b'shape="" offset="0" size="4"', b'shape="4294967296, 4294967296" offset="0" size="0"'),
        "a constant of ",
    ),
    "a constant of texts": (
        replaced(b'element_type="f32" shape=""', b'element_type="string" shape=""'),
        "a constant of ",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_a_topology_that_openvino_never_sees(folder, change, message):
    forged(folder, "int8-global_encoder.xml", change)
    said = one_line(folder)
    assert said.startswith("int8-global_encoder.xml: expected ")
    assert message in said


def wider(folder):
    """Networks of a model with another policy, in the place of its own."""
    shutil.copy(folder / "int8-global_encoder.xml", folder / "int8-policy.xml")
    shutil.copy(folder / "int8-global_encoder.bin", folder / "int8-policy.bin")
    for name in ("int8-policy.xml", "int8-policy.bin"):
        forged(folder, name, lambda content: content)


SHAPES = {
    "another network": (wider, "expected a network that OpenVINO reads, got one that fails: "),
    "other inputs": (
        lambda folder: forged(
            folder, "int8-global_encoder.xml", replaced(b'shape="?,3,16,16"', b'shape="?,3,24,24"')
        ),
        "expected a network of an image's [[3, 16, 16]] to [[24, 8, 8], [24]], got one of [[3, 24, 24]] to",
    ),
    "no edges": (
        lambda folder: forged(
            folder, "int8-global_encoder.xml", lambda text: text.split(b"<edges>")[0] + b"</net>"
        ),
        "expected a network that OpenVINO reads, got one that fails: ",
    ),
    "numbers without end": (
        lambda folder: forged(
            folder, "int8-global_encoder.xml",
            replaced(b'pads_begin="1, 1"', b'pads_begin="99999, 99999"'),
        ),
        "int8: expected a network",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), SHAPES.values(), ids=SHAPES)
def test_a_network_of_another_form_is_refused_when_it_is_first_used(folder, change, message):
    change(folder)
    predictor = Predictor(load(folder), "cpu", "int8")
    with pytest.raises(CheckpointError) as raised:
        predictor.predict_batch(pictures(2))
    said = str(raised.value)
    assert message in said
    assert "\n" not in said
    assert len(said) < 500
    assert Predictor(load(folder), "cpu").predict_batch(pictures(2)).class_id.shape == (2,)


def test_thresholds_of_other_networks(folder):
    path = folder / "thresholds.int8.json"
    others = small_model(seed=1)
    for found, message in (
        (found_exits(small_model(), "float32"), "expected one for precision 'int8', got one for 'float32'"),
        (found_exits(others, "int8"), "expected one for the weights "),
    ):
        path.write_text(to_json(found))
        assert message in one_line(folder, BudgetError)
    for text in ("", "[" * 100_000, "{}", '{"schema_version": 1, "thresholds": [[0.5, 0.5, -1e8]]}'):
        path.write_text(text)
        assert one_line(folder, BudgetError).startswith("thresholds.int8.json: ")


WITHOUT = """
import sys
sys.path.insert(0, {root!r})
from gfnet_fast.checkpoints import load
from gfnet_fast.errors import DeviceError
from gfnet_fast.predictor import Predictor
from tests.quantisation.int8_helpers import pictures

def uses(folder):
    model = load(folder)
    found = Predictor(model, "cpu", runtime="torch").predict_batch(pictures(2))
    assert found.class_id.shape == (2,)
    return model

uses({without!r})
assert not {{"openvino", "nncf"}} & set(sys.modules), "imported"
sys.modules["openvino"] = sys.modules["nncf"] = None  # as where they are not installed
try:
    Predictor(uses({folder!r}), "cpu", "int8")
except DeviceError as error:
    print(error)
"""


def test_float32_needs_nothing_of_it(folder, tmp_path):
    """In a process of its own: nothing of int8 is imported, nor missed where it is not there."""
    small_model().save_pretrained(tmp_path / "without")
    root, without = str(Path(__file__).parents[2]), str(tmp_path / "without")
    code = WITHOUT.format(root=root, without=without, folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "openvino: expected OpenVINO, got none; pip install 'gfnet-fast[openvino]'" in done.stdout
