"""Extractors: networks and rules that turn a second of video into a visual and an audio feature vector.

An extractor is a folder with `extractor.yaml` and the files that it names; `lite` is part of this package. The fields are
those of `Description`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.data import Widths
from edge_af.errors import EdgeAfError
from edge_af.features.logmel import BANDS, PATCH_FRAMES
from edge_af.files import package_data, read_yaml, sha256_file
from edge_af.typed import Mismatch, built

DESCRIPTION = "extractor.yaml"
DEFAULT = "lite"
STATISTICS = ("mean", "std")


@dataclass(frozen=True)
class Scaling:
    """Values x become (x - offset) / scale."""

    offset: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale == 0:
            raise Mismatch("scale is 0")


@dataclass(frozen=True)
class Whitening:
    """Features x become (x - mean) @ projection, clipped."""

    mean: str
    """File with an array (width,), .npy."""
    projection: str
    """File with an array (width, features), .npy."""
    limit: float | None = None
    """Largest magnitude: values beyond ±limit become ±limit."""

    def __post_init__(self) -> None:
        if self.limit is not None and not self.limit > 0:
            raise Mismatch(f"limit is {self.limit}, not above 0")


@dataclass(frozen=True)
class VisualPart:
    """A network from a frame to features: input (n, height, width, 3), output (n, features) or (n, 1, 1, features)."""

    name: str
    file: str
    """A .tflite or .onnx file."""
    width: int
    """Width of the frame in pixels."""
    height: int
    pixels: Scaling = Scaling()
    """Applied to pixels from 0 to 255."""
    whitening: Whitening | None = None


@dataclass(frozen=True)
class AudioPart:
    """Features of a log-mel patch (96, 64): statistics of its bands, or a network's output for it."""

    name: str
    statistics: dict[str, Scaling] = field(default_factory=dict)
    """`mean` and `std` over time, each band scaled."""
    file: str | None = None
    """A .tflite or .onnx file with the input (n, 96, 64)."""
    whitening: Whitening | None = None

    def __post_init__(self) -> None:
        if (self.file is None) == (not self.statistics) or not set(self.statistics) <= set(STATISTICS):
            raise Mismatch(f"needs either a file or statistics ({' and '.join(STATISTICS)})")


@dataclass(frozen=True)
class Description:
    """Contents of `extractor.yaml`."""

    name: str
    visual: VisualPart
    audio: AudioPart
    license: str | None = None
    """License of the files."""


