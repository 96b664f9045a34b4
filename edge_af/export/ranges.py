"""Activation ranges: histograms of the float graph's activations on training videos, and the choice of a range from each.

A tensor's values are counted in bins of width 2^k aligned at zero: bin i covers [i 2^k, (i + 1) 2^k). When the values
outgrow the bins, k grows and neighboring bins are merged, which gives exactly the counts of wider bins. So the result does
not depend on the order of the videos or on the batches.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.export.graph import Graph, to_onnx
from edge_af.export.recipes import RangeChoice
from edge_af.files import read_json, write_json
from edge_af.runtime.ort import onnxruntime_module, quiet_options
from edge_af.typed import Mismatch, built

if TYPE_CHECKING:
    from edge_af.console import Progress

SCHEMA_VERSION = 1
BINS = 2048
"""Largest number of bins of a histogram; at least half of them are in use once it is full."""
SMALLEST_EXPONENT = -140
INDEX_BITS = 40
BATCH = 64
SHARES = tuple(share / 100 for share in range(100, 19, -1))
"""Shares of the full range to try for the least squared error; ties go to the largest."""
LEVELS = 256
"""Number of levels of INT8."""


@dataclass(frozen=True)
class CalibrationData:
    """Training videos to find ranges on."""

    dataset: Dataset
    rows: NDArray[np.int64]
    seed: int
    """Random seed of the sample, for the record."""


@dataclass(frozen=True)
class Histogram:
    """Counts of a tensor's values; see the module docstring."""

    minimum: float
    maximum: float
    exponent: int
    """k; the bin width is 2^k."""
    first: int
    """Index of the first bin, which begins at first * 2^k."""
    counts: NDArray[np.int64]

    def quantile(self, share: float) -> float:
        """Return the value below which `share` of all values lie, assuming even spread within a bin."""
        total = int(self.counts.sum())
        below = np.concatenate([[0], np.cumsum(self.counts)])
        edges = np.ldexp(np.arange(self.first, self.first + len(self.counts) + 1, dtype=np.float64), self.exponent)
        return float(np.clip(np.interp(share * total, below, edges), self.minimum, self.maximum))


@dataclass(frozen=True)
class Ranges:
    """Histograms of a graph's activations by ONNX tensor name, and the videos used."""

    data: str
    """The dataset's folder name."""
    videos: int
    sha256: str
    """Hash of the chosen videos' features."""
    seed: int
    tensors: dict[str, Histogram]
    network_sha256: str = ""
    """Hash of the graph's weights, because ranges fit one network only."""


def choose_videos(rows: NDArray[np.int64], videos: int, seed: int) -> NDArray[np.int64]:
    """Sample rows without replacement, ascending; return all of them if there are too few.

    Raises:
        EdgeAfError: `count` is below 1, or `rows` is empty.
    """
    if videos < 1 or len(rows) == 0:
        raise EdgeAfError(f"calibration needs at least one video; asked for {videos} of {len(rows)}.")
    return np.sort(np.random.default_rng(seed).choice(rows, min(videos, len(rows)), replace=False))


def find_ranges(
    graph: Graph, dataset: Dataset, rows: NDArray[np.int64], seed: int, progress: Progress | None = None
) -> Ranges:
    """Run the float graph on the videos `rows` and count every activation's values.

    Raises:
        EdgeAfError: an activation is not finite.
    """
    found: dict[str, Histogram] = {}
    for values in run_batches(graph, dataset, rows, graph.activations(), progress):
        for name, array in values.items():
            found[name] = add(found.get(name), array)
    return Ranges(dataset.folder.resolve().name, len(rows), dataset.sha256(rows), seed, found, weights_sha256(graph))


