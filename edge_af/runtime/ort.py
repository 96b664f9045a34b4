"""ONNX files in ONNX Runtime, on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_af.errors import EdgeAfError

# The Linux wheels of 1.31 collect telemetry unless told not to, before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


class OnnxScorer:
    """An ONNX file, ready to score. See `edge_af.runtime.Scorer`."""

    runtime = "onnxruntime"

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EdgeAfError(f"onnxruntime cannot be imported here: {error}.") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no common base for what a damaged file raises
            raise EdgeAfError(f"{path}: onnxruntime cannot load this file: {_first_line(error)}") from None
        inputs = {value.name for value in self._session.get_inputs()}
        outputs = {value.name: value.shape for value in self._session.get_outputs()}
        if inputs != {"visual", "audio"} or "scores" not in outputs:
            raise EdgeAfError(
                f"{path}: not a network of ours: inputs {sorted(inputs)}, outputs {sorted(outputs)}; "
                "expected visual and audio, and scores."
            )
        self.classes = int(outputs["scores"][1])

    def score(self, visual: NDArray[np.float32], audio: NDArray[np.float32]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._session.run(["scores"], {"visual": visual, "audio": audio})[0]
        return scores


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
