"""Write a prepared dataset (see `edge_af.data.dataset`) in bounded memory.

The arrays grow as plain files. Their `.npy` headers are written at the start with a length of 0, and again at the end.
numpy reserves space in a header for the first axis to grow (format version 1.0), so the header's size stays the same.
"""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edge_af.data import Features, Widths
from edge_af.data.dataset import ARRAYS, INDEX, MODALITIES, SCHEMA_VERSION, Dataset, hashes_of
from edge_af.errors import EdgeAfError
from edge_af.files import staged_folder, write_json

FILES = {*(f"{stem}.npy" for stem in ARRAYS), INDEX}
"""All files in a prepared dataset's folder."""


class DatasetWriter:
    """Append videos to the arrays in a folder.

    Use as a context manager; `finish` makes the arrays readable. An OSError (no space) is raised unchanged.
    """

    def __init__(
        self, folder: Path, dtype: str, widths: Widths, *, id_bytes: int = 16, videos: int = 0, labels: int = 0
    ) -> None:
        """Truncate the files to `videos` videos and `labels` labels, the last recorded state of an interrupted
        conversion.

        Args:
            folder: an existing folder.
            dtype: type of the stored features, float16 or float32.
            widths: lengths of the feature vectors.
            id_bytes: longest id.
            videos, labels: numbers of those already in the files.

        Raises:
            EdgeAfError: the files in `folder` hold less.
        """
        self.folder = folder
        self.videos = videos
        self.labels = labels
        self.widths = widths
        self._dtypes = {
            **{stem: np.dtype(dtype if dtype in allowed else allowed[0]) for stem, allowed in ARRAYS.items()},
            "ids": np.dtype(f"S{id_bytes}"),
        }
        self._files: dict[str, BinaryIO] = {}
        for stem in ARRAYS:
            self._files[stem] = self._open(stem)
        if videos == 0:
            self._put("label_offsets", np.zeros(1, np.int64))

    @property
    def dtype(self) -> str:
        """Type of the stored features."""
        return str(self._dtypes["visual"])

    @property
    def largest(self) -> float:
        """Largest magnitude that can be stored."""
        return float(np.finfo(self._dtypes["visual"]).max)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            try:
                file.close()
            except OSError:
                # Closing flushes the buffers. If that fails for lack of space, an earlier write has raised already.
                if kind is None:
                    raise

    def append(
        self,
        *,
        ids: NDArray[np.bytes_],
        features: Features,
        label_counts: NDArray[np.int64],
        label_values: NDArray[np.uint16],
    ) -> None:
        """Append n videos: ids (n,) S16, features of n videos, label_counts (n,), label_values (sum of label_counts,)."""
        self._put("ids", ids)
        self._put("visual", features.visual)
        self._put("audio", features.audio)
        self._put("label_offsets", self.labels + np.cumsum(label_counts))
        self._put("label_values", label_values)
        self.videos += len(ids)
        self.labels += len(label_values)

    def flush(self) -> None:
        """Flush everything to the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """Write the final lengths to the headers and flush everything to the disk."""
        for stem, file in self._files.items():
            file.seek(0)
            file.write(self._header(stem, self._length(stem)))
        self.flush()

    def _shape(self, stem: str, length: int) -> tuple[int, ...]:
        return (length, self.widths.of(stem)) if stem in MODALITIES else (length,)

    def _length(self, stem: str) -> int:
        return {"label_values": self.labels, "label_offsets": self.videos + 1}.get(stem, self.videos)

    def _put(self, stem: str, values: NDArray[Any]) -> None:
        self._files[stem].write(np.ascontiguousarray(values, self._dtypes[stem]).reshape(-1).view(np.uint8).data)

    def _open(self, stem: str) -> BinaryIO:
        path = self.folder / f"{stem}.npy"
        header = self._header(stem, 0)
        if self.videos == 0:
            fresh = path.open("wb")
            fresh.write(header)
            return fresh
        size = len(header) + math.prod(self._shape(stem, self._length(stem))) * self._dtypes[stem].itemsize
        try:
            if path.stat().st_size < size:
                raise EdgeAfError(f"{path}: shorter than was recorded. Pass --overwrite to start over.")
            file = path.open("r+b")
        except FileNotFoundError:
            raise EdgeAfError(f"{path}: is gone. Pass --overwrite to start over.") from None
        file.truncate(size)
        file.seek(size)
        return file

    def _header(self, stem: str, length: int) -> bytes:
        """Return a `.npy` header of version 1.0, whose size is the same for every length."""
        buffer = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(self._dtypes[stem])
        np.lib.format.write_array_header_1_0(
            buffer, {"descr": descr, "fortran_order": False, "shape": self._shape(stem, length)}
        )
        return buffer.getvalue()


@dataclass(frozen=True)
class Origin:
    """Origin of a dataset's videos; see `edge_af.data.dataset`."""

    layout: str
    sources: list[dict[str, Any]]
    left_out: list[dict[str, Any]] = field(default_factory=list)
    names: tuple[str, str] = MODALITIES
    """Names of the visual and the audio features in the source."""
    extractor: dict[str, Any] | None = None


