"""The public Python API: load a network, score videos, and name their best classes. `edge_af` exports these names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.artifacts import MANIFEST, TrainingData, checked_files, read_manifest
from edge_af.data import Features, Widths, largest_accepted
from edge_af.errors import EdgeAfError, unknown
from edge_af.metrics import top_k
from edge_af.models.run import RUN, load_run
from edge_af.runtime import RUNTIME_OF_SUFFIX, Scorer, check_features, load_safely, runtime_of, score_all

__all__ = ["Features", "Network", "Prediction", "load"]

PRECISIONS = ("int8", "int4", "fp16", "int2", "fp32")
"""Precisions in the order in which `load` prefers them: INT8 has no measurable loss, then the smallest file."""


@dataclass(frozen=True)
class Prediction:
    """One of a network's best classes for a video."""

    name: str
    """The class's name, or `class N` if it has none."""
    class_index: int
    score: float
    """Probability from 0 to 1."""


class Network:
    """A loaded network, made by `load`."""

    path: Path
    """The run folder or the exported file."""

    runtime: str
    """`torch`, `onnxruntime` or `litert`."""

    classes: int

    class_names: tuple[str, ...]
    """One name per class; `class N` if it is unknown."""

    widths: Widths
    """Lengths of the feature vectors that it takes."""

    extractor: dict[str, Any] | None
    """The extractor that made its training data from video files; None if unknown."""

    def __init__(
        self, path: Path, scorer: Scorer, class_names: Sequence[str], data: TrainingData | None = None
    ) -> None:
        self.path, self.runtime, self.classes = path, scorer.runtime, scorer.classes
        self.widths = scorer.widths
        self.extractor = data.extractor if data is not None else None
        self._largest = largest_accepted(data.largest if data is not None else None)
        known = dict(enumerate(class_names))
        self.class_names = tuple(known.get(index) or f"class {index}" for index in range(scorer.classes))
        self._scorer = scorer

    def __repr__(self) -> str:
        return f"<Network {str(self.path)!r} in {self.runtime}, {self.classes} classes>"

    def score(self, features: Features | tuple[NDArray[Any], NDArray[Any]]) -> NDArray[np.float32]:
        """Compute the probability of each class for each of n videos; return (n, classes) float32.

        A video's scores do not depend on the other videos.

        Args:
            features: `Features` or a tuple: visual (n, width) and audio (n, width), for YouTube-8M 1024 and 128 wide.
                Arrays of any float dtype are converted to float32.

        Raises:
            EdgeAfError: the features cannot be scored, or a score is NaN or infinite.
        """
        if not isinstance(features, tuple) or len(features) != 2:
            raise EdgeAfError(
                f"features: expected edge_af.Features(visual, audio) or a tuple of these arrays, got {_kind(features)}."
            )
        given = Features(*features)
        for name, array in given._asdict().items():
            if not isinstance(array, np.ndarray):
                raise EdgeAfError(
                    f"features: {name!r} is {_kind(array)}, expected a NumPy array: np.asarray({name}, np.float32)."
                )
        self.check(given, "features")
        scores = score_all(self._scorer, given)
        broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        if len(broken):
            raise EdgeAfError(
                f"{self.path}: {len(broken):,} of {len(scores):,} videos have a NaN or infinite score, first row {broken[0]}.\n"
                "Their features are finite, so the network is at fault: export or train it again."
            )
        return scores

    def check(self, features: Features, where: str, rows: Sequence[int] | None = None) -> None:
        """Refuse features that this network cannot score.

        Args:
            features: arrays of any dtype and shape.
            where: their file or folder, for the message.
            rows: their row numbers there, for the message; None for 0, 1, 2, …

        Raises:
            EdgeAfError: see `edge_af.runtime.check_features`.
        """
        check_features(features, where, rows, widths=self.widths, largest=self._largest)

    def predict(self, features: Features | tuple[NDArray[Any], NDArray[Any]], top: int = 3) -> list[list[Prediction]]:
        """Return each video's `top` best classes, best first; equal scores in the order of their class indices.

        Args:
            features: see `score`.
            top: classes per video, or all classes if the network has fewer.

        Raises:
            EdgeAfError: see `score`; also, `top` is less than 1.
        """
        scores = self.score(features)
        if top < 1:
            raise EdgeAfError(f"top={top}: expected at least 1.")
        return [
            [Prediction(self.class_names[index], index, float(own[index])) for index in best]
            for own, best in zip(scores, top_k(scores, top).tolist(), strict=True)
        ]


