"""TensorFlow's converter, on the network rebuilt from the FP32 ONNX file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

NAME = "TensorFlow's TFLiteConverter"
REQUIREMENTS = ("tensorflow-cpu==2.21.0", "onnx==1.23.2", "ai-edge-litert==2.3.0")
WAYS = {"fp32": "FP32", "dynamic": "dynamic range INT8", "static": "full INT8 with float inputs and outputs"}
BATCH = 1
HOW_KNOWN = "nodes outside the delegate"


def export(way: str, source: Path, out: Path) -> None:
    """Convert the network, quantized on the way."""
    import tensorflow as tf

    function, widths = _network(source / "fp32.onnx")
    made = tf.function(
        lambda visual, audio: {"scores": function(visual, audio)},
        input_signature=[tf.TensorSpec((1, width), tf.float32, name) for name, width in widths.items()],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([made.get_concrete_function()])
    if way != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if way == "static":
        with np.load(source / "calibration.npz") as arrays:
            visual, audio = arrays["visual"], arrays["audio"]

        def rows() -> Iterator[list[Any]]:
            for row in range(len(visual)):
                yield [visual[row : row + 1], audio[row : row + 1]]

        converter.representative_dataset = rows
    (out / "model.tflite").write_bytes(converter.convert())


def _network(path: Path) -> tuple[Any, dict[str, int]]:
    """Return the graph of an ONNX file as a function of TensorFlow, and the widths of its inputs."""
    import onnx
    import tensorflow as tf
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    widths = {one.name: one.type.tensor_type.shape.dim[1].dim_value for one in graph.input}

    def run(visual: Any, audio: Any) -> Any:
        values: dict[str, Any] = {**constants, "visual": visual, "audio": audio}
        for node in graph.node:
            given = [values[name] for name in node.input if name]
            how = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
            made = _operator(tf, node.op_type, given, how)
            for name, value in zip(node.output, made if isinstance(made, list) else [made], strict=True):
                values[name] = value
        return values[graph.output[0].name]

    return run, widths


def _operator(tf: Any, op: str, given: list[Any], how: dict[str, Any]) -> Any:
    """Compute one operator."""
    if op == "Gemm":
        return tf.linalg.matmul(given[0], given[1], transpose_b=bool(how.get("transB"))) + given[2]
    if op == "Reshape":
        return tf.reshape(given[0], [int(size) if size else given[0].shape[at] for at, size in enumerate(given[1])])
    if op == "Transpose":
        return tf.transpose(given[0], how["perm"])
    if op == "Concat":
        return tf.concat(given, how["axis"])
    if op == "Split":
        return tf.split(given[0], given[1].tolist() if len(given) > 1 else how["num_outputs"], how.get("axis", 0))
    if op == "Softmax":
        return tf.nn.softmax(given[0], how.get("axis", -1))
    simple = {
        "Relu": tf.nn.relu,
        "Sigmoid": tf.sigmoid,
        "Add": tf.add,
        "Mul": tf.multiply,
        "Div": tf.divide,
        "MatMul": tf.matmul,
    }
    if op not in simple:
        raise ValueError(f"no rule for {op}")
    return simple[op](*given)


def load(way: str, source: Path, out: Path, threads: int) -> Any:
    """Return a function from features to scores."""
    from benchmarks.peers.shared import tflite_scorer

    return tflite_scorer(out / "model.tflite", threads)


def integer_kernels(way: str, out: Path) -> str:
    """Say what the tool shows."""
    return "float" if way == "fp32" else "not shown"
