"""The file beside TFRecords of another extractor than YouTube-8M's: `extractor.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_af.data import Widths
from edge_af.errors import EdgeAfError
from edge_af.files import read_json, write_json
from edge_af.typed import Mismatch, Positive, built

SIDECAR = "extractor.json"


@dataclass(frozen=True)
class FeatureName:
    """Name and length of one feature vector."""

    name: str
    width: Positive


@dataclass(frozen=True)
class Sidecar:
    """Contents of the file."""

    features: dict[str, FeatureName]
    """For `visual` and `audio`."""
    extractor: dict[str, Any] | None = None
    """See the index of a prepared dataset."""
    schema_version: int = 1

    def __post_init__(self) -> None:
        if set(self.features) != {"visual", "audio"}:
            raise Mismatch("features must have visual and audio")

    @property
    def widths(self) -> Widths:
        """Lengths of the feature vectors."""
        return Widths(**{name: one.width for name, one in self.features.items()})


def read_sidecar(folder: Path) -> Sidecar | None:
    """Read the sidecar of a folder of TFRecords; None without one.

    Raises:
        EdgeAfError: it is damaged.
    """
    path = folder / SIDECAR
    if not path.is_file():
        return None
    try:
        return built(Sidecar, read_json(path, "extractor file"))
    except Mismatch as error:
        raise EdgeAfError(f"{path}: {error}. Extract the features again.") from None


def write_sidecar(folder: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of a folder of TFRecords."""
    write_json(folder / SIDECAR, asdict(sidecar))
