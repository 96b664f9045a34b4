"""Rewrite packed weights from onnxruntime so that each buffer has the alignment that the kernels need.

onnxruntime 1.31 aligns tensors of over a megabyte to pages and writes all others without alignment. Its kernels assume that
packed weights are aligned to a cache line. With unaligned weights, they read a vector with an aligned load (SIGSEGV), or
compute a wrong address for the scales and silently return wrong scores. This happens for widths that are not a multiple
of 64, such as the attention's 244 and a head of 3,862 classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from edge_af.protobuf import field, whole_fields

LINE, PAGE = 64, 4096
LARGE = 1 << 20
"""Smallest size of a tensor that is aligned to a page, in bytes."""
# Field numbers in onnx.proto: ModelProto, GraphProto, TensorProto, StringStringEntryProto.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_EXTERNAL, _ENTRY_KEY, _ENTRY_VALUE = 7, 5, 13, 1, 2
_PREPACKED = "prepacked_"
_CHUNK = 1 << 24


def align_packed(model: Path, data: Path) -> None:
    """Rewrite an optimized ONNX file and its file of weights with every tensor and packed buffer aligned.

    Args:
        model: the ONNX file; all its external initializers are in `data`.
        data: the file of weights. Both files are replaced.
    """
    aligned = data.with_name(f"{data.name}.aligned")
    with data.open("rb") as source, aligned.open("wb") as target:
        move = _mover(source, target)
        text = _changed(
            model.read_bytes(),
            _MODEL_GRAPH,
            lambda graph: _changed(graph, _GRAPH_INITIALIZER, lambda tensor: _moved_tensor(tensor, move)),
        )
    aligned.replace(data)
    model.write_bytes(text)


def _mover(source: IO[bytes], target: IO[bytes]) -> Callable[[int, int, int], int]:
    """Return a function that copies `length` bytes at `offset` to the next aligned position, and returns that position."""

    def move(offset: int, length: int, alignment: int) -> int:
        place = -(-target.tell() // alignment) * alignment
        target.write(bytes(place - target.tell()))
        source.seek(offset)
        left = length
        while left:
            part = source.read(min(left, _CHUNK))
            if not part:
                raise ValueError(f"{length:,} bytes at {offset:,} pass the end of the weights")
            target.write(part)
            left -= len(part)
        return place

    return move


def _moved_tensor(tensor: bytes, move: Callable[[int, int, int], int]) -> bytes:
    """Return a TensorProto after moving its external data, if any, and its packed buffers."""
    entries: dict[str, str] = {}
    for number, _, inner in _fields(tensor):
        if number == _TENSOR_EXTERNAL:
            pair = {key: value.decode() for key, _, value in _fields(inner)}
            entries[pair[_ENTRY_KEY]] = pair.get(_ENTRY_VALUE, "")
    if "offset" not in entries:
        return tensor
    length = int(entries["length"])
    entries["offset"] = str(move(int(entries["offset"]), length, PAGE if length >= LARGE else LINE))
    for key in entries:
        if key.startswith(_PREPACKED):
            # The kernel's key, then offset;length;checksum of each of its buffers, separated by vertical bars.
            name, *buffers = entries[key].split("|")
            for at, buffer in enumerate(buffers):
                start, size, rest = buffer.split(";", 2)
                buffers[at] = f"{move(int(start), int(size), LINE)};{size};{rest}"
            entries[key] = "|".join([name, *buffers])
    kept = b"".join(whole for number, whole, _ in _fields(tensor) if number != _TENSOR_EXTERNAL)
    return kept + b"".join(
        field(_TENSOR_EXTERNAL, field(_ENTRY_KEY, key.encode()) + field(_ENTRY_VALUE, value.encode()))
        for key, value in entries.items()
    )


def _changed(message: bytes, number: int, change: Callable[[bytes], bytes]) -> bytes:
    """Return a message with `change` applied to every field of this number."""
    return b"".join(
        field(number, change(inner)) if found == number else whole for found, whole, inner in _fields(message)
    )


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield number, all bytes and content of each protobuf field; numeric fields have empty content."""
    for number, content, whole in whole_fields(message, 0, len(message)):
        yield number, message[slice(*whole)], b"" if isinstance(content, int) else message[slice(*content)]
