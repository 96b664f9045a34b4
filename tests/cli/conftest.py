from __future__ import annotations

from pathlib import Path

import pytest
from tiny_export import tiny_exports

from edge_af.data.dataset import Dataset


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Path:
    """Both tiny networks as exported; not to be changed."""
    return tiny_exports(tmp_path_factory.getbasetemp() / "tiny-exports", dataset)
