"""Training batches from a prepared dataset: the split, each epoch's order, and prefetching."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_af.data import Features
from edge_af.data.dataset import Dataset
from edge_af.prefetch import prefetched

BLOCK = 256
"""Neighboring videos read together: 512 KB of visual features, enough for sequential disk reads."""

MIX = 64
"""Blocks whose videos are shuffled together."""


@dataclass(frozen=True)
class Batch:
    """Videos of one training step."""

    rows: NDArray[np.int64]
    """(n,), rows in the dataset."""
    features: Features
    """float32."""
    labels: NDArray[np.uint8]
    """(n, classes)."""


def split(videos: int, held_out: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the rows into training and held-out ones, both ascending and deterministic.

    Args:
        videos: number of videos.
        held_out: share to hold out, at least one video.
        seed: random seed.
    """
    count = min(max(1, round(videos * held_out)), videos - 1)
    order = np.random.default_rng([seed, 0]).permutation(videos)
    return np.sort(order[count:]), np.sort(order[:count])


def epoch_order(rows: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the rows in the order of an epoch.

    Blocks of neighbors are shuffled, then the videos within each group of `MIX` blocks. This is random enough for
    training, and reads mostly sequentially where the dataset is larger than memory.
    """
    random = np.random.default_rng([seed, 1, epoch])
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    order = random.permutation(len(blocks))
    return np.concatenate(
        [
            random.permutation(np.concatenate([blocks[i] for i in order[start : start + MIX]]))
            for start in range(0, len(order), MIX)
        ]
    )


def batches(dataset: Dataset, order: NDArray[np.int64], size: int, ahead: int = 4) -> Iterator[Batch]:
    """Return batches of `size` videos in the given order; a thread prepares `ahead` batches in advance.

    A last batch of fewer than `size` videos is dropped: its BatchNorm statistics would be poor, and the next epoch has
    another order.
    """
    starts = range(0, len(order) - size + 1, size)
    found = (
        Batch(rows, dataset.features(rows), dataset.labels(rows))
        for rows in (order[start : start + size] for start in starts)
    )
    return prefetched(found, ahead)
