"""Read features of any extractor from arrays and tables: .npz, .npy, Parquet and CSV.

| source | features | labels | ids |
|---|---|---|---|
| `NAME.npz` | arrays `visual` and `audio`, (videos, width) | array `labels` | array `ids` |
| a folder | `visual.npy` and `audio.npy` | `labels.npy` or `labels.csv` | `ids.npy`, or the column `id` of `labels.csv` |
| `NAME.parquet` | columns `visual` and `audio`, lists of numbers | column `labels` | column `id` |
| `NAME.csv` | the same columns, each list as text: `[0.1, -0.2]` | column `labels` | column `id` |

Labels are class numbers or class names: a list for each video, a text with names between semicolons, or one number. An
array `labels` may also be a matrix (videos, classes) of zeros and ones. Without ids, videos are numbered. A source may lack
one modality; a single zero feature then stands for it.
"""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.data import Features, Widths
from edge_af.data.dataset import MODALITIES
from edge_af.data.examples import ParsedVideos
from edge_af.errors import EdgeAfError

LAYOUT = "arrays"
"""Name of the layout in a dataset's index."""
ID_BYTES = 64
"""Longest id in bytes."""
ROWS = 1024
"""Videos read at a time."""
SUFFIXES = (".npz", ".npy", ".parquet", ".csv")
EXPECTED = "expected visual and audio (one of them may be missing), labels, and perhaps id"

Label = int | str
Rows = Sequence[Any] | NDArray[Any]
Damaged = list[tuple[int, str]]
"""Rows, and why they cannot be used."""


@dataclass(frozen=True)
class Block:
    """Rows of a source, as read: n videos."""

    ids: Rows | None
    """None to number them."""
    features: Mapping[str, Rows]
    """A matrix (n, width), or n lists, for each modality that the source has."""
    labels: Sequence[Sequence[Label]]


def is_arrays(path: Path) -> bool:
    """Return True if this source holds arrays or a table, by its name."""
    return path.suffix.lower() in SUFFIXES


def files_of(path: Path) -> list[Path]:
    """Return all files of a source: a folder of .npy files has several."""
    if path.suffix.lower() != ".npy":
        return [path]
    names = (*(f"{stem}.npy" for stem in (*MODALITIES, "labels", "ids")), "labels.csv")
    return [file for name in names if (file := path.with_name(name)).exists()]


def read_blocks(path: Path, *, only_labels: bool = False) -> Iterator[Block]:
    """Yield the rows of a source in parts.

    Args:
        path: the source.
        only_labels: leave out the features of tables, which take most of the time.

    Raises:
        EdgeAfError: the source is damaged, lacks an array or a column, or needs a package that is not installed.
    """
    reader = {".npz": _read_npz, ".npy": _read_npy, ".parquet": _read_parquet, ".csv": _read_csv}[path.suffix.lower()]
    try:
        yield from reader(path, only_labels)
    except (EdgeAfError, MemoryError, OSError) as error:
        if isinstance(error, OSError):
            raise EdgeAfError(f"{path}: cannot be read ({error.strerror or error}).") from None
        raise
    except Exception as error:
        # Damaged bytes make numpy, zipfile and pyarrow raise almost anything.
        reason = " ".join(str(error).split())[:200]
        raise EdgeAfError(f"{path}: damaged, or not what its name says ({reason}).") from None


def widths_of(path: Path) -> Widths:
    """Return the lengths of a source's feature vectors, from its first row; 1 for a modality that it lacks.

    Raises:
        EdgeAfError: see `read_blocks`; also, it holds no rows.
    """
    for block in read_blocks(path):
        return Widths(**{name: len(block.features[name][0]) if name in block.features else 1 for name in MODALITIES})
    raise EdgeAfError(f"{path}: holds no videos.")


def labels_of(paths: Iterable[Path]) -> tuple[list[str], int]:
    """Return `names_in` the labels of all sources.

    Raises:
        EdgeAfError: see `read_blocks` and `names_in`.
    """
    found: set[Label] = set()
    for path in paths:
        for block in read_blocks(path, only_labels=True):
            found.update(itertools.chain.from_iterable(block.labels))
    return names_in(found)


