"""OpenVINO, with NNCF's quantization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

NAME = "OpenVINO and NNCF"
REQUIREMENTS = ("openvino==2026.4.1", "nncf==3.4.0", "onnx==1.23.2")
WAYS = {
    "fp32": "FP32",
    "int8": "nncf.quantize, defaults",
    "int8-transformer": "nncf.quantize, model type transformer",
    "int8-weights": "nncf.compress_weights, defaults (INT8)",
    "int4-weights": "nncf.compress_weights, INT4 symmetric, group 64, all layers",
}
BATCH = 1
HOW_KNOWN = "precision of the executed layers"


def export(way: str, source: Path, out: Path) -> None:
    """Convert the FP32 ONNX file and quantize it."""
    import nncf
    import openvino

    model = openvino.convert_model(source / "fp32.onnx")
    if way.startswith("int8") and way != "int8-weights":
        with np.load(source / "calibration.npz") as arrays:
            visual, audio = arrays["visual"], arrays["audio"]
        rows = [{"visual": visual[n : n + 1], "audio": audio[n : n + 1]} for n in range(len(visual))]
        how = {"model_type": nncf.ModelType.TRANSFORMER} if way == "int8-transformer" else {}
        model = nncf.quantize(model, nncf.Dataset(rows), **how)
    elif way == "int8-weights":
        model = nncf.compress_weights(model)
    elif way == "int4-weights":
        model = nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode.INT4_SYM,
            group_size=64,
            ratio=1.0,
            all_layers=True,
            advanced_parameters=nncf.AdvancedCompressionParameters(
                group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
            ),
        )
    openvino.save_model(model, out / "model.xml", compress_to_fp16=False)


def _compiled(out: Path, threads: int) -> Any:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(out / "model.xml", "CPU", settings)


def artifact(way: str, out: Path) -> Path:
    """Return the file with the weights."""
    return out / "model.bin"


def load(way: str, source: Path, out: Path, threads: int) -> Any:
    """Return a function from features to scores."""
    request = _compiled(out, threads).create_infer_request()

    def score(visual: Any, audio: Any) -> Any:
        return next(iter(request.infer({"visual": visual, "audio": audio}).values()))

    return score


def integer_kernels(way: str, out: Path) -> str:
    """Name the implementations of the fully connected layers."""
    import collections

    counts: collections.Counter[str] = collections.Counter()
    for node in _compiled(out, 1).get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" in info and str(info["layerType"].astype(str)) in ("FullyConnected", "MatMul"):
            counts[str(info["primitiveType"].astype(str))] += 1
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
