"""Read and write protobuf's wire format, for small messages and for files of a gigabyte.

Field numbers come from the format's definition (onnx.proto, example.proto), so onnx and tensorflow are not needed.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

Bytes = mmap.mmap | bytes
Span = tuple[int, int]
"""Start and end offset."""


def fields(data: Bytes, start: int, end: int) -> Iterator[tuple[int, int | Span]]:
    """Yield the fields in data[start:end]: (number, integer) or (number, span of its content).

    Raises:
        ValueError: the bytes are not protobuf, or a field extends past the end.
        IndexError: the bytes are truncated.
    """
    return ((number, value) for number, value, _ in whole_fields(data, start, end))


def whole_fields(data: Bytes, start: int, end: int) -> Iterator[tuple[int, int | Span, Span]]:
    """Yield the same as `fields`, each with the span of the whole field: number, length and content."""
    at = start
    while at < end:
        begun = at
        key, at = _read_varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError(f"not protobuf at byte {at}")
        if wire == 0:
            value, at = _read_varint(data, at)
            yield number, value, (begun, at)
            continue
        if wire == 2:
            length, at = _read_varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"not protobuf at byte {at}")
        if at + length > end:
            raise ValueError(f"a field of {length:,} bytes at byte {at:,} passes the end")
        yield number, (at, at + length), (begun, at + length)
        at += length


def _read_varint(data: Bytes, at: int) -> tuple[int, int]:
    """Return the integer at an offset, and the offset after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"not protobuf at byte {at}")


def field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """Encode a non-negative integer."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
