"""One interface to score videos with any kind of file: a run folder in torch, an ONNX file, a TFLite file.

Every exported graph has float32 inputs `visual` (n, width) and `audio` (n, width), and a float32 output `scores` (n, classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_af.data import LARGEST_FEATURE, MARGIN, NO_FEATURE, YOUTUBE8M, Features, Widths
from edge_af.errors import EdgeAfError
from edge_af.files import check_utf8_name

RUNTIME_OF_SUFFIX = {".onnx": "onnxruntime", ".tflite": "litert"}
"""Runtime that opens a file, by suffix. A run folder opens in `torch`."""


class MissingRuntime(EdgeAfError):
    """The runtime that a file needs cannot be imported on this machine."""


class Scorer(Protocol):
    """A loaded network."""

    runtime: str
    """`torch`, `onnxruntime` or `litert`."""

    classes: int

    widths: Widths
    """Lengths of the feature vectors that it takes."""

    max_batch: int | None
    """Largest batch in which videos do not influence each other's scores; None for no limit."""

    def score(self, features: Features) -> NDArray[np.float32]:
        """Compute probabilities (n, classes) float32 from float32 features of n videos."""
        ...


def load(path: str | Path, *, runtime: str | None = None, threads: int = 1, packed: str | Path | None = None) -> Scorer:
    """Open a run folder, an ONNX file or a TFLite file.

    Args:
        path: the folder or file.
        runtime: `torch`, `onnxruntime` or `litert`; the one that opens the file when None.
        threads: threads of the runtime's own pool.
        packed: folder for an exported file's weights in the runtime's layout for this processor, created by the first load.
            Later loads memory-map them without a second copy, which takes less memory and time. The folder is valid for
            this file, this version of the runtime and this type of processor.

    Raises:
        EdgeAfError: the file is missing or not an edge-af network, or `runtime` cannot open it.
        MissingRuntime: the runtime cannot be imported here.
    """
    path = Path(path)
    fitting = runtime_of(path)
    if runtime not in (None, fitting):
        raise EdgeAfError(f"{path}: opens in {fitting}, not in {runtime}.")
    if fitting == "torch":
        from edge_af.runtime.pytorch import TorchScorer

        return TorchScorer(path, threads)
    if fitting == "onnxruntime":
        from edge_af.runtime.ort import OnnxScorer

        return OnnxScorer(path, threads, Path(packed) if packed is not None else None)
    from edge_af.runtime.litert import LiteRtScorer, MappedLiteRtScorer, maps_weights

    if packed is not None and maps_weights():
        return MappedLiteRtScorer(path, threads, Path(packed))
    return LiteRtScorer(path, threads)


def load_safely(
    path: str | Path,
    *,
    runtime: str | None = None,
    threads: int = 1,
    packed: str | Path | None = None,
    confirmed: bool | None = None,
) -> Scorer:
    """Like `load`, but load a model file in a separate process unless a manifest confirms it: it may crash its runtime.

    Args:
        path: the folder or file.
        runtime: see `load`.
        threads: see `load`.
        packed: see `load`.
        confirmed: True if the file's SHA-256 is known to match its manifest; looked up when None.

    Raises:
        EdgeAfError: see `load`; also, the file crashes its runtime or differs from its manifest.
        MissingRuntime: the runtime cannot be imported here.
    """
    from edge_af.artifacts import checked_files
    from edge_af.runtime.apart import ApartScorer

    path = Path(path)
    fitting = runtime_of(path)
    if fitting != "torch" and runtime in (None, fitting):
        if confirmed is None:
            confirmed = any(checked_files(path.parent, name=path.name))
        if not confirmed:
            return ApartScorer(path, threads, Path(packed) if packed is not None else None)
    return load(path, runtime=runtime, threads=threads, packed=packed)


def runtime_of(path: Path) -> str:
    """Return the runtime that opens `path`.

    Raises:
        EdgeAfError: the file is missing, its name is not UTF-8, or no runtime opens its format.
    """
    if not path.exists():
        raise EdgeAfError(f"{path}: no such file or folder.")
    check_utf8_name(path)
    if path.is_dir():
        return "torch"
    if path.suffix == ".zip":
        raise EdgeAfError(f"{path}: a bundle is unpacked first: edge-af verify {path} --out FOLDER")
    if path.suffix not in RUNTIME_OF_SUFFIX:
        raise EdgeAfError(f"{path}: neither a run folder nor an .onnx or .tflite file.")
    return RUNTIME_OF_SUFFIX[path.suffix]


