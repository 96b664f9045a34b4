"""`benchmarks/frontier.py` exports runs, benches them and writes the table."""

from __future__ import annotations

import subprocess
import sys

import pytest
from small_dataset import REPOSITORY, write_dataset

from edge_af.records.results import read_results


@pytest.mark.slow
def test_the_table_of_two_runs(tmp_path):
    for part, videos, seed in (("train", 600, 0), ("eval", 100, 1)):
        write_dataset(tmp_path / "data" / part, videos=videos, classes=30, seed=seed)
    for name, model, preset in (("base", "fc-late-fusion", "linear"), ("own", "attend-fusion", "1m")):
        flags = ["--model", model, "--preset", preset, "--epochs", "1", "--threads", "1"]
        paths = ["--data", str(tmp_path / "data/train"), "--out", str(tmp_path / name)]
        subprocess.run([sys.executable, "-m", "edge_af", "train", *flags, *paths], check=True)
    command = [sys.executable, "-m", "benchmarks.frontier", "--quick", "--work", str(tmp_path)]
    command += ["--out", str(tmp_path / "table")]
    subprocess.run(command, check=True, cwd=REPOSITORY)
    rows = read_results(tmp_path / "table.json").rows
    assert {row.precision for row in rows} == {"fp32", "int8", "int4", "int2"}
    text = (tmp_path / "table.md").read_text()
    assert text.count("\n| ") == len(rows) + 2 - 1
    fastest = min(rows, key=lambda row: row.latency_ms.p50)
    assert any(line.startswith("| **") and f"{fastest.latency_ms.p50:.3f}" in line for line in text.splitlines())
    assert (tmp_path / "table.html").stat().st_size > 100_000
