"""Operators and multiply-adds match those read by the packages that define the formats."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema

from edge_af.errors import EdgeAfError
from edge_af.runtime.multiply_adds import multiply_adds
from edge_af.runtime.operators import _BUILTIN, operator_counts

FILES = [
    f"{model}/{model}-{precision}.{suffix}"
    for model in ("attend-fusion", "fc-late-fusion")
    for precision in ("fp32", "int8")
    for suffix in ("onnx", "tflite")
]


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("onnx")])
def test_onnx_operators(exports: Path, name: str):
    nodes = onnx.load(exports / name).graph.node
    assert operator_counts(exports / name) == Counter(node.op_type for node in nodes)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("tflite")])
def test_tflite_operators(exports: Path, name: str):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs((exports / name).read_bytes(), 0))
    names = {value: key for key, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    codes = [names[code.builtinCode] for code in model.operatorCodes]
    expected = Counter(codes[operator.opcodeIndex] for operator in model.subgraphs[0].operators)
    assert operator_counts(exports / name) == expected


def test_tflites_operators_have_their_own_names():
    names = {value: key for key, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    assert all(names[number] == name for number, name in _BUILTIN.items())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_multiply_adds_are_those_of_the_layers(exports: Path, precision: str, suffix: str):
    # Two streams of two layers of 48, and a classifier of 30.
    expected = (1024 + 128) * 48 + 2 * 48 * 48 + 2 * 48 * 30
    assert multiply_adds(exports / f"fc-late-fusion/fc-late-fusion-{precision}.{suffix}") == expected


def test_attention_counts_in_both_formats_alike(exports: Path):
    counts = {multiply_adds(exports / name) for name in FILES if name.startswith("attend")}
    assert len(counts) == 1 and None not in counts


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_a_file_cut_short_is_our_error_or_read(exports: Path, tmp_path: Path, suffix: str, share: float):
    whole = (exports / f"attend-fusion/attend-fusion-fp32.{suffix}").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: max(1, int(len(whole) * share))])
    try:
        operator_counts(path)
    except EdgeAfError as error:
        assert str(path) in str(error)
    else:
        # A FlatBuffer's tables may all be in the first half of the file.
        assert suffix == "tflite" and share == 0.5
