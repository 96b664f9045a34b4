"""Fixtures that more than one room uses."""

from __future__ import annotations

import pytest
from small_dataset import write_dataset

from edge_af.data.dataset import Dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """600 videos of 30 classes."""
    return write_dataset(tmp_path_factory.mktemp("data") / "train", videos=600, classes=30)


@pytest.fixture(scope="session")
def eval_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """200 other videos of the same classes."""
    return write_dataset(tmp_path_factory.mktemp("data") / "eval", videos=200, classes=30, seed=1)
