"""Parse and check YouTube-8M's records, `Example` and `SequenceExample`.

| layout | message | features |
|---|---|---|
| `2018-video` | `Example` | `id`, `labels`, `mean_rgb` (1024 float), `mean_audio` (128 float) |
| `2017-video` | `Example` | the same with `video_id` |
| `2018-frame` | `SequenceExample` | context `id`, `labels`; lists `rgb` (1024 bytes a frame), `audio` (128 bytes a frame) |
| `2017-frame` | `SequenceExample` | the same with `video_id` |

A frame-level byte q stands for q·4/255 + 4/512 − 2 (`Dequantize` of utils.py in google/youtube-8m, with its bounds −2 and
2). Frames are averaged by summing the bytes as integers, so the average does not depend on the order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.data import NO_FEATURE, YOUTUBE8M, Features, Widths
from edge_af.data.tfrecord import tensorflow

STEP = 4 / 255
LOWEST = 4 / 512 - 2
"""A byte q stands for q * STEP + LOWEST."""

ID_BYTES = 16
"""Longest id in bytes. YouTube's ids have 11 bytes, those of 2018 have 4."""

SEQUENCE_RECORDS = 32
"""Frame-level records parsed at a time, about 12 MB, which bounds memory."""


@dataclass(frozen=True)
class Layout:
    """Layout of a file's records."""

    year: int
    """2018 (with the key `id`) or 2017 (`video_id`)."""
    frames: bool
    """True for frame-level `SequenceExample`s, False for video-level `Example`s."""
    widths: Widths = YOUTUBE8M
    """Lengths of the feature vectors; another extractor may have made them."""

    @property
    def name(self) -> str:
        return f"{self.year}-{'frame' if self.frames else 'video'}"

    @property
    def id_key(self) -> str:
        return "id" if self.year == 2018 else "video_id"

    @property
    def classes(self) -> int:
        """Number of classes in that year's YouTube-8M."""
        return 3862 if self.year == 2018 else 4716

    @property
    def fields(self) -> dict[str, int]:
        """Name -> length of the visual and the audio feature, in this order."""
        if self.frames:
            return {"rgb": self.widths.visual, "audio": self.widths.audio}
        return {"mean_rgb": self.widths.visual, "mean_audio": self.widths.audio}


@dataclass(frozen=True)
class Limits:
    """Limits that values are checked against."""

    classes: int
    """A label lies in [0, classes)."""
    origin: str
    """Origin of the number of classes, for messages."""
    largest: float
    """Largest magnitude of a feature."""


@dataclass(frozen=True)
class ParsedVideos:
    """Records as arrays: n videos."""

    ids: NDArray[np.bytes_]
    """(n,) S16"""
    features: Features
    """float32."""
    label_counts: NDArray[np.int64]
    """(n,), number of labels of each video."""
    label_values: NDArray[np.uint16]
    """(sum of label_counts,), ascending and unique within a video."""


Column = tuple[NDArray[Any], NDArray[Any]]
"""Values of all records, and the number of values per record."""


def dequantize(codes: NDArray[Any]) -> NDArray[np.float64]:
    """Convert bytes, or averages of bytes, to the features they stand for."""
    return codes * STEP + LOWEST


def detect_layout(record: bytes, widths: Widths = YOUTUBE8M) -> Layout | str:
    """Return the layout of a record with features of these lengths, or the reason why it is not YouTube-8M's."""
    tf = tensorflow()
    try:
        # An Example's only field has the number and type of a SequenceExample's context, so this parses both.
        message = tf.train.SequenceExample.FromString(record)
    except _decode_error():
        return "neither an Example nor a SequenceExample (its bytes cannot be parsed)"
    context = message.context.feature
    lists = message.feature_lists.feature_list
    names = sorted({*context, *lists})
    if not names:
        return "holds no features at all"
    for year, key in ((2018, "id"), (2017, "video_id")):
        if key in context:
            return Layout(year, bool(lists), widths)
    return f"field 'id' (or 'video_id', as in 2017): missing; the record holds {', '.join(names)}"


def field_names(record: bytes) -> list[str]:
    """Return the names of a record's features, sorted."""
    message = tensorflow().train.SequenceExample.FromString(record)
    return sorted({*message.context.feature, *message.feature_lists.feature_list})


