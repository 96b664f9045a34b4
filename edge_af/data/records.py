"""Write TFRecord files in YouTube-8M's 2018 layouts, without TensorFlow. See `edge_af.data.tfrecord` for the format."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edge_af.data.tfrecord import masked_crc32c
from edge_af.protobuf import field, varint

LOWEST, HIGHEST = -2.0, 2.0
"""Range that 8-bit codes cover."""


def quantize(features: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Quantize frame-level features to YouTube-8M's 8-bit codes: round((x + 2) · 255 / 4) of x clipped to ±2."""
    clipped = np.clip(features, LOWEST, HIGHEST)
    return np.rint((clipped - np.float32(LOWEST)) * np.float32(255 / (HIGHEST - LOWEST))).astype(np.uint8)


def video_record(id: bytes, labels: Sequence[int], features: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Serialize an `Example`, with its features in a fixed order, which a protobuf map does not have."""
    parts = [_feature(b"id", 1, id), _feature(b"labels", 3, b"".join(varint(label) for label in sorted(labels)))]
    parts += [_feature(name.encode(), 2, vector.astype("<f4").tobytes()) for name, vector in features.items()]
    return field(1, b"".join(parts))


def frame_record(id: bytes, labels: Sequence[int], codes: Mapping[str, NDArray[np.uint8]]) -> bytes:
    """Serialize a `SequenceExample`; `codes` are (frames, width) for each feature."""
    context = _feature(b"id", 1, id) + _feature(b"labels", 3, b"".join(varint(label) for label in sorted(labels)))
    lists = []
    for name, frames in codes.items():
        entries = b"".join(field(1, field(1, field(1, frame.tobytes()))) for frame in frames)
        lists.append(field(1, field(1, name.encode()) + field(2, entries)))
    return field(1, context) + field(2, b"".join(lists))


def _feature(key: bytes, kind: int, payload: bytes) -> bytes:
    """Encode an entry of `Features.feature`: kind 1 is a BytesList, 2 a packed FloatList, 3 a packed Int64List."""
    return field(1, field(1, key) + field(2, field(kind, field(1, payload))))


def write_records(file: BinaryIO, records: list[bytes]) -> None:
    """Append records to a TFRecord file."""
    lengths = [struct.pack("<Q", len(record)) for record in records]
    for record, length, of_length, of_record in zip(
        records, lengths, _checksums(lengths), _checksums(records), strict=True
    ):
        file.write(length + struct.pack("<I", of_length) + record + struct.pack("<I", of_record))


def _checksums(records: list[bytes]) -> list[int]:
    """Return the masked CRC-32C of each, computed together for equal lengths."""
    lengths = np.fromiter(map(len, records), np.int64, len(records))
    sums = np.zeros(len(records), np.uint32)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        joined = np.frombuffer(b"".join(records[row] for row in rows), np.uint8)
        sums[rows] = masked_crc32c(joined.reshape(len(rows), length))
    return sums.tolist()
