"""Extract many videos into a prepared dataset or TFRecords: `edge-af features`.

Finished videos are kept in a hidden folder beside the output, `.NAME.partial`, one file each, until the output is complete.
So an interrupted extraction continues where it stopped.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import queue
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_af.console import Progress, say, warn
from edge_af.data import Features, Widths
from edge_af.data.arrays import ID_BYTES, Label, class_number, names_in, read_labels
from edge_af.data.classes import Classes, classes_of_labels, given_vocabulary
from edge_af.data.dataset import INDEX, MODALITIES, hashes_of
from edge_af.data.records import frame_record, quantize, video_record, write_records
from edge_af.data.sidecar import SIDECAR, FeatureName, Sidecar, write_sidecar
from edge_af.data.writer import FILES, DatasetWriter, Origin, index_of
from edge_af.errors import EdgeAfError
from edge_af.features.extractor import DEFAULT, Extractor, load_extractor
from edge_af.files import (
    check_replaceable,
    explain_os_errors,
    files_below,
    locked,
    read_json,
    replace_folder,
    write_atomic,
    write_json,
)
from edge_af.options import check, option, parse_seconds
from edge_af.subprocesses import Running, running, signal_in_words

WORKER = (sys.executable, "-P", "-m", "edge_af.features.worker")
STALL_SECONDS = 120.0
"""A video that yields nothing for so long is given up."""
LAYOUT = "video-files"
FORMATS = ("dataset", "video-level", "frame-level")
PLAN = "plan.json"
OURS = ("videos-*.tfrecord", "vocabulary.csv", SIDECAR)
"""Files of an output of TFRecords."""
SHARD = 1000
"""Videos in a TFRecord file."""
SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".flv", ".wmv", ".3gp", ".ogv",
    ".vob", ".mxf", ".gif", ".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".wma",
))  # fmt: skip
"""Names of videos and sounds in a folder; a file that is named itself may have any name."""


@dataclass(frozen=True)
class FeaturesOptions:
    """Options that change the extracted features."""

    extractor: str = option("Extractor: lite, or the folder of another.", default=DEFAULT)
    every: float = option(
        "Time between two frames.", default=1.0, shown_default="1s", metavar="TIME", parse=parse_seconds, at_most=3600
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class LabelOptions:
    """Options for the labels and how features are stored."""

    labels: Path | None = option("CSV with the columns video and labels (names between semicolons).", default=None)
    vocabulary: Path | None = option(
        "CSV of class names (columns index and name), or a prepared dataset.",
        default=None,
        shown_default="the names that occur",
    )
    dtype: str = option("Type of the stored features.", default="float32", choices=("float16", "float32"))

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class OutputOptions:
    """Options of the output and of the work, which do not change the features."""

    format: str = option("Output: a prepared dataset, or YouTube-8M's TFRecords.", default="dataset", choices=FORMATS)
    jobs: int | None = option(
        "Videos extracted at the same time.", default=None, at_least=1, at_most=256, shown_default="one per core"
    )
    threads: int = option("Threads that decode each video.", default=1, at_least=1)
    overwrite: bool = option("Start over, and replace what is already there.", default=False)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Collected:
    """A finished extraction."""

    index: dict[str, Any]
    seconds: float
    """Duration of all videos."""
    cost: dict[str, float]
    """Processor time by stage, in seconds."""


def find_videos(paths: Sequence[Path]) -> list[Path]:
    """Return the videos among files and folders, each once; folders are searched recursively, sorted.

    Raises:
        EdgeAfError: a path is missing, or a folder has no videos.
    """
    found: dict[Path, Path] = {}
    if paths and not any(path.exists() for path in paths):
        raise EdgeAfError(f"{paths[0]}: no such file or folder.")
    for path in paths:
        if not path.is_dir():
            # A missing file is one bad video among others.
            found.setdefault(path.absolute(), path)
            continue
        inside = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
        if not inside:
            raise EdgeAfError(f"{path}: no videos in this folder, by their names (such as *.mp4).")
        for one in inside:
            found.setdefault(one.absolute(), one)
    return list(found.values())


def collect(
    paths: Sequence[Path], out: Path, options: FeaturesOptions, labels: LabelOptions, output: OutputOptions
) -> Collected:
    """Extract the features of all videos into `out`.

    A video that cannot be read is named and left out. An interrupted extraction continues when called again with the same
    videos and options.

    Raises:
        EdgeAfError: PyAV or the extractor is missing, no video can be read, a label is unknown, or `out` is taken.
    """
    videos = find_videos(paths)
    extractor = load_extractor(options.extractor)
    ids = ids_of(videos)
    classes, numbers = _labels(labels, videos, ids)
    check_replaceable(out, (*OURS, *FILES), output.overwrite)
    target = out.resolve()
    with locked(target.with_name(f".{target.name}.lock"), f"{out}: another process is writing to it."):
        replaced = files_below(target)
        partial = target.parent / f".{target.name}.partial"
        with explain_os_errors(out):
            _start(partial, out, _plan(videos, options, extractor), output.overwrite)
            done = _extract_all(videos, partial, options, output)
            good = sorted(place for place, found in done.items() if "done" in found)
            if not good:
                shutil.rmtree(partial)
                raise EdgeAfError(f"none of the {len(videos):,} videos can be used, {videos[0]} first.")
            stage = partial / "out"
            shutil.rmtree(stage, ignore_errors=True)
            stage.mkdir()
            left_out = [
                {"file": videos[place].name, "record": 0, "reason": found["error"]}
                for place, found in sorted(done.items())
                if "error" in found
            ]
            origin = Origin(
                layout=LAYOUT,
                sources=[_source(videos[place], done[place]["done"]) for place in good],
                left_out=left_out,
                names=(extractor.description.visual.name, extractor.description.audio.name),
                extractor={**extractor.record, "every": options.every},
            )
            extracted = _Extracted(partial, extractor.widths, good, ids, numbers, classes, origin)
            index = _write(stage, extracted, labels, output.format)
            replace_folder(stage, target, replaced)
            shutil.rmtree(partial)
    cost = {stage: sum(done[place]["done"]["cost"][stage] for place in good) for stage in ("decode", "visual", "audio")}
    return Collected(index, sum(done[place]["done"]["seconds"] for place in good), cost)


def ids_of(videos: Sequence[Path]) -> list[str]:
    """Return an id for each video: its file name, its last folders too where two have the same name.

    A longer id than a dataset stores keeps its end.
    """
    ids = [video.name for video in videos]
    for depth in range(2, max((len(video.parts) for video in videos), default=0) + 1):
        if len(set(ids)) == len(ids):
            break
        again = {id for id in ids if ids.count(id) > 1} if len(ids) < 10_000 else set(ids)
        ids = [str(Path(*video.parts[-depth:])) if id in again else id for id, video in zip(ids, videos, strict=True)]
    return [id.encode(errors="surrogateescape")[-ID_BYTES:].decode(errors="replace") for id in ids]


def _labels(options: LabelOptions, videos: list[Path], ids: list[str]) -> tuple[Classes, list[list[int]]]:
    """Return the classes, and the class numbers of each video."""
    given = given_vocabulary(options.vocabulary)
    if options.labels is None:
        classes = classes_of_labels(None, given, videos[0], lambda: ([], 0))
        warn("without --labels, no video has a label, and the features can only be scored.")
        return classes, [[] for _ in videos]
    known = read_labels(options.labels)
    names, highest = names_in({label for labels in known.values() for label in labels})
    classes = classes_of_labels(None, given, options.labels, lambda: (names, highest))
    numbers = {name: number for number, name in enumerate(classes.names) if name}
    shared = {name for name, count in Counter(video.name for video in videos).items() if count > 1}
    found: list[list[int]] = []
    used: set[str] = set()
    without: list[str] = []
    for video, id in zip(videos, ids, strict=True):
        key = next((one for one in (str(video), id, video.name, video.stem) if one in known), None)
        if key in (video.name, video.stem) and video.name in shared:
            raise EdgeAfError(
                f"{options.labels}: {key!r:.60} may be several of the videos, {video} for one. Write their folders too: {id}."
            )
        own: list[Label] = known[key] if key is not None else []
        if key is None:
            without.append(video.name)
        else:
            used.add(key)
        for label in own:
            if not 0 <= class_number(label, numbers) < classes.classes:
                raise EdgeAfError(
                    f"{options.labels}: {label!r:.60} ({key}) is not one of the {classes.classes} classes."
                )
        found.append(sorted({class_number(label, numbers) for label in own}))
    if without:
        warn(f"{options.labels}: no labels for {len(without):,} video(s), {without[0]} first.")
    if not used:
        raise EdgeAfError(
            f"{options.labels}: none of its {len(known):,} rows names one of the videos, such as {ids[0]}."
        )
    if unused := [key for key in known if key not in used]:
        warn(f"{options.labels}: {len(unused):,} row(s) name none of the videos, {unused[0]} first.")
    return classes, found


def _plan(videos: list[Path], options: FeaturesOptions, extractor: Extractor) -> dict[str, Any]:
    """Describe the work, so that another one does not continue it."""

    def state(video: Path) -> list[Any]:
        with contextlib.suppress(OSError):
            status = video.stat()
            return [str(video.absolute()), status.st_size, status.st_mtime_ns]
        return [str(video.absolute())]

    return {"options": {**asdict(options), "extractor": extractor.record}, "videos": [state(video) for video in videos]}


def _start(partial: Path, out: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Create the folder of finished videos, or check that it belongs to this work."""
    if overwrite:
        shutil.rmtree(partial, ignore_errors=True)
    if (partial / PLAN).is_file():
        if read_json(partial / PLAN, "plan of an extraction") != json.loads(json.dumps(plan)):
            raise EdgeAfError(
                f"{out}: an interrupted extraction of other videos (or changed ones) or with other options is in the way.\n"
                "Run its command again to finish it, or pass --overwrite to start over."
            )
        return
    partial.mkdir(parents=True, exist_ok=True)
    write_json(partial / PLAN, plan)


