"""Accuracy of a loaded network on a dataset, as measured by `eval` and the bench."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.metrics import Metrics, evaluate
from edge_af.runtime import Scorer, score_all


def accuracy(
    scorer: Scorer,
    path: Path,
    dataset: Dataset,
    f1_threshold: float,
    *,
    batch: int = 256,
    on_scored: Callable[[int], None] = lambda videos: None,
) -> Metrics:
    """Score every video of a dataset and compare the scores with its labels.

    Args:
        scorer: the network, with as many classes as the dataset.
        path: its file or folder, for messages.
        dataset: the videos; their features must have passed `check_features`.
        f1_threshold: F1 threshold, chosen on other videos.
        batch: largest number of videos scored at a time, see `score_all`.
        on_scored: called after each part with its number of videos.

    Raises:
        EdgeAfError: the dataset has no labels, or a score is NaN.
    """
    scores = score_dataset(scorer, path, dataset, batch=batch, on_scored=on_scored)
    return evaluate(scores, dataset.labels(slice(None)), f1_threshold)


def score_dataset(
    scorer: Scorer,
    path: Path,
    dataset: Dataset,
    *,
    batch: int = 256,
    on_scored: Callable[[int], None] = lambda videos: None,
) -> NDArray[np.float32]:
    """Compute scores (videos, classes) of every video of a dataset; arguments and errors as for `accuracy`."""
    check_labels(dataset)
    scores = np.empty((dataset.videos, scorer.classes), np.float32)
    step = 4 * batch
    for start in range(0, dataset.videos, step):
        rows = slice(start, start + step)
        scores[rows] = score_all(scorer, dataset.stored.take(rows), batch)
        on_scored(len(scores[rows]))
    if broken := int(np.isnan(scores).any(axis=1).sum()):
        raise EdgeAfError(f"{path}: {broken:,} of {len(scores):,} videos have a NaN score.")
    return scores


def check_labels(dataset: Dataset) -> None:
    """Refuse to measure accuracy on videos without labels, where every figure would be 0.

    Raises:
        EdgeAfError: no video of the dataset has a label.
    """
    if len(dataset.label_values) == 0:
        raise EdgeAfError(
            f"{dataset.folder}: none of its {dataset.videos:,} videos has a label, so there is no accuracy to measure.\n"
            "Use labeled videos, such as YouTube-8M's validation partition; its test partition has no labels."
        )
