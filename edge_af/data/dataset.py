"""The prepared dataset: memory-mapped arrays and a JSON index, read with numpy.

Its folder holds

| file | dtype | shape | what |
|---|---|---|---|
| `visual.npy` | float16 or float32 | (videos, width) | visual features: 1024 in YouTube-8M |
| `audio.npy` | float16 or float32 | (videos, width) | audio features: 128 in YouTube-8M |
| `label_offsets.npy` | int64 | (videos + 1,) | video i's labels are `label_values[label_offsets[i]:label_offsets[i + 1]]` |
| `label_values.npy` | uint16 | (all labels,) | class indices, ascending within a video |
| `ids.npy` | S16 or longer | (videos,) | the record's `id` or `video_id`, or the file's name |
| `index.json` | | | what follows |

`index.json` is one object with these fields:

* `schema_version`, `videos`, `classes`, `labels_per_video`;
* `layout`: `2018-video`, `2018-frame`, `2017-video`, `2017-frame`, `arrays`, or several joined by `+`;
* `features`: for `visual` and `audio`, an object with the `name`, the `width`, and the `range` of values (lowest and
  highest); missing in earlier versions;
* `extractor`: what made the features from video files; null if unknown;
* `dtype` of the features;
* `class_names` by index: empty if unknown, blank for a class without a name;
* `sources`, each with `path` (its folder's name and its own), `size_bytes`, `mtime_ns`, `videos`, `layout` (null without
  records) and `vocabulary_sha256` (null without a vocabulary);
* `left_out`, each with `file`, `record` (counting from 0) and `reason`, and their number `left_out_records`;
* `prepared_with`, the options, or `sampled_from`, the larger dataset;
* `arrays`: for each file its `size_bytes` and the SHA-256 of each block of `block_bytes` (missing in earlier versions).

`index.json` is written last, so a folder without it is unfinished. Labels are stored in compressed rows: for 5.6 million
videos, a dense array of 3,862 classes would be 22 GB of mostly zeros. Their features take 13 GB in float16.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.data import Features, Widths
from edge_af.errors import EdgeAfError
from edge_af.files import read_json
from edge_af.typed import Mismatch, built

BLOCK_BYTES = 4 * 2**20
"""Bytes covered by one hash of an array's file."""
BLOCKS_READ = 64
"""Number of blocks checked when a dataset is opened, evenly spread; a smaller dataset is checked completely.
"""

SCHEMA_VERSION = 1
INDEX = "index.json"

ARRAYS: dict[str, tuple[str, ...]] = {
    "visual": ("float16", "float32"),
    "audio": ("float16", "float32"),
    "label_offsets": ("int64",),
    "label_values": ("uint16",),
    "ids": ("|S",),
}
"""File stem -> allowed dtypes (`|S` for byte strings of any length). The features are matrices, the others vectors."""
MODALITIES = ("visual", "audio")


@dataclass(frozen=True)
class FeatureFacts:
    """Facts about the feature vectors of one modality."""

    name: str
    """Their name in the source, such as `mean_rgb`."""
    width: int
    range: tuple[float, float]
    """Lowest and highest value."""


KINDS: dict[type, str] = {int: "a whole number", str: "text", list: "a list"}
"""Names of JSON types in messages."""


