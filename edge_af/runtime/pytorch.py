"""Run folders in PyTorch: the float network as it was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class TorchScorer:
    """A run folder, ready to score. See `edge_af.runtime.Scorer`."""

    runtime = "torch"
    max_batch: int | None = None

    def __init__(self, path: Path, threads: int) -> None:
        import torch

        from edge_af.models.run import load_network

        torch.set_num_threads(threads)
        run, self._network = load_network(path)
        self.classes = run.classes

    def score(self, visual: NDArray[np.float32], audio: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            logits = self._network(torch.from_numpy(visual), torch.from_numpy(audio))
            scores: NDArray[np.float32] = torch.sigmoid(logits).numpy()
        return scores
