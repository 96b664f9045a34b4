"""Fixtures shared by several test folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from small_dataset import write_dataset

from edge_af.data.dataset import Dataset
from edge_af.files import locked

for name, examples in (("fast", 15), ("long", 3000)):
    settings.register_profile(
        name,
        max_examples=examples,
        derandomize=name == "fast",
        deadline=None,  # A slow machine must not fail a test.
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
# GNU readline, which pytest imports, sets these for child processes, and tables would be narrow.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
    os.unsetenv(name)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

YT8M = Path(__file__).resolve().parents[1] / ".." / "shared" / "yt8m"


@pytest.fixture(scope="session")
def yt8m() -> Path:
    """The YouTube-8M sample, which is not part of the repository."""
    if not YT8M.is_dir():
        pytest.skip("needs the YouTube-8M sample in ../shared/yt8m")
    return YT8M


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """600 videos of 30 classes."""
    return write_dataset(tmp_path_factory.mktemp("data") / "train", videos=600, classes=30)


@pytest.fixture(scope="session")
def eval_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """200 other videos of the same classes."""
    return write_dataset(tmp_path_factory.mktemp("data") / "eval", videos=200, classes=30, seed=1)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Path:
    """Exports of both tiny networks, made once for all test processes; read-only."""
    from tiny_export import tiny_exports  # Loads torch.

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with locked(shared / "tiny-exports.lock", "another process makes the tiny exports", wait=True):
        return tiny_exports(shared / "tiny-exports", dataset)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    with playwright.sync_playwright() as started:
        # Chromium's sandbox does not work as root, as in a container; the pages are our own.
        made = started.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
        )
        yield made
        made.close()
