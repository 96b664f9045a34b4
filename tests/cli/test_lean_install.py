"""The minimal install of a Raspberry Pi is enough: measuring commands run without the packages for training and export."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_export import in_other_bytes

from edge_af.data.dataset import Dataset
from edge_af.files import write_json
from edge_af.models.presets import AttendFusionConfig
from edge_af.models.run import SCHEMA_VERSION, Run

HEAVY = (
    "torch", "tensorflow", "onnx", "onnxscript", "onnx_ir", "safetensors", "jax", "google.protobuf",
    "pytest", "matplotlib", "PIL", "pandas", "scipy", "psutil", "jsonschema", "vl_convert",
)  # fmt: skip

BLOCKER = f"""
import sys

class Blocker:
    blocked = {HEAVY!r}

    def find_spec(self, name, path=None, target=None):
        if any(name == heavy or name.startswith(heavy + ".") for heavy in self.blocked):
            raise ModuleNotFoundError(f"No module named {{name!r}} (kept from this test)", name=name)
        return None

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment whose `sitecustomize` blocks heavy packages in every Python process, bench workers included."""
    folder = tmp_path_factory.mktemp("lean")
    (folder / "sitecustomize.py").write_text(BLOCKER)
    repository = Path(__file__).resolve().parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(repository)])}


def run(environment: dict[str, str], *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_blocker_blocks(environment: dict[str, str]):
    for name in ("torch", "tensorflow", "onnx", "safetensors"):
        done = subprocess.run([sys.executable, "-c", f"import {name}"], env=environment, capture_output=True, text=True)
        assert done.returncode == 1 and "kept from this test" in done.stderr


@pytest.mark.parametrize(
    ("network", "title"),
    [("attend-fusion", "Attend-Fusion"), pytest.param("fc-late-fusion", "FC Late Fusion", marks=pytest.mark.slow)],
)
def test_bench_report_eval_and_predict_run(
    environment: dict[str, str], exports: Path, eval_dataset: Dataset, tmp_path: Path, network: str, title: str
):
    out = tmp_path / "results.json"
    command = ("-m", "edge_af")
    run(
        environment, *command, "bench", exports / network, "--data", eval_dataset.folder, "--runs", 20,
        "--rounds", 1, "--no-packed", "--out", out, "--html", tmp_path / "page.html", "--markdown", tmp_path / "table.md",
    )  # fmt: skip
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 4 and {row["status"] for row in rows} == {"ok"}
    assert (tmp_path / "page.html").stat().st_size > 10_000 and (tmp_path / "table.md").stat().st_size > 1_000

    assert title in run(environment, *command, "report", out)

    for row in rows:
        file = exports / row["artifact"] / row["file"]
        found = json.loads(run(environment, *command, "eval", file, "--data", eval_dataset.folder, "--json"))
        # `edge-af eval` and the bench's worker give the same values.
        for name in (
            "gap_at_20",
            "f1_micro",
            "f1_macro",
            "ties_share",
            "f1_threshold",
            "hit_at_1",
            "perr",
            "map",
            "videos",
            "params",
        ):
            assert found[name] == row[name]

    file = exports / f"{network}/{network}-int8.tflite"
    videos = json.loads(run(environment, *command, "predict", file, eval_dataset.folder, "--videos", 2, "--json"))
    assert [video["id"] for video in videos] == ["v00000", "v00001"]
    visual, audio = eval_dataset.features(slice(2))
    np.savez(tmp_path / "two.npz", visual=visual, audio=audio)
    again = json.loads(run(environment, *command, "predict", file, tmp_path / "two.npz", "--json"))
    assert [video["labels"] for video in again] == [video["labels"] for video in videos]


@pytest.mark.slow
def test_compare_runs(environment: dict[str, str], exports: Path, eval_dataset: Dataset, tmp_path: Path):
    budget = tmp_path / "budget.yaml"
    budget.write_text("limits: {'*': {size_bytes: 1 GB, gap_at_20: 0}}")
    for name in ("attend-fusion-int8.onnx", "attend-fusion-int8.tflite"):
        file = exports / "attend-fusion" / name
        again = in_other_bytes(file, tmp_path / name)
        command = [
            sys.executable, "-m", "edge_af", "compare", again, file, "--data", eval_dataset.folder, "--budget", "0.1s",
            "--budget-file", budget, "--json",
        ]  # fmt: skip
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
        # The budget is too short for a timing verdict; all other checks pass.
        assert done.returncode == 3, done.stderr
        held = {check["name"]: check["status"] for check in json.loads(done.stdout)["pairs"][0]["checks"]}
        assert held.pop("time") == "unknown" and set(held.values()) == {"passed"}
        assert {"agreement", "multiply_adds", "peak_memory_bytes", "gap_at_20", "*: size_bytes"} <= set(held)


def test_bundle_and_verify_run(environment: dict[str, str], exports: Path, tmp_path: Path):
    run(environment, "-m", "edge_af", "bundle", exports / "attend-fusion", "--out", tmp_path / "af.zip")
    found = run(environment, "-m", "edge_af", "verify", tmp_path / "af.zip", "--out", tmp_path / "out", "--json")
    assert len(json.loads(found)["files"]) == 4


def test_no_verbs_help_needs_them(environment: dict[str, str]):
    for verb in ("bench", "compare", "report", "eval", "predict", "bundle", "verify", "doctor"):
        assert "Usage" in run(environment, "-m", "edge_af", verb, "--help")


def test_a_verb_that_needs_more_says_what_to_install(
    environment: dict[str, str], eval_dataset: Dataset, tmp_path: Path
):
    config = AttendFusionConfig(tokens=2, token_width=8, heads=2, dropout=0.0)
    run = Run(preset="tiny", config=config, classes=30, params=1, f1_threshold=0.5, class_names=[], weights="absent")
    write_json(tmp_path / "run.json", {"schema_version": SCHEMA_VERSION, "model": run.model, **dataclasses.asdict(run)})
    command = [sys.executable, "-m", "edge_af", "eval", str(tmp_path), "--data", str(eval_dataset.folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "pip install torch" in done.stderr
    assert "Traceback" not in done.stderr
