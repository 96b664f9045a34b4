"""Label a video while it is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_af.api import Network, Prediction
from edge_af.console import warn
from edge_af.data import Features, wrong_widths
from edge_af.errors import EdgeAfError
from edge_af.features.extract import Extraction
from edge_af.features.extractor import DEFAULT, Extractor, load_extractor


@dataclass(frozen=True)
class Labels:
    """A video's best classes, from its start up to a moment."""

    time: float
    """Seconds from the start."""
    predictions: list[Prediction]
    """Best first."""


class VideoStream:
    """A video, labeled while it is decoded. Iterate over it once.

    Each item is the labels of everything up to then, by the mean of the features so far. The last item's labels are those
    of the whole video, the same as `edge-af features` and `edge-af predict` give.
    """

    def __init__(
        self,
        source: str | Path,
        network: Network,
        *,
        extractor: str | Path | None = None,
        every: float | None = None,
        top: int = 3,
        threads: int = 1,
    ) -> None:
        """Open the video.

        Args:
            source: a file, `-` for standard input, an address such as rtsp://…, or a camera such as /dev/video0.
            network: made by `edge_af.load`.
            extractor: the one that the network was trained with, when None: `lite`, or the folder of another.
            every: seconds between two frames; as in the network's training data when None.
            top: classes per item.
            threads: with more than one, decoding and inference run at the same time.

        Raises:
            EdgeAfError: the video cannot be opened, PyAV is missing, or the extractor is not the network's.
        """
        loaded = extractor_of(network, extractor, threads)
        self._extraction = Extraction(source, loaded, every=every or every_of(network), threads=threads)
        self._network, self._top = network, top

    @property
    def features(self) -> Features:
        """Mean of the features so far, one video."""
        return self._extraction.features

    @property
    def extraction(self) -> Extraction:
        """The extraction, with its cost and what decoding found."""
        return self._extraction

    def __iter__(self) -> Iterator[Labels]:
        """Yield labels after each frame, or after each second of sound without a video track, and at the end.

        Raises:
            EdgeAfError: nothing in the video can be decoded.
        """
        leading = "visual" if self._extraction.has_video else "audio"
        now, pending = 0.0, False
        for part in self._extraction:
            pending = part.modality != leading
            if not pending:
                now = part.time
                yield self._labels(now)
        if pending:
            yield self._labels(max(now, self._extraction.decoded.seconds))

    def _labels(self, now: float) -> Labels:
        return Labels(now, self._network.predict(self.features, self._top)[0])


def every_of(network: Network) -> float:
    """Return the seconds between two frames in a network's training data; 1 if unknown."""
    return float((network.extractor or {}).get("every", 1.0))


def extractor_of(network: Network, given: str | Path | None, threads: int = 1) -> Extractor:
    """Load the extractor whose features a network takes.

    Raises:
        EdgeAfError: it is not the one that made the training data, or makes features of other lengths.
    """
    known = network.extractor or {}
    if given is None and known.get("name") not in (None, DEFAULT):
        raise EdgeAfError(
            f"{network.path}: trained on features of the extractor {known['name']!r}. Name its folder with --extractor."
        )
    loaded = load_extractor(given or DEFAULT, threads=threads)
    if loaded.widths != network.widths:
        raise EdgeAfError(wrong_widths(f"the extractor {loaded.description.name}", loaded.widths, network.widths))
    if not known:
        warn(f"{network.path}: the extractor of its training data is unknown; using {loaded.description.name}.")
    if known and known.get("sha256") != loaded.record["sha256"]:
        raise EdgeAfError(
            f"{network.path}: trained on features of another version of the extractor {known.get('name')!r}. Extract the "
            "training videos again with this one and train again, or name the old one's folder with --extractor."
        )
    return loaded
