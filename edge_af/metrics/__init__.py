"""GAP@20, F1, Hit@1, PERR and mAP over a set of videos, in numpy. For their intervals see `edge_af.metrics.bootstrap`.

Definitions follow the evaluation code of the google/youtube-8m repository (`eval_util.py`,
`average_precision_calculator.py`). They do not define F1. Here it is micro-averaged over all (video, class) pairs, and
macro-averaged over the classes that occur.

Ties are broken the same way each time. Within a video the lower class index wins. Across videos the pooled pairs are
shuffled with a fixed seed before a stable sort, so that ties favor neither labels nor non-labels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

TOP_K = 20
TIE_SEED = 0


@dataclass(frozen=True)
class Metrics:
    """Accuracy over `videos` videos. All figures lie in [0, 1]; JSON files use the same names."""

    videos: int
    gap_at_20: float
    f1_micro: float
    f1_threshold: float
    f1_micro_at_half: float
    f1_macro: float
    hit_at_1: float
    perr: float
    map: float
    ties_share: float
    """Share of the pooled top-20 pairs whose score equals another pair's, which shows how far GAP@20 depends on ties."""

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)


def top_k(scores: NDArray[np.floating], k: int = TOP_K) -> NDArray[np.int64]:
    """Return each video's k best classes, best first, ties by class index: (videos, min(k, classes)) int64."""
    videos, classes = scores.shape
    k = min(k, classes)
    # Sorting all 3,862 scores of a video takes ten times as long as partitioning first.
    threshold = np.partition(scores, classes - k, axis=1)[:, classes - k]
    keep = scores >= threshold[:, None]
    picked = np.empty((videos, k), np.int64)
    tied = keep.sum(axis=1) > k
    if not tied.all():
        picked[~tied] = np.nonzero(keep[~tied])[1].reshape(-1, k)
    for row in np.nonzero(tied)[0]:
        above = np.nonzero(scores[row] > threshold[row])[0]
        level = np.nonzero(scores[row] == threshold[row])[0]
        picked[row] = np.sort(np.concatenate([above, level[: k - len(above)]]))
    order = np.argsort(-np.take_along_axis(scores, picked, axis=1), axis=1, kind="stable")
    return np.take_along_axis(picked, order, axis=1)


def gap_at_20(scores: NDArray[np.floating], labels: NDArray[np.uint8]) -> float:
    """Global average precision of the pooled top-20 pairs of every video, over ALL positive labels.

    Args:
        scores: (videos, classes), higher is more likely.
        labels: (videos, classes), 1 where the class is a label.
    """
    best = top_k(scores)
    return _average_precision(
        np.take_along_axis(scores, best, axis=1).ravel(),
        np.take_along_axis(labels, best, axis=1).ravel(),
        positives=int(labels.sum(dtype=np.int64)),
    )


def choose_f1_threshold(scores: NDArray[np.floating], labels: NDArray[np.uint8]) -> float:
    """Return the threshold with the highest micro-F1 on these videos, for use on others.

    A label is predicted where `score >= threshold`. Only scores from 0.01 up are considered.
    """
    candidates = scores >= 0.01
    values = scores[candidates]
    if values.size == 0:
        return 0.5
    hits = labels[candidates]
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], hits[order].astype(np.int64)
    true_positives = np.cumsum(hits)
    f1 = 2 * true_positives / (np.arange(1, len(values) + 1) + labels.sum(dtype=np.int64))
    # A threshold includes all pairs of equal score, so only the last pair of each tie can set it.
    last_of_run = np.append(values[1:] != values[:-1], True)
    return float(values[np.argmax(np.where(last_of_run, f1, -1.0))])


def f1_micro(scores: NDArray[np.floating], labels: NDArray[np.uint8], threshold: float) -> float:
    """Micro-averaged F1 of `score >= threshold` over all (video, class) pairs; 0 without positives."""
    predicted = scores >= threshold
    true_positives = int(np.count_nonzero(predicted & (labels > 0)))
    total = int(np.count_nonzero(predicted)) + int(labels.sum(dtype=np.int64))
    return 2 * true_positives / total if total else 0.0


