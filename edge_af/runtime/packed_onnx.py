"""Rewrites the packed weights that onnxruntime wrote, so that each piece starts where its kernels need it.

onnxruntime 1.31 starts tensors of over a megabyte at a page and puts all else right behind what came before. Its kernels
take packed weights for aligned to a cache line: from elsewhere they read a vector with an aligned load (SIGSEGV), or
compute the place of the scales from the address and find other bytes there (wrong scores, no word). Widths that are no
multiple of 64, such as the attention's 244 and a head of 3,862 classes, come to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from edge_af.protobuf import field, whole_fields

LINE, PAGE = 64, 4096
LARGE = 1 << 20
"""From so many bytes on a tensor starts at a page."""
# Field numbers in onnx.proto: ModelProto, GraphProto, TensorProto, StringStringEntryProto.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_EXTERNAL, _ENTRY_KEY, _ENTRY_VALUE = 7, 5, 13, 1, 2
_PREPACKED = "prepacked_"
_CHUNK = 1 << 24


def align_packed(model: Path, data: Path) -> None:
    """Rewrite an optimized ONNX file and the file of its weights with every tensor and packed weight aligned.

    Args:
        model: the ONNX file; all its initializers outside it lie in `data`.
        data: the file of weights. Both are replaced.
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
    """A function that copies `length` bytes at `offset` to the next place of an alignment, and returns where that is."""

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
    """A TensorProto whose data, if it lies outside, was moved, with what kernels packed of it."""
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
            # The kernel's key, then offset;length;checksum of each of its buffers, all parted by bars.
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
    """A message in which every field of that number holds what `change` makes of it."""
    return b"".join(
        field(number, change(inner)) if found == number else whole for found, whole, inner in _fields(message)
    )


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, all bytes, and content of each protobuf field; the content of one that is a number alone is empty."""
    for number, content, whole in whole_fields(message, 0, len(message)):
        yield number, message[slice(*whole)], b"" if isinstance(content, int) else message[slice(*content)]
