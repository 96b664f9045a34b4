"""Convert TFRecords, arrays and tables to a prepared dataset: `edge-af data prepare`.

The output is written to a hidden folder beside it, `.NAME.partial`, which is renamed to NAME at the end. After each source
file, the arrays are flushed to the disk and a line is added to the folder's journal (`journal.jsonl`: first the plan, then
the result of each source). An interrupted conversion truncates the arrays to the journal's last complete line and
continues from there. The result is the same, byte for byte.

Features are stored as float16 by default. YouTube-8M's features are averages of values quantized to 8 bits in steps of
4/255 = 0.0157. float16 holds numbers up to 2 to within 0.0005 (0.001 just above 2), at most a sixteenth of a step. Largest
difference between `--dtype float16` and `--dtype float32` over 902 videos of YouTube-8M 2018 (three validate shards):
0.00097 visual, 0.00093 audio.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edge_af.console import say, warn
from edge_af.data import LARGEST_FEATURE, MOST_CLASSES, YOUTUBE8M, Widths, arrays, wrong_widths
from edge_af.data.classes import Classes, classes_of_labels, classes_of_layout, given_vocabulary, layout_named
from edge_af.data.dataset import INDEX, MODALITIES, hashes_of, open_dataset
from edge_af.data.examples import ID_BYTES, Layout, Limits, detect_layout, parse
from edge_af.data.journal import JOURNAL, Journal, SourceResult, other_interrupted
from edge_af.data.meter import SourceMeter
from edge_af.data.sidecar import read_sidecar
from edge_af.data.sources import find_sources
from edge_af.data.tfrecord import Damage, read_batches, tensorflow
from edge_af.data.writer import FILES, DatasetWriter, Origin, index_of
from edge_af.errors import EdgeAfError
from edge_af.files import check_replaceable, explain_os_errors, files_below, read_json, replace_folder, write_json
from edge_af.options import check, option


@dataclass(frozen=True)
class PrepareOptions:
    """Options that change the prepared dataset."""

    classes: int | None = option(
        "Number of classes.",
        default=None,
        at_least=1,
        at_most=MOST_CLASSES,
        shown_default="the vocabulary's or the layout's",
    )
    vocabulary: Path | None = option(
        "CSV of class names (columns index and name), or a prepared dataset.",
        default=None,
        shown_default="the one beside the sources",
    )
    dtype: str = option("Type of the stored features.", default="float16", choices=("float16", "float32"))
    skip_bad: bool = option("Skip unreadable records and files with a warning, instead of stopping.", default=False)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Source:
    """A source file. Its size and modification time show whether it has changed."""

    path: Path
    size_bytes: int
    mtime_ns: int

    @property
    def label(self) -> str:
        """Return its folder's name and its own, which are the same on every machine."""
        return f"{self.path.parent.name}/{self.path.name}"


@dataclass(frozen=True)
class Prepared:
    """A finished preparation."""

    folder: Path
    index: dict[str, Any]
    already: bool
    """True if the dataset already existed, prepared from the same sources with the same options."""
    seconds: float
    """Time spent on the sources read in this call."""
    videos_read: int
    """Videos converted in that time."""