def names_in(found: set[Label]) -> tuple[list[str], int]:
    """Return the class names among labels, sorted, or no names and the highest class number.

    Texts that are all numbers are class numbers.

    Raises:
        EdgeAfError: some labels are names and others are numbers.
    """
    names = {label for label in found if isinstance(label, str)}
    numbers = found - names
    if not numbers and all(name.isascii() and name.isdigit() for name in names):
        names, numbers = set(), {int(name) for name in names}
    if names and numbers:
        raise EdgeAfError(
            f"labels: some are names ({min(names)!r:.40}), others numbers. Use one of them for all videos."
        )
    return sorted(names), max((int(number) for number in numbers), default=-1)


def parsed(
    block: Block, first: int, widths: Widths, classes: int, names: dict[str, int], largest: float
) -> tuple[ParsedVideos, Damaged]:
    """Check the rows of a block.

    Args:
        block: rows as read.
        first: number of the first row in its source, for ids.
        widths: lengths of the feature vectors of the dataset.
        classes: number of classes.
        names: class number of each name; empty if labels are numbers.
        largest: largest magnitude that can be stored.

    Returns:
        the good rows as arrays, and for each bad row its position in the block and the first fault.
    """
    rows = len(block.labels)
    faults: dict[int, str] = {}
    columns = []
    for name in MODALITIES:
        width = widths.of(name)
        given = block.features.get(name)
        matrix = np.zeros((rows, width), np.float32) if given is None else _matrix(given, name, width, faults)
        for row in np.flatnonzero(~(np.abs(matrix) <= largest).all(axis=1)).tolist():
            value = matrix[row][np.argmax(~(np.abs(matrix[row]) <= largest))]
            hint = "; store larger values with --dtype float32" if np.isfinite(value) else ""
            faults.setdefault(row, f"{name}: holds {value:g}{hint}")
        columns.append(matrix)
    numbers: list[list[int]] = []
    for row, labels in enumerate(block.labels):
        own = {label: class_number(label, names) for label in labels}
        if odd := [label for label, number in own.items() if not 0 <= number < classes]:
            faults.setdefault(row, f"labels: {odd[0]!r:.60} is not one of the {classes} classes")
        numbers.append(sorted(set(own.values())))
    ids = [str(first + row) for row in range(rows)] if block.ids is None else [_text(one) for one in block.ids]
    for row, one in enumerate(ids):
        if len(one.encode()) > ID_BYTES:
            faults.setdefault(row, f"id: {len(one.encode())} bytes long, at most {ID_BYTES} are expected")
    good = np.array([row not in faults for row in range(rows)], bool)
    kept = [own for own, is_good in zip(numbers, good, strict=True) if is_good]
    videos = ParsedVideos(
        ids=np.array([one.encode() for one, is_good in zip(ids, good, strict=True) if is_good], f"S{ID_BYTES}"),
        features=Features(*(matrix[good] for matrix in columns)),
        label_counts=np.array([len(own) for own in kept], np.int64),
        label_values=np.array(list(itertools.chain.from_iterable(kept)), np.uint16),
    )
    return videos, sorted(faults.items())


def read_labels(path: Path) -> dict[str, list[Label]]:
    """Read the labels of each id from a CSV file with the columns `id` (or `video`, `file`) and `labels`.

    Rows with the same id are joined.

    Raises:
        EdgeAfError: the file is missing, damaged or lacks a column.
    """
    found: dict[str, list[Label]] = {}
    try:
        for row in _rows(path):
            if not {"id", "labels"} <= row.keys():
                raise EdgeAfError(f"{path}: has the columns {', '.join(row)[:200]}; expected id (or video) and labels.")
            found.setdefault(row["id"].strip(), []).extend(_split(row["labels"]))
    except OSError as error:
        raise EdgeAfError(f"{path}: cannot be read ({error.strerror}).") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise EdgeAfError(f"{path}: not a CSV file in UTF-8 ({error}).") from None
    if not found:
        raise EdgeAfError(f"{path}: names no videos.")
    return found


