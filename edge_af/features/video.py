"""Decode a video into frames at regular times and mono sound, in constant memory.

PyAV decodes, because its wheels for x86-64 and ARM64 carry FFmpeg's libraries; see `docs/explanation/decisions.md`. A frame at
time t is the one on screen then: the last with a timestamp of at most t. Timestamps count from the first frame, so variable
frame rates and offsets need no special treatment.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_af.errors import EdgeAfError

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

RATE = 16_000
"""Samples per second of the sound."""
MOST_PIXELS = 16384 * 16384
"""Pixels of the largest frame that is decoded."""
LONGEST_GAP = 600.0
"""Seconds. A longer step between two timestamps is an error in the file, not a frame that stays on screen."""
MISSING_SECONDS, MISSING_SHARE = 2.0, 0.05
"""A video that ends earlier than its header says, by more than both, is truncated."""
MOST_FAULTS = 200
"""Packets in a row that cannot be decoded before the rest of a stream is given up."""
STREAM, STANDARD_INPUT = "-", "standard input"
"""Source that is standard input, and its name in messages."""


@dataclass(frozen=True)
class Frame:
    """A frame, scaled."""

    pixels: NDArray[np.uint8]
    """(height, width, 3), RGB."""
    time: float
    """Seconds from the first frame: the first of the times that it stands for."""
    count: int
    """Number of times in a row at which it is on screen."""


@dataclass(frozen=True)
class Sound:
    """The next samples of the sound."""

    samples: NDArray[np.float32]
    """(n,), mono, `RATE` per second, within ±1 unless the source clips."""


@dataclass
class Decoded:
    """Findings of the decoder; complete when the video's events end."""

    frames: int = 0
    """Decoded frames, before choosing."""
    seconds: float = 0.0
    """Time of the last frame, or the length of the sound."""
    faults: int = 0
    """Packets that could not be decoded."""
    fault: str | None = None
    """The reason for the first."""


@dataclass
class Video:
    """An open video. Use as a context manager."""

    name: str
    """Its name in messages."""
    container: InputContainer
    width: int
    height: int
    every: float
    """Seconds between two frames."""
    input: _StandardInput | None = None
    """Standard input, if the video comes from there."""
    tracks: list[Any] = field(init=False)
    """First video track and first audio track, as far as there are any. Album covers do not count."""
    has_video: bool = field(init=False)
    """True if there is a video track."""
    decoded: Decoded = field(default_factory=Decoded)
    _heard: float = 0.0
    """Seconds of sound so far."""

    def __post_init__(self) -> None:
        streams = self.container.streams
        videos = [one for one in streams.video if not one.disposition & one.disposition.attached_pic]
        self.tracks = [*videos[:1], *streams.audio[:1]]
        self.has_video = bool(videos)

    @property
    def codec(self) -> str:
        """Codec of the video track, or of the sound without one."""
        return str(self.tracks[0].codec_context.name)

    @property
    def source_size(self) -> tuple[int, int]:
        """Width and height of the file's frames in pixels; zeros without a video track."""
        context = self.tracks[0].codec_context
        return (context.width, context.height) if self.has_video else (0, 0)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def end_input(self) -> None:
        """End standard input, so that no thread waits for it."""
        if self.input is not None:
            self.input.ended = True

    def events(self) -> Iterator[Frame | Sound]:
        """Yield chosen frames and all sound, in the order of the file.

        A damaged part is skipped and counted in `decoded`. A truncated file ends where it is cut off.
        """
        import av

        chooser, resampler = _Chooser(self), av.AudioResampler(format="flt", layout="mono", rate=RATE)
        in_a_row = 0
        for packet in self._packets():
            try:
                decoded = packet.decode()
                in_a_row = 0
            except (av.FFmpegError, ValueError, MemoryError) as error:
                self._count(error)
                in_a_row += 1
                if in_a_row > MOST_FAULTS:
                    break
                continue
            for one in decoded:
                if isinstance(one, av.VideoFrame):
                    self.decoded.frames += 1
                    yield from chooser.take(one)
                else:
                    yield from self._sound(resampler, one)
        yield from chooser.end()
        yield from self._sound(resampler, None)
        self._check_length()
        if self.input is not None:
            self.input.check()

    def _check_length(self) -> None:
        """Count a fault if both tracks end long before the length in the file's header, as in a truncated Matroska file."""
        wanted, found = (self.container.duration or 0) / 1e6, max(self.decoded.seconds, self._heard)
        if not self.decoded.faults and found < wanted - max(MISSING_SECONDS, MISSING_SHARE * wanted):
            self._count(ValueError(f"it ends after {found:.0f} of {wanted:.0f} s"))

    def _packets(self) -> Iterator[Any]:
        """Yield the packets of the first video and the first audio stream; a damaged end counts as a fault."""
        import av

        packets = self.container.demux(self.tracks)
        while True:
            try:
                yield next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, ValueError) as error:
                self._count(error)
                return

    def _sound(self, resampler: Any, frame: Any) -> Iterator[Sound]:
        import av

        try:
            resampled = resampler.resample(frame)
        except (av.FFmpegError, ValueError) as error:
            if frame is not None:  # Without any sound there is nothing to flush.
                self._count(error)
            return
        for part in resampled:
            samples: NDArray[np.float32] = part.to_ndarray().reshape(-1)
            self._heard += len(samples) / RATE
            if not self.has_video:
                self.decoded.seconds = self._heard
            yield Sound(np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0))

    def _count(self, error: Exception) -> None:
        self.decoded.faults += 1
        self.decoded.fault = self.decoded.fault or _reason(error)