def weights_sha256(graph: Graph) -> str:
    """Return one hash of the names, shapes and values of a graph's constants."""
    digest = hashlib.sha256()
    for name, array in sorted(graph.constants.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def check_ranges(ranges: Ranges, graph: Graph, path: Path) -> None:
    """Refuse ranges from `path` that were found on another network.

    Raises:
        EdgeAfError: the tensors or weights differ from this graph's.
    """
    if missing := [name for name in graph.activations() if name not in ranges.tensors]:
        raise EdgeAfError(
            f"{path}: holds no range of {missing[0]!r} and {len(missing) - 1} other tensors: it is of another network.\n"
            "Find the ranges again with --calibration-data."
        )
    if ranges.network_sha256 != weights_sha256(graph):
        raise EdgeAfError(
            f"{path}: was found on a network with other weights. Find the ranges again with --calibration-data."
        )


def run_batches(
    graph: Graph, dataset: Dataset, rows: NDArray[np.int64], tensors: list[str], progress: Progress | None = None
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Run the float graph in ONNX Runtime on the videos `rows`, ascending; yield the named activations of each batch.

    Raises:
        EdgeAfError: an activation is not finite.
    """
    made = [name for name in tensors if name not in graph.inputs]
    weights = {name: array for name, array in graph.constants.items() if array.dtype == np.float32}
    # Weights are passed at each run, so that the session holds no second copy.
    session = onnxruntime_module().InferenceSession(
        to_onnx(graph, weights_as_inputs=True, extra_outputs=made).SerializeToString(),
        quiet_options(),
        providers=["CPUExecutionProvider"],
    )
    rows = np.sort(rows)
    for start in range(0, len(rows), BATCH):
        chosen = rows[start : start + BATCH]
        fed = {name: array for name, array in dataset.features(chosen)._asdict().items() if name in graph.inputs}
        seen = {name: array for name, array in fed.items() if name in tensors}
        seen.update(zip(made, session.run(made, {**weights, **fed}) if made else (), strict=True))
        for name, values in seen.items():
            if not np.isfinite(values).all():
                raise EdgeAfError(
                    f"tensor {name!r} is not finite for one of the videos {chosen[0]} to {chosen[-1]} of {dataset.folder}.\n"
                    "A network that gives NaN or infinity cannot be calibrated: train it again, or check the data."
                )
        yield seen
        if progress is not None:
            progress.update(len(chosen))


def add(histogram: Histogram | None, values: NDArray[np.float32]) -> Histogram:
    """Return the histogram with more values added, finite and of any shape."""
    flat = values.reshape(-1).astype(np.float64)
    low, high = float(flat.min()), float(flat.max())
    exponent = SMALLEST_EXPONENT
    if histogram is not None:
        low, high = min(low, histogram.minimum), max(high, histogram.maximum)
        exponent = histogram.exponent
    # Bin indices stay well within the exact range of float64 and int64.
    exponent = max(exponent, math.frexp(max(abs(low), abs(high)))[1] - INDEX_BITS)
    if high > low:
        exponent = max(exponent, math.frexp((high - low) / BINS)[1] - 2)
    while _bin(high, exponent) - _bin(low, exponent) >= BINS:
        exponent += 1
    first, last = _bin(low, exponent), _bin(high, exponent)
    index = np.floor(np.ldexp(flat, -exponent)).astype(np.int64) - first
    counts = np.bincount(index, minlength=last - first + 1).astype(np.int64)
    if histogram is not None:
        old = (histogram.first + np.arange(len(histogram.counts))) >> (exponent - histogram.exponent)
        np.add.at(counts, old - first, histogram.counts)
    return Histogram(low, high, exponent, first, counts)


def _bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


def write_ranges(path: Path, ranges: Ranges) -> None:
    """Write `ranges` as JSON, with each histogram's counts as one line of text, for readability."""
    tensors = {
        name: {**dataclasses.asdict(histogram), "counts": " ".join(map(str, histogram.counts.tolist()))}
        for name, histogram in ranges.tensors.items()
    }
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            **dataclasses.asdict(dataclasses.replace(ranges, tensors={})),
            "tensors": tensors,
        },
    )


def read_ranges(path: Path) -> Ranges:
    """Read a file of `write_ranges`.

    Raises:
        EdgeAfError: the file is missing or invalid.
    """
    value: Any = read_json(path, "file of ranges")
    try:
        if not isinstance(value, dict) or value.pop("schema_version", None) != SCHEMA_VERSION:
            raise Mismatch(f"not of version {SCHEMA_VERSION}")
        held = built(_Held, value)
        tensors = {name: one.histogram() for name, one in held.tensors.items()}
        return Ranges(**{**vars(held), "tensors": tensors})
    except (ValueError, OverflowError) as error:
        raise EdgeAfError(f"{path}: not an edge-af ranges file ({error}). Export again.") from None


