"""Forty hostile media files each give a result or one clear line, with no traceback, no hang and no process left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="video files need PyAV")

from clips import tone, write_clip

from edge_af.data.dataset import open_dataset

NAMES = (
    "-dash.mkv",
    "--out.mkv",
    "sp ace.mkv",
    'it\'s "so".mkv',
    "two\nlines.mkv",
    "é.mkv",
    "$(id).mkv",
    "a;b.mkv",
    "%d.mkv",
)


def hostile(folder: Path) -> Iterator[Path]:
    """Make the files."""
    random = np.random.default_rng(0)
    times, colors = [n / 10 for n in range(40)], [(11 * n) % 256 for n in range(40)]
    whole = {}
    for suffix, codec in (
        ("mp4", "libx264"),
        ("mkv", "libx264"),
        ("avi", "mpeg4"),
        ("ts", "libx264"),
        ("webm", "libvpx"),
    ):
        sound = tone(4) if suffix in ("mp4", "mkv", "avi") else None
        whole[suffix] = write_clip(folder / f"whole.{suffix}", times, colors, sound, codec=codec).read_bytes()
        yield folder / f"whole.{suffix}"

    def write(name: str, data: bytes) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    for suffix, data in whole.items():
        yield write(f"cut.{suffix}", data[: len(data) // 2])
        yield write(f"hole.{suffix}", data[: len(data) // 3] + bytes(len(data) // 3) + data[2 * len(data) // 3 :])
        flipped = bytearray(data)
        for at in random.integers(64, len(data), 60):
            flipped[at] ^= 1 << int(random.integers(8))
        yield write(f"flipped.{suffix}", bytes(flipped))
    yield write("head.mp4", whole["mp4"][:40])
    yield write("empty.mp4", b"")
    yield write("zeros.mkv", bytes(50_000))
    yield write("text.mp4", b"not a video\n" * 100)
    yield write("mp4-as.avi", whole["mp4"])
    yield write("random.mp4", random.bytes(50_000))
    yield write("list.m3u8", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    yield write("huge.y4m", b"YUV4MPEG2 W999999 H999999 F25:1\nFRAME\n")
    yield write("wide.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\x00\x00\x00")
    yield write("sizes.ts", write_clip(folder / "other.ts", times, colors, size=(96, 64)).read_bytes() + whole["ts"])
    yield write_clip(folder / "gap.mkv", [0, 1, 1e6, 1e6 + 1], [9] * 4)
    yield write_clip(folder / "one.mkv", [0], [50])
    for name in NAMES:
        yield write(name, whole["mkv"])


def test_forty_hostile_files(tmp_path: Path):
    folder = tmp_path / "media"
    folder.mkdir()
    files = list(hostile(folder))
    assert len(files) >= 40
    command = [sys.executable, "-m", "edge_af", "features", "--out", "../out", "--", *(path.name for path in files)]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    data = open_dataset(tmp_path / "out")
    left_out = data.index["left_out"]
    assert data.videos + len(left_out) == len(files)
    assert np.isfinite(data.visual).all() and np.isfinite(data.audio).all()
    # Whole files, also those with odd names, give a result.
    got = {source["path"] for source in data.index["sources"]}
    assert {f"media/{path.name}" for path in files if path.name.startswith("whole") or path.name in NAMES} <= got
    for entry in left_out:
        lines = [line for line in done.stderr.splitlines() if f"{entry['file']}: " in line]
        assert len(lines) == 1, lines
    # No worker of this command is left.
    assert not [one for one in Path("/proc").iterdir() if one.name.isdigit() and _works_in(one, folder)]


def _works_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").resolve() == folder.resolve()
    except OSError:
        return False
