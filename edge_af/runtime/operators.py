"""Operators of a model file by type, read without running it."""

from __future__ import annotations

import contextlib
import mmap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from flatbuffers.table import Table

from edge_af.errors import EdgeAfError
from edge_af.protobuf import fields
from edge_af.runtime.flatbuffer import DAMAGE, UINT8, UINT32, integers, number, root, string, tables
from edge_af.runtime.probe import onnx_graph

# Field numbers in onnx.proto (GraphProto, NodeProto) and LiteRT's schema.fbs (Model, OperatorCode, SubGraph, Operator, Tensor).
_GRAPH_NODE, _NODE_OP = 1, 4
_MODEL_CODES, _MODEL_SUBGRAPHS = 1, 2
_CODE_OLD, _CODE_CUSTOM, _CODE = 0, 1, 3
_SUBGRAPH_TENSORS, _SUBGRAPH_OPERATORS = 0, 3
_OPERATOR_CODE, _OPERATOR_INPUTS, _OPERATOR_OUTPUTS = 0, 1, 2
_TENSOR_SHAPE = 0

_BUILTIN = {
    0: "ADD", 2: "CONCATENATION", 3: "CONV_2D", 6: "DEQUANTIZE", 9: "FULLY_CONNECTED", 14: "LOGISTIC", 18: "MUL", 19: "RELU",
    22: "RESHAPE", 25: "SOFTMAX", 28: "TANH", 32: "CUSTOM", 34: "PAD", 36: "GATHER", 39: "TRANSPOSE", 40: "MEAN", 41: "SUB",
    42: "DIV", 43: "SQUEEZE", 45: "STRIDED_SLICE", 49: "SPLIT", 53: "CAST", 65: "SLICE", 70: "EXPAND_DIMS", 74: "SUM",
    76: "RSQRT", 83: "PACK", 88: "UNPACK", 92: "SQUARE", 99: "SQUARED_DIFFERENCE", 102: "SPLIT_V", 114: "QUANTIZE",
    117: "HARD_SWISH", 126: "BATCH_MATMUL", 130: "BROADCAST_TO", 150: "GELU",
}  # fmt: skip
"""TFLite operators by number in LiteRT's schema, limited to those common in such networks."""


def operator_counts(path: Path) -> dict[str, int]:
    """Count the operators of each type in an ONNX or TFLite file, most frequent first.

    Raises:
        EdgeAfError: the file is not a model or is cut short.
    """
    counts = Counter(_onnx_operators(path) if path.suffix == ".onnx" else (op for op, _, _ in tflite_operators(path)))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _onnx_operators(path: Path) -> list[str]:
    found = []
    with _explained(path), _mapped(path) as data:
        for part, node in fields(data, *onnx_graph(data)):
            if part == _GRAPH_NODE and not isinstance(node, int):
                found += [
                    data[slice(*name)].decode()
                    for field, name in fields(data, *node)
                    if field == _NODE_OP and not isinstance(name, int)
                ]
    return found


Shapes = list[list[int]]


def tflite_operators(path: Path) -> list[tuple[str, Shapes, Shapes]]:
    """Return type, input shapes and output shapes of each operator, without omitted inputs."""
    found = []
    with _explained(path), _mapped(path) as data:
        model = root(data)
        codes = [_code(code) for code in tables(model, _MODEL_CODES)]
        for subgraph in tables(model, _MODEL_SUBGRAPHS):
            shapes = [integers(tensor, _TENSOR_SHAPE) for tensor in tables(subgraph, _SUBGRAPH_TENSORS)]
            for operator in tables(subgraph, _SUBGRAPH_OPERATORS):
                inputs, outputs = (
                    [shapes[index] for index in integers(operator, field) if index >= 0]
                    for field in (_OPERATOR_INPUTS, _OPERATOR_OUTPUTS)
                )
                found.append((codes[number(operator, _OPERATOR_CODE, UINT32)], inputs, outputs))
    return found


def _code(table: Table) -> str:
    # Files written before the 128th operator have only the one-byte field.
    code = max(number(table, _CODE_OLD, UINT8), number(table, _CODE, UINT32))
    name = _BUILTIN.get(code, f"operator {code}")
    return f"{name} {string(table, _CODE_CUSTOM)}" if name == "CUSTOM" else name


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Convert exceptions from a damaged file to `EdgeAfError`."""
    try:
        yield
    except DAMAGE as error:
        raise EdgeAfError(
            f"{path}: its operators cannot be read ({error}): damaged or cut short. Export it again."
        ) from None
