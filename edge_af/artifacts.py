"""The export folder: its files, `manifest.json` with the description and SHA-256 of each, and the model card `README.md`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from edge_af.__version__ import __version__
from edge_af.errors import EdgeAfError
from edge_af.files import read_json, sha256_file, write_json
from edge_af.typed import Mismatch, built

MANIFEST = "manifest.json"
CARD = "README.md"
CARD_MARK, CARD_END = "<!-- edge-af: measured figures -->", "<!-- edge-af: end of measured figures -->"
"""Comments in a model card around the text that `edge-af report --model-card` replaces."""
SCHEMA_VERSION = 3
READS = (1, 2, SCHEMA_VERSION)
"""Version 1 lacks `integer_share`, `undelegated` and `io`; version 2 lacks `training_data`."""

FORMATS = {"onnx": "ONNX", "tflite": "TFLite"}
"""Display name of each format."""

CPU_OF_MACHINE = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "arm64", "arm64": "arm64"}
"""Processor kind in a manifest, by machine name (`uname -m`)."""


@dataclass(frozen=True)
class Gate:
    """Measured accuracy loss of a quantized file, and the loss allowed."""

    data: str
    """The dataset's folder name."""
    videos: int
    max_gap_drop: float
    gap_at_20: float
    gap_at_20_drop: float
    """GAP@20 of the FP32 file of the same format minus that of this file."""
    layers_kept_float: list[str]
    """Layers returned to float to meet the limit, in order."""


@dataclass(frozen=True)
class ArtifactFile:
    """One exported file. `path` is relative to the manifest's folder."""

    path: str
    format: str
    """`onnx` or `tflite`."""
    precision: str
    """`fp32`, `fp16`, `int8`, `int4` or `int2`."""
    recipe: str | None
    """Recipe name; None for FP32."""
    size_bytes: int
    sha256: str
    cpu: str | None = None
    """Processor kind that the file is made for, `x86-64` or `arm64`; None for any."""
    integer_layers: int = 0
    """Fully connected layers that ran in integer kernels at export."""
    float_layers: int = 0
    """Fully connected layers that ran in float kernels."""
    integer_share: float | None = None
    """Share of the fully connected weight bytes that integer kernels read; None if not recorded."""
    undelegated: list[str] = field(default_factory=list)
    """TFLite operators that run in LiteRT's slower built-in kernels instead of XNNPACK."""
    io: str = "float32"
    """Type of inputs and outputs: `float32` or `int8`."""
    max_difference: float | None = None
    """Largest score difference from the trained network over the videos checked at export."""
    gate: Gate | None = None
    """None for FP32, and without a gate."""


@dataclass(frozen=True)
class Calibration:
    """Training videos used to find the activation ranges."""

    data: str
    """The dataset's folder name."""
    videos: int
    sha256: str
    """SHA-256 of the chosen videos' features."""
    method: str
    """Method that chooses a range from a histogram, e.g. `min-max`."""


@dataclass(frozen=True)
class TrainingData:
    """Training data of a network."""

    name: str | None = None
    """The dataset's folder name."""
    videos: int | None = None
    fingerprint: str | None = None
    """See `edge_af.data.dataset.Dataset.fingerprint`; None in runs of earlier versions."""
    largest: float | None = None
    """Largest magnitude of a feature; None if not recorded."""
    extractor: dict[str, Any] | None = None
    """The program or network that made the features; None if unknown."""


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
    """None in manifests of earlier versions."""
    schema_version: int = SCHEMA_VERSION


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder/manifest.json`."""
    write_json(folder / MANIFEST, dataclasses.asdict(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Read `folder/manifest.json` without checking the files; see `check_file`.

    Raises:
        EdgeAfError: the manifest is missing, invalid, or of an unsupported version.
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


def has_card(folder: Path) -> bool:
    """Return True if the folder's `README.md` is a model card, as edge-af wrote it or edited."""
    path = folder / CARD
    try:
        return path.is_file() and CARD_MARK.encode() in path.read_bytes()
    except OSError:
        return False


def replaceable(folder: Path, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return `patterns`, and the model card if the folder has one: another `README.md` is the user's own."""
    return (*patterns, CARD) if has_card(folder) else tuple(patterns)


def check_file(folder: Path, file: ArtifactFile) -> Path:
    """Return the path of a manifest's file after checking its SHA-256.

    Raises:
        EdgeAfError: the file is missing, lies outside the folder, or has another SHA-256.
    """
    # Links may lead anywhere (Hugging Face, DVC and Bazel caches consist of links): only the bytes matter.
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
    """Yield the manifest with each of its files after checking the file's SHA-256.

    Args:
        folder: yields nothing if it has no manifest.
        suffixes: yield only files with these suffixes; empty for all.
        name: yield only the file of this name.

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
    """Return the versions of Python, edge-af and the installed `packages`."""
    import platform
    from importlib import metadata

    found = {"python": platform.python_version(), "edge-af": __version__}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
