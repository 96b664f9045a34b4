"""A small prepared dataset with learnable classes, and the path of the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_af.data.dataset import INDEX, SCHEMA_VERSION, Dataset, open_dataset
from edge_af.files import write_json

REPOSITORY = Path(__file__).resolve().parents[1]


def write_dataset(folder: Path, videos: int, classes: int, seed: int = 0) -> Dataset:
    """Write a prepared dataset with learnable classes: each label adds a fixed vector to the features."""
    random = np.random.default_rng(seed)
    directions = np.random.default_rng(1234).normal(size=(classes, 1152)) * 0.6
    hot = random.random((videos, classes)) < np.linspace(0.4, 0.05, classes)
    features = hot @ directions + random.normal(size=(videos, 1152)) * 0.5
    folder.mkdir(parents=True)
    np.save(folder / "visual.npy", features[:, :1024].astype(np.float16))
    np.save(folder / "audio.npy", features[:, 1024:].astype(np.float16))
    np.save(folder / "label_offsets.npy", np.concatenate([[0], np.cumsum(hot.sum(1))]).astype(np.int64))
    np.save(folder / "label_values.npy", np.nonzero(hot)[1].astype(np.uint16))
    np.save(folder / "ids.npy", np.array([f"v{i:05d}" for i in range(videos)], "S16"))
    names = [f"name of {c}" for c in range(classes)]
    index = {"schema_version": SCHEMA_VERSION, "videos": videos, "classes": classes, "class_names": names}
    write_json(folder / INDEX, {**index, "layout": "2018", "dtype": "float16", "sources": [], "left_out": []})
    return open_dataset(folder)
