"""Run folders in PyTorch: the trained float network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_af.data import Features
from edge_af.runtime import MissingRuntime


class TorchScorer:
    """A run folder, ready to score. See `edge_af.runtime.Scorer`."""

    runtime = "torch"
    max_batch: int | None = None

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import safetensors  # noqa: F401 - reads the weights
            import torch
        except ImportError as error:
            raise MissingRuntime(
                f"torch cannot be imported here ({error}).\nInstall it with: pip install torch safetensors"
            ) from None
        from edge_af.models.run import load_network

        torch.set_num_threads(threads)
        run, self._network = load_network(path)
        self.classes, self.widths = run.classes, run.config.features

    def score(self, features: Features) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            logits = self._network(*map(torch.from_numpy, features))
            scores: NDArray[np.float32] = torch.sigmoid(logits).numpy()
        return scores
