"""Confidence intervals of GAP@20, F1 and GAP@20 differences by a bootstrap over videos (Efron 1979).

Each resample draws as many videos as there are, with replacement, and computes the metric again. The interval is the middle
95 % of 1,000 resamples. A video that is drawn m times counts as m videos with the same scores. GAP@20 sorts only once,
because a resample only changes how often each ranked pair counts. All networks see the same resamples, so that differences
between two networks are paired.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_af.metrics import TOP_K, ranking, top_k

RESAMPLES = 1000
SEED = 0
LEVEL = 0.95


@dataclass(frozen=True)
class Outcomes:
    """A network's outcome on each video, which is all that resampling needs."""

    best: NDArray[np.int32]
    """(videos, k), the best classes, best first."""
    scores: NDArray[np.float32]
    """(videos, k), their scores."""
    hits: NDArray[np.bool_]
    """(videos, k), True where the class is a label."""
    labels: NDArray[np.int32]
    """(videos,), number of labels."""
    predicted: NDArray[np.int32]
    """(videos,), number of classes at or above the F1 threshold."""
    correct: NDArray[np.int32]
    """(videos,), number of those that are labels."""


def outcomes(scores: NDArray[np.floating], labels: NDArray[np.uint8], f1_threshold: float) -> Outcomes:
    """Compute the outcomes from scores and labels, both (videos, classes)."""
    best = top_k(scores, TOP_K)
    predicted = scores >= f1_threshold
    return Outcomes(
        best=best.astype(np.int32),
        scores=np.take_along_axis(scores, best, axis=1).astype(np.float32),
        hits=np.take_along_axis(labels, best, axis=1) > 0,
        labels=labels.sum(axis=1, dtype=np.int32),
        predicted=np.count_nonzero(predicted, axis=1).astype(np.int32),
        correct=np.count_nonzero(predicted & (labels > 0), axis=1).astype(np.int32),
    )


def save_outcomes(path: Path, found: Outcomes) -> None:
    """Write outcomes as `.npz`."""
    with path.open("wb") as file:
        np.savez(file, **asdict(found))


def load_outcomes(path: Path) -> Outcomes:
    """Read what `save_outcomes` wrote.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is damaged or of another kind.
    """
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as held:
                arrays = {name: held[name] for name in Outcomes.__dataclass_fields__}
        except Exception as error:
            # Damaged bytes make numpy and zipfile raise almost anything: BadZipFile, zlib.error, EOFError, KeyError, …
            raise ValueError(f"no outcomes: {error}") from None
    shapes = {name: array.shape[:1] if array.ndim == 2 else array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) != 1 or any(arrays[name].ndim != 2 for name in ("best", "scores", "hits")):
        raise ValueError(f"no outcomes: arrays of {shapes}")
    return Outcomes(**arrays)


def resampled_gap(found: Outcomes, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """GAP@20 of each resample: (resamples,) float64. Every network gets the same resamples."""
    videos, k = found.scores.shape
    ranked = ranking(found.scores.ravel())
    video_of = ranked // k
    hit_at = np.nonzero(found.hits.ravel()[ranked])[0]
    result = np.zeros(resamples)
    for index, counts in enumerate(_draws(videos, resamples)):
        copies = counts[video_of]
        # Number of pairs and hits ranked above each hit's first copy.
        hit_copies = copies[hit_at]
        pairs_above = np.cumsum(copies)[hit_at] - hit_copies
        hits_above = np.cumsum(hit_copies) - hit_copies
        total = 0.0
        for copy in range(1, int(hit_copies.max(initial=0)) + 1):
            there = hit_copies >= copy
            total += float(((hits_above[there] + copy) / (pairs_above[there] + copy)).sum())
        positives = int(counts @ found.labels)
        result[index] = total / positives if positives else 0.0
    return result


def resampled_f1(found: Outcomes, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Micro-F1 of each resample: (resamples,) float64."""
    result = np.zeros(resamples)
    for index, counts in enumerate(_draws(len(found.labels), resamples)):
        total = int(counts @ found.predicted) + int(counts @ found.labels)
        result[index] = 2 * int(counts @ found.correct) / total if total else 0.0
    return result


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of figures (n,)."""
    low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def _draws(videos: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Yield each resample's count of every video: (videos,) int64."""
    random = np.random.default_rng(SEED)
    for _ in range(resamples):
        yield np.bincount(random.integers(videos, size=videos), minlength=videos)
