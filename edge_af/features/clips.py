"""Make clips of six classes from FFmpeg's test sources: three differ in the picture, three only in the sound."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.console import Progress
from edge_af.features.video import RATE, pyav
from edge_af.files import staged_folder, write_atomic
from edge_af.options import check, option

WIDTH, HEIGHT, FRAME_RATE = 320, 240, 15
LABELS = "labels.csv"
PICTURES = {
    "fractal": ("mandelbrot", "start_scale={share:.2f}"),
    "gradient": ("gradients", "seed={seed}:speed=0.01"),
    "cells": ("life", "seed={seed}:mold=10:ratio={share:.2f}:death_color=red:life_color=white"),
}
"""Classes by their picture: FFmpeg's source and its options. The others are gray."""
SOUNDS = ("hiss", "siren", "beeps")
"""Classes by their sound. The others hum."""


@dataclass(frozen=True)
class ClipOptions:
    """Options of the clips."""

    clips: int = option("Clips of each class.", default=12, at_least=1, at_most=10_000)
    seconds: int = option("Length of a clip in seconds.", default=4, at_least=1, at_most=3600)
    seed: int = option("Random seed.", default=0, at_least=0)

    def __post_init__(self) -> None:
        check(self)


def make_clips(out: Path, options: ClipOptions, *, overwrite: bool = False) -> int:
    """Write clips, `CLASS-NUMBER.mp4`, and `labels.csv` to `out`; return their number.

    Raises:
        EdgeAfError: PyAV is missing, or `out` is taken.
    """
    pyav()
    chance = random.Random(options.seed)
    rows = ["video,labels"]
    names = (*PICTURES, *SOUNDS)
    with (
        staged_folder(out, ("*.mp4", LABELS), overwrite=overwrite) as stage,
        Progress("clips", options.clips * len(names), "clips") as progress,
    ):
        for name in names:
            for number in range(options.clips):
                values = {"share": chance.uniform(0.2, 0.6), "seed": chance.randrange(1000)}
                kind, arguments = PICTURES.get(name, ("color", "color=gray"))
                sound = _sound(name, options.seconds, chance)
                _write(stage / f"{name}-{number}.mp4", kind, arguments.format(**values), options.seconds, sound)
                rows.append(f"{name}-{number}.mp4,{name}")
                progress.update()
        write_atomic(stage / LABELS, "\n".join(rows) + "\n")
    return len(rows) - 1


def _sound(name: str, seconds: int, chance: random.Random) -> NDArray[np.float32]:
    t = np.arange(seconds * RATE) / RATE
    pitch, pace = chance.uniform(300, 900), chance.uniform(1, 2)
    if name == "hiss":
        values = np.random.default_rng(chance.randrange(1000)).normal(0, 0.1, len(t))
    elif name == "siren":
        values = 0.3 * np.sin(2 * np.pi * pitch * t + 40 * np.sin(2 * np.pi * pace * t))
    elif name == "beeps":
        values = 0.3 * np.sin(2 * np.pi * pitch * t) * (np.sin(4 * np.pi * pace * t) > 0)
    else:
        values = 0.05 * np.sin(2 * np.pi * 100 * t)
    return values.astype(np.float32)


def _write(path: Path, kind: str, arguments: str, seconds: int, samples: NDArray[np.float32]) -> None:
    av = pyav()
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FRAME_RATE)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=RATE)
        for frame in _frames(av, kind, f"size={WIDTH}x{HEIGHT}:rate={FRAME_RATE}:{arguments}", seconds * FRAME_RATE):
            container.mux(video.encode(frame))
        block = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
        block.sample_rate, block.time_base, block.pts = RATE, Fraction(1, RATE), 0
        container.mux([*video.encode(None), *audio.encode(block), *audio.encode(None)])


def _frames(av: Any, kind: str, arguments: str, count: int) -> Iterator[Any]:
    graph = av.filter.Graph()
    source, sink = graph.add(kind, arguments), graph.add("buffersink")
    source.link_to(sink)
    graph.configure()
    for _ in range(count):
        frame = graph.pull().reformat(format="yuv420p")
        frame.pts = None
        yield frame
