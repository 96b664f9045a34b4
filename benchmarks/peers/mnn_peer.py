"""MNN, converted from the FP32 ONNX file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

NAME = "MNN"
REQUIREMENTS = ("MNN==3.6.1", "numpy")
WAYS = {
    "fp32": "MNNConvert",
    "int8-weights": "weightQuantBits 8, dynamic quantization",
    "int4-weights": "weightQuantBits 4, block 64, dynamic quantization",
}
BATCH = 1
HOW_KNOWN = "not shown by the tool"


def export(way: str, source: Path, out: Path) -> None:
    """Convert, with quantized weights."""
    flags = {
        "fp32": [],
        "int8-weights": ["--weightQuantBits", "8"],
        "int4-weights": ["--weightQuantBits", "4", "--weightQuantBlock", "64"],
    }[way]
    files = ["--modelFile", str(source / "fp32.onnx"), "--MNNModel", str(out / "model.mnn")]
    tool = Path(sys.executable).with_name("mnnconvert")
    subprocess.run([str(tool), "-f", "ONNX", *files, "--bizCode", "edge-af", *flags], check=True)


def artifact(way: str, out: Path) -> Path:
    """Return the converted file."""
    return out / "model.mnn"


def load(way: str, source: Path, out: Path, threads: int) -> Any:
    """Return a function from features to scores."""
    import MNN
    import MNN.numpy as mnp
    import numpy as np

    settings = {
        "backend": "CPU",
        "numThread": threads,
        "precision": "high" if way == "fp32" else "low",
        "memory": "low",
    }
    manager = MNN.nn.create_runtime_manager((settings,))
    net = MNN.nn.load_module_from_file(str(out / "model.mnn"), ["visual", "audio"], ["scores"], runtime_manager=manager)

    def score(visual: Any, audio: Any) -> Any:
        found = net.forward([mnp.array(visual), mnp.array(audio)])
        return np.array(found[0].read())

    return score


def integer_kernels(way: str, out: Path) -> str:
    """Say what the tool shows."""
    return "float" if way == "fp32" else "not shown"
