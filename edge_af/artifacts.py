"""An export's folder: its files and `manifest.json`, which says what each is and what it must hash to."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from edge_af.__version__ import __version__
from edge_af.errors import EdgeAfError
from edge_af.files import read_json, sha256_file, write_json
from edge_af.typed import Mismatch, built

MANIFEST = "manifest.json"
SCHEMA_VERSION = 3
READS = (1, 2, SCHEMA_VERSION)
"""Version 1 said nothing of `integer_share`, `undelegated` and `io`, version 2 nothing of `training_data`."""

FORMATS = {"onnx": "ONNX", "tflite": "TFLite"}
"""A format -> what it is called in text."""

CPU_OF_MACHINE = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "arm64", "arm64": "arm64"}
"""Kind of processor in a manifest, by the kernel's name of the machine."""


@dataclass(frozen=True)
class Gate:
    """A quantized file's measured loss on real videos, and the loss allowed."""

    data: str
    """The dataset's folder name."""
    videos: int
    max_gap_drop: float
    gap_at_20: float
    gap_at_20_drop: float
    """Against the FP32 file of the same format."""
    layers_kept_float: list[str]
    """Put back to float so that the loss is no larger, in that order."""


@dataclass(frozen=True)
class ArtifactFile:
    """One exported file. `path` is relative to the folder of the manifest."""

    path: str
    format: str
    """`onnx` or `tflite`."""
    precision: str
    """`fp32`, `fp16`, `int8` or `int4`."""
    recipe: str | None
    """Recipe name; None for FP32."""
    size_bytes: int
    sha256: str
    cpu: str | None = None
    """The kind of processor the file is meant for, `x86-64` or `arm64`; None if it is for any."""
    integer_layers: int = 0
    """Fully connected layers that were seen to run in integer kernels."""
    float_layers: int = 0
    """The others."""
    integer_share: float | None = None
    """Share of the fully connected weight bytes that integer kernels read; None if it was not recorded."""
    undelegated: list[str] = field(default_factory=list)
    """TFLite operators that XNNPACK left to LiteRT's own, slower kernels."""
    io: str = "float32"
    """Type of inputs and outputs: `float32` or `int8`."""
    max_difference: float | None = None
    """Largest difference of a score from the trained network's, over the videos tried at export."""
    gate: Gate | None = None
    """None for FP32, and without a gate."""


@dataclass(frozen=True)
class Calibration:
    """The training videos that activation ranges were found on."""

    data: str
    """The dataset's folder name."""
    videos: int
    sha256: str
    """Over the features of the chosen videos."""
    method: str
    """Method that chooses a range from a histogram, e.g. `min-max`."""


@dataclass(frozen=True)
class TrainingData:
    """Record of the data that a network was trained on."""

    name: str | None = None
    """The dataset's folder name."""
    videos: int | None = None
    fingerprint: str | None = None
    """See `edge_af.data.dataset.Dataset.fingerprint`; runs of an older edge-af have none."""


@dataclass(frozen=True)
class Manifest:
    """Contents of an export folder."""

    model: str
    preset: str
    classes: int
    params: int
    """Trainable parameters of the network as trained, before BatchNorm is folded."""
    f1_threshold: float
    """Chosen on the held-out part of the training data."""
    class_names: list[str]
    calibration: Calibration | None
    files: list[ArtifactFile]
    versions: dict[str, str]
    training_data: TrainingData | None = None
    """None in a manifest of an older edge-af."""
    schema_version: int = SCHEMA_VERSION


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder/manifest.json`."""
    write_json(folder / MANIFEST, dataclasses.asdict(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Read `folder/manifest.json` without looking at the files; see `check_file`.

    Raises:
        EdgeAfError: it is missing, no manifest, or of a version this edge-af does not read.
    """
    path = folder / MANIFEST
    value = read_json(path, "manifest")
    if not isinstance(value, dict) or value.get("schema_version") not in READS:
        found = value.get("schema_version") if isinstance(value, dict) else None
        raise EdgeAfError(
            f"{path}: schema_version {found!r}; this edge-af reads {' and '.join(map(str, READS))}. Export again."
        )
    try:
        return built(Manifest, value)
    except Mismatch as error:
        raise EdgeAfError(f"{path}: not an edge-af manifest ({error}). Export again.") from None


def check_file(folder: Path, file: ArtifactFile) -> Path:
    """The path of one of the manifest's files, once its bytes are known to be those that were exported.

    Raises:
        EdgeAfError: it is missing, its name leads outside the folder, or its SHA-256 is not the manifest's.
    """
    # A link may lead anywhere (caches of Hugging Face, DVC and Bazel are made of links): the bytes are what counts.
    path, parts = folder / file.path, PurePosixPath(file.path).parts
    if "\0" in file.path or not parts or ".." in parts or PurePosixPath(file.path).is_absolute():
        raise EdgeAfError(f"{folder / MANIFEST}: names a file outside its folder: {file.path!r}.")
    if not path.is_file():
        raise EdgeAfError(f"{path}: named in {MANIFEST} but missing. Export again, or copy the whole folder.")
    found = sha256_file(path)
    if found != file.sha256:
        raise EdgeAfError(
            f"{path}: SHA-256 {found[:12]}… where {MANIFEST} says {file.sha256[:12]}…: "
            "the file was changed or damaged.\nExport again, or copy the folder again."
        )
    return path


def checked_files(
    folder: Path, suffixes: Container[str] = (), name: str | None = None
) -> Iterator[tuple[Manifest, ArtifactFile]]:
    """Yield the manifest with each of its files, once the file's bytes are known to be those that were exported.

    Args:
        folder: without a manifest, there are none.
        suffixes: only files that end so; empty for all.
        name: only the file of this name.

    Raises:
        EdgeAfError: see `read_manifest` and `check_file`.
    """
    if not os.path.lexists(folder / MANIFEST):
        return
    manifest = read_manifest(folder)
    for file in manifest.files:
        if name in (None, file.path) and (not suffixes or Path(file.path).suffix in suffixes):
            check_file(folder, file)
            yield manifest, file


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python, edge-af and those of `packages` that are installed."""
    import platform
    from importlib import metadata

    found = {"python": platform.python_version(), "edge-af": __version__}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
