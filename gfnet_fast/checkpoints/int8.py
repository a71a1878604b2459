"""The int8 form of a model, in its native folder: int8.json, int8-NAME.xml and .bin, thresholds.int8.json.

int8.json holds ``{"schema_version": 1, "weights": digest, "files": {name: sha256}, "kept": {...},
"about": {...}}``: the digest of the float32 weights that the networks were made of, and what they are. A
network is OpenVINO's intermediate representation: its topology as XML, which is checked before OpenVINO sees
it, and its weights.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gfnet_fast.errors import BudgetError, CheckpointError, reason, shown
from gfnet_fast.exits import BudgetWarning, ModelIdentity
from gfnet_fast.exits.files import check_owner, from_content, to_json
from gfnet_fast.files import json_text, parse_json, read_bytes, read_text, write_bytes, write_text
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.quantised import NETWORKS, Graph, Quantised

SCHEMA_VERSION = 1
HEAD, THRESHOLDS = "int8.json", "thresholds.int8.json"

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


def write_int8(quantised: Quantised, folder: Path) -> None:
    """Write the int8 form beside the weights that it was made of; each file appears whole or not at all."""
    digests = {}
    for name, graph in quantised.graphs.items():
        for suffix, content in (("xml", graph.topology), ("bin", graph.weights)):
            file = f"int8-{name}.{suffix}"
            write_bytes(folder / file, content)
            digests[file] = hashlib.sha256(content).hexdigest()
    if quantised.calibration is not None:
        write_text(folder / THRESHOLDS, to_json(quantised.calibration))
    else:
        (folder / THRESHOLDS).unlink(missing_ok=True)
    head = {
        "schema_version": SCHEMA_VERSION,
        "weights": quantised.weights,
        "files": digests,
        "kept": {name: list(layers) for name, layers in quantised.kept.items()},
        "about": dict(quantised.about),
    }
    write_text(folder / HEAD, json_text(head))


def remove_int8(folder: Path) -> None:
    """Whatever there is of an int8 form."""
    for file in (
        HEAD,
        THRESHOLDS,
        *(f"int8-{name}.{suffix}" for name in NETWORKS for suffix in ("xml", "bin")),
    ):
        (folder / file).unlink(missing_ok=True)


def read_int8(model: GFNet, folder: Path, *, thresholds: bool = True) -> Quantised | None:
    """The int8 form of `model` in `folder`; None, with a BudgetWarning, where it was made of other weights.

    CheckpointError where a file is damaged; BudgetError where its thresholds are no calibration, or that of
    other networks.
    """
    path = folder / HEAD
    try:
        head = parse_json(read_text(path))
        if head["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"expected schema_version {SCHEMA_VERSION}, got {shown(head['schema_version'])}")
        files, kept = dict(head["files"]), {str(name): tuple(map(str, n)) for name, n in head["kept"].items()}
        wanted = {f"int8-{name}.{suffix}" for name in expected(model) for suffix in ("xml", "bin")}
        if set(files) != wanted:
            raise ValueError(f"expected the files {sorted(wanted)}, got {shown(sorted(map(str, files)))}")
        about = dict(head["about"])
    except Exception as error:  # not there, not JSON, or JSON of another form
        raise CheckpointError(
            f"{path}: expected what `gfnet-fast quantize` writes, got {reason(error)}"
        ) from None
    digest = model.weights_digest()
    if head["weights"] != digest:
        said = f"expected networks made of the weights {digest}, got those of {shown(head['weights'])}"
        warnings.warn(f"{path}: {said}; they are left out; {ANEW}", BudgetWarning, stacklevel=5)
        return None
    graphs = {}
    for name in expected(model):
        topology, weights = (
            _read(folder / f"int8-{name}.{suffix}", files[f"int8-{name}.{suffix}"], limit)
            for suffix, limit in (("xml", MAX_TOPOLOGY), ("bin", MAX_WEIGHTS))
        )
        _check(folder / f"int8-{name}.xml", topology, len(weights))
        graphs[name] = Graph(topology, weights)
    calibration = _calibration(model, folder / THRESHOLDS) if thresholds else None
    return Quantised(graphs, digest, kept, about, calibration)


ANEW = "make them anew with `gfnet-fast quantize`"


def expected(model: GFNet) -> tuple[str, ...]:
    """The networks that an int8 form of `model` has."""
    return NETWORKS if model.config.classifier == "recurrent" else NETWORKS[:-1]


def keep_int8(model: GFNet, folder: Path, *, stacklevel: int) -> None:
    """Write a model's int8 form with its weights; none, with a warning, where it is of other weights."""
    quantised = model.quantised
    if quantised is not None and quantised.weights != model.weights_digest():
        said = f"the networks in int8 are left out: they were made of other weights; {ANEW}"
        warnings.warn(said, BudgetWarning, stacklevel + 1)
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
    """CheckpointError unless it is made of known operations, its constants within `size` bytes."""
    try:
        if b"<!" in topology:
            raise ValueError("a document type")
        for layer in ElementTree.fromstring(topology).iter("layer"):
            kind, opset = layer.get("type"), layer.get("version", "")
            if kind not in OPERATIONS or not opset.startswith("opset"):
                raise ValueError(f"the operation {shown(kind)} of {shown(opset)}")
            data = layer.find("data")
            if kind == "Const" and data is not None:
                begin, length = int(data.get("offset", "-1")), int(data.get("size", "-1"))
                if begin < 0 or length < 0 or begin + length > size:
                    raise ValueError(f"a constant at {begin} of {length} bytes, of {size} that there are")
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a network of OpenVINO's, got {reason(error)}") from None


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
