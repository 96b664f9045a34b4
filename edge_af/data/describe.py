"""Describe a prepared dataset, or TFRecord files, for `edge-af data info`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_af.console import Progress
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError

MOST_FREQUENT = 10


def describe_dataset(data: Dataset) -> dict[str, Any]:
    """Return the figures of a prepared dataset."""
    counts = data.label_counts()
    order = np.argsort(-counts, kind="stable")[:MOST_FREQUENT]
    names = data.class_names
    labels = len(data.label_values)
    return {
        "kind": "dataset",
        "path": str(data.folder),
        "videos": data.videos,
        "classes": data.classes,
        "classes_that_occur": int((counts > 0).sum()),
        "layout": data.index["layout"],
        "dtype": str(data.visual.dtype),
        "size_bytes": sum(path.stat().st_size for path in data.folder.iterdir() if path.is_file()),
        "labels": labels,
        "labels_per_video": round(labels / data.videos, 4) if data.videos else 0.0,
        "videos_without_labels": int((np.diff(data.label_offsets) == 0).sum()),
        "left_out_records": data.index.get("left_out_records", 0),
        "sources": len(data.index.get("sources", [])),
        "most_frequent": [
            {"class": int(index), "name": names[index], "videos": int(counts[index])}
            for index in order
            if counts[index]
        ],
    }


def describe_tfrecords(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the figures of TFRecord files: the layout of each file's first record, and the number of records.

    Raises:
        EdgeAfError: a file is missing or damaged, or its first record is not YouTube-8M's.
    """
    from edge_af.data.examples import Layout, detect_layout, field_names
    from edge_af.data.tfrecord import Damage, is_gzip, read_batches

    files: list[dict[str, Any]] = []
    with Progress("info", len(paths), "files") as progress:
        for path in paths:
            layout: Layout | None = None
            fields: list[str] = []
            records = 0
            for part in read_batches(path):
                if isinstance(part, Damage):
                    raise EdgeAfError(f"{path}: record {part.record} (counting from 0): {part.reason}.")
                if layout is None:
                    found = detect_layout(part.records[0])
                    if not isinstance(found, Layout):
                        raise EdgeAfError(f"{path}: record 0 (counting from 0): {found}.")
                    layout, fields = found, field_names(part.records[0])
                records += len(part.records)
            files.append(
                {
                    "path": str(path),
                    "layout": layout.name if layout else None,
                    "fields": fields,
                    "gzip": is_gzip(path),
                    "size_bytes": path.stat().st_size,
                    "videos": records,
                }
            )
            progress.update()
    return {
        "kind": "tfrecords",
        "videos": sum(file["videos"] for file in files),
        "size_bytes": sum(file["size_bytes"] for file in files),
        "layout": "+".join(sorted({file["layout"] for file in files if file["layout"]})),
        "files": files,
    }