def prepare(
    patterns: Sequence[str], out: Path, options: PrepareOptions | None = None, *, overwrite: bool = False
) -> Prepared:
    """Convert the source files that `patterns` name (see `find_sources`) into the prepared dataset `out`.

    An interrupted conversion continues where it stopped when called again with the same arguments. When `out` is already
    finished from the same sources, vocabulary and options, nothing is done. If `out` is a link to a folder, that folder is
    replaced and the link stays.

    Raises:
        EdgeAfError: a source is missing or damaged, `out` is taken, or an interrupted conversion used other options.
            Also if the disk is full; finished sources are then kept.
    """
    options = options or PrepareOptions()
    given = given_vocabulary(options.vocabulary)
    sources = [_source(path) for path in find_sources(patterns, skip_bad=options.skip_bad)]
    has_arrays = _has_arrays(sources)

    @functools.cache
    def resolve(folder: Path, layout: str) -> Classes:
        if layout == arrays.LAYOUT:
            return of_arrays()
        return classes_of_layout(options.classes, given, folder, layout_named(layout))

    @functools.cache
    def of_arrays() -> Classes:
        paths = [source.path for source in sources]
        return classes_of_labels(options.classes, given, paths[0], lambda: arrays.labels_of(paths))

    asked = {
        "classes": options.classes,
        "vocabulary_sha256": given.sha256 if given else None,
        "dtype": options.dtype,
        "skip_bad": options.skip_bad,
    }
    if not overwrite and (out / INDEX).is_file():
        if (index := _finished(out, sources, asked, resolve)) is not None:
            # A kill right after the renaming left it.
            (out / JOURNAL).unlink(missing_ok=True)
            return Prepared(out, index, already=True, seconds=0.0, videos_read=0)
        raise EdgeAfError(
            f"{out}: holds a dataset prepared from other sources (or changed ones), another vocabulary or other options.\n"
            "Choose another folder, or pass --overwrite to replace it."
        )
    check_replaceable(out, {*FILES, JOURNAL}, overwrite)
    inside = [source.path for source in sources if source.path.resolve().is_relative_to(out.resolve())]
    if inside:
        raise EdgeAfError(f"{out}: holds the source {inside[0].name}. Choose another folder for the output.")
    if has_arrays:
        widths = arrays.widths_of(sources[0].path)
        stored = _Stored(widths, arrays.ID_BYTES, _convert_arrays, MODALITIES)
        if options.vocabulary is not None and options.vocabulary.is_dir():
            others = open_dataset(options.vocabulary, verify=False).widths
            if others != widths:
                warn(wrong_widths(str(sources[0].path), widths, others))
        of_arrays()  # Reads all labels.
    else:
        stored = _stored_records([source.path for source in sources])
        with _held_back_interrupts():
            tensorflow()  # Check before anything is written, because it may not be installed.
    target = out.resolve()
    replaced = files_below(target)
    partial = target.parent / f".{target.name}.partial"
    with explain_os_errors(out):
        partial.mkdir(parents=True, exist_ok=True)
    plan = {"asked": asked, "sources": [[str(s.path.absolute()), s.size_bytes, s.mtime_ns] for s in sources]}
    started = time.monotonic()
    try:
        with Journal(partial / JOURNAL, plan, out, overwrite) as journal:
            for source, result in zip(sources, journal.results, strict=False):
                if _vocabulary_of(source.path, result.layout, resolve) != result.vocabulary_sha256:
                    raise other_interrupted(out, "vocabulary")
            before = sum(result.videos for result in journal.results)
            if done := len(journal.results):
                say(f"{out}: continuing after {done} of {len(sources)} source files, {before:,} videos.")
            index = _convert_all(partial, sources, stored, journal, options, resolve)
            replace_folder(partial, target, replaced)
            # Only now, because the work could not continue without it if the renaming failed.
            (target / JOURNAL).unlink()
    except KeyboardInterrupt:
        say(f"{out}: interrupted. The same command continues after the last finished source file.")
        raise
    except OSError as error:
        _explain_kept(out, error)
    seconds = time.monotonic() - started
    return Prepared(out, index, already=False, seconds=seconds, videos_read=index["videos"] - before)


@dataclass(frozen=True)
class _Stored:
    """Conversion and storage of a kind of source."""

    widths: Widths
    id_bytes: int
    convert: Callable[[Source, _Conversion, int | None], SourceResult]
    names: tuple[str, str]
    """Names of the visual and the audio features."""
    extractor: dict[str, Any] | None = None


def _stored_records(paths: list[Path]) -> _Stored:
    """Describe TFRecords: YouTube-8M's, or those of another extractor, as a sidecar in their folder says.

    Raises:
        EdgeAfError: the sidecar is damaged, or folders have different ones.
    """
    sidecars = {folder: read_sidecar(folder) for folder in dict.fromkeys(path.parent for path in paths)}
    (first, known), *others = sidecars.items()
    for folder, other in others:
        if other != known:
            raise EdgeAfError(f"{first} and {folder}: features of different extractors. Prepare them separately.")
    if known is None:
        return _Stored(YOUTUBE8M, ID_BYTES, _convert, ("mean_rgb", "mean_audio"))
    names = (known.features["visual"].name, known.features["audio"].name)
    return _Stored(known.widths, ID_BYTES, _convert, names, known.extractor)


