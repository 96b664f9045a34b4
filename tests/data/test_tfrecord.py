"""Reading TFRecord files: intact records are read, damaged ones are reported, and as few as possible are lost."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_af.data.records import write_records
from edge_af.data.tfrecord import Damage, RecordBatch, is_gzip, masked_crc32c, read_batches

BODIES = [bytes([number]) * (20 + number) for number in range(10)]


def _offset(number: int) -> int:
    return sum(len(body) + 16 for body in BODIES[:number])


def _read(path: Path, batch: int = 4) -> tuple[dict[int, bytes], list[Damage]]:
    """Return the records by number, and the damage."""
    found: dict[int, bytes] = {}
    damage = []
    for part in read_batches(path, batch):
        if isinstance(part, RecordBatch):
            found |= dict(enumerate(part.records, part.first))
        else:
            damage.append(part)
    return found, damage


@pytest.fixture
def plain(tmp_path: Path, records: Any) -> Path:
    return records.write(tmp_path / "plain.tfrecord", BODIES)


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_checksum_is_the_published_one() -> None:
    # CRC-32C of "123456789" is 0xE3069283; TFRecord adds the mask.
    crc = 0xE3069283
    expected = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert masked_crc32c(np.frombuffer(b"123456789", np.uint8)[None]).tolist() == [expected]


def test_our_framing_is_tensorflows(plain: Path, tmp_path: Path) -> None:
    with (tmp_path / "ours.tfrecord").open("wb") as file:
        write_records(file, BODIES)
    assert (tmp_path / "ours.tfrecord").read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("batch", [1, 3, 128])
def test_whole_files(plain: Path, tmp_path: Path, batch: int) -> None:
    packed = tmp_path / "named.like.nothing"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    # Concatenated GZIP streams form one stream (RFC 1952).
    half = _offset(5)
    twice = tmp_path / "twice"
    twice.write_bytes(gzip.compress(plain.read_bytes()[:half]) + gzip.compress(plain.read_bytes()[half:]))
    for path in (plain, packed, twice):
        assert _read(path, batch) == (dict(enumerate(BODIES)), [])


def test_empty_files_hold_no_records(tmp_path: Path) -> None:
    for name, data in (("plain", b""), ("packed", gzip.compress(b""))):
        (tmp_path / name).write_bytes(data)
        assert _read(tmp_path / name) == ({}, [])


@pytest.mark.parametrize("number", [0, 3, 9])
def test_a_flipped_byte_costs_one_record(plain: Path, number: int) -> None:
    _flip(plain, _offset(number) + 12 + 7)
    found, damage = _read(plain)
    assert found == {n: body for n, body in enumerate(BODIES) if n != number}
    assert [(d.record, d.rest) for d in damage] == [(number, False)]
    assert "checksum" in damage[0].reason


def test_several_flipped_bytes_cost_their_records(plain: Path) -> None:
    for number in (2, 3, 9):
        _flip(plain, _offset(number) + 12)
    found, damage = _read(plain)
    assert sorted(found) == [0, 1, 4, 5, 6, 7, 8]
    assert [d.record for d in damage] == [2, 3, 9]


def test_a_damaged_checksum_of_the_length_costs_one_record(plain: Path) -> None:
    _flip(plain, _offset(3) + 9)
    found, damage = _read(plain)
    assert sorted(found) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert [(d.record, d.rest) for d in damage] == [(3, False)]


def test_a_damaged_length_costs_the_rest(plain: Path) -> None:
    _flip(plain, _offset(3) + 1)
    found, damage = _read(plain)
    assert sorted(found) == [0, 1, 2]
    assert [(d.record, d.rest) for d in damage] == [(3, True)]


# TensorFlow's reader accepts a file that ends inside a record's first 12 bytes.
@pytest.mark.parametrize("left", [1, 5, 11, 12, 20, 43])
def test_a_file_cut_off_anywhere_inside_a_record(plain: Path, left: int) -> None:
    plain.write_bytes(plain.read_bytes()[: _offset(8) + left])
    found, damage = _read(plain)
    assert sorted(found) == list(range(8))
    assert [(d.record, d.rest) for d in damage] == [(8, True)]
    assert "cut off" in damage[0].reason


def test_an_absurd_length_with_a_good_checksum(plain: Path) -> None:
    # TensorFlow would try to allocate this much and crash.
    length = struct.pack("<Q", 1 << 45)
    checksum = masked_crc32c(np.frombuffer(length, np.uint8)[None]).astype("<u4").tobytes()
    plain.write_bytes(plain.read_bytes()[: _offset(4)] + length + checksum + b"x" * 100)
    found, damage = _read(plain)
    assert sorted(found) == [0, 1, 2, 3]
    assert [(d.record, d.rest) for d in damage] == [(4, True)]


@pytest.mark.parametrize("cut", [1, 4, 8, 9, 40])
def test_a_gzip_stream_cut_off(plain: Path, tmp_path: Path, cut: int) -> None:
    # Without the last 8 bytes all records can be read, and TensorFlow reports no error.
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(plain.read_bytes())[:-cut])
    found, damage = _read(path)
    assert found.items() <= dict(enumerate(BODIES)).items()
    assert len(damage) == 1
    assert damage[0].rest
    assert "GZIP" in damage[0].reason


def test_a_damaged_gzip_stream_costs_what_follows(tmp_path: Path, records: Any) -> None:
    bodies = [np.random.default_rng(number).bytes(5000) for number in range(400)]
    path = records.write(tmp_path / "damaged.gz", bodies, packed=True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    found, damage = _read(path)
    assert found == dict(enumerate(bodies[: len(found)]))
    # The reader decompresses 256 KB at a time and drops the damaged block.
    assert 140 <= len(found) <= 200
    assert [(d.record, d.rest) for d in damage] == [(len(found), True)]


@pytest.mark.parametrize(
    "data", [b"hi", b"index,name\n0,Game\n" * 20, b"\xff" * 500, gzip.compress(b"hello" * 99, mtime=0)]
)
def test_what_is_no_tfrecord_says_so(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    found, damage = _read(path)
    assert found == {}
    assert [(d.record, d.rest) for d in damage] == [(0, True)]
    assert "not a TFRecord file" in damage[0].reason


def test_a_plain_file_that_starts_like_gzip(tmp_path: Path, records: Any) -> None:
    # A first record of 0x8b1f bytes: the file starts with 1f 8b.
    body = b"z" * 0x8B1F
    path = records.write(tmp_path / "f.tfrecord", [body])
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert not is_gzip(path)
    assert _read(path) == ({0: body}, [])
