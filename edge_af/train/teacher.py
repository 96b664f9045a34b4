"""Distillation: scores of one or several teachers as part of a student's targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_af.console import Progress
from edge_af.data import wrong_widths
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.files import sha256_file
from edge_af.models.networks import AttendFusion, FCLateFusion
from edge_af.models.run import Run, load_network
from edge_af.train.compute import Compute, Inputs

KEPT_BYTES = 2 * 2**30
"""Scores of all training videos are kept in memory if they take at most this many bytes. Scoring a video with a teacher of
341M parameters takes as long as training a student of 72M on it, and the scores do not change."""
BATCH = 512


class Teacher(Protocol):
    """A source of scores for videos."""

    def scores(self, rows: NDArray[np.int64], inputs: Inputs) -> Tensor:
        """Return the scores (n, classes) float32 of features `inputs`, those of the dataset's `rows` unless mixed."""
        ...


class AskedEachTime:
    """Networks that score each batch; their mean is the target."""

    def __init__(self, networks: Sequence[AttendFusion | FCLateFusion], compute: Compute) -> None:
        self._networks, self._compute = networks, compute

    def scores(self, rows: NDArray[np.int64], inputs: Inputs) -> Tensor:
        with torch.inference_mode(), self._compute.autocast():
            return torch.stack([torch.sigmoid(network(*inputs).float()) for network in self._networks]).mean(dim=0)


class AskedOnce:
    """Scores of all training videos, in memory as float16."""

    def __init__(self, scores: NDArray[np.float16], compute: Compute) -> None:
        self._scores, self._compute = scores, compute

    def scores(self, rows: NDArray[np.int64], inputs: Inputs) -> Tensor:
        return self._compute.tensor(self._scores[rows]).float()


def open_teacher(folder: Path, dataset: Dataset) -> tuple[dict[str, str], AttendFusion | FCLateFusion]:
    """Return a teacher's identity and its network.

    Raises:
        EdgeAfError: it is not a run, or has a different number of classes from the data.
    """
    run: Run
    run, network = load_network(folder)
    if run.classes != dataset.classes:
        raise EdgeAfError(f"{folder}: the teacher has {run.classes:,} classes, but the data has {dataset.classes:,}.")
    if run.config.features != dataset.widths:
        raise EdgeAfError(
            wrong_widths(f"{folder}: a teacher, but {dataset.folder}", dataset.widths, run.config.features)
        )
    return {"model": run.model, "sha256": sha256_file(folder / run.weights)}, network


def ready(
    networks: Sequence[AttendFusion | FCLateFusion], dataset: Dataset, compute: Compute, *, keep: bool
) -> Teacher:
    """Return the mean of the teachers; with `keep`, its scores of the dataset's videos are in memory if they fit."""
    asked = AskedEachTime([network.to(compute.device) for network in networks], compute)
    if not keep or 2 * dataset.videos * dataset.classes > KEPT_BYTES:
        return asked
    kept = np.empty((dataset.videos, dataset.classes), np.float16)
    with Progress("asking the teachers", dataset.videos, "videos") as progress:
        for start in range(0, dataset.videos, BATCH):
            rows = np.arange(start, min(start + BATCH, dataset.videos))
            kept[rows] = asked.scores(rows, compute.inputs(dataset.features(rows))).cpu().numpy()
            progress.update(len(rows))
    return AskedOnce(kept, compute)