def _convert_all(
    partial: Path,
    sources: list[Source],
    stored: _Stored,
    journal: Journal,
    options: PrepareOptions,
    resolve: Callable[[Path, str], Classes],
) -> dict[str, Any]:
    """Convert the sources that are not in the journal, and finish the files in `partial`; return the index."""
    results = journal.results
    videos, labels = sum(result.videos for result in results), sum(result.labels for result in results)
    with DatasetWriter(
        partial, options.dtype, stored.widths, id_bytes=stored.id_bytes, videos=videos, labels=labels
    ) as writer:
        try:
            with _held_back_interrupts() as interrupted, SourceMeter(sources, len(results)) as meter:
                conversion = _Conversion(writer, options.skip_bad, resolve, meter, interrupted)
                for source in sources[len(results) :]:
                    classes = next((result.classes for result in results if result.classes is not None), None)
                    result = stored.convert(source, conversion, classes)
                    writer.flush()
                    journal.append(result)
            if writer.videos == 0:
                left_out = sum(len(result.left_out) for result in results)
                why = f"all {left_out} records were left out" if left_out else "they hold no records"
                raise EdgeAfError(
                    f"nothing to prepare in {len(sources)} source file(s), {sources[0].path} first: {why}."
                )
        except EdgeAfError:
            # The input is at fault and continuing would not help, so nothing is kept.
            shutil.rmtree(partial, ignore_errors=True)
            raise
        writer.finish()
    _name_repeated(np.load(partial / "ids.npy", mmap_mode="r"))
    layouts = sorted({result.layout for result in results if result.layout})
    named_by = next(i for i, result in enumerate(results) if result.layout)
    resolved = resolve(sources[named_by].path.parent, str(results[named_by].layout))
    origin = Origin(
        layout="+".join(layouts),
        sources=[
            {
                "path": s.label,
                "size_bytes": s.size_bytes,
                "mtime_ns": s.mtime_ns,
                "videos": result.videos,
                "layout": result.layout,
                "vocabulary_sha256": result.vocabulary_sha256,
            }
            for s, result in zip(sources, results, strict=True)
        ],
        left_out=[entry for result in results for entry in result.left_out],
        names=stored.names,
        extractor=stored.extractor,
    )
    more = {"prepared_with": journal.plan["asked"], "arrays": hashes_of(partial)}
    index = index_of(writer, resolved.classes, resolved.names, origin, **more)
    write_json(partial / INDEX, index)
    return index


def _name_repeated(ids: NDArray[np.bytes_]) -> None:
    """Warn about duplicate videos, for example from a copy of a shard under another name."""
    names, counts = np.unique(ids, return_counts=True)
    if repeated := len(ids) - len(names):
        first = names[np.argmax(counts > 1)].decode(errors="backslashreplace")
        warn(f"{repeated:,} video(s) have the id of another video ({first} is one): is a source file in twice?")


def _vocabulary_of(path: Path, layout: str | None, resolve: Callable[[Path, str], Classes]) -> str | None:
    """Return the SHA-256 of the vocabulary that a source would be read with now; None for a source without records."""
    return resolve(path.parent, layout).vocabulary_sha256 if layout else None


def _has_arrays(sources: list[Source]) -> bool:
    """Return True for arrays or tables, False for TFRecords.

    Raises:
        EdgeAfError: the sources are both.
    """
    kinds = {arrays.is_arrays(source.path): source.path for source in sources}
    if len(kinds) > 1:
        raise EdgeAfError(f"{kinds[True]} and {kinds[False]}: prepare arrays and TFRecords separately.")
    return next(iter(kinds))


@dataclass(frozen=True)
class _Conversion:
    """Conversion of several sources into one dataset."""

    writer: DatasetWriter
    skip_bad: bool
    resolve: Callable[[Path, str], Classes]
    meter: SourceMeter
    interrupted: Callable[[], None]


def _convert(source: Source, conversion: _Conversion, classes: int | None) -> SourceResult:
    """Append one source's videos; `classes` is the number of classes of the previous sources."""
    writer, resolve = conversion.writer, conversion.resolve
    layout: Layout | None = None
    limits: Limits | None = None
    left_out: list[dict[str, Any]] = []
    reject = functools.partial(_reject, source, conversion, left_out)
    videos, labels, records_seen = writer.videos, writer.labels, 0
    for part in read_batches(source.path):
        conversion.interrupted()
        if isinstance(part, Damage):
            records_seen += 1
            reject(part.record, part.reason + ("; the rest of the file is lost with it" if part.rest else ""))
            continue
        records_seen += len(part.records)
        records, first = part.records, part.first
        while layout is None and records:
            found = detect_layout(records[0], writer.widths)
            if isinstance(found, Layout):
                layout = found
                resolved = resolve(source.path.parent, layout.name)
                if classes is not None and resolved.classes != classes:
                    raise EdgeAfError(
                        f"{source.path}: {resolved.classes} classes ({resolved.origin}, layout {layout.name}), the sources "
                        f"before it {classes}.\nPrepare them apart, or name the number for all with --classes."
                    )
                largest = LARGEST_FEATURE if writer.widths == YOUTUBE8M else math.inf
                limits = Limits(resolved.classes, resolved.origin, min(writer.largest, largest))
            else:
                reject(first, found)
                records, first = records[1:], first + 1
        if layout is None or limits is None:
            continue
        good, bad = parse(records, layout, limits)
        for position, reason in bad:
            reject(first + position, reason)
        writer.append(
            ids=good.ids,
            features=good.features,
            label_counts=good.label_counts,
            label_values=good.label_values,
        )
        conversion.meter.videos(len(good.ids), part.position)
    conversion.meter.source_done(source)
    if not records_seen:
        warn(f"{source.path}: holds no records.")
    return SourceResult(
        videos=writer.videos - videos,
        labels=writer.labels - labels,
        layout=layout.name if layout else None,
        classes=limits.classes if limits else None,
        left_out=left_out,
        vocabulary_sha256=resolve(source.path.parent, layout.name).vocabulary_sha256 if layout else None,
    )