def f1_macro(scores: NDArray[np.floating], labels: NDArray[np.uint8], threshold: float) -> float:
    """Macro-averaged F1 of `score >= threshold` over the classes that some video is labeled with; 0 without any."""
    predicted = scores >= threshold
    true_positives = np.count_nonzero(predicted & (labels > 0), axis=0)
    positives = labels.sum(axis=0, dtype=np.int64)
    f1 = 2 * true_positives / np.maximum(np.count_nonzero(predicted, axis=0) + positives, 1)
    occurs = positives > 0
    return float(f1[occurs].mean()) if occurs.any() else 0.0


def ties_share(scores: NDArray[np.floating]) -> float:
    """Share of the pooled top-20 pairs whose score equals another pair's."""
    pooled = np.sort(np.take_along_axis(scores, top_k(scores), axis=1), axis=None)
    same = pooled[1:] == pooled[:-1]
    return float((np.append(same, False) | np.insert(same, 0, False)).mean())


def hit_at_1(scores: NDArray[np.floating], labels: NDArray[np.uint8]) -> float:
    """Share of videos whose best class is a label."""
    return float(labels[np.arange(len(scores)), np.argmax(scores, axis=1)].mean())


def perr(scores: NDArray[np.floating], labels: NDArray[np.uint8]) -> float:
    """Precision at equal recall rate: for a video with n labels, the share of its n best classes that are labels.

    Only scores above 0 count. As in the reference, a video without labels counts as 0.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    counts = labels.sum(axis=1, dtype=np.int64)
    inside = np.arange(scores.shape[1])[None, :] < counts[:, None]
    hits = np.take_along_axis(labels, order, axis=1) * (np.take_along_axis(scores, order, axis=1) > 0) * inside
    return float((hits.sum(axis=1) / np.maximum(counts, 1)).mean())


def mean_average_precision(scores: NDArray[np.floating], labels: NDArray[np.uint8]) -> float:
    """Mean average precision over the classes with a positive; a class ranks only pairs in some video's top 20."""
    best = top_k(scores)
    pair_scores = np.take_along_axis(scores, best, axis=1).ravel()
    pair_labels = np.take_along_axis(labels, best, axis=1).ravel()
    pair_classes = best.ravel()
    positives = labels.sum(axis=0, dtype=np.int64)
    by_class = np.argsort(pair_classes, kind="stable")
    bounds = np.searchsorted(pair_classes[by_class], np.arange(scores.shape[1] + 1))
    precisions = [
        _average_precision(pair_scores[rows], pair_labels[rows], positives=int(positives[c]))
        for c in np.nonzero(positives)[0]
        for rows in [by_class[bounds[c] : bounds[c + 1]]]
    ]
    return float(np.mean(precisions)) if precisions else 0.0


def evaluate(scores: NDArray[np.floating], labels: NDArray[np.uint8], f1_threshold: float) -> Metrics:
    """All metrics of one network on one set of videos.

    Args:
        scores: (videos, classes) probabilities.
        labels: (videos, classes) uint8.
        f1_threshold: from `choose_f1_threshold` on other videos.

    Raises:
        ValueError: shapes differ, there are no videos, or a score is NaN, which sorting would hide.
    """
    if scores.shape != labels.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must be the same (videos, classes)")
    if len(scores) == 0:
        raise ValueError("no videos to evaluate")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).any(axis=1).sum())} of {len(scores)} videos have a NaN score")
    return Metrics(
        videos=len(scores),
        gap_at_20=gap_at_20(scores, labels),
        f1_micro=f1_micro(scores, labels, f1_threshold),
        f1_threshold=f1_threshold,
        f1_micro_at_half=f1_micro(scores, labels, 0.5),
        f1_macro=f1_macro(scores, labels, f1_threshold),
        hit_at_1=hit_at_1(scores, labels),
        perr=perr(scores, labels),
        map=mean_average_precision(scores, labels),
        ties_share=ties_share(scores),
    )


def _average_precision(scores: NDArray[np.floating], labels: NDArray[np.uint8], *, positives: int) -> float:
    """Sum of precision-at-i over the ranked positive pairs i, divided by `positives`; 0 without positives."""
    if positives == 0:
        return 0.0
    hits = labels[ranking(scores)].astype(np.float64)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / positives)


def ranking(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Indices that sort pooled scores (n,), highest first; ties in an order from a fixed seed."""
    shuffled = np.random.default_rng(TIE_SEED).permutation(len(scores))
    return shuffled[np.argsort(-scores[shuffled], kind="stable")]
