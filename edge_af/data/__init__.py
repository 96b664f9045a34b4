"""Prepared datasets: made from YouTube-8M TFRecords, described and read; synthetic data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

VISUAL_FEATURES = 1024
"""Length of YouTube-8M's visual feature vector (`mean_rgb`)."""

AUDIO_FEATURES = 128
"""Length of YouTube-8M's audio feature vector (`mean_audio`)."""

MOST_CLASSES = 65536
"""Labels are stored as uint16."""

LARGEST_FEATURE = 32.0
"""Largest magnitude of a feature that YouTube-8M's extractor may have made. Its own lie between -2 and 2.01."""

MARGIN = 16
"""A network accepts features of up to this multiple of the largest magnitude in its training data."""

NO_FEATURE = (
    "features lie between -2 and 2.01 in YouTube-8M: dequantize its 8-bit codes q first, as q·4/255 + 4/512 − 2, or prepare "
    "its TFRecords with `edge-af data prepare`"
)
"""Explains which values are features."""


@dataclass(frozen=True)
class Widths:
    """Lengths of a video's two feature vectors."""

    visual: int = VISUAL_FEATURES
    audio: int = AUDIO_FEATURES

    def of(self, modality: str) -> int:
        """Return the length of the `visual` or the `audio` feature vector."""
        return {"visual": self.visual, "audio": self.audio}[modality]


YOUTUBE8M = Widths()


def wrong_widths(where: str, found: Widths, expected: Widths) -> str:
    """Explain that features have other lengths than a network takes."""
    return (
        f"{where}: {found.visual} visual and {found.audio} audio features per video; the network takes {expected.visual} and "
        f"{expected.audio}. Use features of the extractor that it was trained on."
    )


def largest_accepted(largest: float | None) -> float:
    """Return the largest magnitude of a feature that a network accepts.

    Args:
        largest: largest magnitude in its training data; None if not recorded, as for YouTube-8M's features.
    """
    return LARGEST_FEATURE if largest is None else max(LARGEST_FEATURE, MARGIN * largest)


class Features(NamedTuple):
    """Feature vectors of n videos."""

    visual: NDArray[Any]
    """(n, width), a float dtype."""
    audio: NDArray[Any]
    """(n, width), a float dtype."""

    @property
    def widths(self) -> Widths:
        """Lengths of the feature vectors."""
        return Widths(self.visual.shape[-1], self.audio.shape[-1])

    @property
    def videos(self) -> int:
        """Number of videos."""
        return len(self.visual)

    def take(self, rows: slice | Sequence[int] | NDArray[Any]) -> Features:
        """Return the features of the videos `rows`, in that order."""
        return Features(self.visual[rows], self.audio[rows])


def random_features(videos: int, widths: Widths) -> Features:
    """Return random float32 features, uniform over YouTube-8M's range; the same on every call."""
    import numpy as np

    random = np.random.default_rng(0)
    return Features(
        *(random.uniform(-2, 2, (videos, width)).astype(np.float32) for width in (widths.visual, widths.audio))
    )