def _extract_all(
    videos: list[Path], partial: Path, options: FeaturesOptions, output: OutputOptions
) -> dict[int, dict[str, Any]]:
    """Extract the videos that are not finished, several at a time; return each one's answer by its place."""
    done: dict[int, dict[str, Any]] = {}
    for place in range(len(videos)):
        if (partial / f"{place}.json").is_file():
            done[place] = read_json(partial / f"{place}.json", "finished video")
    if done:
        say(f"continuing after {len(done):,} of {len(videos):,} videos.")
    jobs: queue.SimpleQueue[int] = queue.SimpleQueue()
    waiting = [place for place in range(len(videos)) if place not in done]
    for place in waiting:
        jobs.put(place)
    answers: queue.SimpleQueue[tuple[int, dict[str, Any]] | BaseException] = queue.SimpleQueue()
    stop = threading.Event()
    settings = {"extractor": options.extractor, "every": options.every, "threads": output.threads}
    threads = [
        threading.Thread(target=_run_workers, args=(videos, partial, settings, jobs, answers.put, stop), daemon=True)
        for _ in range(min(output.jobs or len(os.sched_getaffinity(0)), len(waiting)))
    ]
    for thread in threads:
        thread.start()
    try:
        with Progress("features", len(waiting), "videos") as progress:
            seconds = 0.0
            for _ in waiting:
                answer = answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                place, found = answer
                if "error" in found:
                    warn(found["error"])
                else:
                    seconds += found["done"]["seconds"]
                    if found["done"]["fault"]:
                        warn(
                            f"{videos[place]}: damaged in {found['done']['faults']:,} place(s) ({found['done']['fault']})."
                        )
                write_json(partial / f"{place}.json", found)
                done[place] = found
                progress.update(1, f"{seconds:,.0f} s of video")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return done


