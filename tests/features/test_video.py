"""Frames are those on screen at regular times, whatever the frame rate; damaged videos end early or give one line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="video files need PyAV")

from clips import Clip, tone, write_clip  # noqa: E402

from edge_af.errors import EdgeAfError  # noqa: E402
from edge_af.features.video import RATE, Decoded, Frame, Sound, _scaled, open_video  # noqa: E402


def read(path: Path | str, every: float = 1.0) -> tuple[list[tuple[float, int, int]], int, Decoded]:
    """Return the frames as (time, count, gray value), the number of samples, and what decoding found."""
    frames, samples = [], 0
    with open_video(path, 32, 32, every=every) as video:
        for event in video.events():
            if isinstance(event, Frame):
                assert event.pixels.shape == (32, 32, 3)
                frames.append((event.time, event.count, int(np.median(event.pixels))))
            else:
                assert isinstance(event, Sound) and event.samples.dtype == np.float32
                samples += len(event.samples)
    return frames, samples, video.decoded


def near(found: list[tuple[float, int, int]], wanted: list[tuple[float, int, int]]) -> bool:
    return [one[:2] for one in found] == [one[:2] for one in wanted] and all(
        abs(a[2] - b[2]) <= 6 for a, b in zip(found, wanted, strict=True)
    )


def test_a_constant_rate(clip: Clip):
    times = [n / 25 for n in range(75)]
    frames, samples, decoded = read(clip("a.mp4", times, [20 + 2 * n for n in range(75)], tone(3)))
    assert near(frames, [(0.0, 1, 20), (1.0, 1, 70), (2.0, 1, 120)])
    assert abs(samples - 3 * RATE) <= 2048
    assert decoded.frames == 75 and decoded.faults == 0
    half, _, _ = read(clip("b.mp4", times, [20 + 2 * n for n in range(75)]), every=0.5)
    assert near(half, [(n / 2, 1, round(20 + 25 * n)) for n in range(6)])
    fifth, _, _ = read(clip("c.mp4", times, [20 + 2 * n for n in range(75)]), every=5)
    assert near(fifth, [(0.0, 1, 20)])


def test_a_variable_rate_and_a_late_start(clip: Clip):
    # On screen at 0, 1, …, 7 seconds after the first frame: 30, 30, 60, 60, 60, 90, 120, 120. The last frame stays 0.7 s.
    times, colors = [5.0, 6.5, 6.9, 7.0, 9.99, 10.9, 11.6], [30, 200, 200, 60, 90, 120, 120]
    frames, samples, _ = read(clip("a.mkv", times, colors))
    assert samples == 0
    assert near(frames, [(0.0, 2, 30), (2.0, 3, 60), (5.0, 1, 90), (6.0, 1, 120), (7.0, 1, 120)])


def test_sound_alone(clip: Clip):
    for name in ("a.wav", "a.m4a"):
        frames, samples, decoded = read(clip(name, samples=tone(2.5)))
        assert frames == []
        assert abs(samples - 2.5 * RATE) <= 2048
        assert decoded.seconds == pytest.approx(2.5, abs=0.15)


def test_a_rotated_video(clip: Clip, tmp_path: Path):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24] = 250
    path = tmp_path / "up.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")))
        container.mux(video.encode(None))
    turned = tmp_path / "turned.mp4"
    # The matrix of the video track's header: by 90 degrees instead of none.
    data = path.read_bytes()
    track = data.index(b"tkhd")
    identity = b"\x00\x01\x00\x00" + bytes(12) + b"\x00\x01\x00\x00" + bytes(12) + b"@\x00\x00\x00"
    at = data.index(identity, track)
    quarter = bytes(4) + b"\x00\x01\x00\x00" + bytes(4) + b"\xff\xff\x00\x00" + bytes(16) + b"@\x00\x00\x00"
    turned.write_bytes(data[:at] + quarter + data[at + len(quarter) :])
    with open_video(path, 32, 32) as one, open_video(turned, 32, 32) as other:
        upright, rotated = (next(e for e in video.events() if isinstance(e, Frame)).pixels for video in (one, other))
    assert upright[:12].mean() > 200 > 50 > upright[-12:].mean()
    # Turned clockwise, the top is on the right.
    assert rotated[:, -12:].mean() > 200 > 50 > rotated[:, :12].mean()


def test_a_truncated_video_gives_what_is_there(clip: Clip):
    path = clip("a.mkv", [n / 10 for n in range(100)], [(7 * n) % 256 for n in range(100)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, _, decoded = read(path)
    assert 2 <= len(frames) <= 8
    assert decoded.seconds < 9
    assert decoded.faults == 1 and re.fullmatch(r"it ends after \d of 10 s", str(decoded.fault))


def test_a_track_may_be_shorter_than_the_other(clip: Clip):
    for name, pictures, sound in (("a.mkv", 20, 10), ("b.mkv", 100, 2)):
        _, _, decoded = read(clip(name, [n / 10 for n in range(pictures)], [80] * pictures, tone(sound)))
        assert decoded.faults == 0


def test_a_changing_resolution(clip: Clip, tmp_path: Path):
    # Concatenated transport streams may change their size.
    parts = [
        clip(f"{n}.ts", [k / 10 for k in range(20)], [80] * 20, size=size)
        for n, size in enumerate([(64, 48), (96, 64)])
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, _, _ = read(path)
    assert 3 <= sum(count for _, count, _ in frames) <= 5
    assert all(abs(gray - 80) <= 6 for _, _, gray in frames)


@pytest.mark.parametrize(
    "name, content",
    [
        ("empty.mp4", b""),
        ("zeros.mp4", bytes(100_000)),
        ("text.mp4", b"hello\n"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n"),
        ("list.txt", b"ffconcat version 1.0\nfile http://127.0.0.1:9/x.ts\n"),
        ("head.mp4", b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom"),
        ("huge.y4m", b"YUV4MPEG2 W999999 H999999 F25:1\nFRAME\n"),
        ("huge.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\x00\x00\x00"),
        ("riff.avi", b"RIFF\xff\xff\xff\xffAVI LIST\xff\xff\xff\xff"),
        ("ebml.mkv", b"\x1a\x45\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xff"),
    ],
)  # fmt: skip
def test_what_is_no_video_gives_one_line(tmp_path: Path, name: str, content: bytes):
    from edge_af.features.extract import Extraction
    from edge_af.features.extractor import load_extractor

    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(EdgeAfError, match=name) as raised:
        list(Extraction(path, load_extractor()))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name", ["-dash.mp4", 'it\'s "so".mp4', "two\nlines.mp4", "a:b|c.mp4", "http:x.mp4", "%03d.mp4"]
)
def test_any_file_name(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    clip("plain.mp4", [0, 0.5], [90, 90]).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    frames, _, _ = read(name)
    assert near(frames, [(0.0, 1, 90)])


def test_timestamps_that_jump_do_not_count(clip: Clip):
    times = [0.0, 1.0, 2.0, 1e6, 1e6 + 1]
    frames, _, decoded = read(clip("a.mkv", times, [50] * 5))
    assert sum(count for _, count, _ in frames) == 5
    assert decoded.seconds == pytest.approx(4, abs=0.1)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path: Path):
    """Two hours of video take as much memory as two minutes."""
    script = (
        "import sys\n"
        "from edge_af.features.extract import Extraction\n"
        "from edge_af.features.extractor import load_extractor\n"
        "from edge_af.machine.memory import read_memory\n"
        "extraction = Extraction(sys.argv[1], load_extractor(), every=1)\n"
        "count = sum(part.count for part in extraction)\n"
        "print(count, read_memory().peak)\n"
    )
    peaks = []
    for minutes in (2, 120):
        path = tmp_path / f"{minutes}.mkv"
        seconds = 60 * minutes
        write_clip(path, [float(n) for n in range(seconds)], [n % 200 for n in range(seconds)], size=(320, 240))
        done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
        count, peak = map(int, done.stdout.split())
        assert count == seconds
        peaks.append(peak)
    assert peaks[1] < 300e6
    assert peaks[1] < peaks[0] + 20e6


def triangle(count: int, wanted: int) -> np.ndarray:
    """Return the weights (wanted, count) of a linear filter that is two target pixels wide, in float64."""
    ratio = count / wanted
    weights = np.zeros((wanted, count))
    for row, own in enumerate(weights):
        center = (row + 0.5) * ratio - 0.5
        for at in range(int(center - ratio) - 1, int(center + ratio) + 3):
            own[min(max(at, 0), count - 1)] += max(0, 1 - abs(at - center) / max(ratio, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("width, height", [(1280, 720), (320, 240), (100, 60)])
def test_scaling_agrees_with_float64(width: int, height: int):
    random = np.random.default_rng(0)
    planes = random.integers(16, 236, (height, width)).astype(np.uint8)
    whole = np.full((height * 3 // 2, width), 128, np.uint8)
    whole[:height] = planes
    frame = av.VideoFrame.from_ndarray(whole, format="yuv420p")
    gray = (planes.astype(np.float64) - 16) * 255 / 219
    wanted = triangle(height, 224) @ gray @ triangle(width, 224).T
    difference = _scaled(frame, 224, 224).astype(np.float64) - wanted[..., None]
    # FFmpeg's tables for colors round down, by about 2 of 255 in all.
    assert -2.5 < difference.mean() < 0 and difference.std() < 0.6
    assert np.abs(difference[2:-2, 2:-2]).max() <= 4
    # At an edge, FFmpeg moves weights beyond it to other pixels than the last.
    assert np.abs(difference).max() <= 16


def test_colors_agree_with_float64():
    # BT.601, limited range.
    for y, u, v in ((81, 90, 240), (145, 54, 34), (41, 240, 110), (180, 128, 128), (60, 140, 100)):
        whole = np.concatenate([np.full((64, 64), y), np.full((16, 64), u), np.full((16, 64), v)]).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(whole, format="yuv420p")
        luma, blue, red = (y - 16) * 255 / 219, (u - 128) * 255 / 224, (v - 128) * 255 / 224
        exact = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
        found = _scaled(frame, 32, 32).astype(np.float64)
        assert np.abs(found - np.clip(exact, 0, 255)).max() <= 2.5
