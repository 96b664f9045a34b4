"""Check an exported file in its runtime: which layers run in integers, and whether its scores match the network's."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.console import without_chatter
from edge_af.data import Features
from edge_af.errors import GateFailed
from edge_af.export.to_onnx import INTEGER_ACCURACY, weight_name
from edge_af.runtime import load, score_all
from edge_af.runtime.litert import interpreter_class
from edge_af.runtime.ort import EXACT, onnxruntime_module, session_options

INTEGER_KERNELS = frozenset(
    {"QGemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "ConvInteger"}
)
UNSIGNED_WEIGHT = "_s8_2_u8"
"""Suffix of a weight that ONNX Runtime converts to unsigned, see `edge_af.runtime.ort`."""
FP32_LIMIT = 1e-5
"""Largest score difference in an FP32 file that rounding explains; a wrong lowering causes far more."""


@dataclass(frozen=True)
class Execution:
    """Execution of a file in its runtime."""

    integer_layers: tuple[str, ...]
    """Fully connected layers with integer kernels."""
    float_layers: tuple[str, ...]
    undelegated: tuple[str, ...] = ()
    """TFLite operators that run in LiteRT's slower built-in kernels instead of XNNPACK; empty for ONNX."""


def onnx_execution(path: Path, layers: list[str], cpu: str) -> Execution:
    """Read the execution from the graph that ONNX Runtime optimized.

    Args:
        path: the ONNX file.
        layers: names of the graph's fully connected layers.
        cpu: processor kind of the file. Unlike on ARM, ONNX Runtime on x86 converts signed activations to unsigned ones
            before it selects integer kernels. For `arm64` this is switched off, to see what ARM would run.
    """
    import onnx

    onnxruntime = onnxruntime_module()
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        options = session_options(path)
        options.optimized_model_filepath = str(Path(scratch) / "optimized.onnx")
        options.add_session_config_entry("session.disable_prepacking", "1")
        if cpu == "arm64":
            options.add_session_config_entry("session.qdqisint8allowed", "1")
            options.add_session_config_entry(EXACT, "0")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath).graph.node
    read = {name.removesuffix(UNSIGNED_WEIGHT) for node in nodes if _computes_in_integers(node) for name in node.input}
    integer = tuple(layer for layer in layers if weight_name(layer) in read)
    return Execution(integer, tuple(layer for layer in layers if layer not in integer))


def _computes_in_integers(node: Any) -> bool:
    if node.op_type == "MatMulNBits":
        return any(one.name == "accuracy_level" and one.i == INTEGER_ACCURACY for one in node.attribute)
    return node.op_type in INTEGER_KERNELS


def tflite_execution(path: Path, layers: list[str]) -> Execution:
    """Read the execution from LiteRT's operators after XNNPACK was applied; arguments as for `onnx_execution`.

    A layer runs in integers if its weights are INT8 or INT4, and either its input and output are INT8, or its input is float
    and the operator asks for quantization at run time. Integer weights that are dequantized first save only space. In a
    layer that does not ask, each runtime decides. Neither counts.
    """
    with without_chatter("INFO: "):
        interpreter = interpreter_class()(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
    integer_weights = _integer_weights(path)
    integer = tuple(layer for layer in layers if f"{layer}.weight" in integer_weights)
    undelegated = _undelegated(interpreter._get_ops_details())
    return Execution(integer, tuple(layer for layer in layers if layer not in integer), undelegated)


def _integer_weights(path: Path) -> set[str]:
    """Return the names of the weights that a file's fully connected operators multiply in integers."""
    # Read from the file, because the interpreter reports INT4 tensors as INT8 and does not report options.
    from ai_edge_litert import schema_py_generated as schema

    kinds, integer = schema.TensorType, (schema.TensorType.INT8, schema.TensorType.INT4)
    model = schema.Model.GetRootAs(np.memmap(path, np.uint8, "r"), 0)
    subgraph = model.Subgraphs(0)
    found = set()
    for at in range(subgraph.OperatorsLength()):
        operator = subgraph.Operators(at)
        code = model.OperatorCodes(operator.OpcodeIndex())
        table = operator.BuiltinOptions()
        if code.BuiltinCode() != schema.BuiltinOperator.FULLY_CONNECTED or table is None:
            continue
        options = schema.FullyConnectedOptions()
        options.Init(table.Bytes, table.Pos)
        data, weight, output = (
            subgraph.Tensors(index) for index in (operator.Inputs(0), operator.Inputs(1), operator.Outputs(0))
        )
        ends = (data.Type(), output.Type())
        hybrid = ends == (kinds.FLOAT32, kinds.FLOAT32) and options.AsymmetricQuantizeInputs()
        if weight.Type() in integer and (hybrid or ends == (kinds.INT8, kinds.INT8)):
            found.add(weight.Name().decode())
    return found


def _originals(operators: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the file's operators in order, without the delegates that LiteRT lists after them."""
    return [op for op in operators if op["op_name"] != "DELEGATE"]


def _undelegated(operators: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the names of the operators outside every delegate.

    An operator is inside a delegate if the delegate's outputs depend on it, up to the delegate's inputs.
    """
    originals = _originals(operators)
    producer = {int(output): at for at, op in enumerate(originals) for output in op["outputs"]}
    inside: set[int] = set()
    for delegate in operators:
        if delegate["op_name"] != "DELEGATE":
            continue
        border = {int(tensor) for tensor in delegate["inputs"]}
        open_tensors = [int(tensor) for tensor in delegate["outputs"]]
        while open_tensors:
            tensor = open_tensors.pop()
            at = producer.get(tensor)
            if tensor in border or at is None or at in inside:
                continue
            inside.add(at)
            open_tensors.extend(int(name) for name in originals[at]["inputs"])
    return tuple(str(op["op_name"]) for at, op in enumerate(originals) if at not in inside)


def check_integer(file: str, execution: Execution, meant: list[str]) -> None:
    """Refuse a file in which a layer does not run in integers as planned.

    Raises:
        GateFailed: names those layers.
    """
    if fallen := [layer for layer in meant if layer not in execution.integer_layers]:
        raise GateFailed(
            f"{file}: {len(fallen)} of {len(meant)} layers run in float instead of integers: {', '.join(fallen)}.\n"
            "Name them `float` under `layers:` in the recipe if that is wanted, or export with another recipe."
        )


def largest_difference(path: Path, features: Features, scores: NDArray[np.float32]) -> float:
    """Return the largest difference between a file's scores of n videos and `scores` (n, classes)."""
    return float(np.abs(score_all(load(path), features) - scores).max())


def check_agreement(file: str, difference: float) -> None:
    """Refuse an FP32 file whose scores differ from the network's.

    Raises:
        GateFailed: the difference is larger than rounding explains.
    """
    if not difference <= FP32_LIMIT:
        raise GateFailed(
            f"{file}: scores differ from the trained network's by up to {difference:.2g}, more than {FP32_LIMIT:g}.\n"
            "The file is wrong and was not kept; please report this with the versions that `--json` prints."
        )