def _run_workers(
    videos: list[Path],
    partial: Path,
    settings: dict[str, Any],
    jobs: queue.SimpleQueue[int],
    answer: Callable[[tuple[int, dict[str, Any]] | BaseException], None],
    stop: threading.Event,
) -> None:
    """Extract videos from the queue in a worker process, and start another when one dies."""
    try:
        while not stop.is_set() and not jobs.empty():
            with running(WORKER) as worker:
                worker.send(json.dumps({**settings, "result_fd": worker.result_fd}) + "\n")
                for place in _taken(jobs, stop):
                    worker.send(json.dumps({"source": str(videos[place]), "out": str(partial / f"{place}.npz")}) + "\n")
                    found = _answer(worker, str(videos[place]), stop)
                    if found is None:
                        return
                    answer((place, found))
                    if found.get("dead"):
                        break
    except BaseException as error:
        answer(error)


def _taken(jobs: queue.SimpleQueue[int], stop: threading.Event) -> Iterator[int]:
    while not stop.is_set():
        try:
            yield jobs.get_nowait()
        except queue.Empty:
            return


def _answer(worker: Running, video: str, stop: threading.Event) -> dict[str, Any] | None:
    """Return a worker's answer about a video, also if it died or stalled; None when stopped."""
    last = time.monotonic()
    while not stop.is_set():
        try:
            found = worker.next(min(last + STALL_SECONDS, time.monotonic() + 0.5))
        except TimeoutError:
            if time.monotonic() - last < STALL_SECONDS:
                continue
            return {"error": f"{video}: yields nothing for {STALL_SECONDS:.0f} s; given up.", "dead": True}
        if found is None:
            status = worker.process.wait()
            why = signal_in_words(-status, worker.last_line())[1] if status < 0 else worker.last_line()
            return {"error": f"{video}: its decoder crashed ({why or f'exit code {status}'}).", "dead": True}
        last = time.monotonic()
        if "errno" in found:
            raise OSError(found["errno"], found["error"])
        if "seconds" not in found:
            return found
    return None


