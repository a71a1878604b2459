"""The int8 form of a model, in its native folder: int8.json, int8-NAME.xml and .bin, thresholds.int8.json.

int8.json holds ``{"schema_version": 1, "weights": digest, "files": {name: sha256}, "kept": {...},
"about": {...}}``: the digest of the float32 weights that the networks were made of, and what they are. A
network is OpenVINO's intermediate representation: its topology as XML, which is checked before OpenVINO sees
it, and its weights.
"""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gfnet_fast.errors import BudgetError, CheckpointError, reason, shown
from gfnet_fast.exits import BudgetWarning, ModelIdentity
from gfnet_fast.exits.files import check_owner, from_content, to_json
from gfnet_fast.files import json_text, parse_json, read_bytes, read_text, write_bytes, write_text
from gfnet_fast.folder import INT8, NETWORKS_INT8, THRESHOLDS_INT8, int8_files
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.quantised import Graph, Quantised, shapes_of

SCHEMA_VERSION = 1

MAX_TOPOLOGY = 16 * 2**20
"""Bytes of a network's XML."""

MAX_WEIGHTS = 2**31
"""Bytes of a network's weights."""

OPERATIONS = frozenset({
    "Add", "AvgPool", "Clamp", "Concat", "Const", "Convert", "Convolution", "Divide", "Elu", "Exp",
    "FakeQuantize", "Gather", "Gelu", "GroupConvolution", "HSigmoid", "HSwish", "HardSigmoid",
    "MatMul", "MaxPool", "Maximum", "Minimum", "Mish", "Multiply", "PReLU", "Pad", "Parameter",
    "Power", "ReLU", "ReduceMean", "ReduceSum", "Reshape", "Result", "ShapeOf", "Sigmoid", "Slice",
    "SoftMax", "SoftPlus", "Split", "Sqrt", "SquaredDifference", "Squeeze", "StridedSlice", "Subtract",
    "Swish", "Tanh", "Transpose", "Unsqueeze", "VariadicSplit", "AdaptiveAvgPool",
    "BatchNormInference", "Broadcast", "Floor", "FloorMod", "Greater", "Less", "Mod", "Range",
    "Select", "Tile",
})  # fmt: skip
"""What a network may be made of: nothing that reads a file, loops or is somebody's own."""

WIDTHS = {
    "boolean": 1, "i8": 1, "u8": 1, "f16": 2, "bf16": 2, "i32": 4, "u32": 4, "f32": 4, "i64": 8, "u64": 8,
    "f64": 8,
}  # fmt: skip
"""Bytes of a constant's numbers."""


def write_int8(quantised: Quantised, folder: Path) -> None:
    """Write the int8 form beside the weights that it was made of; each file appears whole or not at all."""
    digests = {}
    for name, graph in quantised.graphs.items():
        for file, content in zip(int8_files(name), (graph.topology, graph.weights), strict=True):
            write_bytes(folder / file, content)
            digests[file] = hashlib.sha256(content).hexdigest()
    if quantised.calibration is not None:
        write_text(folder / THRESHOLDS_INT8, to_json(quantised.calibration))
    else:
        (folder / THRESHOLDS_INT8).unlink(missing_ok=True)
    head = {
        "schema_version": SCHEMA_VERSION,
        "weights": quantised.weights,
        "files": digests,
        "kept": {name: list(layers) for name, layers in quantised.kept.items()},
        "about": dict(quantised.about),
    }
    write_text(folder / INT8, json_text(head))


def remove_int8(folder: Path) -> None:
    """Whatever there is of an int8 form."""
    for file in (INT8, THRESHOLDS_INT8, *NETWORKS_INT8):
        (folder / file).unlink(missing_ok=True)


def read_int8(model: GFNet, folder: Path, *, thresholds: bool = True) -> Quantised | None:
    """The int8 form of `model` in `folder`; None, with a BudgetWarning, where it was made of other weights.

    CheckpointError where a file is damaged; BudgetError where its thresholds are no calibration, or that of
    other networks.
    """
    path, shapes = folder / INT8, shapes_of(model)
    try:
        head = _head(parse_json(read_text(path)), tuple(shapes))
    except (OSError, ValueError) as error:  # not to be read, not JSON, or JSON of another form
        expected = "expected what `gfnet-fast quantize` writes"
        raise CheckpointError(f"{path}: {expected}, got {reason(error)}; {ANEW}") from None
    files, digest = head["files"], model.weights_digest()
    if head["weights"] != digest:
        said = f"expected networks made of the weights {digest}, got those of {shown(head['weights'])}"
        warnings.warn(f"{path}: {said}; they are left out; {ANEW}", BudgetWarning, stacklevel=5)
        return None
    graphs = {}
    for name in shapes:
        xml, data = int8_files(name)
        topology = _read(folder / xml, files[xml], MAX_TOPOLOGY)
        weights = _read(folder / data, files[data], MAX_WEIGHTS)
        _check(folder / xml, topology, len(weights))
        graphs[name] = Graph(topology, weights, shapes[name])
    kept = {name: tuple(layers) for name, layers in head["kept"].items()}
    calibration = _calibration(model, folder / THRESHOLDS_INT8) if thresholds else None
    return Quantised(graphs, digest, kept, head["about"], calibration)