def load(
    path: str | Path,
    *,
    precision: str | None = None,
    runtime: str | None = None,
    threads: int = 1,
    packed: str | Path | None = None,
) -> Network:
    """Load a network to score videos with.

    A file without a manifest may crash its runtime, so it is loaded and run in a separate process.

    Args:
        path: a run folder, an .onnx or .tflite file, or an export folder, from which `precision` and `runtime` choose a file.
        precision: `fp32`, `fp16`, `int8`, `int4` or `int2`. When None, any file or run is accepted; from an export folder, the
            first of int8, int4, fp16, int2 and fp32 that it holds for `runtime`.
        runtime: `onnxruntime`, `litert` or `torch`. When None, the one that opens the file; an export folder may hold
            the precision for both onnxruntime and litert, and then needs a choice.
        threads: threads of the runtime's own pool.
        packed: folder for an exported file's weights in the runtime's layout for this processor, created by the first load.
            Later loads memory-map them without a second copy, which takes less memory and time. The folder is valid for
            this file, this version of the runtime and this type of processor.

    Raises:
        EdgeAfError: the path is missing, not an edge-af network, or changed since its export; no file or several files of
            an export folder fit; the file has another precision or opens in another runtime; the runtime is not installed.
    """
    if precision is not None and precision not in PRECISIONS:
        raise EdgeAfError(unknown("precision", precision, PRECISIONS))
    runtimes = [*RUNTIME_OF_SUFFIX.values(), "torch"]
    if runtime is not None and runtime not in runtimes:
        raise EdgeAfError(unknown("runtime", runtime, runtimes))
    if threads < 1:
        raise EdgeAfError(f"threads={threads}: expected at least 1.")
    path = Path(path)
    folder, name = path.parent, path.name
    if os.path.lexists(path / MANIFEST):
        folder, name = path, _chosen(path, precision, runtime)
        path = folder / name
    elif path.is_dir() and not (path / RUN).is_file():
        raise EdgeAfError(f"{path}: neither a run folder (no {RUN}) nor an export folder (no {MANIFEST}).")
    found, names, data, confirmed = None, [], None, False
    if runtime_of(path) == "torch":
        run = load_run(path)
        found, names, data = "fp32", run.class_names, run.data
    elif known := next(checked_files(folder, name=name), None):
        found, names, data, confirmed = known[1].precision, known[0].class_names, known[0].training_data, True
    if precision is not None and found is None:
        raise EdgeAfError(
            f"{path}: no {MANIFEST} beside it lists this file, so its precision is unknown. Leave out `precision`."
        )
    if precision not in (None, found):
        raise EdgeAfError(f"{path}: is {found}, not {precision}.")
    scorer = load_safely(path, runtime=runtime, threads=threads, packed=packed, confirmed=confirmed)
    return Network(path, scorer, names, data)


def _chosen(folder: Path, precision: str | None, runtime: str | None) -> str:
    """Return the name of the only file of an export folder that fits."""
    held = [file for file in read_manifest(folder).files if Path(file.path).suffix in RUNTIME_OF_SUFFIX]
    opens_in = {file.path: RUNTIME_OF_SUFFIX[Path(file.path).suffix] for file in held}
    fitting = [file for file in held if runtime in (None, opens_in[file.path])]
    wanted = precision or next((one for one in PRECISIONS if any(file.precision == one for file in fitting)), None)
    fitting = [file for file in fitting if file.precision == wanted]
    if len(fitting) == 1:
        return fitting[0].path
    of_runtime = f" for {runtime}" if runtime is not None else ""
    if not fitting:
        fault = f"holds no {f'{precision} ' if precision is not None else ''}file{of_runtime}."
    elif len({opens_in[file.path] for file in fitting}) > 1:
        fault = f"holds {len(fitting)} {wanted} files. Name one of them, or choose with `runtime` in Python."
    else:
        fault = f"holds {len(fitting)} {wanted} files{of_runtime}. Name one of them."
    listed = ", ".join(f"{file.path} ({file.precision}, {opens_in[file.path]})" for file in held) or "no network"
    raise EdgeAfError(f"{folder}: {fault}\nIt holds {listed}.")


def _kind(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