class Extractor:
    """A loaded extractor."""

    description: Description
    widths: Widths
    """Lengths of the two feature vectors."""
    networks: dict[str, _TfLite | _Onnx]
    """Networks for `visual` and `audio`; without one, `audio` is statistics."""

    def __init__(self, folder: Path, description: Description, threads: int) -> None:
        visual, audio = description.visual, description.audio
        self.description, self._folder = description, folder
        files = {"visual": visual.file, "audio": audio.file}
        self.networks = {name: _network(folder / file, threads) for name, file in files.items() if file is not None}
        self._whitening = {
            name: _load_whitening(folder, part.whitening)
            for name, part in (("visual", visual), ("audio", audio))
            if part.whitening is not None
        }
        self.widths = Widths(
            self._width("visual", np.zeros((visual.height, visual.width, 3), np.uint8)),
            self._width("audio", np.zeros((PATCH_FRAMES, BANDS), np.float32)),
        )

    def _width(self, name: str, value: NDArray[Any]) -> int:
        """Return the number of features, and refuse a network that does not take what the description says."""
        try:
            return len(getattr(self, name)(value))
        except Exception as error:  # onnxruntime's and LiteRT's exceptions have no common base class.
            reason = " ".join(str(error).split()).rstrip(".")
            raise EdgeAfError(
                f"{self._folder / DESCRIPTION}: {name}: the network does not take an input of {value.shape} ({reason})."
            ) from None

    @property
    def record(self) -> dict[str, Any]:
        """Describe the extractor in a dataset's index: its name, and a hash of its description and files."""
        digest = hashlib.sha256()
        for path in sorted(one for one in self._folder.iterdir() if one.is_file() and not one.name.startswith(".")):
            digest.update(f"{path.name} {sha256_file(path)}\n".encode())
        return {"name": self.description.name, "sha256": digest.hexdigest()}

    def visual(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (features,) of a frame (height, width, 3)."""
        pixels = self.description.visual.pixels
        values = frame.astype(np.float32)
        if pixels != Scaling():
            values = (values - np.float32(pixels.offset)) / np.float32(pixels.scale)
        return self.whitened("visual", self.networks["visual"](values[np.newaxis]))

    def audio(self, patch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the features (features,) of a log-mel patch (96, 64)."""
        if "audio" in self.networks:
            return self.whitened("audio", self.networks["audio"](patch[np.newaxis]))
        statistics = self.description.audio.statistics
        parts = [
            (getattr(patch, name)(axis=0) - np.float32(scaling.offset)) / np.float32(scaling.scale)
            for name, scaling in sorted(statistics.items())
        ]
        return self.whitened("audio", np.concatenate(parts).astype(np.float32))

    def whitened(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a network's features (features,) for `visual` or `audio` after whitening, if there is any."""
        values = values.reshape(-1)
        if name not in self._whitening:
            return values
        mean, projection, limit = self._whitening[name]
        whitened: NDArray[Any] = ((values - mean) @ projection).clip(-limit, limit)
        return whitened.astype(np.float32)


def load_extractor(name: str | Path = DEFAULT, *, threads: int = 1) -> Extractor:
    """Load an extractor.

    Args:
        name: `lite`, or the folder of another one.
        threads: threads of its networks.

    Raises:
        EdgeAfError: it is unknown, its description or a file is invalid, or a runtime is missing.
    """
    folder = package_data("features", str(name)) if str(name) == DEFAULT else Path(name)
    path = folder / DESCRIPTION
    if not path.is_file():
        raise EdgeAfError(f"{name}: no extractor (no {DESCRIPTION} in {folder}). {DEFAULT!r} is always there.")
    try:
        description = built(Description, read_yaml(path, "extractor"))
    except Mismatch as error:
        raise EdgeAfError(f"{path}: {error}.") from None
    return Extractor(folder, description, threads)


class _TfLite:
    """A TFLite file with one input and one output."""

    def __init__(self, path: Path, threads: int) -> None:
        from edge_af.console import without_chatter
        from edge_af.runtime.litert import interpreter_class

        interpreter = interpreter_class()
        with without_chatter("INFO: "):
            self._interpreter = interpreter(model_path=str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        self._interpreter.set_tensor(self._input, values)
        self._interpreter.invoke()
        found: NDArray[np.float32] = self._interpreter.get_tensor(self._output)
        return found


class _Onnx:
    """An ONNX file with one input and one output."""

    def __init__(self, path: Path, threads: int) -> None:
        from edge_af.runtime.ort import onnxruntime_module, session_options

        options = session_options(path, threads)
        self._session = onnxruntime_module().InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._session.run(None, {self._input: values})[0]
        return found


def _network(path: Path, threads: int) -> _TfLite | _Onnx:
    if not path.is_file():
        raise EdgeAfError(f"{path}: missing from the extractor.")
    kinds: dict[str, type[_TfLite] | type[_Onnx]] = {".tflite": _TfLite, ".onnx": _Onnx}
    if path.suffix not in kinds:
        raise EdgeAfError(f"{path}: neither .tflite nor .onnx.")
    try:
        return kinds[path.suffix](path, threads)
    except EdgeAfError:
        raise
    except Exception as error:  # onnxruntime's and LiteRT's exceptions have no common base class.
        raise EdgeAfError(f"{path}: cannot be loaded ({str(error).strip()[:120]}).") from None


def _load_whitening(folder: Path, whitening: Whitening) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    arrays = []
    for name in (whitening.mean, whitening.projection):
        try:
            arrays.append(np.load(folder / name, allow_pickle=False).astype(np.float32))
        except (OSError, ValueError, EOFError) as error:
            reason = getattr(error, "strerror", None) or error
            raise EdgeAfError(f"{folder / name}: this array of the whitening cannot be read ({reason}).") from None
    mean, projection = arrays
    if mean.ndim != 1 or projection.ndim != 2 or len(mean) != len(projection):
        raise EdgeAfError(f"{folder}: whitening: mean {mean.shape} and projection {projection.shape} do not fit.")
    return mean, projection, np.inf if whitening.limit is None else whitening.limit
