"""Extract the features of one video: a vector for each second, and their running mean."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_af.data import Features
from edge_af.errors import EdgeAfError
from edge_af.features.extractor import Extractor
from edge_af.features.logmel import Patches
from edge_af.features.video import STANDARD_INPUT, Decoded, Frame, Sound, open_video
from edge_af.prefetch import prefetched

AHEAD = 8
"""Decoded parts that wait for the networks, so that decoding and inference overlap."""


@dataclass
class Cost:
    """Seconds of processor time by stage."""

    decode: float = 0.0
    visual: float = 0.0
    audio: float = 0.0


@dataclass
class RunningMean:
    """Mean of the vectors so far, summed in float64."""

    width: int
    count: int = 0
    total: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.total = np.zeros(self.width)

    def add(self, vector: NDArray[np.float32], times: int = 1) -> None:
        """Add a vector (width,) as if it came `times` times."""
        self.total += times * vector.astype(np.float64)
        self.count += times

    @property
    def value(self) -> NDArray[np.float32]:
        """The mean (1, width); zeros without any vector."""
        return (self.total / max(self.count, 1)).astype(np.float32)[np.newaxis]


@dataclass(frozen=True)
class Part:
    """Features of a frame or of a patch of sound."""

    modality: str
    """`visual` or `audio`."""
    time: float
    """Seconds from the start."""
    vector: NDArray[np.float32]
    """(width,)"""
    count: int
    """Number of times in a row that it stands for."""


class Extraction:
    """Features of one video while it is decoded. Iterate over it once."""

    def __init__(self, source: str | Path, extractor: Extractor, *, every: float = 1.0, threads: int = 1) -> None:
        """Open the video.

        Args:
            source: see `open_video`.
            extractor: makes the features.
            every: seconds between two frames.
            threads: with more than one, decoding and inference run at the same time.

        Raises:
            EdgeAfError: see `open_video`.
        """
        part = extractor.description.visual
        self._video = open_video(source, part.width, part.height, every=every, threads=threads)
        self._extractor, self._apart, self.name = extractor, threads > 1, self._video.name
        self.visual, self.audio = RunningMean(extractor.widths.visual), RunningMean(extractor.widths.audio)
        self.cost = Cost()
        self.has_video = self._video.has_video

    @property
    def decoded(self) -> Decoded:
        """Findings of the decoder so far."""
        return self._video.decoded

    @property
    def features(self) -> Features:
        """Mean of the features so far, as one video; zeros for a modality without any."""
        return Features(self.visual.value, self.audio.value)

    def __iter__(self) -> Iterator[Part]:
        """Yield the features as they come, and add them to the means.

        Raises:
            EdgeAfError: nothing could be decoded.
        """
        patches = Patches()
        with self._video:
            events = self._timed(self._video.events())
            for event in prefetched(events, AHEAD, self._video.end_input) if self._apart else events:
                started = time.thread_time()
                if isinstance(event, Frame):
                    vector = self._extractor.visual(event.pixels)
                    self.visual.add(vector, event.count)
                    self.cost.visual += time.thread_time() - started
                    yield Part("visual", event.time, vector, event.count)
                else:
                    yield from self._heard(patches.take(event.samples), started)
            yield from self._heard(patches.end(), time.thread_time())
        if not self.visual.count and not self.audio.count:
            why = f" ({self.decoded.fault})" if self.decoded.fault else ""
            hint = " An MP4 from a pipe needs its index at the start." if self.name == STANDARD_INPUT else ""
            raise EdgeAfError(f"{self.name}: nothing in it can be decoded{why}.{hint}")

    def _heard(self, patches: list[NDArray[np.float32]], started: float) -> Iterator[Part]:
        for patch in patches:
            vector = self._extractor.audio(patch)
            now = float(self.audio.count)
            self.audio.add(vector)
            self.cost.audio += time.thread_time() - started
            yield Part("audio", now, vector, 1)
            started = time.thread_time()
        self.cost.audio += time.thread_time() - started

    def _timed(self, events: Iterator[Frame | Sound]) -> Iterator[Frame | Sound]:
        while True:
            started = time.thread_time()
            event = next(events, None)
            self.cost.decode += time.thread_time() - started
            if event is None:
                return
            yield event
