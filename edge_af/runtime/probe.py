"""Checks of a model file without its runtime: the file format, names of inputs and outputs, and lengths of the inputs.

These functions read only the containers: protobuf fields of an ONNX file, tables of a FlatBuffer. They take milliseconds on
a file of a gigabyte and need neither onnx nor a runtime. Only `may_hold_weights_beyond` reads the weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge_af.data import YOUTUBE8M, Widths
from edge_af.errors import EdgeAfError
from edge_af.protobuf import fields
from edge_af.runtime import flatbuffer
from edge_af.runtime.flatbuffer import DAMAGE, UINT32, integers, root, string, tables, vector

CHUNK = 1 << 20
"""Bytes of weights read at a time."""
INPUTS = ("audio", "visual")
OUTPUT = "scores"

# Field numbers in onnx.proto: ModelProto, GraphProto, ValueInfoProto, NodeProto.
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INPUT, _GRAPH_OUTPUT, _VALUE_NAME, _NODE_OP = 7, 1, 11, 12, 1, 4
_GRAPH_INITIALIZER, _TENSOR_EXTERNAL, _TENSOR_DATA = 5, 13, (4, 5, 6, 7, 9, 10, 11)
_TENSOR_LOCATION, _EXTERNAL = 14, 1
_TENSOR_TYPE, _TENSOR_RAW, _INT8 = 2, 9, 3
# ValueInfoProto.type.tensor_type.shape, and in it dim and dim_value.
_VALUE_SHAPE, _SHAPE_DIM, _DIM_VALUE = (2, 1, 2), 1, 1
# Field numbers in LiteRT's schema.fbs: Model, SignatureDef, TensorMap.
_MODEL_BUFFERS, _BUFFER_DATA = 4, 0
_MODEL_SIGNATURES, _SIGNATURE_INPUTS, _SIGNATURE_OUTPUTS, _MAP_NAME, _MAP_TENSOR = 7, 0, 1, 0, 1
_SIGNATURE_SUBGRAPH, _MODEL_SUBGRAPHS, _SUBGRAPH_TENSORS, _TENSOR_SHAPE = 4, 2, 0, 0


def check_names(path: Path, inputs: list[str], outputs: list[str]) -> None:
    """Refuse a graph whose inputs and outputs are not those of an edge-af network.

    Raises:
        EdgeAfError: the inputs are not `visual` and `audio`, or the output `scores` is missing.
    """
    if sorted(inputs) != list(INPUTS) or OUTPUT not in outputs:
        raise EdgeAfError(
            f"{path}: a model, but not an edge-af network: inputs {sorted(inputs)}, outputs {sorted(outputs)}; "
            "expected visual and audio, and scores."
        )


def check_model_file(path: Path) -> None:
    """Refuse a file that is not a model, is cut short, or does not have the inputs and outputs of edge-af's networks.

    Raises:
        EdgeAfError: the file is refused; says why.
    """
    kind, reader = {".onnx": ("an ONNX", _onnx_names), ".tflite": ("a TFLite", _tflite_names)}[path.suffix]
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            inputs, outputs = reader(data)
            outside = path.suffix == ".onnx" and _has_external(data)
    except OSError as error:
        raise EdgeAfError(f"{path}: cannot be read ({error.strerror}).") from None
    except DAMAGE as error:
        raise EdgeAfError(f"{path}: not {kind} model, or cut short ({error}). Export it again.") from None
    check_names(path, inputs, outputs)
    if outside:
        raise EdgeAfError(
            f"{path}: keeps weights in other files, which no manifest verifies. Save it with all weights inside "
            "(onnx.save_model without save_as_external_data), or export it with edge-af."
        )


def input_widths(path: Path) -> Widths:
    """Return the lengths of the feature vectors that a model file takes.

    They are YouTube-8M's if the file accepts any, or is so damaged that no runtime loads it.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = dict(_onnx_widths(data) if path.suffix == ".onnx" else _tflite_widths(data))
    except (OSError, *DAMAGE):
        return YOUTUBE8M
    return Widths(**{name: found.get(name, 0) if found.get(name, 0) > 0 else YOUTUBE8M.of(name) for name in INPUTS})


def _onnx_widths(data: mmap.mmap) -> Iterator[tuple[str, int]]:
    for number, span in fields(data, *onnx_graph(data)):
        if number != _GRAPH_INPUT or isinstance(span, int):
            continue
        content = dict(fields(data, *span))
        name, shape = content.get(_VALUE_NAME), span
        for inner in _VALUE_SHAPE:
            found = dict(fields(data, *shape)).get(inner)
            if found is None or isinstance(found, int):
                break
            shape = found
        else:
            dims = [
                dict(fields(data, *dim))
                for at, dim in fields(data, *shape)
                if at == _SHAPE_DIM and not isinstance(dim, int)
            ]
            width = dims[-1].get(_DIM_VALUE) if dims else None
            if isinstance(width, int) and name is not None and not isinstance(name, int):
                yield data[slice(*name)].decode(), width


