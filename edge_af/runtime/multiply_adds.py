"""Multiply-accumulates (MACs) of a model file.

For a TFLite file they follow from the shapes in it. For an ONNX file they depend on shapes that only its runtime knows, so a
separate process profiles one inference: `python -m edge_af.runtime.multiply_adds FILE.onnx` prints the count.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from math import prod
from pathlib import Path

import numpy as np

from edge_af.errors import EdgeAfError
from edge_af.runtime.operators import tflite_operators
from edge_af.runtime.ort import onnxruntime_module, session_options
from edge_af.runtime.probe import input_widths
from edge_af.subprocesses import environment

_ONNX_PRODUCTS = frozenset(("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "MatMulNBits", "FusedMatMul"))
_TFLITE_PRODUCTS = frozenset(("FULLY_CONNECTED", "BATCH_MATMUL"))


def multiply_adds(path: Path, timeout_seconds: float = 600.0) -> int | None:
    """Count the multiply-accumulates (MACs) of a model file's matrix products, for one video.

    Args:
        path: an ONNX or TFLite file.
        timeout_seconds: timeout of the process that profiles an ONNX file.

    Returns:
        the count; None if an ONNX file cannot be profiled.

    Raises:
        EdgeAfError: a TFLite file is damaged.
    """
    if path.suffix == ".tflite":
        return _tflite_multiply_adds(path)
    command = [sys.executable, "-P", "-m", "edge_af.runtime.multiply_adds", str(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", env=environment(), timeout=timeout_seconds
        )
        return int(done.stdout) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError):
        return None


def _tflite_multiply_adds(path: Path) -> int:
    """Multiply the first input's elements by the output's last dimension: (…, m, k) by (…, k, n) takes m · k · n."""
    operators = tflite_operators(path)
    try:
        return sum(prod(inputs[0]) * outputs[0][-1] for op, inputs, outputs in operators if op in _TFLITE_PRODUCTS)
    except IndexError as error:
        raise EdgeAfError(
            f"{path}: a matrix product without an input or an output: the file is damaged. Export it again."
        ) from error


def _profiled_multiply_adds(path: Path) -> int:
    """Count from the shapes that ONNX Runtime reports while it profiles one inference of the unoptimized graph."""
    onnxruntime = onnxruntime_module()
    with tempfile.TemporaryDirectory(prefix="edge-af-profile-") as folder:
        options = session_options(path, threads=1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        sizes = dataclasses.asdict(input_widths(path))
        session.run(None, {name: np.zeros((1, size), np.float32) for name, size in sizes.items()})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    total = 0
    for event in events:
        about = event.get("args", {})
        if about.get("op_name") in _ONNX_PRODUCTS and event["name"].endswith("_kernel_time"):
            (first, *_), (output, *_) = (
                [shape for one in about[field] for shape in one.values()]
                for field in ("input_type_shape", "output_type_shape")
            )
            total += prod(first) * output[-1]
    return total


if __name__ == "__main__":
    sys.stdout.write(f"{_profiled_multiply_adds(Path(sys.argv[1]))}\n")
