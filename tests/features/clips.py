"""Clips, encoded with PyAV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

RATE = 16_000
Clip = Callable[..., Path]


def write_clip(
    path: Path,
    times: Sequence[float] = (),
    colors: Sequence[int] = (),
    samples: NDArray[np.float32] | None = None,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
) -> Path:
    """Write gray frames of these values at these times (seconds), and mono sound."""
    base = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        video = audio = None
        if len(times):
            video = container.add_stream(codec, rate=30)
            video.width, video.height, video.pix_fmt = *size, "yuv420p"
            video.codec_context.time_base = base
        if samples is not None:
            audio = container.add_stream("pcm_s16le" if path.suffix in (".mkv", ".wav", ".avi") else "aac", rate=RATE)
            audio.layout = "mono"
        for time, color in zip(times, colors, strict=True):
            image = np.full((size[1], size[0], 3), color, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = round(time * 1000), base
            container.mux(video.encode(frame))
        if video is not None:
            container.mux(video.encode(None))
        if audio is not None:
            scaled = (np.clip(samples, -1, 1) * 32767).astype(np.int16)[None]
            block = av.AudioFrame.from_ndarray(scaled, format="s16", layout="mono")
            block.sample_rate, block.time_base, block.pts = RATE, Fraction(1, RATE), 0
            container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    return path


def tone(seconds: float, hertz: float = 440) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)
