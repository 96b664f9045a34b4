"""A damaged dataset is refused with a clear message when it is opened, not later."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_af.data.dataset import ARRAYS, INDEX, Dataset, open_dataset
from edge_af.errors import EdgeAfError


@pytest.fixture
def folder(tmp_path: Path, eval_dataset: Dataset) -> Path:
    return Path(shutil.copytree(eval_dataset.folder, tmp_path / "data"))


GONE = object()


@pytest.mark.parametrize(
    "field, value",
    [
        ("videos", "200"), ("videos", GONE), ("videos", 200.0), ("videos", True), ("videos", -1), ("videos", 199),
        ("classes", GONE), ("classes", "30"), ("classes", None), ("classes", 0),
        ("layout", GONE), ("layout", 2018),
        ("class_names", "abc"), ("class_names", [1]), ("class_names", None),
        ("sources", 3), ("left_out", {}), ("left_out_records", "none"),
    ],
)  # fmt: skip
def test_a_damaged_index(folder: Path, run: Callable[..., Any], field: str, value: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    index.pop(field, None)
    (folder / INDEX).write_text(json.dumps(index if value is GONE else index | {field: value}))
    with pytest.raises(EdgeAfError, match=r"Prepare it again\."):
        open_dataset(folder)
    ran = run("data", "info", folder)
    assert ran.status == 2
    assert ran.err.startswith("edge-af: ")


@pytest.mark.parametrize("stem", ARRAYS)
def test_a_damaged_array(folder: Path, stem: str) -> None:
    path = folder / f"{stem}.npy"
    whole = path.read_bytes()
    archive = folder.parent / "archive.npz"
    np.savez(archive, a=np.zeros(3))
    header = whole[:128]
    for damaged in (
        b"",
        whole[:5],
        whole[:100],
        whole[: len(whole) // 2],
        header.replace(b")", b"(") + whole[128:],
        header.replace(b"descr", b"decsr") + whole[128:],
        header.replace(b"False", b"Fa\0se") + whole[128:],
        archive.read_bytes(),
        archive.read_bytes()[:40],
        b"\x80\x04pickled",
    ):
        path.write_bytes(damaged)
        with pytest.raises(EdgeAfError, match=rf"{stem}\.npy: .*Prepare it again"):
            open_dataset(folder)
    np.save(path, np.array(3, np.uint16))
    with pytest.raises(EdgeAfError, match=rf"{stem}\.npy"):
        open_dataset(folder)


def test_labels_that_are_no_classes_or_rows(folder: Path) -> None:
    values, offsets = (np.load(folder / f"label_{stem}.npy") for stem in ("values", "offsets"))
    odd = values.copy()
    odd[-1] = 30
    np.save(folder / "label_values.npy", odd)
    with pytest.raises(EdgeAfError, match=r"holds the class 30, but index\.json promises 30 classes"):
        open_dataset(folder)
    np.save(folder / "label_values.npy", values)
    open_dataset(folder)
    for row, offset in ((0, 1), (0, -1), (100, -5), (100, offsets[-1] + 9)):
        odd = offsets.copy()
        odd[row] = offset
        np.save(folder / "label_offsets.npy", odd)
        with pytest.raises(EdgeAfError, match="does not rise from 0"):
            open_dataset(folder)


def test_the_fingerprint_tells_datasets_apart(folder: Path, dataset: Dataset, eval_dataset: Dataset) -> None:
    own = eval_dataset.fingerprint()
    # It depends neither on the path nor on the index.
    assert open_dataset(folder).fingerprint() == own
    assert dataset.fingerprint() != own
    for stem, change in (("ids", b"other"), ("label_values", 29), ("visual", 7), ("audio", 7)):
        path = folder / f"{stem}.npy"
        whole = np.load(path)
        changed = whole.copy()
        changed[0] = change
        np.save(path, changed)
        assert open_dataset(folder).fingerprint() != own
        np.save(path, whole)
    assert open_dataset(folder).fingerprint() == own
