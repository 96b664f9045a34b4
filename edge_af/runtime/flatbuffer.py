"""Read tables of a FlatBuffer by field number, with bounds checks.

LiteRT's generated schema is not used: importing it takes 39 ms and 6 MB, which would count in the memory measured in a
process that loads a TFLite file. Also, tflite-runtime does not have it.
"""

from __future__ import annotations

import struct

from flatbuffers import encode, number_types
from flatbuffers.table import Table

from edge_af.protobuf import Bytes

UINT8, UINT32 = number_types.Uint8Flags, number_types.Uint32Flags

DAMAGE = (ValueError, TypeError, IndexError, struct.error, OverflowError, MemoryError)
"""Exceptions raised by reading a damaged FlatBuffer or protobuf message."""


def root(data: Bytes) -> Table:
    """Return the file's root table."""
    return Table(data, encode.Get(UINT32.packer_type, data, 0))


def number(table: Table, field: int, kind: type) -> int:
    """Return a field that is a number of this kind; 0 if it is missing."""
    return int(table.GetSlot(_slot(field), 0, kind))


def tables(table: Table, field: int) -> list[Table]:
    """Return the entries of a field that is a vector of tables; empty if it is missing."""
    start, count = vector(table, field, 4)
    return [Table(table.Bytes, table.Indirect(at)) for at in range(start, start + 4 * count, 4)]


def integers(table: Table, field: int) -> list[int]:
    """Return the entries of a field that is a vector of int32; empty if it is missing."""
    start, count = vector(table, field, 4)
    return list(struct.unpack_from(f"<{count}i", table.Bytes, start))


def string(table: Table, field: int) -> str:
    """Return a field that is a string; empty if it is missing."""
    start, count = vector(table, field, 1)
    return bytes(table.Bytes[start : start + count]).decode()


def vector(table: Table, field: int, size: int) -> tuple[int, int]:
    """Return the start of a field's entries of `size` bytes, and their number; (0, 0) if it is missing.

    Raises:
        ValueError: they exceed the file.
    """
    offset = table.Offset(_slot(field))
    if not offset:
        return 0, 0
    start, count = table.Vector(offset), table.VectorLen(offset)
    if start + size * count > len(table.Bytes):
        raise ValueError(f"a list of {count:,} entries at byte {start:,} passes the end")
    return start, count


def _slot(field: int) -> int:
    """Return the offset of a field's entry in a vtable, which starts with the sizes of vtable and table."""
    return 4 + 2 * field
