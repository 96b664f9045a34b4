"""Proof of an exported file in its runtime: which layers run in integers, and whether the scores are still the network's."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
"""Suffix that ONNX Runtime gives the name of a weight that it makes unsigned, see `edge_af.runtime.ort`."""
FP32_LIMIT = 1e-5
"""Largest difference that rounding may make in an FP32 file's scores; a wrong lowering is off by far more."""


@dataclass(frozen=True)
class Execution:
    """Execution of a file by its runtime."""

    integer_layers: tuple[str, ...]
    """Fully connected layers with integer kernels."""
    float_layers: tuple[str, ...]
    undelegated: tuple[str, ...] = ()
    """TFLite operators that XNNPACK left to LiteRT's own, slower kernels; always empty for ONNX."""


def onnx_execution(path: Path, layers: list[str], cpu: str) -> Execution:
    """Read back the graph as ONNX Runtime optimizes it.

    Args:
        path: the ONNX file.
        layers: names of the graph's fully connected layers.
        cpu: the kind of processor it is for. On x86, ONNX Runtime would turn signed activations into unsigned ones before
            it looks for integer kernels, which it does not do on ARM: for `arm64` it is told to leave them, as there.
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
    """Read back LiteRT's operators after XNNPACK took its share of them; arguments as for `onnx_execution`.

    A layer runs in integers if its weights are INT8 or INT4 and either its input and output are INT8 too, or its input is
    float and it asks for it to be quantized at run time. Integer weights that are made float first save space and no
    arithmetic, and what becomes of them in a layer that does not ask is each runtime's own choice: neither counts.
    """
    interpreter = interpreter_class()(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    integer_weights = _integer_weights(path)
    integer = tuple(layer for layer in layers if f"{layer}.weight" in integer_weights)
    undelegated = _undelegated(interpreter._get_ops_details())
    return Execution(integer, tuple(layer for layer in layers if layer not in integer), undelegated)


def _integer_weights(path: Path) -> set[str]:
    """Names of the weights that a file's fully connected operators multiply in integers."""
    # Read from the file: the interpreter says INT8 of INT4 tensors, and nothing of options.
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
    """The operators of the file, in its order: LiteRT lists the delegates that replace them after them."""
    return [op for op in operators if op["op_name"] != "DELEGATE"]


def _undelegated(operators: list[dict[str, Any]]) -> tuple[str, ...]:
    """Names of the operators outside every delegate.

    Inside a delegate is what its outputs depend on, up to its inputs.
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
    """Refuse a file in which a layer that was to run in integers does not.

    Raises:
        GateFailed: naming those layers.
    """
    if fallen := [layer for layer in meant if layer not in execution.integer_layers]:
        raise GateFailed(
            f"{file}: {len(fallen)} of {len(meant)} layers that were to run in integers run in float: {', '.join(fallen)}.\n"
            "Name them `float` under `layers:` in the recipe if that is wanted, or export with another recipe."
        )


def largest_difference(path: Path, features: Features, scores: NDArray[np.float32]) -> float:
    """Largest difference between a file's scores of n videos and `scores` (n, classes)."""
    return float(np.abs(score_all(load(path), features) - scores).max())


def check_agreement(file: str, difference: float) -> None:
    """Refuse an FP32 file whose scores are not the network's.

    Raises:
        GateFailed: the difference passes what rounding can make.
    """
    if not difference <= FP32_LIMIT:
        raise GateFailed(
            f"{file}: scores differ from the trained network's by up to {difference:.2g}, more than {FP32_LIMIT:g}.\n"
            "The file is wrong and was not kept; please report this with the versions that `--json` prints."
        )