@dataclass(frozen=True)
class _Extracted:
    """Extracted videos with their labels and origin."""

    folder: Path
    """Folder of the finished videos' features."""
    widths: Widths
    good: list[int]
    """Places of the videos that were extracted, ascending."""
    ids: list[str]
    numbers: list[list[int]]
    """Class numbers of each video."""
    classes: Classes
    origin: Origin


def _write(stage: Path, extracted: _Extracted, labels: LabelOptions, format: str) -> dict[str, Any]:
    """Write the output to `stage`; return its index."""
    if format == "dataset":
        with DatasetWriter(stage, labels.dtype, extracted.widths, id_bytes=ID_BYTES) as writer:
            for place in extracted.good:
                with np.load(extracted.folder / f"{place}.npz") as found:
                    own = extracted.numbers[place]
                    writer.append(
                        ids=np.array([extracted.ids[place].encode()], f"S{ID_BYTES}"),
                        features=Features(found["visual"][np.newaxis], found["audio"][np.newaxis]),
                        label_counts=np.array([len(own)], np.int64),
                        label_values=np.array(own, np.uint16),
                    )
            writer.finish()
        classes = extracted.classes
        index = index_of(writer, classes.classes, classes.names, extracted.origin, arrays=hashes_of(stage))
        write_json(stage / INDEX, index)
        return index
    return _write_records(stage, extracted, frames=format == "frame-level")


def _write_records(stage: Path, extracted: _Extracted, *, frames: bool) -> dict[str, Any]:
    """Write TFRecords, a vocabulary and the sidecar."""
    for start in range(0, len(extracted.good), SHARD):
        records = []
        for place in extracted.good[start : start + SHARD]:
            id, own = extracted.ids[place].encode()[-16:], extracted.numbers[place]
            with np.load(extracted.folder / f"{place}.npz") as found:
                if frames:
                    visual, audio = _aligned(found["visual_frames"], found["audio_frames"])
                    records.append(frame_record(id, own, {"rgb": quantize(visual), "audio": quantize(audio)}))
                else:
                    vectors = {"mean_rgb": found["visual"], "mean_audio": found["audio"]}
                    records.append(video_record(id, own, vectors))
        with (stage / f"videos-{start // SHARD:05d}.tfrecord").open("wb") as file:
            write_records(file, records)
    names = extracted.classes.names or [f"class {number}" for number in range(extracted.classes.classes)]
    table = io.StringIO(newline="")
    rows = csv.writer(table, lineterminator="\n")
    rows.writerows([("index", "name"), *enumerate(names)])
    write_atomic(stage / "vocabulary.csv", table.getvalue())
    origin = extracted.origin
    named = zip(MODALITIES, origin.names, strict=True)
    features = {stem: FeatureName(name, extracted.widths.of(stem)) for stem, name in named}
    write_sidecar(stage, Sidecar(features, origin.extractor))
    labels = sum(len(extracted.numbers[place]) for place in extracted.good)
    return {
        "videos": len(extracted.good),
        "classes": extracted.classes.classes,
        "labels_per_video": round(labels / len(extracted.good), 4),
        "layout": "2018-frame" if frames else "2018-video",
        "left_out": origin.left_out,
    }


def _aligned(visual: Any, audio: Any) -> tuple[Any, Any]:
    """Return as many frames of both: a frame has a vector of each. A missing modality is zero."""
    frames = min(len(visual), len(audio)) if len(visual) and len(audio) else max(len(visual), len(audio))
    return tuple(one[:frames] if len(one) else np.zeros((frames, one.shape[1]), np.float32) for one in (visual, audio))  # type: ignore[return-value]


def _source(video: Path, done: dict[str, Any]) -> dict[str, Any]:
    """Describe a source for the index."""
    status = video.stat() if video.exists() else None
    return {
        "path": f"{video.absolute().parent.name}/{video.name}",
        "size_bytes": status.st_size if status is not None else 0,
        "mtime_ns": status.st_mtime_ns if status is not None else 0,
        "videos": 1,
        "layout": LAYOUT,
        "vocabulary_sha256": None,
        **{key: done[key] for key in ("seconds", "visual_count", "audio_count", "faults")},
    }
