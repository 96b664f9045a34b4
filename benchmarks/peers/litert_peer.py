"""litert-torch's conversion and litert-quantizer's recipes, in LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

NAME = "litert-torch and litert-quantizer"
REQUIREMENTS = (
    "litert-torch==0.10.0",
    "litert-quantizer==0.11.0",
    "torch==2.13.0",
    "safetensors",
    "msgspec",
    "PyYAML",
    "click",
)
WAYS = {
    "fp32": "litert-torch, FP32",
    "int8-dynamic": "dynamic_wi8_afp32",
    "int8-static": "static_wi8_ai8",
    "int8-weights": "weight_only_wi8_afp32",
    "int4-weights": "weight_only_wi4_afp32",
}
BATCH = 1
HOW_KNOWN = "nodes outside the delegate"


def export(way: str, source: Path, out: Path) -> None:
    """Convert the PyTorch network and quantize the file."""
    import litert_torch

    from benchmarks.peers.shared import torch_network

    network, sample = torch_network(source)
    plain = out / "plain.tflite"
    litert_torch.convert(network, sample).export(str(plain))
    if way == "fp32":
        plain.rename(out / "model.tflite")
        return
    try:
        from litert_quantizer import quantizer, recipe
    except ImportError:
        from ai_edge_quantizer import quantizer, recipe
    name = {
        "int8-dynamic": "dynamic_wi8_afp32",
        "int8-static": "static_wi8_ai8",
        "int8-weights": "weight_only_wi8_afp32",
        "int4-weights": "weight_only_wi4_afp32",
    }[way]
    made = quantizer.Quantizer(str(plain), getattr(recipe, name)())
    ranges = None
    if way == "int8-static":
        with np.load(source / "calibration.npz") as arrays:
            visual, audio = arrays["visual"], arrays["audio"]
        signature, names = _signature(plain)
        rows = [dict(zip(names, (visual[n : n + 1], audio[n : n + 1]), strict=True)) for n in range(len(visual))]
        ranges = made.calibrate({signature: rows})
    made.quantize(ranges).export_model(str(out / "model.tflite"), overwrite=True)
    plain.unlink()


def _interpreter(path: Path, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_path=str(path), num_threads=threads)


def _signature(path: Path) -> tuple[str, list[str]]:
    name, found = next(iter(_interpreter(path, 1).get_signature_list().items()))
    return name, found["inputs"]


def load(way: str, source: Path, out: Path, threads: int) -> Any:
    """Return a function from features to scores."""
    from benchmarks.peers.shared import tflite_scorer

    return tflite_scorer(out / "model.tflite", threads)


def integer_kernels(way: str, out: Path) -> str:
    """Count the operators that no delegate runs."""
    interpreter = _interpreter(out / "model.tflite", 1)
    interpreter.allocate_tensors()
    names = [one["op_name"] for one in interpreter._get_ops_details()]
    if "DELEGATE" not in names:
        return "no delegate"
    # A delegated operator stays listed before the delegate's own node.
    return f"{names.count('DELEGATE')} delegate node(s); {len(names)} operators listed"
