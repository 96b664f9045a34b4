"""Prepared datasets: made from YouTube-8M TFRecords, described and read; synthetic data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

VISUAL_FEATURES = 1024
"""Length of a video's visual feature vector (`mean_rgb`)."""

AUDIO_FEATURES = 128
"""Length of a video's audio feature vector (`mean_audio`)."""

MOST_CLASSES = 65536
"""Labels are stored as uint16."""

LARGEST_FEATURE = 32.0
"""Largest magnitude of a feature. YouTube-8M's lie between -2 and 2.01; other whitened features go a little beyond."""

NO_FEATURE = (
    "features lie between -2 and 2.01 in YouTube-8M: dequantize its 8-bit codes q first, as q·4/255 + 4/512 − 2, or prepare "
    "its TFRecords with `edge-af data prepare`"
)
"""Explains which values are features."""


class Features(NamedTuple):
    """Feature vectors of n videos."""

    visual: NDArray[Any]
    """(n, 1024), a float dtype."""
    audio: NDArray[Any]
    """(n, 128), a float dtype."""

    @property
    def videos(self) -> int:
        """Number of videos."""
        return len(self.visual)

    def take(self, rows: slice | Sequence[int] | NDArray[Any]) -> Features:
        """Return the features of the videos `rows`, in that order."""
        return Features(self.visual[rows], self.audio[rows])
