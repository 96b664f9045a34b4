"""The board profiles are complete and plausible, and name their sources."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from small_dataset import REPOSITORY

from edge_af.machine.device import FEATURES

DEVICES = sorted((REPOSITORY / "benchmarks/devices").glob("*.yaml"))
FIELDS = {
    "name", "machine", "cores", "core", "clock_ghz", "memory_bytes", "features", "int8_dot_product",
    "last_level_cache_bytes", "read_gb_per_s_one_core", "read_gb_per_s_all_cores", "copy_gb_per_s_one_core", "sources",
}  # fmt: skip


@pytest.mark.parametrize("path", DEVICES, ids=lambda path: path.stem)
def test_a_profile(path: Path):
    device = yaml.safe_load(path.read_text())
    assert set(device) - {"note"} == FIELDS and device["sources"]
    assert device["machine"] == "aarch64" and set(device["features"]) <= FEATURES
    assert (device["int8_dot_product"] is not None) == ("asimddp" in device["features"])
    for name in ("read_gb_per_s_one_core", "copy_gb_per_s_one_core", "read_gb_per_s_all_cores"):
        low, high = device[name] or (1.0, 1.0)
        assert 0.5 < low <= high < 100
    assert 2**18 < device["last_level_cache_bytes"] < 2**24 and all(0.5 < clock < 4 for clock in device["clock_ghz"])


def test_the_guide_says_the_same():
    guide = (REPOSITORY / "docs/how-to/raspberry-pi.md").read_text()
    assert len(DEVICES) == 4
    for path in DEVICES:
        device = yaml.safe_load(path.read_text())
        assert f"{device['cores']} × {device['core']}, {device['clock_ghz'][0]} " in guide
