"""`--dry-run` of bench and compare: the plan and its longest duration, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge_af.bench import dry_run as bench_dry_run
from edge_af.cli import cli
from edge_af.data.dataset import Dataset


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, which the test must leave empty."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def edge_af(*arguments: object) -> Result:
    done = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False, standalone_mode=False)
    assert done.exit_code == 0
    return done


def planned(verb: str, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(edge_af(verb, "--dry-run", "--json", *arguments).stdout)
    return found


def test_bench_lists_its_rows_and_its_longest_duration(exports: Path, eval_dataset: Dataset, empty_folder: Path):
    command = ("bench", exports / "attend-fusion", "--data", eval_dataset.folder, "--threads", 1, "--threads", 2)
    files = ("--out", "new/results.json", "--html", "new/page.html")
    found = planned(*command, *files)
    assert [(row["file"], row["runtime"], row["threads"], row["batch"]) for row in found["rows"]] == [
        (f"attend-fusion/attend-fusion-{name}", "onnxruntime" if name.endswith("onnx") else "litert", threads, 1)
        for name in ("fp32.onnx", "fp32.tflite", "int8.onnx", "int8.tflite")
        for threads in (1, 2)
    ]
    assert {row["status"] for row in found["rows"]} == {None}
    # 8 rows in 4 rounds, each with 1 s of warm-up and a quarter of 10 s.
    assert (found["measurements"], found["seconds_at_most"]) == (32, 32 * 3.5)
    assert (found["accuracy_files"], found["accuracy_videos"]) == (4, 4 * eval_dataset.videos)
    text = edge_af(*command, *files, "--dry-run").stdout
    assert "at most 112 s" in text and text.count("to measure") == 8 and "800 videos" in text
    assert not list(empty_folder.iterdir())


def test_bench_with_a_number_of_inferences_has_no_longest_duration(exports: Path):
    found = planned("bench", exports / "attend-fusion/attend-fusion-int8.onnx", "--runs", 10)
    assert found["seconds_at_most"] is None and found["accuracy_videos"] == 0
    assert (found["rounds"], found["inferences"]) == (4, 3)


def test_bench_knows_what_cannot_be_measured(exports: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_dry_run, "available_memory", lambda: 1000)
    monkeypatch.setattr(bench_dry_run, "is_installed", lambda package: package == "onnxruntime")
    found = planned("bench", exports / "attend-fusion")
    assert {(row["runtime"], row["status"]) for row in found["rows"]} == {
        ("onnxruntime", "does-not-fit"),
        ("litert", "missing-runtime"),
    }
    assert found["measurements"] == found["seconds_at_most"] == 0
    assert "pip install ai-edge-litert" in edge_af("bench", exports / "attend-fusion", "--dry-run").stdout


def test_bench_on_other_machines_does_not_connect(exports: Path, tmp_path: Path):
    command = ("bench", exports / "attend-fusion", "--threads", 1, "--threads", 2)
    board = planned(*command, "--target", "emulated:pi5")
    assert [row["status"] for row in board["rows"]] == [None, "failed"] * 4 and board["seconds_at_most"] is None
    phone = planned(*command, "--target", "adb:nowhere", "--benchmark-model", "absent")
    assert {row["runtime"]: row["status"] for row in phone["rows"]} == {
        "onnxruntime": "missing-runtime",
        "litert": None,
    }
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("targets: [ssh://pi@nowhere.invalid, emulated:pi4]")
    found = planned(*command, "--target-file", fleet)
    assert [one["target"] for one in found["targets"]] == ["pi@nowhere.invalid", "emulated:pi4"]
    assert [one["measurements"] for one in found["targets"]] == [32, 4]


def test_bench_says_that_the_output_is_taken(exports: Path, tmp_path: Path):
    out = tmp_path / "results.json"
    out.write_text("no results")
    done = edge_af("bench", exports / "attend-fusion", "--out", out, "--dry-run")
    assert "the bench would not start" in done.stderr and out.read_text() == "no results"


@pytest.mark.slow
def test_bench_leaves_out_what_is_measured(exports: Path, tmp_path: Path):
    out = tmp_path / "results.json"
    file = exports / "attend-fusion/attend-fusion-int8.tflite"
    edge_af("bench", file, "--quick", "--no-packed", "--out", out)
    results = json.loads(out.read_text())
    out.write_text(json.dumps({**results, "rows_planned": 4, "is_complete": False}))
    found = planned("bench", exports / "attend-fusion", "--quick", "--no-packed", "--out", out)
    assert [row["status"] for row in found["rows"]] == [None, None, None, "ok"] and found["measurements"] == 3
    found = planned("bench", exports / "attend-fusion", "--no-packed", "--out", out)
    assert {row["status"] for row in found["rows"]} == {None}


def test_compare_lists_its_pairs_gates_and_longest_duration(
    exports: Path, eval_dataset: Dataset, tmp_path: Path, empty_folder: Path
):
    base, candidate = (exports / f"attend-fusion/attend-fusion-{name}.onnx" for name in ("fp32", "int8"))
    budget = tmp_path / "budget.yaml"
    budget.write_text("limits: {'*': {size_bytes: 1 GB}}")
    command = ("compare", base, candidate, "--data", eval_dataset.folder, "--budget", "60s", "--budget-file", budget)
    found = planned(*command, "--max-slowdown", "20%", "--out", "new/compare.json", "--history", "new/h.jsonl")
    (pair,) = found["pairs"]
    assert (pair["base"], pair["candidate"], pair["is_timed"]) == (str(base), str(candidate), True)
    assert found["gates"]["max_slowdown"] == 0.2 and found["gates"]["max_gap_drop"] == 0.002
    assert found["limits"] == {"*": {"size_bytes": 1e9}}
    # Two processes for the memory of each file, each with 1 s of warm-up and 2 s of inferences.
    assert found["seconds_at_most"] == 60 + 2 * 2 * 3 and found["accuracy_videos"] == 2 * eval_dataset.videos
    text = edge_af(*command, "--dry-run").stdout
    assert "at most 72 s" in text and "*: size bytes" in text
    assert not list(empty_folder.iterdir())


def test_compare_knows_what_is_not_timed(exports: Path, tmp_path: Path):
    folder = exports / "attend-fusion"
    assert not any(pair["is_timed"] for pair in planned("compare", folder, folder)["pairs"])
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((folder / "attend-fusion-int8.onnx").read_bytes()[:-1000])
    (pair,) = planned("compare", folder / "attend-fusion-int8.onnx", broken)["pairs"]
    assert not pair["is_timed"] and pair["problem"] is not None


def test_compare_runs_no_command(empty_folder: Path):
    found = planned("compare", "--base-ref", "main", "--", "touch", "made")
    assert found["pairs"] is None and found["seconds_at_most"] == 100
    assert not list(empty_folder.iterdir())
