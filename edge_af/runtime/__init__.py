"""One way to score videos, whatever the file: a checkpoint in torch, an ONNX file, a TFLite file.

Every exported graph has inputs `visual` (n, 1024) and `audio` (n, 128) float32, and the output `scores` (n, classes) float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_af.errors import EdgeAfError

RUNTIME_OF_SUFFIX = {".onnx": "onnxruntime", ".tflite": "litert"}
"""The runtime that opens a file unless another is asked for. A run folder opens in `torch`."""


class Scorer(Protocol):
    """A loaded network."""

    runtime: str
    """`torch`, `onnxruntime` or `litert`."""

    classes: int

    def score(self, visual: NDArray[np.float32], audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (n, classes) float32 of visual (n, 1024) and audio (n, 128) float32 features."""
        ...


def load(path: str | Path, *, runtime: str | None = None, threads: int = 1) -> Scorer:
    """Open a run folder, an ONNX file or a TFLite file.

    Args:
        path: what to open.
        runtime: `torch`, `onnxruntime` or `litert`; the one that fits the file when None.
        threads: threads of the runtime's own pool.

    Raises:
        EdgeAfError: there is no such file, it holds no network of ours, or the runtime is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise EdgeAfError(f"{path}: no such file or folder.")
    fitting = "torch" if path.is_dir() else RUNTIME_OF_SUFFIX.get(path.suffix)
    if fitting is None:
        raise EdgeAfError(f"{path}: neither a run folder nor an .onnx or .tflite file.")
    if runtime not in (None, fitting):
        raise EdgeAfError(f"{path}: opens in {fitting}, not in {runtime}.")
    if fitting == "torch":
        from edge_af.runtime.pytorch import TorchScorer

        return TorchScorer(path, threads)
    if fitting == "onnxruntime":
        from edge_af.runtime.ort import OnnxScorer

        return OnnxScorer(path, threads)
    from edge_af.runtime.litert import LiteRtScorer

    return LiteRtScorer(path, threads)


def score_all(
    scorer: Scorer, visual: NDArray[np.generic], audio: NDArray[np.generic], batch: int = 256
) -> NDArray[np.float32]:
    """Scores (videos, classes) of features (videos, 1024) and (videos, 128) of any float dtype, a batch at a time."""
    return np.concatenate(
        [
            scorer.score(
                np.asarray(visual[start : start + batch], np.float32), np.asarray(audio[start : start + batch], np.float32)
            )
            for start in range(0, len(visual), batch)
        ]
    )
