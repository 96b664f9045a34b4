"""Small but real artifacts and data for the tests of bench, report, eval and predict."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from edge_af.artifacts import ArtifactFile, Manifest, write_manifest
from edge_af.files import sha256_file, write_json

CLASSES = 30


def write_dataset(folder: Path, videos: int = 40, classes: int = CLASSES, seed: int = 3) -> Path:
    """A prepared dataset of random features, written as `edge_af.data.dataset` documents it."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    labels = [np.sort(random.choice(classes, random.integers(1, 4), replace=False)) for _ in range(videos)]
    arrays = {
        "visual": random.normal(0, 0.5, (videos, 1024)).astype(np.float16),
        "audio": random.normal(0, 0.7, (videos, 128)).astype(np.float16),
        "label_offsets": np.cumsum([0, *map(len, labels)]).astype(np.int64),
        "label_values": np.concatenate(labels).astype(np.uint16),
        "ids": np.array([f"v{i:03d}" for i in range(videos)], "S16"),
    }
    for stem, array in arrays.items():
        np.save(folder / f"{stem}.npy", array)
    index = {
        "schema_version": 1,
        "videos": videos,
        "classes": classes,
        "layout": "2018",
        "dtype": "float16",
        "class_names": [f"Thing {i}" for i in range(classes)],
        "sources": [],
        "left_out": [],
    }
    write_json(folder / "index.json", index)
    return folder