def import_runtime(runtime: str) -> None:
    """Import a runtime and nothing else, so that its cost can be separated from a network's.

    Raises:
        MissingRuntime: it cannot be imported; says why and what to install.
    """
    if runtime == "onnxruntime":
        from edge_af.runtime.ort import onnxruntime_module

        onnxruntime_module()
    elif runtime == "litert":
        from edge_af.runtime.litert import interpreter_class, maps_weights

        interpreter_class()
        maps_weights()
    else:
        raise MissingRuntime(f"unknown runtime {runtime!r}. Choose from onnxruntime, litert.")


def score_all(scorer: Scorer, features: Features, batch: int = 256) -> NDArray[np.float32]:
    """Compute scores (videos, classes) from features of any float dtype.

    `batch` videos are scored at a time, or fewer if the scores would depend on the batch (`Scorer.max_batch`).
    """
    batch = min(batch, scorer.max_batch or batch)
    scores = np.empty((features.videos, scorer.classes), np.float32)
    for start in range(0, features.videos, batch):
        rows = slice(start, start + batch)
        scores[rows] = scorer.score(Features(*(np.array(array, np.float32) for array in features.take(rows))))
    return scores


def check_features(
    features: Features,
    where: str,
    rows: Sequence[int] | None = None,
    *,
    widths: Widths = YOUTUBE8M,
    largest: float = LARGEST_FEATURE,
) -> None:
    """Refuse features that cannot be scored. Memory-mapped arrays are read in parts.

    Args:
        features: features of any float dtype.
        where: their file or folder, for the message.
        rows: their row numbers there, for the message; None for 0, 1, 2, …
        widths: lengths of the feature vectors that the network takes.
        largest: largest magnitude that it accepts, see `edge_af.data.largest_accepted`.

    Raises:
        EdgeAfError: an array does not hold floats or has the wrong shape, there are no videos, or the arrays differ in
            length. Also if a value is NaN, infinite or out of range, such as YouTube-8M's 8-bit codes; names array and row.
    """
    arrays = features._asdict()
    for name, array in arrays.items():
        width, why = widths.of(name), _refusal(largest)
        if array.dtype.kind in "iu":
            raise EdgeAfError(f"{where}: array {name!r} holds whole numbers ({array.dtype}); {why}.")
        if array.ndim == 2 and array.shape[1] != width and array.dtype.kind == "f":
            raise EdgeAfError(
                f"{where}: array {name!r} has {array.shape[1]} features per video; the network takes {width}. Use features of "
                "the extractor that it was trained on."
            )
        if array.ndim != 2 or array.shape[1] != width or array.dtype.kind != "f":
            fix = ""
            if array.shape == (width,):
                fix = f" One video is a row: {name}[np.newaxis]."
            elif array.dtype.kind != "f":
                fix = f" Convert it: {name}.astype(np.float32)."
            raise EdgeAfError(
                f"{where}: array {name!r} is {array.dtype} {array.shape}, expected float32 (videos, {width}).{fix}"
            )
    if len(features.visual) != len(features.audio):
        raise EdgeAfError(
            f"{where}: {len(features.visual)} rows in 'visual' and {len(features.audio)} in 'audio'; expected the same number."
        )
    if features.videos == 0:
        raise EdgeAfError(f"{where}: holds no videos.")
    for name, array in arrays.items():
        for start in range(0, len(array), 4096):
            block = np.asarray(array[start : start + 4096], np.float32)
            # NaN compares false.
            good = (np.abs(block) <= largest).all(axis=1) & np.isfinite(block).all(axis=1)
            if not good.all():
                bad = start + int(np.argmin(good))
                at = f"{where}: array {name!r}, row {bad if rows is None else rows[bad]}"
                if not np.isfinite(block[bad - start]).all():
                    raise EdgeAfError(f"{at}: NaN or infinite. Leave out that video, or prepare the data again.")
                worst = block[bad - start][np.abs(block[bad - start]).argmax()]
                raise EdgeAfError(f"{at}: holds {worst:g}; {_refusal(largest)}.")
            codes = largest == LARGEST_FEATURE and start == 0 and (block == np.rint(block)).all() and block.max() > 2
            if codes:
                raise EdgeAfError(f"{where}: array {name!r} holds whole numbers up to {block.max():g}; {NO_FEATURE}.")


def _refusal(largest: float) -> str:
    """Explain which values are features."""
    if largest == LARGEST_FEATURE:
        return NO_FEATURE
    return f"features of this network are floats up to ±{largest:g}, {MARGIN} times the largest in its training data"
