"""Walks the containers of model files, protobuf fields and FlatBuffer tables, without the packages that define them."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

Bytes = mmap.mmap | bytes

DAMAGE = (ValueError, IndexError, struct.error, OverflowError, MemoryError)
"""Exceptions that reading a damaged container raises. Bytes that are not UTF-8 raise a ValueError, too."""


def fields(data: Bytes, start: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """The protobuf fields in data[start:end]: (number, integer) or (number, (start, end) of its bytes)."""
    return ((number, value) for number, value, _ in whole_fields(data, start, end))


def whole_fields(data: Bytes, start: int, end: int) -> Iterator[tuple[int, int | tuple[int, int], tuple[int, int]]]:
    """The same, each with the (start, end) of all its bytes, number and length among them."""
    at = start
    while at < end:
        begun = at
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError(f"no protobuf at byte {at}")
        if wire == 0:
            value, at = varint(data, at)
            yield number, value, (begun, at)
            continue
        if wire == 2:
            length, at = varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"no protobuf at byte {at}")
        if at + length > end:
            raise ValueError(f"a field of {length:,} bytes at byte {at:,} passes the end")
        yield number, (at, at + length), (begun, at + length)
        at += length


def varint(data: Bytes, at: int) -> tuple[int, int]:
    """The protobuf integer at a place, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"no protobuf at byte {at}")


def uint(data: Bytes, at: int) -> int:
    """The unsigned 32 bits at a place."""
    return int(struct.unpack_from("<I", data, at)[0])


def slot(data: Bytes, table: int, field: int) -> int | None:
    """Return where a table's field lies (absolute), None if the table does not hold it."""
    vtable = table - int(struct.unpack_from("<i", data, table)[0])
    if not 0 <= vtable < len(data):
        raise ValueError(f"a table at byte {table:,} leads outside the file")
    entry = 4 + 2 * field
    if entry >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", data, vtable + entry)[0]
    return table + offset if offset else None


def field_at(data: Bytes, table: int, field: int) -> int | None:
    """Return where a table's field points to (absolute), None if the table does not hold it."""
    at = slot(data, table, field)
    return at + uint(data, at) if at is not None else None


def integers(data: Bytes, table: int, field: int) -> list[int]:
    """A field that is a vector of int32."""
    start = field_at(data, table, field)
    if start is None:
        return []
    return list(struct.unpack_from(f"<{uint(data, start)}i", data, start + 4))


def tables(data: Bytes, table: int, field: int) -> list[int]:
    """Positions of the tables in a field that is a vector of tables."""
    start = field_at(data, table, field)
    if start is None:
        return []
    count = uint(data, start)
    if start + 4 + 4 * count > len(data):
        raise ValueError(f"a list of {count:,} entries at byte {start:,} passes the end")
    return [at + uint(data, at) for at in range(start + 4, start + 4 + 4 * count, 4)]


def string(data: Bytes, table: int, field: int) -> str:
    """A field that is a text; empty if the table does not hold it."""
    start = field_at(data, table, field)
    if start is None:
        return ""
    end = start + 4 + uint(data, start)
    if end > len(data):
        raise ValueError(f"a name at byte {start:,} passes the end")
    return data[start + 4 : end].decode()