def _tflite_widths(data: mmap.mmap) -> Iterator[tuple[str, int]]:
    model = root(data)
    for signature in tables(model, _MODEL_SIGNATURES)[:1]:
        subgraph = tables(model, _MODEL_SUBGRAPHS)[flatbuffer.number(signature, _SIGNATURE_SUBGRAPH, UINT32)]
        tensors = tables(subgraph, _SUBGRAPH_TENSORS)
        for entry in tables(signature, _SIGNATURE_INPUTS):
            if shape := integers(tensors[flatbuffer.number(entry, _MAP_TENSOR, UINT32)], _TENSOR_SHAPE):
                yield string(entry, _MAP_NAME), shape[-1]


def has_operator(path: Path, op: str) -> bool:
    """Return True if the graph of an ONNX file, which must be valid, contains an operator such as `Gemm`."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(
            inner == _NODE_OP and not isinstance(name, int) and data[slice(*name)] == op.encode()
            for number, span in fields(data, *onnx_graph(data))
            if number == _GRAPH_NODE and not isinstance(span, int)
            for inner, name in fields(data, *span)
        )


def may_hold_weights_beyond(path: Path, limit: int) -> bool:
    """Return False if every INT8 constant of an ONNX file is within ±limit.

    Return True if this function cannot read all constants: in other files, in Constant nodes, or not stored as raw bytes.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if has_operator(path, "Constant"):
                return True
            tensors = [value for number, value in fields(data, *onnx_graph(data)) if number == _GRAPH_INITIALIZER]
            return any(isinstance(one, int) or _passes(file, data, one, limit) for one in tensors)
    except (OSError, *DAMAGE):
        return True


def _passes(file: BinaryIO, data: mmap.mmap, tensor: tuple[int, int], limit: int) -> bool:
    found = dict(fields(data, *tensor))
    if found.get(_TENSOR_TYPE) != _INT8:
        return False
    raw = found.get(_TENSOR_RAW)
    if raw is None or isinstance(raw, int):
        return True
    # Read without mapping: mapped weights would count in the memory measured for loading.
    for start in range(*raw, CHUNK):
        file.seek(start)
        integers = np.frombuffer(file.read(min(CHUNK, raw[1] - start)), np.int8)
        if integers.min() < -limit or integers.max() > limit:
            return True
    return False


def weight_bytes(path: Path) -> int | None:
    """Return the bytes of the constants of a model file, including external data of an ONNX file; None if unreadable."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _onnx_weights(data) if path.suffix == ".onnx" else _tflite_weights(data)
    except (OSError, *DAMAGE):
        return None


def _onnx_weights(data: mmap.mmap) -> int:
    total = 0
    for number, tensor in fields(data, *onnx_graph(data)):
        if number != _GRAPH_INITIALIZER or isinstance(tensor, int):
            continue
        for field, span in fields(data, *tensor):
            if isinstance(span, int):
                continue
            if field in _TENSOR_DATA:
                total += span[1] - span[0]
            elif field == _TENSOR_EXTERNAL:
                entry = [data[slice(*text)] for _, text in fields(data, *span) if not isinstance(text, int)]
                total += int(entry[1]) if entry[0] == b"length" else 0
    return total


def _has_external(data: mmap.mmap) -> bool:
    """Return True if an initializer's values are in another file."""
    for number, tensor in fields(data, *onnx_graph(data)):
        if number == _GRAPH_INITIALIZER and not isinstance(tensor, int):
            for field, value in fields(data, *tensor):
                if field == _TENSOR_EXTERNAL or (field == _TENSOR_LOCATION and value == _EXTERNAL):
                    return True
    return False


def _tflite_weights(data: mmap.mmap) -> int:
    return sum(vector(buffer, _BUFFER_DATA, 1)[1] for buffer in tables(root(data), _MODEL_BUFFERS))


def onnx_graph(data: mmap.mmap) -> tuple[int, int]:
    """Return start and end of the graph in an ONNX file.

    Raises:
        ValueError: the graph is missing, or the file is not protobuf.
    """
    graphs = [value for number, value in fields(data, 0, len(data)) if number == _MODEL_GRAPH]
    if len(graphs) != 1 or isinstance(graphs[0], int):
        raise ValueError("it has no graph")
    return graphs[0]


def _onnx_names(data: mmap.mmap) -> tuple[list[str], list[str]]:
    names: dict[int, list[str]] = {_GRAPH_INPUT: [], _GRAPH_OUTPUT: []}
    for number, span in fields(data, *onnx_graph(data)):
        if number in names and not isinstance(span, int):
            for inner, name in fields(data, *span):
                if inner == _VALUE_NAME and not isinstance(name, int):
                    names[number].append(data[slice(*name)].decode())
    return names[_GRAPH_INPUT], names[_GRAPH_OUTPUT]


def _tflite_names(data: mmap.mmap) -> tuple[list[str], list[str]]:
    if data[4:8] != b"TFL3":
        raise ValueError("it lacks the TFL3 identifier")
    signatures = tables(root(data), _MODEL_SIGNATURES)
    if not signatures:
        raise ValueError("it has no signature")
    inputs, outputs = (
        [string(entry, _MAP_NAME) for entry in tables(signatures[0], field)]
        for field in (_SIGNATURE_INPUTS, _SIGNATURE_OUTPUTS)
    )
    return inputs, outputs