def _reject(source: Source, conversion: _Conversion, left_out: list[dict[str, Any]], record: int, reason: str) -> None:
    """List a record as left out, or stop."""
    if not conversion.skip_bad:
        raise EdgeAfError(
            f"{source.path}: record {record} (counting from 0): {reason}.\n"
            "Get the file again, or pass --skip-bad to leave out what is damaged and continue."
        )
    left_out.append({"file": source.label, "record": record, "reason": reason})


def _convert_arrays(source: Source, conversion: _Conversion, classes: int | None) -> SourceResult:
    """Append the videos of arrays or a table."""
    writer = conversion.writer
    resolved = conversion.resolve(source.path.parent, arrays.LAYOUT)
    numbers = {name: number for number, name in enumerate(resolved.names) if name}
    left_out: list[dict[str, Any]] = []
    videos, labels, first = writer.videos, writer.labels, 0
    for block in arrays.read_blocks(source.path):
        conversion.interrupted()
        good, bad = arrays.parsed(block, first, writer.widths, resolved.classes, numbers, writer.largest)
        for position, reason in bad:
            _reject(source, conversion, left_out, first + position, reason)
        writer.append(
            ids=good.ids, features=good.features, label_counts=good.label_counts, label_values=good.label_values
        )
        first += len(block.labels)
        conversion.meter.videos(len(good.ids), None)
    conversion.meter.source_done(source)
    return SourceResult(
        videos=writer.videos - videos,
        labels=writer.labels - labels,
        layout=arrays.LAYOUT,
        classes=resolved.classes,
        left_out=left_out,
        vocabulary_sha256=resolved.vocabulary_sha256,
    )


@contextlib.contextmanager
def _held_back_interrupts() -> Iterator[Callable[[], None]]:
    """Delay Ctrl-C until the yielded function is called, because it can crash the process inside TensorFlow."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came = threading.Event()

    def check() -> None:
        if came.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield check
        check()
    finally:
        signal.signal(signal.SIGINT, before)


def _explain_kept(out: Path, error: OSError) -> NoReturn:
    kept = "What is done is kept: make room and run the same command again to continue."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise EdgeAfError(f"{out}: no space left. {kept}") from None
    if error.errno == errno.EFBIG:
        raise EdgeAfError(
            f"{out}: a file would grow beyond what the file system or `ulimit -f` allows. {kept}"
        ) from None
    if error.errno is None or isinstance(error, BrokenPipeError):
        raise error
    kept = "What is done is kept: the same command continues from there."
    raise EdgeAfError(f"{out}: cannot write here ({error.strerror}).\n{kept}") from None


def _source(path: Path) -> Source:
    try:
        found = [file.stat() for file in arrays.files_of(path)]
    except OSError as error:
        raise EdgeAfError(f"{path}: cannot be read ({error.strerror}).") from None
    return Source(path, sum(status.st_size for status in found), max(status.st_mtime_ns for status in found))


def _finished(
    out: Path, sources: list[Source], asked: dict[str, Any], resolve: Callable[[Path, str], Classes]
) -> dict[str, Any] | None:
    """Return the index of `out` if it was prepared from these sources, options and vocabularies."""
    index = read_json(out / INDEX, "dataset index")
    if not isinstance(index, dict):
        return None
    try:
        was = [(source["path"], source["size_bytes"], source["mtime_ns"]) for source in index["sources"]]
        read_with = [(source["layout"], source["vocabulary_sha256"]) for source in index["sources"]]
    except (KeyError, TypeError):
        return None
    if was != [(source.label, source.size_bytes, source.mtime_ns) for source in sources]:
        return None
    if index.get("prepared_with") != asked:
        return None
    now = [
        (layout, _vocabulary_of(source.path, layout, resolve))
        for source, (layout, _) in zip(sources, read_with, strict=True)
    ]
    return index if now == read_with else None
