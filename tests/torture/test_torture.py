"""Short run of `make torture`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds leftover processes in /proc")
def test_nothing_is_lost_and_nothing_breaks(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent), "--size", "short", "--out", str(tmp_path / "torture")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads((tmp_path / "torture.json").read_text())["runs"]
    assert sum(kind["cases"] for kind in found["kinds"].values()) > 400