def index_of(
    writer: DatasetWriter, classes: int, class_names: list[str], origin: Origin, **more: Any
) -> dict[str, Any]:
    """Build the content of `index.json` for a finished writer; `more` is added to it."""
    return {
        "schema_version": SCHEMA_VERSION,
        "videos": writer.videos,
        "classes": classes,
        "layout": origin.layout,
        "dtype": writer.dtype,
        "features": {
            stem: {"name": name, "width": writer.widths.of(stem), "range": _value_range(writer.folder / f"{stem}.npy")}
            for stem, name in zip(MODALITIES, origin.names, strict=True)
        },
        "extractor": origin.extractor,
        "labels_per_video": round(writer.labels / writer.videos, 4) if writer.videos else 0.0,
        **more,
        "sources": origin.sources,
        "left_out_records": len(origin.left_out),
        "left_out": origin.left_out,
        "class_names": class_names,
    }


def _value_range(path: Path) -> tuple[float, float]:
    """Return the lowest and the highest value of an array's file, which is read in parts."""
    array = np.load(path, mmap_mode="r")
    lows, highs = [], []
    for start in range(0, len(array), 4096):
        block = np.asarray(array[start : start + 4096], np.float32)
        lows.append(float(block.min()))
        highs.append(float(block.max()))
    return min(lows, default=0.0), max(highs, default=0.0)


def sample(source: Dataset, out: Path, *, videos: int, seed: int = 0, overwrite: bool = False) -> dict[str, Any]:
    """Write a random sample of a prepared dataset's videos, in their old order, as a new one; return its index.

    Raises:
        EdgeAfError: there are fewer videos, or `out` is taken.
    """
    if not 1 <= videos <= source.videos:
        raise EdgeAfError(f"--videos {videos}: {source.folder} holds {source.videos} videos.")
    if out.resolve() == source.folder.resolve():
        raise EdgeAfError(f"{out}: is the dataset to cut from. Choose another folder.")
    rows = np.sort(np.random.default_rng(seed).permutation(source.videos)[:videos])
    dtype = str(source.visual.dtype)
    with staged_folder(out, FILES, overwrite=overwrite) as stage:
        with DatasetWriter(stage, dtype, source.widths, id_bytes=source.ids.dtype.itemsize) as writer:
            for start in range(0, videos, 1024):
                part = rows[start : start + 1024]
                starts, ends = source.label_offsets[part], source.label_offsets[part + 1]
                runs = [source.label_values[a:b] for a, b in zip(starts, ends, strict=True)]
                writer.append(
                    ids=source.ids[part],
                    features=source.stored.take(part),
                    label_counts=ends - starts,
                    label_values=np.concatenate(runs),
                )
            writer.finish()
        kept = source.index
        index = index_of(
            writer,
            source.classes,
            kept.get("class_names", []),
            Origin(
                layout=kept["layout"],
                sources=kept.get("sources", []),
                left_out=kept.get("left_out", []),
                names=source.feature_names,
                extractor=kept.get("extractor"),
            ),
            sampled_from={
                "dataset": source.folder.resolve().name,
                "videos": source.videos,
                "seed": seed,
                "fingerprint": source.sampled_from or source.fingerprint(),
            },
            arrays=hashes_of(stage),
        )
        write_json(stage / INDEX, index)
    return index
