"""`benchmarks/training.py` trains the networks and records their table."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from small_dataset import REPOSITORY, write_dataset


@pytest.mark.slow
def test_a_row_is_trained_measured_and_recorded_once(tmp_path):
    for part, videos, seed in (("train", 1200, 0), ("eval", 200, 1)):
        write_dataset(tmp_path / "data" / part, videos=videos, classes=30, seed=seed)
    arguments = ["--data", str(tmp_path / "data"), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "table")]
    command = [
        sys.executable,
        "-m",
        "benchmarks.training",
        *arguments,
        "--only",
        "linear",
        "--only",
        "attend-fusion-18m",
    ]
    subprocess.run(command, check=True, cwd=REPOSITORY)
    first = (tmp_path / "table.json").read_bytes()
    rows = {row["name"]: row for row in json.loads(first)["rows"]}
    assert list(rows) == ["linear", "attend-fusion-18m"]
    assert rows["linear"]["params"] == 1153 * 30
    assert rows["linear"]["videos"] == 200 and 0.2 < rows["linear"]["gap_at_20"] <= 1
    assert rows["linear"]["epochs"] == 8 and "--preset linear" in rows["linear"]["command"]
    assert "| Linear model | 0.0M |" in (tmp_path / "table.md").read_text()
    # A second run does nothing.
    again = subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True, text=True)
    assert "$ edge-af" not in again.stderr
    assert (tmp_path / "table.json").read_bytes() == first
