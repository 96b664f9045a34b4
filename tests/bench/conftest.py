from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def own_exports(exports: Path, tmp_path: Path) -> Path:
    """A private copy of the exports that a test may damage."""
    return Path(shutil.copytree(exports, tmp_path / "exports"))


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benches in this process measure memory bandwidth on 4 MiB, not on a gigabyte."""
    monkeypatch.setattr("edge_af.bench.local.buffers", lambda weights, cache: [2**22])
