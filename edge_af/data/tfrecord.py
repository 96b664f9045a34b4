"""Read TFRecord files with TensorFlow's reader, and explain damage.

A TFRecord file is a sequence of records of

    length (uint64) | masked CRC-32C of the length (uint32) | the record's bytes | masked CRC-32C of the bytes (uint32)

all little-endian (tensorflow/core/lib/io/record_writer.h). The file may be compressed as one GZIP stream.

TensorFlow's reader checks both checksums, but has three gaps:

* A file that ends inside a record's first 12 bytes is read as if it ended before that record.
* An absurd length with a correct checksum makes it allocate that much, or crash.
* A GZIP stream truncated between two records, or in its last 8 bytes, is read as complete.

So the headers of a plain file are checked first (12 bytes per record), and a GZIP stream's size is compared with its
trailer. Only the second gap remains inside GZIP, where checking ahead would mean decompressing twice.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import mmap
import os
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.errors import EdgeAfError

FRAMING_BYTES = 16
"""Bytes of framing per record."""

BATCH_RECORDS = 128
"""Records read at a time: 0.6 MB of video-level or about 50 MB of frame-level records."""

GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class RecordBatch:
    """Consecutive records of one file with correct checksums."""

    first: int
    """Number of the first record in the file, counting from 0."""
    records: list[bytes]
    position: int | None
    """Offset in the file after these records; None inside GZIP."""


@dataclass(frozen=True)
class Damage:
    """A record that could not be read."""

    record: int
    """Its number in the file, counting from 0."""
    reason: str
    rest: bool
    """True if the rest of the file cannot be read either."""


@functools.cache
def tensorflow() -> Any:
    """Import `tensorflow` silenced and on the CPU, which leaves a GPU to training in the same process."""
    # The library reads both when it loads. 3 leaves only fatal messages; oneDNN prints a notice unless it is off.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf
    tf.get_logger().setLevel("ERROR")
    # This raises if the process has used TensorFlow already; then its devices are the user's choice.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
    return tf


def is_gzip(path: Path) -> bool:
    """Return True if a file is a GZIP stream, by its first bytes.

    A plain TFRecord file whose first record has 35,615 bytes starts with the same two bytes; the length's checksum tells
    the two apart.
    """
    with path.open("rb") as file:
        head = file.read(12)
    return head.startswith(GZIP_MAGIC) and _record_length(head) is None


def is_tfrecord(path: Path) -> bool:
    """Return True if a file begins with a record, plain or compressed."""
    with path.open("rb") as file:
        head = file.read(12)
    if not head.startswith(GZIP_MAGIC) or _record_length(head) is not None:
        return _record_length(head) is not None
    try:
        with gzip.open(path) as unpacked:
            return _record_length(unpacked.read(12)) is not None
    except (OSError, EOFError, zlib.error):
        return False


def read_batches(path: Path, batch_records: int = BATCH_RECORDS) -> Iterator[RecordBatch | Damage]:
    """Read a TFRecord file.

    Yields a `RecordBatch` for intact records and `Damage` for each damaged one, in order. After damage in a plain file,
    reading continues at the next record if it can be found; otherwise `Damage.rest` is set and reading ends. An empty file
    holds no records.

    Raises:
        EdgeAfError: the file is missing or cannot be opened.
    """
    try:
        if is_gzip(path):
            yield from _read_gzip(path, batch_records)
        else:
            yield from _read_plain(path, batch_records)
    except FileNotFoundError:
        raise EdgeAfError(f"{path}: no such file.") from None
    except (PermissionError, IsADirectoryError) as error:
        raise EdgeAfError(f"{path}: cannot be read ({error.strerror}).") from None


def _read_plain(path: Path, batch_records: int) -> Iterator[RecordBatch | Damage]:
    number = 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            offset = 0
            whole = _walk(view, offset)
            while offset < size:
                bad = False
                for records in _tensorflow_reads(path, batch_records, offset=offset, take=whole):
                    if records is None:
                        bad = True
                        break
                    offset += sum(map(len, records)) + FRAMING_BYTES * len(records)
                    yield RecordBatch(number, records, offset)
                    number += len(records)
                    whole -= len(records)
                if offset == size:
                    return
                reason, following = _what_is_wrong(view, offset, payload=bad)
                yield Damage(number, reason, rest=following is None)
                if following is None:
                    return
                number, offset = number + 1, following
                whole = whole - 1 if bad else _walk(view, offset)


def _read_gzip(path: Path, batch_records: int) -> Iterator[RecordBatch | Damage]:
    number = unpacked = 0
    for records in _tensorflow_reads(path, batch_records, compression="GZIP"):
        if records is None:
            if (end := _end_of_streams(path)) is not None:
                yield from _read_padded(path, end, batch_records, number)
                return
            if number == 0 and not _starts_with_record(path):
                reason = "not a TFRecord file inside its GZIP stream, or its first bytes are damaged"
            else:
                reason = "the GZIP stream is damaged or cut off here, or shortly after"
            yield Damage(number, reason, rest=True)
            return
        unpacked += sum(map(len, records)) + FRAMING_BYTES * len(records)
        yield RecordBatch(number, records, None)
        number += len(records)
    if unpacked_bytes(path, unpacked) != unpacked:
        yield Damage(number, "the file ends here, inside its GZIP stream (cut off)", rest=True)


def _read_padded(path: Path, end: int, batch_records: int, behind: int) -> Iterator[RecordBatch | Damage]:
    """Read a GZIP file padded with zeros after its `end`, from record number `behind` on.

    `gzip` accepts such padding, which tapes and block devices leave. TensorFlow's reader fails on it, so it reads a copy
    without it.
    """
    with tempfile.TemporaryDirectory(prefix="edge-af-") as folder:
        copy = Path(folder, path.name)
        with path.open("rb") as padded, copy.open("wb") as whole:
            while chunk := padded.read(min(1 << 20, end - padded.tell())):
                whole.write(chunk)
        for part in _read_gzip(copy, batch_records):
            if isinstance(part, Damage):
                yield part
            elif kept := part.records[max(0, behind - part.first) :]:
                yield RecordBatch(part.first + len(part.records) - len(kept), kept, None)


def _tensorflow_reads(
    path: Path, batch_records: int, *, offset: int = 0, take: int = -1, compression: str = ""
) -> Iterator[list[bytes] | None]:
    """Yield lists of up to `take` records from byte `offset` on; then None if TensorFlow's reader failed.

    A failing batch loses the good records before the damage, so it is read again one record at a time. Inside a damaged
    GZIP stream, up to 256 KB of uncompressed records before the damage are still lost, because the reader drops its
    buffer.
    """
    if take == 0:
        return
    tf = tensorflow()
    done = 0
    for size in (batch_records, 1):
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=[os.fsencode(path)], compression_type=compression, buffer_size=1 << 20, byte_offsets=[offset]
        )
        data = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
        data = data.take(take).skip(done).batch(size).prefetch(1)
        options = tf.data.Options()
        # The default graph rewriting fails on byte_offsets (TensorFlow 2.21), and costs 20 ms per file.
        options.experimental_optimization.apply_default_optimizations = False
        options.autotune.enabled = False
        try:
            for records in data.with_options(options).as_numpy_iterator():
                yield records.tolist()
                done += len(records)
        # Some messages of TensorFlow quote bytes of the file that it then fails to decode.
        except (tf.errors.DataLossError, UnicodeDecodeError):
            continue
        except tf.errors.OpError as error:
            raise EdgeAfError(f"{path}: cannot be read ({type(error).__name__}).") from None
        return
    yield None


def _walk(view: mmap.mmap, offset: int) -> int:
    """Count the records from `offset` on with an intact length field that lie completely inside the file."""
    whole = 0
    while (end := _end_of_record(view, offset)) is not None:
        whole, offset = whole + 1, end
    return whole


def _end_of_record(view: mmap.mmap, offset: int) -> int | None:
    length = _record_length(view[offset : offset + 12])
    if length is None or offset + FRAMING_BYTES + length > len(view):
        return None
    return offset + FRAMING_BYTES + length


def _what_is_wrong(view: mmap.mmap, offset: int, *, payload: bool) -> tuple[str, int | None]:
    """Return why the record at `offset` could not be read, and where the next one starts, if known."""
    size = len(view)
    if payload:
        return "its bytes do not match their checksum (damaged)", _end_of_record(view, offset)
    head = view[offset : offset + 12]
    if _record_length(head) is not None or (len(head) < 12 and offset > 0):
        return "the file ends inside this record (cut off)", None
    if len(head) == 12:
        # Perhaps only the length's checksum is damaged: trust the length if a record, or the end of the file, follows.
        following = offset + FRAMING_BYTES + struct.unpack("<Q", head[:8])[0]
        if following == size or (following < size and _record_length(view[following : following + 12]) is not None):
            return "its length field does not match its checksum (damaged)", following
    if offset == 0:
        return "not a TFRecord file, or its first bytes are damaged", None
    return "its length field is damaged, so where the next record starts cannot be known", None


def _record_length(head: bytes) -> int | None:
    """Return the length from a record's first 12 bytes; None if the checksum does not match."""
    if len(head) < 12:
        return None
    length, checksum = struct.unpack("<QI", head)
    crc = 0xFFFFFFFF
    for byte in head[:8]:
        crc = _CRC_LIST[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return length if ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF == checksum else None


def _starts_with_record(path: Path) -> bool:
    try:
        with gzip.open(path) as file:
            return _record_length(file.read(12)) is not None
    except (OSError, EOFError, zlib.error):
        # The stream itself is damaged, so its contents are unknown.
        return True


def unpacked_bytes(path: Path, expected: int) -> int | None:
    """Return the uncompressed size of a GZIP file, None if it is damaged; `expected` may save decompressing it."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size >= 18:
            # A stream's last 4 bytes are its uncompressed size modulo 2^32 (RFC 1952).
            file.seek(-4, os.SEEK_END)
            if struct.unpack("<I", file.read(4))[0] == expected & 0xFFFFFFFF:
                return expected
    # Truncated, padded, or several streams in a row.
    total = 0
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(1 << 20):
                total += len(chunk)
    except (EOFError, OSError, zlib.error):
        return None
    return total


def _end_of_streams(path: Path) -> int | None:
    """Return the end of a GZIP file's streams if all are intact and only zeros follow; else None."""
    with path.open("rb") as file:
        end, data = 0, file.read(1 << 16)
        while data.startswith(GZIP_MAGIC):
            stream = zlib.decompressobj(wbits=31)
            try:
                while data and not stream.eof:
                    stream.decompress(data)
                    data = stream.unused_data if stream.eof else file.read(1 << 16)
            except zlib.error:
                return None
            if not stream.eof:
                return None
            end = file.tell() - len(data)
            data = data or file.read(1 << 16)
        if not data:
            return None
        while data:
            if data.count(0) != len(data):
                return None
            data = file.read(1 << 16)
    return end


_MASK_DELTA = 0xA282EAD8


def _crc_table() -> NDArray[np.uint32]:
    """Return the table of CRC-32C (Castagnoli, reflected polynomial 0x82F63B78): (256,) uint32."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1).astype(np.uint32)
    return table


_CRC_TABLE = _crc_table()
_CRC_LIST: list[int] = _CRC_TABLE.tolist()


def masked_crc32c(rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return TFRecord's checksum of each row: (n, length) uint8 to (n,) uint32, in one pass over the columns."""
    crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(rows.T):
        crc = _CRC_TABLE[(crc ^ column) & 0xFF] ^ crc >> 8
    crc = ~crc
    return ((crc >> 15 | crc << 17) + np.uint32(_MASK_DELTA)).astype(np.uint32)