ANEW = "make them anew with `gfnet-fast quantize`"


def _head(head: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """What int8.json says of these networks; ValueError where that is something else."""
    version = head.get("schema_version") if isinstance(head, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        raise ValueError(f"schema_version {shown(version)}, not {SCHEMA_VERSION}")
    for key, kind in (("weights", str), ("files", dict), ("kept", dict), ("about", dict)):
        if not isinstance(head.get(key), kind):
            raise ValueError(f"{key} {shown(head.get(key))}, not a {kind.__name__}")
    wanted = sorted(file for name in names for file in int8_files(name))
    if sorted(head["files"]) != wanted:
        raise ValueError(f"the files {shown(sorted(head['files']))}, not {', '.join(wanted)}")
    lists = [head["kept"].get(name) for name in names]
    if set(head["kept"]) != set(names) or not all(isinstance(layers, list) for layers in lists):
        raise ValueError(f"kept {shown(head['kept'])}, not a list of layers for each network")
    if others := [layer for layers in lists for layer in layers if not isinstance(layer, str)]:
        raise ValueError(f"the layer {shown(others[0])}, not a name")
    return head


def keep_int8(model: GFNet, folder: Path, *, stacklevel: int) -> None:
    """Write a model's int8 form with its weights; none, with a warning, where it is of other weights."""
    quantised = model.quantised
    if quantised is not None and quantised.weights != model.weights_digest():
        said = f"the networks in int8 are left out: they were made of other weights; {ANEW}"
        warnings.warn(said, BudgetWarning, stacklevel)
        quantised = None
    remove_int8(folder)
    if quantised is not None:
        write_int8(quantised, folder)


def _read(path: Path, digest: object, limit: int) -> bytes:
    try:
        content = read_bytes(path, limit)
    except OSError as error:
        raise CheckpointError(f"{path}: {reason(error)}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(f"{path}: expected the SHA-256 {shown(digest)}, got another; {ANEW}")
    return content


def _check(path: Path, topology: bytes, size: int) -> None:
    """CheckpointError unless it is made of known operations, its constants within `size` bytes.

    It is read as OpenVINO reads it: in UTF-8 whatever it says of itself, and without namespaces.
    """
    try:
        if b"<!" in topology or "\0" in topology.decode():
            raise ValueError("a document type, a comment or another encoding")
        for element in ElementTree.fromstring(topology, ElementTree.XMLParser(encoding="utf-8")).iter():
            if "}" in element.tag:
                raise ValueError("a namespace")
            if element.tag == "layer":
                _check_layer(element, size)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        got = f"{reason(error)}; {ANEW}"
        raise CheckpointError(f"{path}: expected a network of OpenVINO's, got {got}") from None


def _check_layer(layer: ElementTree.Element, size: int) -> None:
    kind, opset, data = layer.get("type"), layer.get("version", ""), layer.find("data")
    if kind not in OPERATIONS or not opset.startswith("opset"):
        raise ValueError(f"the operation {shown(kind)} of {shown(opset)}")
    if kind != "Const":
        return
    facts = {} if data is None else data.attrib
    width, sides = WIDTHS.get(facts.get("element_type", "")), facts.get("shape", "").replace(" ", "")
    begin, length = facts.get("offset", ""), facts.get("size", "")
    texts = [begin, length, *(sides.split(",") if sides else ())]
    if width is None or not all(re.fullmatch("[0-9]{1,12}", text) for text in texts):
        raise ValueError(f"a constant of {shown(facts)}")
    start, count, *shape = map(int, texts)
    if start + count > size or width * math.prod(shape) != count:
        raise ValueError(f"a constant of {shown(facts)}, of {size} bytes that there are")


def _calibration(model: GFNet, path: Path) -> Any:
    if not path.exists():
        return None
    try:
        content = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise BudgetError(f"{path}: no calibration can be read ({reason(error)})") from None
    identity = ModelIdentity.of(model, precision="int8")
    calibration = from_content(content, None, where=str(path))
    check_owner(calibration, identity, where=str(path))
    return calibration