def _decode_error() -> type[Exception]:
    """Return the exception that protobuf raises for damaged bytes."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    error: type[Exception] = DecodeError
    return error


def parse(records: list[bytes], layout: Layout, limits: Limits) -> tuple[ParsedVideos, list[tuple[int, str]]]:
    """Parse records and check every value.

    Returns the good records as arrays, in order, and for each bad record its position in `records` and the first fault,
    which names the field.
    """
    step = SEQUENCE_RECORDS if layout.frames else len(records)
    parts: list[ParsedVideos] = []
    bad: list[tuple[int, str]] = []
    for start in range(0, len(records), step):
        part, rejected = _parse(records[start : start + step], layout, limits)
        parts.append(part)
        bad += [(start + position, reason) for position, reason in rejected]
    return _joined(parts, layout), bad


def _parse(records: list[bytes], layout: Layout, limits: Limits) -> tuple[ParsedVideos, list[tuple[int, str]]]:
    tf = tensorflow()
    read = _read_sequences if layout.frames else _read_examples
    try:
        videos, good = read(records, layout, limits)
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError):
        # One unparsable record fails the whole call, so halve the list until it is alone.
        if len(records) == 1:
            return _joined([], layout), [(0, explain(records[0], layout, limits))]
        half = len(records) // 2
        left, left_bad = _parse(records[:half], layout, limits)
        right, right_bad = _parse(records[half:], layout, limits)
        return _joined([left, right], layout), left_bad + [(half + position, reason) for position, reason in right_bad]
    return videos, [(int(i), explain(records[i], layout, limits)) for i in np.flatnonzero(~good)]


def _read_examples(records: list[bytes], layout: Layout, limits: Limits) -> tuple[ParsedVideos, NDArray[np.bool_]]:
    """Return the good videos, and a mask of the good records: (len(records),) bool."""
    tf = tensorflow()
    ragged = tf.io.RaggedFeature
    spec = {layout.id_key: ragged(tf.string), "labels": ragged(tf.int64)}
    found = tf.io.parse_example(np.array(records, object), spec | {name: ragged(tf.float32) for name in layout.fields})
    columns = {name: (value.values.numpy(), np.diff(value.row_splits.numpy())) for name, value in found.items()}
    ids, id_counts = columns[layout.id_key]
    good = id_counts == 1
    for name, length in layout.fields.items():
        good &= columns[name][1] == length
    blocks = []
    for name, length in layout.fields.items():
        values, lengths = columns[name]
        block = np.zeros((len(records), length), np.float32)
        block[good] = values[np.repeat(good, lengths)].reshape(-1, length)
        blocks.append(block)
    return _checked((ids, id_counts), blocks, columns["labels"], good, limits)


def _read_sequences(records: list[bytes], layout: Layout, limits: Limits) -> tuple[ParsedVideos, NDArray[np.bool_]]:
    """Like `_read_examples`, but average the frames."""
    tf = tensorflow()
    ragged = tf.io.RaggedFeature
    context, lists, _ = tf.io.parse_sequence_example(
        np.array(records, object),
        context_features={layout.id_key: ragged(tf.string), "labels": ragged(tf.int64)},
        sequence_features={name: ragged(tf.string) for name in layout.fields},
    )
    ids, labels = context[layout.id_key], context["labels"]
    id_counts = np.diff(ids.row_splits.numpy())
    good = id_counts == 1
    frames_of, values_of = {}, {}
    for name, length in layout.fields.items():
        splits, value_splits = (part.numpy() for part in lists[name].nested_row_splits)
        values = lists[name].flat_values.numpy()
        frames = np.diff(splits)
        whole = np.diff(value_splits) == 1
        if whole.all():
            whole = np.fromiter(map(len, values), np.int64, len(values)) == length
            values_of[name] = values
        else:
            values_of[name] = np.full(len(whole), b"", object)
            values_of[name][whole] = values[np.repeat(whole, np.diff(value_splits))]
            whole &= np.fromiter(map(len, values_of[name]), np.int64, len(whole)) == length
        video_of = np.repeat(np.arange(len(records)), frames)
        good &= (frames > 0) & (np.bincount(video_of[~whole], minlength=len(records)) == 0)
        frames_of[name] = frames
    visual, audio = layout.fields
    good &= frames_of[visual] == frames_of[audio]
    blocks = []
    for name, length in layout.fields.items():
        frames = frames_of[name]
        block = np.zeros((len(records), length), np.float32)
        if good.any():
            kept = values_of[name][np.repeat(good, frames)]
            codes = np.frombuffer(b"".join(kept.tolist()), np.uint8).reshape(-1, length)
            starts = np.cumsum(frames[good]) - frames[good]
            sums = np.add.reduceat(codes, starts, axis=0, dtype=np.int64)
            block[good] = dequantize(sums / frames[good, None])
        blocks.append(block)
    label_counts = np.diff(labels.row_splits.numpy())
    return _checked((ids.values.numpy(), id_counts), blocks, (labels.values.numpy(), label_counts), good, limits)


def _checked(
    id_column: Column,
    blocks: list[NDArray[np.float32]],
    label_column: Column,
    good: NDArray[np.bool_],
    limits: Limits,
) -> tuple[ParsedVideos, NDArray[np.bool_]]:
    """Keep the records whose values pass; those in `good` already have the right lengths."""
    rows = len(good)
    (ids, id_counts), (labels, label_counts) = id_column, label_column
    row_of_id = np.repeat(np.arange(rows), id_counts)
    good = good.copy()
    good[row_of_id[np.fromiter(map(len, ids), np.int64, len(ids)) > ID_BYTES]] = False
    for block in blocks:
        # Comparisons with NaN are false, so this finds NaN, infinities and values too large for the dtype.
        good &= (np.abs(block) <= limits.largest).all(axis=1)
    row_of_label = np.repeat(np.arange(rows), label_counts)
    good[row_of_label[(labels < 0) | (labels >= limits.classes)]] = False

    kept = good[row_of_label]
    # Sort by video, then label, and remove duplicates.
    pairs = np.unique(row_of_label[kept] * 65536 + labels[kept])
    counts = np.bincount(pairs // 65536, minlength=rows)[good]
    videos = ParsedVideos(
        ids=ids[good[row_of_id]].astype(f"S{ID_BYTES}"),
        features=Features(blocks[0][good], blocks[1][good]),
        label_counts=counts.astype(np.int64),
        label_values=(pairs % 65536).astype(np.uint16),
    )
    return videos, good


def _joined(parts: list[ParsedVideos], layout: Layout) -> ParsedVideos:
    if len(parts) == 1:
        return parts[0]
    empty = ParsedVideos(
        ids=np.zeros(0, f"S{ID_BYTES}"),
        features=Features(*(np.zeros((0, width), np.float32) for width in layout.fields.values())),
        label_counts=np.zeros(0, np.int64),
        label_values=np.zeros(0, np.uint16),
    )
    parts = [empty, *parts]
    return ParsedVideos(
        ids=np.concatenate([part.ids for part in parts]),
        features=Features(*(np.concatenate(arrays) for arrays in zip(*(part.features for part in parts), strict=True))),
        label_counts=np.concatenate([part.label_counts for part in parts]),
        label_values=np.concatenate([part.label_values for part in parts]),
    )


def explain(record: bytes, layout: Layout, limits: Limits) -> str:
    """Return the first fault of a record that `parse` refuses, with the name of the field."""
    found = detect_layout(record, layout.widths)
    if isinstance(found, str):
        return found
    if found != layout:
        return f"is of the layout {found.name}, the first record of this file of {layout.name}"
    message = tensorflow().train.SequenceExample.FromString(record)
    context = message.context.feature
    ids = context[layout.id_key].bytes_list.value
    if len(ids) != 1:
        return f"field {layout.id_key!r}: {_kind(context[layout.id_key])}, expected one string"
    if len(ids[0]) > ID_BYTES:
        return f"field {layout.id_key!r}: {len(ids[0])} bytes long, at most {ID_BYTES} are expected"
    for name, length in layout.fields.items():
        if (
            wrong := _explain_frames(message, name, length)
            if layout.frames
            else _explain_vector(context, name, length, limits)
        ):
            return f"field {name!r}: {wrong}"
    if layout.frames:
        visual, audio = (len(message.feature_lists.feature_list[name].feature) for name in layout.fields)
        if visual != audio:
            return f"field 'audio': {audio} frames where 'rgb' has {visual}"
    if "labels" in context:
        if context["labels"].WhichOneof("kind") not in (None, "int64_list"):
            return f"field 'labels': {_kind(context['labels'])}, expected integers"
        for label in context["labels"].int64_list.value:
            if not 0 <= label < limits.classes:
                return f"field 'labels': label {label} is outside the {limits.classes} classes of {limits.origin}"
    return "cannot be parsed by TensorFlow"


def _explain_vector(context: Any, name: str, length: int, limits: Limits) -> str | None:
    if name not in context:
        return f"missing; the record holds {', '.join(sorted(context))}"
    if context[name].WhichOneof("kind") not in (None, "float_list"):
        return f"{_kind(context[name])}, expected {length} floats"
    values = np.array(context[name].float_list.value, np.float32)
    if len(values) != length:
        return f"{len(values)} values, expected {length}"
    for position in np.flatnonzero(~(np.abs(values) <= limits.largest))[:1]:
        value = values[position]
        if np.isfinite(value):
            return f"value {position} is {value:g}; {NO_FEATURE}"
        return f"value {position} is {'NaN' if np.isnan(value) else 'infinite'}"
    return None


def _explain_frames(message: Any, name: str, length: int) -> str | None:
    lists = message.feature_lists.feature_list
    if name not in lists:
        return f"missing; the record's frames hold {', '.join(sorted(lists))}"
    frames = lists[name].feature
    if not frames:
        return "no frames"
    for number, frame in enumerate(frames):
        values = frame.bytes_list.value
        if len(values) != 1:
            return f"frame {number}: {_kind(frame)}, expected one string of {length} bytes"
        if len(values[0]) != length:
            return f"frame {number}: {len(values[0])} bytes, expected {length}"
    return None


def _kind(feature: Any) -> str:
    """Return the name of a feature's type."""
    kind = feature.WhichOneof("kind")
    if kind is None:
        return "empty"
    words = {"bytes_list": "strings", "float_list": "floats", "int64_list": "integers"}
    return f"{len(getattr(feature, kind).value)} {words[kind]}"
