from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_export import tiny_exports

from edge_af.data.dataset import Dataset


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Path:
    """Both tiny networks as exported; not to be changed."""
    return tiny_exports(tmp_path_factory.getbasetemp() / "tiny-exports", dataset)


@pytest.fixture
def own_exports(exports: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(exports, tmp_path / "exports"))


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benches in this process read 4 MiB for the speed of memory, not a gigabyte."""
    monkeypatch.setattr("edge_af.bench.run.buffers", lambda weights, cache: [2**22])
