"""Fixtures for video files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def clip(tmp_path: Path) -> Any:
    """Write a clip into the test's folder; see `clips.write_clip`."""
    pytest.importorskip("av", reason="video files need PyAV")
    from clips import write_clip

    def write(name: str, *given: Any, **more: Any) -> Path:
        return write_clip(tmp_path / name, *given, **more)

    return write
