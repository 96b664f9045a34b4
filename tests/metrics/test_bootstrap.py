"""The bootstrap compared with the metric of each resample, and properties of its intervals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edge_af import metrics
from edge_af.metrics import bootstrap
from edge_af.metrics.bootstrap import interval, load_outcomes, outcomes, resampled_f1, resampled_gap, save_outcomes


def draw(seed: int, videos: int = 150, classes: int = 40, signal: float = 0.4):
    random = np.random.default_rng(seed)
    labels = (np.random.default_rng(99).random((videos, classes)) < 0.08).astype(np.uint8)
    labels[3] = 0
    return (signal * labels + random.random((videos, classes)) * 0.6).astype(np.float32), labels


def test_a_resample_is_the_metric_of_the_videos_drawn():
    scores, labels = draw(0)
    found = outcomes(scores, labels, 0.55)
    gaps, f1s = resampled_gap(found, 30), resampled_f1(found, 30)
    random = np.random.default_rng(bootstrap.SEED)
    for gap, f1 in zip(gaps, f1s, strict=True):
        rows = random.integers(len(scores), size=len(scores))
        # Only a video drawn twice has equal scores, and these are all hits or all misses.
        assert gap == pytest.approx(metrics.gap_at_20(scores[rows], labels[rows]), abs=1e-12)
        assert f1 == pytest.approx(metrics.f1_micro(scores[rows], labels[rows], 0.55), abs=1e-12)


def test_the_interval_holds_the_figure_and_narrows_with_more_videos():
    widths = []
    for videos in (100, 1600):
        scores, labels = draw(1, videos)
        low, high = interval(resampled_gap(outcomes(scores, labels, 0.55), 300))
        assert low < metrics.gap_at_20(scores, labels) < high
        widths.append(high - low)
    assert 2.5 < widths[0] / widths[1] < 6.5


def test_networks_that_differ_little_differ_surely():
    """The paired interval of a difference is far narrower than the interval of a single metric."""
    scores, labels = draw(2, 400)
    noise = np.random.default_rng(5).normal(size=scores.shape).astype(np.float32)
    first, second = outcomes(scores, labels, 0.5), outcomes(scores + 0.003 * noise, labels, 0.5)
    own = np.subtract(*interval(resampled_gap(first, 200)))
    paired = np.subtract(*interval(resampled_gap(second, 200) - resampled_gap(first, 200)))
    assert abs(paired) < 0.2 * abs(own)
    same = resampled_gap(first, 200) - resampled_gap(first, 200)
    assert not same.any()


def test_videos_without_any_label_or_prediction_make_no_division_by_zero():
    found = outcomes(np.zeros((5, 30), np.float32), np.zeros((5, 30), np.uint8), 0.5)
    assert not resampled_gap(found, 5).any() and not resampled_f1(found, 5).any()


def test_outcomes_come_back_as_they_went(tmp_path: Path):
    found = outcomes(*draw(3), 0.5)
    save_outcomes(tmp_path / "o.npz", found)
    again = load_outcomes(tmp_path / "o.npz")
    for field in dataclasses.fields(found):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(found, field.name))
    (tmp_path / "o.npz").write_bytes(b"PK nothing")
    with pytest.raises((OSError, ValueError)):
        load_outcomes(tmp_path / "o.npz")
