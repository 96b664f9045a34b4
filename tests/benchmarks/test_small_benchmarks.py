"""The smaller benchmark scripts run on real files and print whole tables."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import fixed_cost, pipeline


def test_the_fixed_cost_of_small_files(exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fixed_cost, "INFERENCES", 40)
    folders = [str(exports / name) for name in ("attend-fusion", "fc-late-fusion")]
    done = CliRunner().invoke(fixed_cost.main, [*folders, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["file"] for row in rows] == [
        "one layer, one class",
        "attend-fusion tiny int8",
        "fc-late-fusion tiny int8",
    ]
    assert all(row["whole_us"] > 0 and row["invoke_us"] > 0 for row in rows)
    assert rows[1]["operators"] > rows[2]["operators"] > rows[0]["operators"]
    lines = (tmp_path / "out.md").read_text().splitlines()
    assert {line.count("|") for line in lines[:5]} == {8}


def test_a_fitted_exponent():
    rows = [{"videos": 10**n, "train": {"seconds": 3 * 10 ** (n * 0.9)}} for n in (3, 4, 5)]
    fitted = pipeline.exponent(rows, "train")
    assert fitted is not None and math.isclose(fitted, 0.9)
    assert pipeline.exponent(rows[:1], "train") is None
