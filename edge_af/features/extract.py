"""Extract the features of one video: a vector for each second, and their running mean."""

from __future__ import annotations

import contextlib
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

    @contextlib.contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Add the processor time of a block in this thread to a stage."""
        started = time.thread_time()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.thread_time() - started)


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

    def __init__(
        self,
        source: str | Path,
        extractor: Extractor,
        *,
        every: float = 1.0,
        threads: int = 1,
        cost: Cost | None = None,
    ) -> None:
        """Open the video.

        Args:
            source: see `open_video`.
            extractor: makes the features.
            every: seconds between two frames.
            threads: with more than one, decoding and inference run at the same time.
            cost: where to add the cost of each stage.

        Raises:
            EdgeAfError: see `open_video`.
        """
        part = extractor.description.visual
        self.video = open_video(source, part.width, part.height, every=every, threads=threads)
        self._extractor, self._apart, self.name = extractor, threads > 1, self.video.name
        self.visual, self.audio = RunningMean(extractor.widths.visual), RunningMean(extractor.widths.audio)
        self.cost = cost if cost is not None else Cost()
        self.has_video = self.video.has_video

    @property
    def decoded(self) -> Decoded:
        """Findings of the decoder so far."""
        return self.video.decoded

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
        with self.video:
            events = self._timed(self.video.events())
            for event in prefetched(events, AHEAD, self.video.end_input) if self._apart else events:
                if isinstance(event, Frame):
                    with self.cost.during("visual"):
                        vector = self._extractor.visual(event.pixels)
                        self.visual.add(vector, event.count)
                    yield Part("visual", event.time, vector, event.count)
                else:
                    with self.cost.during("audio"):
                        complete = patches.take(event.samples)
                    yield from self._heard(complete)
            yield from self._heard(patches.end())
        if not self.visual.count and not self.audio.count:
            why = f" ({self.decoded.fault})" if self.decoded.fault else ""
            hint = " An MP4 from a pipe needs its index at the start." if self.name == STANDARD_INPUT else ""
            raise EdgeAfError(f"{self.name}: nothing in it can be decoded{why}.{hint}")

    def _heard(self, patches: list[NDArray[np.float32]]) -> Iterator[Part]:
        for patch in patches:
            now = float(self.audio.count)
            with self.cost.during("audio"):
                vector = self._extractor.audio(patch)
                self.audio.add(vector)
            yield Part("audio", now, vector, 1)

    def _timed(self, events: Iterator[Frame | Sound]) -> Iterator[Frame | Sound]:
        while True:
            with self.cost.during("decode"):
                event = next(events, None)
            if event is None:
                return
            yield event
