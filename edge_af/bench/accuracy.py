"""Accuracy figures beyond the basic metrics: intervals, differences from FP32, and a gallery of videos."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_af.data.dataset import Dataset
from edge_af.metrics import evaluate
from edge_af.metrics.bootstrap import (
    Outcomes,
    interval,
    load_outcomes,
    outcomes,
    resampled_f1,
    resampled_gap,
    save_outcomes,
)
from edge_af.records.results import OK, Delta, Gallery, GalleryPrediction, GalleryVideo, Row

GALLERY_VIDEOS = 24
GALLERY_SEED = 0
TOP = 3


def accuracy_fields(
    scores: NDArray[np.float32], labels: NDArray[np.uint8], f1_threshold: float, outcomes_to: Path
) -> dict[str, float | int]:
    """Measure the accuracy of scores against labels, both (videos, classes), and save the outcomes for the intervals.

    Returns:
        fields of `Row`.
    """
    save_outcomes(outcomes_to, outcomes(scores, labels, f1_threshold))
    return evaluate(scores, labels, f1_threshold).as_dict()


class Judge:
    """Stores each network's outcomes per video in a folder, one file per network, until the bench is complete."""

    def __init__(self, dataset: Dataset | None, folder: Path) -> None:
        self._dataset, self._folder = dataset, folder
        self._gaps: dict[Path, NDArray[np.float64]] = {}

    def path(self, sha256: str | None, f1_threshold: float | None) -> Path:
        """Return the path for the outcomes of the file with this SHA-256, on these videos, at this threshold."""
        fingerprint = self._dataset.fingerprint() if self._dataset is not None else None
        about = json.dumps([sha256, f1_threshold, fingerprint])
        return self._folder / f"outcomes-{hashlib.sha256(about.encode()).hexdigest()[:16]}.npz"

    def knows(self, row: Row) -> bool:
        """Return True if the outcomes of a row's file are stored."""
        return self._outcomes(row) is not None

    def judged(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows with intervals and differences added. Rows of one file share its accuracy."""
        measured = {row.key: row for row in rows if row.gap_at_20 is not None}
        fields = (
            "f1_micro",
            "f1_threshold",
            "f1_micro_at_half",
            "f1_macro",
            "hit_at_1",
            "perr",
            "map",
            "ties_share",
            "videos",
        )
        found = []
        for row in rows:
            source = measured.get(row.key)
            if source is None or (row.status != OK and row.latency_ms is None):
                found.append(row)
                continue
            shared = {name: getattr(source, name) for name in ("gap_at_20", *fields)}
            found.append(self._with_intervals(dataclasses.replace(row, **shared), list(measured.values())))
        return found

    def _with_intervals(self, row: Row, measured: list[Row]) -> Row:
        held, gaps = self._outcomes(row), self._resampled(row)
        if held is None or gaps is None:
            return row
        delta = None
        same = [
            o
            for o in measured
            if (o.artifact, o.model, o.preset, o.precision) == (row.artifact, row.model, row.preset, "fp32")
        ]
        # Prefer FP32 in the same runtime.
        same.sort(key=lambda other: other.runtime != row.runtime)
        if same and row.precision != "fp32" and (base := self._resampled(same[0])) is not None:
            low, high = interval(gaps - base)
            delta = Delta((row.gap_at_20 or 0.0) - (same[0].gap_at_20 or 0.0), low, high)
        return dataclasses.replace(
            row,
            gap_at_20_interval=list(interval(gaps)),
            gap_at_20_delta=delta,
            f1_micro_interval=list(interval(resampled_f1(held))),
        )

    def gallery(self, rows: Sequence[Row]) -> Gallery | None:
        """Return videos sampled with a fixed seed, their labels and each network's three best classes."""
        if self._dataset is None:
            return None
        count = min(GALLERY_VIDEOS, self._dataset.videos)
        chosen = np.sort(np.random.default_rng(GALLERY_SEED).choice(self._dataset.videos, count, replace=False))
        labels, names = self._dataset.labels(chosen), self._dataset.class_names
        found = {row.key: held for row in rows if (held := self._outcomes(row)) is not None}
        videos = [
            GalleryVideo(
                id=self._dataset.ids[video].decode(errors="replace"),
                labels=[names[c] for c in np.nonzero(labels[at])[0]],
                predictions={
                    key: [
                        GalleryPrediction(
                            names[held.best[video, rank]], round(float(score), 4), bool(held.hits[video, rank])
                        )
                        for rank, score in enumerate(held.scores[video, :TOP])
                    ]
                    for key, held in found.items()
                },
            )
            for at, video in enumerate(chosen)
        ]
        return Gallery(GALLERY_SEED, videos)

    def _outcomes(self, row: Row) -> Outcomes | None:
        try:
            found = load_outcomes(self.path(row.sha256, row.f1_threshold))
        except (OSError, ValueError):
            return None
        return found if self._dataset is not None and len(found.labels) == self._dataset.videos else None

    def _resampled(self, row: Row) -> NDArray[np.float64] | None:
        path = self.path(row.sha256, row.f1_threshold)
        if path not in self._gaps:
            held = self._outcomes(row)
            if held is None:
                return None
            self._gaps[path] = resampled_gap(held)
        return self._gaps[path]