class _Chooser:
    """Chooses the frames on screen at regular times."""

    def __init__(self, video: Video) -> None:
        self._video = video
        self._shown: av.VideoFrame | None = None
        self._first: float | None = None
        self._now = self._length = 0.0
        self._next = 0
        """Number of the next time at which a frame is wanted."""

    def take(self, frame: av.VideoFrame) -> Iterator[Frame]:
        """Take the next frame; yield the one before if it was on screen at a wanted time."""
        time = frame.time if frame.time is not None else (self._first or 0.0) + self._now + self._length
        if self._first is None:
            self._first = time
        now = time - self._first
        if not self._now <= now <= self._now + LONGEST_GAP:
            # The timestamps run back or jump; the frame follows the one before.
            now = self._now + self._length
            self._first = time - now
        self._length = now - self._now or self._length
        yield from self._until(now)
        self._shown, self._now = frame, now
        self._video.decoded.seconds = now

    def end(self) -> Iterator[Frame]:
        """Yield the last frame if it is on screen at a wanted time: it stays as long as the one before."""
        yield from self._until(self._now + (self._length or 1e-3))

    def _until(self, now: float) -> Iterator[Frame]:
        every = self._video.every
        # The small constant absorbs the rounding of timestamps such as 1.0 = 30 / 29.97.
        count = int(np.ceil(now / every - 1e-6)) - self._next
        if self._shown is None or count <= 0:
            return
        yield Frame(_scaled(self._shown, self._video.width, self._video.height), self._next * every, count)
        self._next += count


def _scaled(frame: av.VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
    """Return a frame's pixels upright, squeezed to this size."""
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    size = (height, width) if turns % 2 else (width, height)
    # Bilinear interpolation in FFmpeg averages over all source pixels when it shrinks.
    pixels: NDArray[Any] = frame.reformat(*size, format="rgb24", interpolation="BILINEAR").to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def open_video(source: str | Path, width: int, height: int, *, every: float = 1.0, threads: int = 1) -> Video:
    """Open a video.

    Args:
        source: a file, `-` for standard input, an address such as rtsp://…, or a camera such as /dev/video0.
        width, height: size of the frames in pixels.
        every: seconds between two frames.
        threads: threads that decode.

    Raises:
        EdgeAfError: PyAV is not installed, the file is missing or is not a video, or it has no video and no audio track.
    """
    av = pyav()
    name, place, options, kind = _place(str(source))
    try:
        container: InputContainer = av.open(place, options=options, format=kind, timeout=(20.0, 20.0))
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        if isinstance(place, _StandardInput):
            place.check()
        raise EdgeAfError(f"{name}: cannot be opened as a video ({_reason(error)}).") from None
    video = Video(name, container, width, height, every, place if isinstance(place, _StandardInput) else None)
    try:
        if not video.tracks:
            raise EdgeAfError(f"{name}: has neither a video nor an audio track.")
        for stream in video.tracks:
            stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
            stream.codec_context.thread_count = threads
            stream.codec_context.thread_type = "AUTO" if threads > 1 else "SLICE"
    except BaseException:
        container.close()
        raise
    return video


def _place(source: str) -> tuple[str, Any, dict[str, str], str | None]:
    """Return a source's name, what PyAV opens, and its options and format."""
    if source == STREAM:
        # FFmpeg analyzes 5 s of a stream before its first frame; a live stream must not wait so long.
        return STANDARD_INPUT, _StandardInput(), {"probesize": "500000", "analyzeduration": "1000000"}, None
    if "://" in source:
        return source, source, {"rtsp_transport": "tcp"} if source.startswith("rtsp") else {}, None
    if source.startswith("/dev/video"):
        return source, source, {}, "v4l2"
    path = Path(source)
    if path.is_dir():
        raise EdgeAfError(f"{path}: is a folder. Name the videos in it.")
    if not path.exists():
        raise EdgeAfError(f"{path}: no such file.")
    if path.stat().st_size == 0 and path.is_file():
        raise EdgeAfError(f"{path}: is empty.")
    # With a protocol, a file's name is never read as an address; a playlist in it cannot name one either.
    return source, f"file:{os.path.abspath(source)}", {"protocol_whitelist": "file"}, None  # noqa: PTH100 - keeps links


class _StandardInput:
    """Standard input as a file object for PyAV.

    PyAV loses exceptions of `read`. So Ctrl-C ends the input instead, and `check` raises it afterwards.
    """

    POLL_SECONDS = 0.2

    def __init__(self) -> None:
        self.ended = self._interrupted = False

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, none at the end or once `ended` is set."""
        try:
            while not self.ended:
                if select.select([0], [], [], self.POLL_SECONDS)[0]:
                    return os.read(0, size)
        except KeyboardInterrupt:
            self.ended = self._interrupted = True
        return b""

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C ended the input."""
        if self._interrupted:
            raise KeyboardInterrupt


def pyav() -> Any:
    """Import PyAV, silenced.

    Raises:
        EdgeAfError: it is not installed.
    """
    try:
        import av
        import av.logging
    except ImportError as error:
        raise EdgeAfError(
            f"reading video files needs PyAV, which cannot be imported ({error}).\nInstall it with: pip install av"
        ) from None
    av.logging.set_level(None)
    return av


def _reason(error: Exception) -> str:
    """Return FFmpeg's reason for an error."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:120]


def frames_at(source: str | Path, width: int, height: int, every: float = 1.0) -> list[NDArray[np.uint8]]:
    """Return the frames of a short video: (height, width, 3) each."""
    with open_video(source, width, height, every=every) as video, contextlib.suppress(EdgeAfError):
        return [one.pixels for one in video.events() if isinstance(one, Frame)]
    return []
