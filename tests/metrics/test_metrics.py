"""The metrics compared with slow implementations of their definitions, on random and on tied scores."""

from __future__ import annotations

import numpy as np
import pytest

from edge_af import metrics


def ranked_pairs(scores, labels, k=20):
    """Return (score, label, class) of every video's k best. Ties: lower class first, as documented."""
    pairs = []
    for video_scores, video_labels in zip(scores, labels, strict=True):
        order = sorted(range(len(video_scores)), key=lambda c: (-video_scores[c], c))[:k]
        pairs += [(video_scores[c], video_labels[c], c) for c in order]
    return pairs


def slow_average_precision(pairs, positives):
    """Return the average precision with ties in the documented pseudo-random order."""
    shuffled = [pairs[i] for i in np.random.default_rng(metrics.TIE_SEED).permutation(len(pairs))]
    hits, total = 0, 0.0
    for rank, (_, label, *_) in enumerate(sorted(shuffled, key=lambda pair: -pair[0]), start=1):
        if label:
            hits += 1
            total += hits / rank
    return total / positives if positives else 0.0


def slow_perr(scores, labels):
    total = 0.0
    for video_scores, video_labels in zip(scores, labels, strict=True):
        n = int(video_labels.sum())
        if n:
            order = sorted(range(len(video_scores)), key=lambda c: (-video_scores[c], c))[:n]
            total += sum(1 for c in order if video_labels[c] and video_scores[c] > 0) / n
    return total / len(scores)


def slow_map(scores, labels):
    pairs = ranked_pairs(scores, labels)
    values = []
    for c in range(scores.shape[1]):
        positives = int(labels[:, c].sum())
        if positives:
            values.append(slow_average_precision([pair for pair in pairs if pair[2] == c], positives))
    return sum(values) / len(values)


def slow_f1(scores, labels, threshold):
    tp = fp = fn = 0
    for video_scores, video_labels in zip(scores, labels, strict=True):
        for score, label in zip(video_scores, video_labels, strict=True):
            tp += bool(score >= threshold and label)
            fp += bool(score >= threshold and not label)
            fn += bool(score < threshold and label)
    return 2 * tp / (2 * tp + fp + fn)


def draw(seed, kind, videos=60, classes=45):
    random = np.random.default_rng(seed)
    labels = (random.random((videos, classes)) < 0.08).astype(np.uint8)
    labels[3] = 0  # A video may have no labels.
    scores = np.clip(0.3 * labels + random.random((videos, classes)) * 0.7, 0, 1)
    if kind == "tied":
        scores = np.round(scores, 1)
    if kind == "zeros":
        scores = np.where(scores < 0.6, 0.0, scores)
    return scores.astype(np.float32), labels


@pytest.mark.parametrize("kind", ["random", "tied", "zeros"])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_agree_with_their_definitions(seed, kind):
    scores, labels = draw(seed, kind)
    measured = metrics.evaluate(scores, labels, f1_threshold=0.55)
    positives = int(labels.sum())
    assert measured.gap_at_20 == pytest.approx(
        slow_average_precision(ranked_pairs(scores, labels), positives), abs=1e-9
    )
    assert measured.map == pytest.approx(slow_map(scores, labels), abs=1e-9)
    assert measured.perr == pytest.approx(slow_perr(scores, labels), abs=1e-9)
    assert measured.f1_micro == pytest.approx(slow_f1(scores, labels, 0.55), abs=1e-9)
    assert measured.f1_micro_at_half == pytest.approx(slow_f1(scores, labels, 0.5), abs=1e-9)
    classes = [c for c in range(scores.shape[1]) if labels[:, c].any()]
    slow_macro = np.mean([slow_f1(scores[:, [c]], labels[:, [c]], 0.55) for c in classes])
    assert measured.f1_macro == pytest.approx(slow_macro, abs=1e-9)
    pooled = [score for score, *_ in ranked_pairs(scores, labels)]
    assert measured.ties_share == pytest.approx(np.mean([pooled.count(score) > 1 for score in pooled]), abs=1e-9)
    assert measured.hit_at_1 == pytest.approx(
        np.mean([label[np.argmax(score)] for score, label in zip(scores, labels, strict=True)]), abs=1e-9
    )


def test_gap_divides_by_all_positives_and_not_by_twenty():
    labels = np.zeros((1, 30), np.uint8)
    labels[0, :25] = 1
    scores = np.linspace(1, 0, 30, dtype=np.float32)[None]
    assert metrics.gap_at_20(scores, labels) == pytest.approx(20 / 25)


def test_gap_pools_videos_before_ranking():
    # Each hit ranks first in its video, but in the pool video 0's miss outranks video 1's hit.
    scores = np.array([[0.9, 0.8], [0.3, 0.1]], np.float32)
    labels = np.array([[1, 0], [1, 0]], np.uint8)
    assert metrics.gap_at_20(scores, labels) == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_ties_favor_neither_side():
    """If all scores are equal, GAP is near the share of labels, not near 0 or 1."""
    labels = np.tile(np.array([1] + [0] * 19, np.uint8), (500, 1))
    scores = np.full((500, 20), 0.5, np.float32)
    assert metrics.gap_at_20(scores, labels) == pytest.approx(1 / 20, abs=0.01)


def test_top_k_breaks_ties_at_the_border_by_class():
    scores = np.array([[0.5, 0.9, 0.5, 0.5, 0.1]], np.float32)
    assert metrics.top_k(scores, 3).tolist() == [[1, 0, 2]]


def test_chosen_threshold_is_the_best_of_all_scores():
    scores, labels = draw(7, "tied")
    chosen = metrics.choose_f1_threshold(scores, labels)
    best = max(metrics.f1_micro(scores, labels, float(value)) for value in np.unique(scores) if value >= 0.01)
    assert metrics.f1_micro(scores, labels, chosen) == pytest.approx(best, abs=1e-12)


def test_threshold_without_candidates():
    assert metrics.choose_f1_threshold(np.zeros((2, 3), np.float32), np.ones((2, 3), np.uint8)) == 0.5


def test_nan_scores_are_refused():
    scores, labels = draw(0, "random")
    scores[5, 7] = np.nan
    with pytest.raises(ValueError, match="1 of 60 videos have a NaN score"):
        metrics.evaluate(scores, labels, 0.5)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="same"):
        metrics.evaluate(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.uint8), 0.5)
