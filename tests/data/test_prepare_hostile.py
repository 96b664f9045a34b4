"""Bad input to `data prepare`: exit code 2, a short message with file, record and field, and no output left behind."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GOOD = 5
"""Number of good records before the bad one."""


def _with(length: int, at: int, value: float) -> np.ndarray:
    vector = np.zeros(length, np.float32)
    vector[at] = value
    return vector


BAD_VIDEOS: dict[str, tuple[Callable[[Any], bytes], list[str]]] = {
    "no rgb": (lambda r: r.video("x", mean_rgb=None), ["'mean_rgb'", "missing", "mean_audio"]),
    "no audio": (lambda r: r.video("x", mean_audio=None), ["'mean_audio'", "missing"]),
    "no id": (lambda r: r.video("x", id=None), ["'id'", "missing"]),
    "short rgb": (lambda r: r.video("x", mean_rgb=np.zeros(1000, np.float32)), ["'mean_rgb'", "1000", "1024"]),
    "long audio": (lambda r: r.video("x", mean_audio=np.zeros(129, np.float32)), ["'mean_audio'", "129", "128"]),
    "empty rgb": (lambda r: r.video("x", mean_rgb=np.zeros(0, np.float32)), ["'mean_rgb'", "0 values", "1024"]),
    "rgb of bytes": (lambda r: r.video("x", mean_rgb=b"q" * 1024), ["'mean_rgb'", "strings", "floats"]),
    "labels of floats": (lambda r: r.video("x", np.array([1.0])), ["'labels'", "floats", "integers"]),
    "NaN": (lambda r: r.video("x", mean_rgb=_with(1024, 77, np.nan)), ["'mean_rgb'", "value 77", "NaN"]),
    "infinite": (lambda r: r.video("x", mean_audio=_with(128, 5, -np.inf)), ["'mean_audio'", "value 5", "infinite"]),
    "beyond float16": (
        lambda r: r.video("x", mean_audio=_with(128, 5, 1e6)),
        ["'mean_audio'", "value 5", "8-bit codes"],
    ),
    "8-bit codes": (
        lambda r: r.video("x", mean_rgb=_with(1024, 9, 137.0)),
        ["'mean_rgb'", "value 9 is 137", "dequantize"],
    ),
    "label too high": (lambda r: r.video("x", [1, 3862]), ["'labels'", "3862"]),
    "label negative": (lambda r: r.video("x", [-1]), ["'labels'", "-1"]),
    "label huge": (lambda r: r.video("x", [1 << 40]), ["'labels'", str(1 << 40)]),
    "long id": (lambda r: r.video("x" * 17), ["'id'", "17 bytes", "16"]),
    "nothing in it": (lambda r: b"", ["no features at all"]),
    "no message": (lambda r: b"\xff\xfe\xfd", ["cannot be parsed"]),
    "other layout": (lambda r: r.video("x", key="video_id"), ["2017-video", "2018-video"]),
}

BAD_FRAMES: dict[str, tuple[Callable[[Any], bytes], list[str]]] = {
    "no frames": (lambda r: r.frames("x", 0, 0), ["'rgb'", "no frames"]),
    "no rgb": (lambda r: r.frames("x", None, 3), ["'rgb'", "missing"]),
    "short frame": (lambda r: r.frames("x", [b"q" * 1024, b"q" * 1023], 2), ["'rgb'", "frame 1", "1023", "1024"]),
    "short sound": (lambda r: r.frames("x", 1, [b"q" * 127]), ["'audio'", "frame 0", "127", "128"]),
    "frames differ": (lambda r: r.frames("x", 3, 2), ["'audio'", "2 frames", "3"]),
    "label too high": (lambda r: r.frames("x", labels=[5000]), ["'labels'", "5000"]),
    "video-level": (lambda r: r.video("x"), ["2018-video", "2018-frame"]),
}


def _refused(ran: Any, folder: Path, *texts: str) -> None:
    """Check for exit code 2, a message of at most two lines, and nothing in `folder` but the input."""
    assert ran.status == 2
    assert ran.out == ""
    message = ran.err[ran.err.index("edge-af:") :]
    assert len(message.strip().splitlines()) <= 2
    assert "Traceback" not in ran.err
    for text in texts:
        assert text in message
    assert [entry.name for entry in folder.iterdir()] == ["in"]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("case", BAD_VIDEOS)
def test_bad_video_level_record(tmp_path: Path, records: Any, run: Callable[..., Any], case: str, packed: bool) -> None:
    make, texts = BAD_VIDEOS[case]
    source = [*(records.video(f"v{i}") for i in range(GOOD)), make(records), records.video("after")]
    path = records.write(tmp_path / "in" / "f.tfrecord", source, packed=packed)
    ran = run("data", "prepare", tmp_path / "in", "--out", tmp_path / "out")
    _refused(ran, tmp_path, f"{path}: record {GOOD} (counting from 0)", "--skip-bad", *texts)


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_bad_frame_level_record(tmp_path: Path, records: Any, run: Callable[..., Any], case: str) -> None:
    make, texts = BAD_FRAMES[case]
    source = [*(records.frames(f"v{i}") for i in range(GOOD)), make(records), records.frames("after")]
    path = records.write(tmp_path / "in" / "f.tfrecord", source)
    ran = run("data", "prepare", path, "--out", tmp_path / "out")
    _refused(ran, tmp_path, f"{path}: record {GOOD} (counting from 0)", *texts)


@pytest.mark.parametrize("case", ["no id", "nothing in it", "no message", "short rgb"])
def test_bad_first_record(tmp_path: Path, records: Any, run: Callable[..., Any], case: str) -> None:
    make, texts = BAD_VIDEOS[case]
    path = records.write(tmp_path / "in" / "f.tfrecord", [make(records), records.video("after")])
    _refused(run("data", "prepare", path, "--out", tmp_path / "out"), tmp_path, f"{path}: record 0 (", *texts)


def _truncated(data: bytes) -> bytes:
    return data[:-1000]


def _flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(data) // 2 + 20] ^= 1  # After the length, which is exactly in the middle.
    return bytes(changed)


@pytest.mark.parametrize(
    ("damage", "packed", "record", "text"),
    [
        (_truncated, False, 9, "cut off"),
        (_flipped, False, 5, "checksum"),
        (lambda data: _truncated(gzip.compress(data)), True, 9, "cut off"),
        (lambda data: gzip.compress(_flipped(data)), True, 5, "damaged"),
        (lambda data: b"PK\x03\x04" + data, False, 0, "not a TFRecord file"),
        (lambda data: b"index,name\n0,zero\n", False, 0, "not a TFRecord file"),
    ],
    ids=["cut", "flipped", "cut gzip", "flipped in gzip", "zip", "text"],
)
def test_damaged_file(
    tmp_path: Path,
    records: Any,
    run: Callable[..., Any],
    damage: Callable[[bytes], bytes],
    packed: bool,
    record: int,
    text: str,
) -> None:
    good = records.write(tmp_path / "in" / "a.tfrecord", [records.video("good")])
    path = records.write(tmp_path / "in" / "b.tfrecord", [records.video(f"v{i}") for i in range(10)])
    path.write_bytes(damage(path.read_bytes()))
    ran = run("data", "prepare", good, path, "--out", tmp_path / "out")
    _refused(ran, tmp_path, f"{path}: record {record} (counting from 0)", text)
    assert run("data", "info", path).status == 2


def test_nothing_there(tmp_path: Path, records: Any, run: Callable[..., Any]) -> None:
    (tmp_path / "in" / "empty").mkdir(parents=True)
    for source, text in (
        ("in/empty", "no TFRecord files"),
        ("in/none", "no such file"),
        ("in/*.tfrecord", "matches no"),
    ):
        ran = run("data", "prepare", tmp_path / source, "--out", tmp_path / "out")
        _refused(ran, tmp_path, str(tmp_path / source), text)


def test_what_is_prepared_already(tmp_path: Path, records: Any, run: Callable[..., Any]) -> None:
    path = records.write(tmp_path / "in" / "f.tfrecord", [records.video("x")])
    assert run("data", "prepare", path, "--out", tmp_path / "done").status == 0
    ran = run("data", "prepare", tmp_path / "done", "--out", tmp_path / "out")
    assert ran.status == 2 and "is prepared already" in ran.err and not (tmp_path / "out").exists()


def test_all_left_out(tmp_path: Path, records: Any, run: Callable[..., Any]) -> None:
    path = records.write(tmp_path / "in" / "f.tfrecord", [records.video("x", [-1]), records.video("y", [-1])])
    ran = run("data", "prepare", path, "--out", tmp_path / "out", "--skip-bad")
    _refused(ran, tmp_path, "all 2 records were left out")


def test_output_in_the_way(tmp_path: Path, records: Any, run: Callable[..., Any]) -> None:
    path = records.write(tmp_path / "in" / "f.tfrecord", [records.video("x")])
    ran = run("data", "prepare", path, "--out", path)
    _refused(ran, tmp_path, "is a file")
    ran = run("data", "prepare", path, "--out", path / "below")
    _refused(ran, tmp_path, "cannot write here")


@pytest.mark.parametrize("arguments", [("--classes", 0), ("--classes", 65537), ("--vocabulary", "nowhere.csv")])
def test_bad_options(tmp_path: Path, records: Any, run: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    path = records.write(tmp_path / "in" / "f.tfrecord", [records.video("x")])
    _refused(run("data", "prepare", path, "--out", tmp_path / "out", *arguments), tmp_path, str(arguments[1]))


def test_a_source_whose_name_is_not_utf8_is_read(tmp_path: Path, records: Any, run: Callable[..., Any]) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9") / os.fsdecode(b"\xe9t\xe9.tfrecord")
    path.parent.mkdir()
    records.write(tmp_path / "a.tfrecord", [records.video("a")]).rename(path)
    for _ in range(2):
        ran = run("data", "prepare", path.parent, "--out", tmp_path / "out")
        assert ran.status == 0, ran.err
    assert run("data", "info", path).status == 0 and run("data", "info", tmp_path / "out").status == 0
