"""OpenVINO (https://docs.openvino.ai): networks on CPUs, int8 among them."""

from __future__ import annotations

import copy
import ctypes
import importlib.metadata
import importlib.util
import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gfnet_fast.engine.prepare import fold_batch_norms
from gfnet_fast.engine.runtimes import PreparedEncoder, Runtime
from gfnet_fast.errors import CheckpointError, DeviceError, reason, shown
from gfnet_fast.forks import watch
from gfnet_fast.model.quantised import Graph
from gfnet_fast.quiet import quiet

INSTALL = "pip install 'gfnet-fast[openvino]'"
_TELEMETRY = "openvino_telemetry"
_tracing = threading.Lock()  # torch traces one module at a time
_keep, _object = ctypes.pythonapi.Py_IncRef, ctypes.py_object

MAX_VALUES = 2**28
"""Numbers that a value in a network of a file's may have for an image."""


class OpenVINO(Runtime):
    """On CPUs; a network is traced and converted in seconds, and a bucket compiled in less than one.

    What goes in and comes out is float32 whatever it computes in. It has threads of its own, as many as torch
    has when a bucket is first used; they are not there in a process that forks, where it cannot be used.
    """

    name, trial = "openvino", 20.0

    def __init__(self) -> None:
        self._used = self._forked = False
        watch(self)

    def begin_fork(self) -> bool:
        self._forked = self._forked or self._used
        if _core.cache_info().currsize:  # at the child's end it would wait for threads that are not there
            _keep(_object(_core()))
        return False

    def missing(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type != "cpu":
            return f"expected a CPU, got {device.type}"
        if self._forked:
            return "expected the process that used it first, got one that forked from it"
        try:
            if importlib.util.find_spec("openvino") is None:
                return f"expected OpenVINO, got none; {INSTALL}"
            capabilities = _capabilities()
        except Exception as error:  # a damaged installation fails in whatever way it does
            return f"expected an OpenVINO that works, got {type(error).__name__}: {reason(error)}"
        wanted = {torch.float32: "FP32", torch.bfloat16: "BF16", torch.int8: "INT8"}.get(dtype)
        if wanted not in capabilities:
            return f"expected a CPU that it computes {_name(dtype)} on, got {', '.join(capabilities)}"
        return None

    def version(self) -> str:
        return importlib.metadata.version("openvino")

    def kept(self, dtype: torch.dtype) -> torch.dtype:
        return torch.float32

    def encoder(
        self,
        encoder: Any,
        size: tuple[int, int],
        rows: int,
        dtype: torch.dtype,
        layout: torch.memory_format | None,
    ) -> PreparedEncoder:
        if dtype == torch.int8 and not isinstance(encoder, Graph):
            raise DeviceError("dtype: expected a model that is quantised for torch.int8, got one that is not")
        self._used = True
        return Network(encoder, [(2, 3, *size)], dtype)

    def layer(self, layer: Any, dtype: torch.dtype, *shapes: tuple[int, ...]) -> nn.Module:
        self._used = True
        return Network(layer, [(2, *shape) for shape in shapes], dtype)


class Network(nn.Module):
    """A network for any number of rows; the first call with a new one compiles it for that.

    Images come in, and maps go out, in channels-last memory. What comes out is the memory that the next call
    with as many rows writes to.
    """

    layout = torch.channels_last

    def __init__(self, network: nn.Module | Graph, shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
        """`shapes`: of the inputs, of two rows."""
        super().__init__()
        if isinstance(network, Graph):
            self._kept: Any = network
            self._graph = read(network)
        else:
            self._kept, self._graph = converted(network, [_zeros(*shape) for shape in shapes])
        self._shapes, self._dtype, self._process = shapes, dtype, os.getpid()
        self._requests: dict[int, tuple[Any, list[Tensor]]] = {}

    def forward(self, *inputs: Tensor | None) -> Any:
        """A tensor, or as many as the network gives; an input of None is zeros."""
        rows = next(len(value) for value in inputs if value is not None)
        request, outputs = self._requests.get(rows) or self._compile(rows)
        held = []
        for index, value in enumerate(inputs):
            if value is None:
                value = _zeros(rows, self._shapes[index][1])
            held.append(_rows_of(value))
            request.set_input_tensor(index, held[-1])
        request.infer()
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _compile(self, rows: int) -> tuple[Any, list[Tensor]]:
        ov, precision = imported(), _precision(self._dtype)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": precision,
            "ENABLE_CPU_PINNING": False,
        }
        with explained("a network that it can compile"):
            graph = self._graph.clone()
            graph.reshape({index: [rows, *shape[1:]] for index, shape in enumerate(self._shapes)})
            compiled = _core().compile_model(_channels_last(graph), "CPU", settings)
            request = compiled.create_infer_request()
        if (got := compiled.get_property("INFERENCE_PRECISION_HINT")) != getattr(ov.Type, precision):
            raise DeviceError(f"runtime openvino: expected to compute in {precision}, got {got.to_string()}")
        outputs = []
        for index, port in enumerate(compiled.outputs):
            if (shape := port.partial_shape).is_dynamic or shape[0].get_length() != rows:
                expected = f"a network that gives a row for each image, {rows}"
                raise DeviceError(f"runtime openvino: expected {expected}, got {shape}")
            output = torch.empty(list(port.shape), dtype=torch.float32, device="cpu")
            request.set_output_tensor(index, ov.Tensor(output.numpy(), shared_memory=True))
            outputs.append(output.permute(0, 3, 1, 2) if output.ndim == 4 else output)
        self._requests[rows] = request, outputs
        return self._requests[rows]

    def __del__(self, getpid: Any = os.getpid, keep: Any = _keep, an_object: Any = _object) -> None:
        """In a process that forked to let go would wait for threads that are not there.

        The arguments are names that a process has no more when it ends.
        """
        requests = self.__dict__.get("_requests")
        if requests and getpid() != self._process:
            keep(an_object(requests))

    def __deepcopy__(self, memo: Any) -> Network:
        raise TypeError("a network of OpenVINO's is made anew, not copied")


def _precision(dtype: torch.dtype) -> str:
    """What a network is asked to compute in; of an int8 one, what is not quantised."""
    if dtype == torch.int8:
        return "bf16" if "BF16" in _capabilities() else "f32"
    return {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]


def _zeros(*shape: int) -> Tensor:
    """On a CPU and in float32, whatever torch's defaults are."""
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def read(graph: Graph) -> Any:
    """The ov.Model of a network, in its memory; CheckpointError where it is none, or of other shapes."""
    try:
        found = _core().read_model(graph.topology, imported().Tensor(np.frombuffer(graph.weights, np.uint8)))
        inputs = tuple(_sides(port) for port in found.inputs)
        sized = found.clone()
        sized.reshape({index: [2, *shape] for index, shape in enumerate(graph.shapes.inputs)})
        outputs = tuple(_sides(port) for port in sized.outputs)
        largest = max(math.prod(_sides(port)) for node in sized.get_ops() for port in node.outputs())
    except Exception as error:  # what OpenVINO cannot read fails in its own ways, over many lines
        got = f"one that fails: {' '.join(str(error).split())[:300] or type(error).__name__}"
        raise CheckpointError(f"int8: expected a network that OpenVINO reads, got {got}") from None
    if (inputs, outputs) != graph.shapes:
        wanted = f"{_said(graph.shapes.inputs)} to {_said(graph.shapes.outputs)}"
        got = f"{_said(inputs)} to {_said(outputs)}"
        raise CheckpointError(f"int8: expected a network of an image's {wanted}, got one of {got}")
    if largest > MAX_VALUES:
        expected = f"a network with at most {MAX_VALUES} numbers in a value"
        raise CheckpointError(f"int8: expected {expected}, got one of {largest}")
    return found


def _sides(port: Any) -> tuple[int, ...]:
    """The shape of a value without the rows, which come first; -1 for a side that is not known."""
    return tuple(side.get_length() if side.is_static else -1 for side in port.partial_shape)[1:]


def _said(shapes: tuple[tuple[int, ...], ...]) -> str:
    return shown([list(shape) for shape in shapes])


def _rows_of(value: Tensor) -> Any:
    """A tensor's memory as OpenVINO takes it, images channels-last."""
    value = value.permute(0, 2, 3, 1) if value.ndim == 4 else value
    return imported().Tensor(value.float().contiguous().numpy(), shared_memory=True)


def converted(network: nn.Module, examples: list[Tensor]) -> tuple[nn.Module, Any]:
    """A copy of a module on a CPU, its batch norms folded, and the ov.Model of it, for any number of rows.

    The graph shares the copy's memory. OpenVINO's own `convert_model` traces a module twice and tells its
    maker about it.
    """
    imported()
    from openvino._offline_transformations import apply_moc_transformations
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with explained("a network that it can convert"), _tracing, quiet(), torch.no_grad():
        copied = copy.deepcopy(network).eval().requires_grad_(False)
        if len(examples) == 1:
            fold_batch_norms(copied, examples[0])
        traced = torch.jit.trace(copied, tuple(examples), check_trace=False, strict=False)
        decoder = TorchScriptPythonDecoder(traced, example_input=tuple(examples))
        frontend = FrontEndManager().load_by_framework("pytorch")
        graph = frontend.convert(frontend.load(decoder))
        graph.reshape({index: [-1, *example.shape[1:]] for index, example in enumerate(examples)})
        apply_moc_transformations(graph, cf=False)
    return copied, graph


@contextmanager
def explained(expected: str) -> Iterator[None]:
    """What fails inside is a DeviceError of one line: the first of OpenVINO's that says what is wrong."""
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines()]
        told = [line for line in lines if line.startswith("-- ")] or [
            line for line in lines if line and not line.startswith(("Exception from", "Check '"))
        ]
        got = told[0].removeprefix("-- ")[:300] if told else reason(error)
        raise DeviceError(f"runtime openvino: expected {expected}, got {got}") from error


def _channels_last(graph: Any) -> Any:
    """Images in, and maps out, as rows, columns, channels."""
    ov = imported()
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(graph)
    for ports, step in ((graph.inputs, steps.input), (graph.outputs, steps.output)):
        for index in (i for i, port in enumerate(ports) if len(port.partial_shape) == 4):
            step(index).tensor().set_layout(ov.Layout("NHWC"))
            step(index).model().set_layout(ov.Layout("NCHW"))
    return steps.build()


@lru_cache(maxsize=1)
def _core() -> Any:
    return imported().Core()


def _capabilities() -> list[str]:
    return list(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def imported() -> Any:
    """The module `openvino`, without what tells its maker that it was imported."""
    if "openvino" not in sys.modules and _TELEMETRY not in sys.modules:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # importing it raises ImportError
        try:
            import openvino
        finally:
            sys.modules.pop(_TELEMETRY, None)
    import openvino

    return openvino


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


RUNTIME = OpenVINO()
