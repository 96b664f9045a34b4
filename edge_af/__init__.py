"""edge-af: an audio-visual video classifier from training to a Raspberry Pi or a phone, with its losses measured.

Importing this package does not import numpy, a runtime or a training framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_af.__version__ import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from edge_af.runtime import Scorer

__all__ = ["__version__", "load"]


def load(path: str | Path, *, runtime: str | None = None, threads: int = 1, packed: str | Path | None = None) -> Scorer:
    """Open a run folder, an ONNX file or a TFLite file for scoring. See `edge_af.runtime.load_safely`."""
    from edge_af.runtime import load_safely

    return load_safely(path, runtime=runtime, threads=threads, packed=packed)
