"""`edge-af predict`: label videos."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_af.cli.build import path_argument, verb
from edge_af.cli.next_step import unused
from edge_af.console import say, tell
from edge_af.errors import EdgeAfError
from edge_af.options import option

if TYPE_CHECKING:
    from edge_af.api import Network
    from edge_af.data import Features


@dataclass(frozen=True)
class PredictOptions:
    """The options of `edge-af predict`."""

    top: int = option("Labels per video.", default=3, at_least=1)
    videos: int = option("Number of videos, from the start.", default=10, at_least=1)
    rows: str | None = option("Rows to label instead, such as 0,5,7 or 10:20.", default=None)
    extractor: Path | None = option(
        "Folder of the extractor, for a video file.",
        default=None,
        shown_default="the one that the network was trained with",
    )
    threads: int = option("Threads of the runtime.", default=1, at_least=1)
    json: bool = option("Print JSON instead of text.", default=False)


@verb(
    PredictOptions,
    artifact=path_argument("ARTIFACT"),
    features=path_argument("FEATURES"),
    example="edge-af predict artifacts/attend-fusion/attend-fusion-int8.onnx prepared/eval --rows 0:5",
)
def command(artifact: Path, features: Path, options: PredictOptions) -> None:
    """Print the best labels that ARTIFACT gives the videos in FEATURES.

    ARTIFACT is a run folder or an .onnx or .tflite file. FEATURES is a prepared dataset, an .npz file with the arrays visual
    and audio, one row per video, or a video file.
    """
    from edge_af.api import Network
    from edge_af.artifacts import TrainingData
    from edge_af.bench.subject import subject_of
    from edge_af.data.dataset import is_dataset, open_dataset
    from edge_af.runtime import load_safely

    subject = subject_of(artifact)
    if features.is_dir() and not is_dataset(features):
        _refuse_videos(features)
    dataset = open_dataset(features) if features.is_dir() else None
    scorer = load_safely(artifact, threads=options.threads, confirmed=subject is not None)
    largest = subject.largest if subject is not None else dataset.largest if dataset is not None else None
    names = subject.class_names if subject is not None else dataset.class_names if dataset is not None else []
    extractor = subject.extractor if subject is not None else None
    network = Network(artifact, scorer, names, TrainingData(largest=largest, extractor=extractor))
    ids: Any = None
    if dataset is not None:
        given, ids = dataset.stored, dataset.ids
    elif features.suffix in (".npz", ".npy") or not features.is_file():
        given = _read_npz(features)
        network.check(given, str(features))
    else:
        given, ids = _extracted(features, network, options), [features.name.encode(errors="replace")]
    count = given.videos
    chosen = _chosen(options.rows, count) if options.rows is not None else list(range(min(options.videos, count)))
    if options.rows is None and count > options.videos:
        say(f"the first {options.videos} of {count:,} videos; choose others with --videos or --rows.")
    picked = given.take(chosen)
    network.check(picked, str(features), rows=chosen)
    found: list[dict[str, Any]] = [
        {
            "id": ids[row].decode(errors="replace") if ids is not None else str(row),
            "labels": [
                {"class": one.class_index, "name": one.name, "score": round(one.score, 6)} for one in predictions
            ],
        }
        for row, predictions in zip(chosen, network.predict(picked, options.top), strict=True)
    ]
    if options.json:
        tell(json.dumps(found, indent=2, ensure_ascii=False))
        return
    width = max(len(video["id"]) for video in found)
    for video in found:
        labels = "   ".join(f"{label['name']} {label['score']:.3f}" for label in video["labels"])
        tell(f"{video['id']:<{width}}  {labels}")


def _refuse_videos(folder: Path) -> None:
    from edge_af.features.collect import SUFFIXES

    if any(one.suffix.lower() in SUFFIXES for one in folder.iterdir()):
        raise EdgeAfError(
            f"{folder}: is a folder of videos. Name one of them, or extract them all with:\n"
            f"edge-af features {shlex.quote(str(folder))} --out {unused(Path('prepared'))}"
        )


def _extracted(video: Path, network: Network, options: PredictOptions) -> Features:
    """Return the features of a video file."""
    from edge_af.features.extract import Extraction
    from edge_af.features.stream import every_of, extractor_of

    extractor = extractor_of(network, options.extractor, options.threads)
    extraction = Extraction(video, extractor, every=every_of(network), threads=options.threads)
    for _ in extraction:
        pass
    return extraction.features


def _read_npz(path: Path) -> Features:
    """Read the arrays `visual` and `audio` of an .npz file, unchecked."""
    import numpy as np

    from edge_af.data import Features

    if not path.is_file():
        raise EdgeAfError(f"{path}: no such file or folder.")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in ("visual", "audio") if name not in arrays.files]
            if missing:
                raise EdgeAfError(
                    f"{path}: has no array {missing[0]!r}, only {', '.join(arrays.files) or 'none'}. "
                    "Save it with numpy.savez(path, visual=…, audio=…)."
                )
            return Features(arrays["visual"], arrays["audio"])
    except EdgeAfError:
        raise
    except Exception as error:
        # Damaged bytes make numpy and zipfile raise almost anything: ValueError, BadZipFile, zlib.error, TokenError, …
        # An .npy file loads as an array; using that as a context manager raises TypeError.
        raise EdgeAfError(
            f"{path}: neither a prepared dataset nor an .npz file of numbers ({str(error).partition('. ')[0].rstrip('.')})."
        ) from None


def _chosen(rows: str, count: int) -> list[int]:
    """Parse row numbers such as `0,5,7`, `10:20` or both, all below `count`."""
    found: list[int] = []
    for part in rows.split(","):
        first, colon, last = part.partition(":")
        try:
            start = int(first or 0) if colon else int(first)
            stop = min(int(last or count), count) if colon else start + 1
        except ValueError:
            raise EdgeAfError(f"--rows {rows}: {part!r} is not a row number or a range such as 10:20.") from None
        if not 0 <= start < count:
            raise EdgeAfError(f"--rows {rows}: row {start} is not one of the {count:,} there are.")
        found += range(start, stop)
    if not found:
        raise EdgeAfError(f"--rows {rows}: names no row.")
    return found