def class_number(label: Label, names: dict[str, int]) -> int:
    """Return the number of a class, -1 for an unknown name."""
    if isinstance(label, int):
        return label
    return names.get(label, int(label) if label.isascii() and label.isdigit() else -1)


def _matrix(given: Rows, name: str, width: int, faults: dict[int, str]) -> NDArray[np.float32]:
    """Return the vectors as one float32 matrix; a vector of another length is a fault, and zero in the matrix."""
    if isinstance(given, np.ndarray) and given.ndim == 2 and given.shape[1] == width:
        return np.asarray(given, np.float32)
    matrix = np.zeros((len(given), width), np.float32)
    for row, vector in enumerate(given):
        if len(vector) == width:
            matrix[row] = vector
        else:
            faults.setdefault(row, f"{name}: {len(vector)} values, expected {width}")
    return matrix


def _text(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _read_npz(path: Path, only_labels: bool) -> Iterator[Block]:
    with np.load(path, allow_pickle=False) as arrays:
        held = {name: arrays[name] for name in arrays.files if name in (*MODALITIES, "labels", "ids", "id")}
    yield from _blocks_of(path, held)


def _read_npy(path: Path, only_labels: bool) -> Iterator[Block]:
    """Read the folder in which `visual.npy` or `audio.npy` lies."""
    folder = path.parent
    held = {
        stem: np.load(folder / f"{stem}.npy", mmap_mode="r", allow_pickle=False)
        for stem in (*MODALITIES, "labels", "ids")
        if (folder / f"{stem}.npy").is_file()
    }
    if "labels" not in held:
        table = folder / "labels.csv"
        if not table.is_file():
            raise EdgeAfError(f"{folder}: neither labels.npy nor labels.csv beside {path.name}.")
        rows = list(_rows(table))
        videos = len(next(held[name] for name in MODALITIES if name in held))
        if len(rows) != videos:
            raise EdgeAfError(f"{table}: {len(rows):,} rows for {videos:,} videos in {path.name}.")
        held["labels"] = np.array([row["labels"] for row in rows], object)
        if "id" in rows[0]:
            held["ids"] = np.array([row["id"] for row in rows], object)
    yield from _blocks_of(path, held)


def _blocks_of(path: Path, held: dict[str, NDArray[Any]]) -> Iterator[Block]:
    features = {name: held[name] for name in MODALITIES if name in held}
    if not features or "labels" not in held:
        raise EdgeAfError(f"{path}: holds {', '.join(sorted(held)) or 'none of the arrays'}; {EXPECTED}.")
    for name, array in features.items():
        if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.shape[1]:
            raise EdgeAfError(f"{path}: {name} is {array.dtype} {array.shape}; expected numbers (videos, width).")
    ids = held.get("ids", held.get("id"))
    lengths = {name: len(array) for name, array in {**features, "labels": held["labels"]}.items()}
    if ids is not None:
        lengths["ids"] = len(ids)
    if len(set(lengths.values())) > 1:
        raise EdgeAfError(
            f"{path}: arrays of different lengths: {', '.join(f'{k} {v:,}' for k, v in lengths.items())}."
        )
    for start in range(0, lengths["labels"], ROWS):
        part = slice(start, start + ROWS)
        yield Block(
            ids=ids[part] if ids is not None else None,
            features={name: array[part] for name, array in features.items()},
            labels=_labels(path, held["labels"][part]),
        )


def _labels(path: Path, labels: NDArray[Any]) -> list[list[Label]]:
    """Convert an array of labels: a matrix of zeros and ones, one number per video, or texts."""
    if labels.ndim == 2 and labels.dtype.kind in "biuf":
        if not np.isin(labels, (0, 1)).all():
            raise EdgeAfError(f"{path}: labels is a matrix with other values than 0 and 1.")
        return [list[Label](np.flatnonzero(row).tolist()) for row in labels]
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        return [[int(label)] for label in labels]
    if labels.ndim == 1 and labels.dtype.kind in "USO":
        return [_split(_text(label)) for label in labels]
    raise EdgeAfError(
        f"{path}: labels is {labels.dtype} {labels.shape}; expected a matrix of 0 and 1, or numbers or texts (videos,)."
    )


def _split(text: str) -> list[Label]:
    return [name for part in text.split(";") if (name := part.strip())]


def _read_parquet(path: Path, only_labels: bool) -> Iterator[Block]:
    try:
        from pyarrow import parquet  # type: ignore[import-untyped]
    except ImportError:
        raise EdgeAfError(f"{path}: Parquet needs pyarrow. Install it with: pip install pyarrow") from None
    with parquet.ParquetFile(path) as file:
        wanted = _columns(path, file.schema_arrow.names)
        if only_labels:
            wanted = {name: one for name, one in wanted.items() if one == "labels"}
        for part in file.iter_batches(ROWS, columns=list(wanted)):
            columns = {wanted[name]: part.column(name) for name in wanted}
            features: dict[str, Rows] = {}
            for name in MODALITIES:
                if name in columns:
                    if columns[name].null_count:
                        raise EdgeAfError(f"{path}: the column {name} has empty rows.")
                    features[name] = _vectors(columns[name])
            yield Block(
                ids=columns["id"].to_pylist() if "id" in columns else None,
                features=features,
                labels=[_listed(value) for value in columns["labels"].to_pylist()],
            )


def _vectors(column: Any) -> Rows:
    """Return a column of lists as a matrix if all have the same length."""
    values = column.flatten().to_numpy(zero_copy_only=False)
    if len(column) and len(values) % len(column) == 0:
        width = len(values) // len(column)
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        if width and (lengths == width).all():
            matrix: NDArray[Any] = values.reshape(len(column), width)
            return matrix
    return [values or [] for values in column.to_pylist()]


def _listed(value: Any) -> list[Label]:
    if value is None:
        return []
    if isinstance(value, list):
        return [label if isinstance(label, int) else str(label) for label in value]
    return [value] if isinstance(value, int) else _split(str(value))


def _read_csv(path: Path, only_labels: bool) -> Iterator[Block]:
    rows = _rows(path)
    for first in rows:
        columns = _columns(path, list(first))
        if only_labels:
            columns = {name: one for name, one in columns.items() if one == "labels"}
        rest = itertools.chain([first], rows)
        while part := list(itertools.islice(rest, ROWS)):
            found = [{columns[name]: row[name] for name in columns} for row in part]
            yield Block(
                ids=[row["id"] for row in found] if "id" in columns.values() else None,
                features={
                    name: [_numbers(path, name, row[name]) for row in found]
                    for name in MODALITIES
                    if name in columns.values()
                },
                labels=[_split(row["labels"]) for row in found],
            )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file with lower-case column names."""
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            yield {_ours(name): value or "" for name, value in row.items() if isinstance(name, str)}


def _ours(name: str) -> str:
    """Return our name for a table's column."""
    name = name.strip().lower()
    return {"video_id": "id", "video": "id", "file": "id", "label": "labels"}.get(name, name)


def _columns(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Map a table's column names to ours.

    Raises:
        EdgeAfError: it lacks a column.
    """
    found = {name: _ours(name) for name in names}
    found = {name: one for name, one in found.items() if one in (*MODALITIES, "labels", "id")}
    if "labels" not in found.values() or not set(MODALITIES) & set(found.values()):
        raise EdgeAfError(f"{path}: has the columns {', '.join(names)[:200]}; {EXPECTED}.")
    return found


def _numbers(path: Path, name: str, text: str) -> list[float]:
    """Parse a vector: a JSON list, or numbers between spaces, commas or semicolons."""
    try:
        if text.lstrip().startswith("["):
            return [float(value) for value in json.loads(text)]
        return [float(value) for value in text.replace(",", " ").replace(";", " ").split()]
    except (ValueError, TypeError):
        raise EdgeAfError(f"{path}: column {name}: {text[:40]!r} is not a list of numbers.") from None
