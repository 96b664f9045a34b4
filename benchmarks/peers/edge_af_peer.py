"""edge-af itself, measured the same way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

NAME = "edge-af"
REQUIREMENTS = ()
"""Its own environment."""
WAYS = {
    "onnx-fp32": "ONNX, FP32",
    "onnx-int8": "ONNX, INT8",
    "onnx-int4": "ONNX, INT4",
    "onnx-int2": "ONNX, INT2",
    "tflite-fp32": "TFLite, FP32",
    "tflite-int8": "TFLite, INT8",
    "tflite-int4": "TFLite, INT4",
    "tflite-int8-packed": "TFLite, INT8, weights packed",
    "tflite-int4-packed": "TFLite, INT4, weights packed",
}
BATCH = 1
HOW_KNOWN = "proof at export: kernels of the optimized graph, delegated operators"
RECIPE = "onnx=int2-block64-dynamic-gptq-corrected"


def export(way: str, source: Path, out: Path) -> None:
    """Export one format and precision with edge-af's defaults."""
    format, precision = way.split("-")[:2]
    data = Path(os.environ["EDGE_AF_PEERS_DATA"])
    flags = {"int8": ["--int8"], "int4": ["--int4"], "int2": ["--recipe", RECIPE], "fp32": []}[precision]
    flags += ["--calibration-data", str(data / "train"), "--any-calibration-data"] if flags else []
    words = ["export", str(source / "run"), "--format", format, *flags, "--sensitivity-videos", "0"]
    command = [sys.executable, "-m", "edge_af", *words, "--out", str(out / "export")]
    subprocess.run(command, check=True)


def artifact(way: str, out: Path) -> Path:
    """Return the exported file."""
    format, precision = way.split("-")[:2]
    return next((out / "export").glob(f"*-{precision}.{format}"))


def load(way: str, source: Path, out: Path, threads: int) -> Any:
    """Return a function from features to scores."""
    import edge_af
    from edge_af.runtime import load as open_file

    packed = out / "packed" if way.endswith("packed") else None
    scorer = open_file(artifact(way, out), threads=threads, packed=packed)

    def score(visual: Any, audio: Any) -> Any:
        return scorer.score(edge_af.Features(visual, audio))

    return score


def integer_kernels(way: str, out: Path) -> str:
    """Return the proof of the export."""
    from edge_af.artifacts import read_manifest

    file = next(one for one in read_manifest(out / "export").files if one.path == artifact(way, out).name)
    return f"{file.integer_layers} integer, {file.float_layers} float layers"
