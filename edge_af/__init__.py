"""edge-af: an audio-visual video classifier from training to a Raspberry Pi or a phone, with its losses measured.

The public Python API is `__all__`; see `edge_af.api`. Importing this package imports neither numpy nor a runtime nor a
training framework: that happens when one of these names is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_af.__version__ import __version__
from edge_af.errors import EdgeAfError

if TYPE_CHECKING:
    from edge_af.api import Features, Network, Prediction, load
    from edge_af.features.stream import VideoStream
else:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "VideoStream":
            from edge_af.features import stream

            return stream.VideoStream
        from edge_af import api

        return getattr(api, name)


__all__ = ["EdgeAfError", "Features", "Network", "Prediction", "VideoStream", "__version__", "load"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
