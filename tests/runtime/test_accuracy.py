"""Accuracy: the metrics of all scores, and refusal of data without labels and of NaN scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_af.data import Features
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.metrics import evaluate
from edge_af.runtime.accuracy import accuracy

FILE = Path("net.onnx")


class Linear:
    """Scorer with a fixed function of each video and a configurable `max_batch`."""

    runtime = "onnxruntime"

    def __init__(self, classes: int, max_batch: int | None = None, value: float = 0.0) -> None:
        self.classes, self.max_batch, self.value = classes, max_batch, value
        self.batches: list[int] = []

    def score(self, features: Features) -> NDArray[np.float32]:
        self.batches.append(len(features.visual))
        scores: NDArray[np.float32] = np.abs(
            np.sin(features.visual[:, : self.classes] + features.audio[:, :1])
        ) + np.float32(self.value)
        return scores


@pytest.mark.parametrize("max_batch", [None, 1])
def test_it_is_that_of_every_video(eval_dataset: Dataset, max_batch: int | None):
    scorer, told = Linear(eval_dataset.classes, max_batch), list[int]()
    found = accuracy(scorer, FILE, eval_dataset, 0.25, batch=30, on_scored=told.append)
    scores = Linear(eval_dataset.classes).score(eval_dataset.features(slice(None)))
    assert found == evaluate(scores, eval_dataset.labels(slice(None)), 0.25)
    assert sum(told) == sum(scorer.batches) == eval_dataset.videos
    assert max(scorer.batches) == (max_batch or 30)


def test_videos_without_any_label_are_refused(eval_dataset: Dataset):
    bare = dataclasses.replace(
        eval_dataset,
        label_values=np.zeros(0, np.uint16),
        label_offsets=np.zeros(eval_dataset.videos + 1, np.int64),
    )
    scorer = Linear(eval_dataset.classes)
    with pytest.raises(EdgeAfError, match="none of its 200 videos has a label"):
        accuracy(scorer, FILE, bare, 0.25)
    assert scorer.batches == []


def test_a_nan_score_is_refused(eval_dataset: Dataset):
    with pytest.raises(EdgeAfError, match=r"net.onnx: 200 of 200 videos have a NaN score"):
        accuracy(Linear(eval_dataset.classes, value=float("nan")), FILE, eval_dataset, 0.25)