@dataclass(frozen=True)
class _HeldHistogram:
    """A `Histogram` in the file, with its counts as text."""

    minimum: float
    maximum: float
    exponent: int
    first: int
    counts: str

    def histogram(self) -> Histogram:
        counts = np.array(self.counts.split(), np.int64)
        if not 0 < len(counts) <= BINS or (counts < 0).any() or not counts.any():
            raise Mismatch(f"{len(counts)} counts of a histogram, or one below 0")
        if self.minimum > self.maximum or abs(self.exponent) > 1024 or abs(self.first) > 1 << INDEX_BITS:
            raise Mismatch(f"a histogram from {self.minimum} to {self.maximum} of bins 2^{self.exponent} wide")
        return Histogram(**{**vars(self), "counts": counts})


@dataclass(frozen=True)
class _Held:
    """`Ranges` in the file."""

    data: str
    videos: int
    sha256: str
    seed: int
    tensors: dict[str, _HeldHistogram]
    network_sha256: str = ""


def choose_range(histogram: Histogram, choice: RangeChoice) -> tuple[float, float]:
    """Return the range (low, high) that `choice` selects from a histogram."""
    if choice.method == "min-max":
        return histogram.minimum, histogram.maximum
    if choice.method == "mse":
        return _least_error(histogram)
    if choice.method == "entropy":
        return _least_divergence(histogram)
    share = choice.percentile / 100
    return histogram.quantile(1 - share), histogram.quantile(share)


def _least_error(histogram: Histogram) -> tuple[float, float]:
    """Return the part of the range with the least expected squared error: clipping, plus step²/12 per value for rounding."""
    at = np.ldexp(histogram.first + np.arange(len(histogram.counts)) + 0.5, histogram.exponent)
    low, high = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)

    def error(share: float) -> float:
        cut = np.maximum(at - share * high, 0) ** 2 + np.maximum(share * low - at, 0) ** 2
        return float(histogram.counts @ np.where(cut > 0, cut, (share * (high - low) / 255) ** 2 / 12))

    best = min(SHARES, key=error)
    return best * low, best * high


def _least_divergence(histogram: Histogram) -> tuple[float, float]:
    """Return the part of the range with the least KL divergence between the values' distribution and its INT8 form.

    As in NVIDIA's TensorRT (Migacz, "8-bit Inference with TensorRT", GTC 2017). P is the histogram inside the range, with
    clipped counts added to its outermost bins. Q is the same without clipped counts, and each level's counts are spread
    evenly over its nonempty bins. TensorRT has 128 levels of the absolute value; here INT8's 256 levels cover the range.
    """
    at = np.ldexp(histogram.first + np.arange(len(histogram.counts)) + 0.5, histogram.exponent)
    low, high = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)
    counts = histogram.counts.astype(np.float64)

    def divergence(share: float) -> float:
        inside = np.flatnonzero((at >= share * low) & (at <= share * high))
        if share < 1 and len(inside) < LEVELS:
            return math.inf  # A level would be finer than a bin.
        if len(inside) == 0:
            return 0.0
        own = counts[inside]
        p = own.copy()
        p[0] += counts[: inside[0]].sum()
        p[-1] += counts[inside[-1] + 1 :].sum()
        level = np.clip((at[inside] - share * low) / (share * (high - low) or 1.0) * LEVELS, 0, LEVELS - 1).astype(int)
        held = np.bincount(level[own > 0], minlength=LEVELS)
        q = np.where(own > 0, (np.bincount(level, own, LEVELS) / np.maximum(held, 1))[level], 0.0)
        # An outermost bin may hold only clipped counts: one value in total keeps the divergence finite.
        q = np.maximum(q / max(q.sum(), 1.0), 1 / p.sum())
        p = p / p.sum()
        seen = p > 0
        return float((p[seen] * np.log(p[seen] / q[seen])).sum())

    best = min(SHARES, key=divergence)
    return best * low, best * high