@dataclass(frozen=True)
class Dataset:
    """An open prepared dataset. Its arrays are read-only memory maps of the files."""

    folder: Path
    index: dict[str, Any]
    visual: NDArray[Any]
    audio: NDArray[Any]
    label_offsets: NDArray[np.int64]
    label_values: NDArray[np.uint16]
    ids: NDArray[np.bytes_]

    @property
    def videos(self) -> int:
        return len(self.visual)

    @property
    def widths(self) -> Widths:
        """Lengths of the feature vectors."""
        return Widths(self.visual.shape[1], self.audio.shape[1])

    @property
    def facts(self) -> dict[str, FeatureFacts]:
        """Facts about the features of each modality; empty for a dataset of an earlier version."""
        return built(dict[str, FeatureFacts], self.index.get("features", {}))

    @property
    def feature_names(self) -> tuple[str, str]:
        """Names of the visual and the audio features in the source."""
        names = {stem: facts.name for stem, facts in self.facts.items()}
        return names.get("visual", "mean_rgb"), names.get("audio", "mean_audio")

    @property
    def largest(self) -> float | None:
        """Largest magnitude of a feature; None if not recorded."""
        return max((abs(value) for one in self.facts.values() for value in one.range), default=None)

    @property
    def sampled_from(self) -> str | None:
        """Fingerprint of the dataset that this one was sampled from; None if unknown or not sampled."""
        source = self.index.get("sampled_from")
        found = source.get("fingerprint") if isinstance(source, dict) else None
        return found if isinstance(found, str) else None

    @property
    def classes(self) -> int:
        return int(self.index["classes"])

    @property
    def class_names(self) -> list[str]:
        """Class names by index; `class N` for a class without a name."""
        names = self.index.get("class_names") or []
        return [names[i] if i < len(names) and names[i] else f"class {i}" for i in range(self.classes)]

    @property
    def stored(self) -> Features:
        """Features of all videos, memory-mapped, float16 or float32."""
        return Features(self.visual, self.audio)

    def features(self, rows: NDArray[np.int64] | slice) -> Features:
        """Return the features of the videos `rows`, float32, in that order."""
        return Features(self.visual[rows].astype(np.float32), self.audio[rows].astype(np.float32))

    def labels(self, rows: NDArray[np.int64] | slice) -> NDArray[np.uint8]:
        """Return the multi-hot labels of the videos `rows`: (n, classes) uint8, 1 where the class is a label."""
        wanted = np.arange(self.videos)[rows] if isinstance(rows, slice) else rows
        starts = self.label_offsets[wanted]
        counts = self.label_offsets[wanted + 1] - starts
        row_of = np.repeat(np.arange(len(wanted)), counts)
        # Positions in label_values: the offset of each video, plus 0, 1, 2, … for its labels.
        within = np.arange(len(row_of)) - np.repeat(np.cumsum(counts) - counts, counts)
        hot = np.zeros((len(wanted), self.classes), np.uint8)
        hot[row_of, self.label_values[np.repeat(starts, counts) + within]] = 1
        return hot

    def label_counts(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Count the videos (all, or `rows`) with each label: (classes,) int64."""
        if rows is None:
            return np.bincount(self.label_values, minlength=self.classes).astype(np.int64)
        counts = np.zeros(self.classes, np.int64)
        for start in range(0, len(rows), 4096):
            counts += self.labels(rows[start : start + 4096]).sum(axis=0, dtype=np.int64)
        return counts

    def fingerprint(self) -> str:
        """Return a hash that identifies this dataset: over all ids and labels, and the features of 256 videos."""
        digest = hashlib.sha256()
        for array in (self.ids, self.label_offsets, self.label_values):
            digest.update(np.ascontiguousarray(array).data)
        sampled = np.linspace(0, max(0, self.videos - 1), min(256, self.videos)).astype(np.int64)
        digest.update(self.sha256(sampled).encode())
        return digest.hexdigest()

    def sha256(self, rows: NDArray[np.int64]) -> str:
        """Return one hash over the features of the videos `rows`, independent of their order."""
        digest = hashlib.sha256()
        for row in np.sort(rows):
            digest.update(self.visual[row].tobytes())
            digest.update(self.audio[row].tobytes())
        return digest.hexdigest()


def is_dataset(folder: Path) -> bool:
    """Return True if `folder` looks like a finished prepared dataset."""
    return (folder / INDEX).is_file() and (folder / "visual.npy").is_file()


def open_dataset(folder: str | Path, *, verify: bool = True) -> Dataset:
    """Open a prepared dataset.

    Args:
        folder: its folder.
        verify: check the arrays' sizes and hashes, see `BLOCKS_READ`. Takes up to 0.2 s on an AMD EPYC with SHA
            instructions, 0.7 s without. Pass False if this process or its parent has done it.

    Raises:
        EdgeAfError: the folder is not a prepared dataset, or is unfinished or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EdgeAfError(f"{folder}: no such folder. `edge-af data prepare` makes a dataset from TFRecords.")
    if not (folder / INDEX).is_file():
        raise EdgeAfError(
            f"{folder}: not a prepared dataset (no {INDEX}).\n"
            f"Make one with: edge-af data prepare SOURCE --out {folder}; if that was interrupted, run it again."
        )
    index = read_json(folder / INDEX, "dataset index")
    if not isinstance(index, dict) or index.get("schema_version") != SCHEMA_VERSION:
        found = index.get("schema_version") if isinstance(index, dict) else None
        raise EdgeAfError(
            f"{folder / INDEX}: schema_version {found!r}; this edge-af reads {SCHEMA_VERSION}. Prepare it again."
        )
    _check_index(folder / INDEX, index)
    if verify and "arrays" in index:
        _check_hashes(folder, index["arrays"])
    arrays = {stem: _open_array(folder, stem) for stem in ARRAYS}
    videos = index["videos"]
    expected = {stem: videos for stem in ("visual", "audio", "ids")} | {"label_offsets": videos + 1}
    for stem, length in expected.items():
        if len(arrays[stem]) != length:
            raise EdgeAfError(
                f"{folder / stem}.npy: {len(arrays[stem])} entries where {INDEX} promises {length}. Prepare it again."
            )
    for stem, facts in built(dict[str, FeatureFacts], index.get("features", {})).items():
        if arrays[stem].shape[1] != facts.width:
            raise EdgeAfError(
                f"{folder / stem}.npy: {arrays[stem].shape[1]} features where {INDEX} promises {facts.width}. Prepare it again."
            )
    offsets, values = arrays["label_offsets"], arrays["label_values"]
    if offsets[0] != 0 or (offsets[1:] < offsets[:-1]).any():
        raise EdgeAfError(f"{folder}/label_offsets.npy: does not rise from 0; it is damaged. Prepare it again.")
    if len(values) != offsets[-1]:
        raise EdgeAfError(f"{folder}/label_values.npy: does not fit label_offsets.npy. Prepare it again.")
    if len(values) and values.max() >= index["classes"]:
        raise EdgeAfError(
            f"{folder}/label_values.npy: holds the class {values.max()}, but {INDEX} promises {index['classes']} classes "
            "(from 0). Prepare it again."
        )
    return Dataset(folder=folder, index=index, **arrays)


def _check_index(path: Path, index: dict[str, Any]) -> None:
    """Refuse an index with a missing field, or a field of the wrong type."""
    for field, wanted, needed in (
        ("videos", int, True),
        ("classes", int, True),
        ("layout", str, True),
        ("class_names", list, False),
        ("sources", list, False),
        ("left_out", list, False),
        ("left_out_records", int, False),
    ):
        if field not in index and not needed:
            continue
        value = index.get(field)
        # In Python, JSON's true is an int.
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise EdgeAfError(f"{path}: {field} is {value!r:.40}, not {KINDS[wanted]}. Prepare it again.")
    if index["videos"] < 0 or index["classes"] < 1:
        raise EdgeAfError(f"{path}: promises {index['videos']} videos of {index['classes']} classes. Prepare it again.")
    if not all(isinstance(name, str) for name in index.get("class_names", [])):
        raise EdgeAfError(f"{path}: class_names holds something that is not text. Prepare it again.")
    try:
        facts = built(dict[str, FeatureFacts], index.get("features", {}))
        if odd := sorted(facts.keys() - set(MODALITIES)):
            raise Mismatch(f"{odd[0]!r:.60}: neither visual nor audio")
    except Mismatch as error:
        raise EdgeAfError(f"{path}: features.{error}. Prepare it again.") from None


def hashes_of(folder: Path) -> dict[str, Any]:
    """Return the sizes and block hashes of the arrays' files from `index.json`."""
    found = {}
    for stem in ARRAYS:
        path = folder / f"{stem}.npy"
        with path.open("rb") as file:
            blocks = [hashlib.sha256(block).hexdigest() for block in iter(lambda: file.read(BLOCK_BYTES), b"")]
        found[stem] = {"size_bytes": path.stat().st_size, "block_bytes": BLOCK_BYTES, "sha256": blocks}
    return found


@dataclass(frozen=True)
class _Hashes:
    """Size and block hashes of an array's file."""

    size_bytes: int
    block_bytes: int
    sha256: list[str]

    def __post_init__(self) -> None:
        if self.block_bytes < 1 or len(self.sha256) != -(-self.size_bytes // self.block_bytes):
            raise Mismatch(f"has {len(self.sha256)} hashes for {self.size_bytes} bytes")


def _check_hashes(folder: Path, arrays: Any) -> None:
    """Refuse array files of another size, or with a changed block."""
    try:
        known = built(dict[str, _Hashes], arrays)
        if odd := sorted(known.keys() ^ ARRAYS.keys()):
            raise Mismatch(f"{odd[0]!r:.60} {'is missing' if odd[0] in ARRAYS else 'is not an array of a dataset'}")
    except Mismatch as error:
        raise EdgeAfError(f"{folder / INDEX}: arrays is damaged ({error}). Prepare it again.") from None
    wanted = [(stem, block) for stem, hashes in known.items() for block in range(len(hashes.sha256))]
    if len(wanted) > BLOCKS_READ:
        # Include the end of every array, where a file that was truncated and padded differs.
        spread = np.linspace(0, len(wanted) - 1, BLOCKS_READ).astype(int)
        last = {stem: len(hashes.sha256) - 1 for stem, hashes in known.items()}
        wanted = [(stem, block) for at, (stem, block) in enumerate(wanted) if at in spread or block in (0, last[stem])]
    for stem, hashes in known.items():
        path = folder / f"{stem}.npy"
        try:
            size = path.stat().st_size
        except OSError:
            continue  # Opening the array reports what is wrong.
        if size != hashes.size_bytes:
            raise EdgeAfError(
                f"{path}: {size:,} bytes where {INDEX} promises {hashes.size_bytes:,}. Copy it again, or prepare it again."
            )
    for stem, block in wanted:
        path, hashes = folder / f"{stem}.npy", known[stem]
        try:
            with path.open("rb") as file:
                file.seek(block * hashes.block_bytes)
                data = file.read(hashes.block_bytes)
        except OSError:
            continue
        if hashlib.sha256(data).hexdigest() != hashes.sha256[block]:
            start = block * hashes.block_bytes
            raise EdgeAfError(
                f"{path}: bytes {start:,} to {start + len(data):,} are not what was prepared: damaged or changed. Copy it "
                "again, or prepare it again."
            )


def _open_array(folder: Path, stem: str) -> NDArray[Any]:
    path = folder / f"{stem}.npy"
    dtypes, dimensions = ARRAYS[stem], 2 if stem in MODALITIES else 1
    try:
        # An empty array cannot be mapped, but a dataset may have no labels.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise EdgeAfError(f"{path}: missing from this prepared dataset. Prepare it again.") from None
    except Exception as error:
        # Damaged bytes make numpy raise almost anything: ValueError, EOFError, TokenError, OverflowError, BadZipFile, …
        try:
            array = np.load(path, allow_pickle=False)
        except Exception:
            raise EdgeAfError(f"{path}: cannot be read as an array ({error}). Prepare it again.") from None
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise EdgeAfError(f"{path}: cannot be read as an array of entries. Prepare it again.")
    found = "|S" if array.dtype.kind == "S" else str(array.dtype)
    if found not in dtypes or array.ndim != dimensions or 0 in array.shape[1:]:
        shape = "(videos, width)" if dimensions == 2 else "(entries,)"
        raise EdgeAfError(f"{path}: {array.dtype} {array.shape}, expected {dtypes[0]} {shape}. Prepare it again.")
    return array
