"""Notices of LiteRT, TensorFlow and ONNX Runtime never reach the terminal."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_export import CONFIGS

from edge_af.data.dataset import Dataset

NOISE = re.compile(
    r"(?mi)^(info|warning|error): \[|^(info|warning|error): .*(tensorflow|xnnpack delegate)|^[IWE]\d{4} |"
    r"^\d{4}-\d\d-\d\d[ T]\d\d:|absl|onednn|tensorflow binary|cuda|\.cc:\d+\]"
)
SETTINGS = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")
"""Variables of a developer's own environment that would silence a library."""


def quiet(*arguments: object) -> str:
    """Run a command; return what it prints on standard error, without noise."""
    environment = {name: text for name, text in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, "-m", "edge_af", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert not NOISE.search(done.stdout + done.stderr), done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Path:
    """The run of an untrained network."""
    import torch

    from edge_af.models.networks import build, count_params
    from edge_af.models.run import Run, save_run

    folder = tmp_path_factory.mktemp("run")
    config = CONFIGS["attend-fusion"]
    network = build(config, dataset.classes).eval()
    torch.manual_seed(0)
    about = Run("tiny", config, dataset.classes, count_params(network), 0.25, dataset.class_names, weights="weights-1")
    save_run(folder, about, network)
    return folder


@pytest.mark.parametrize("name", ["int8.tflite", "fp32.tflite", "int8.onnx"])
def test_predict_and_eval(name: str, exports: Path, eval_dataset: Dataset):
    file = exports / f"attend-fusion/attend-fusion-{name}"
    assert quiet("predict", file, eval_dataset.folder, "--videos", 2).count("\n") == 1
    # The progress, and the network's name.
    assert quiet("eval", file, "--data", eval_dataset.folder).count("\n") == 2


def test_files_without_a_manifest(exports: Path, eval_dataset: Dataset, tmp_path: Path):
    file = shutil.copy(exports / "attend-fusion/attend-fusion-int8.tflite", tmp_path)
    assert quiet("predict", file, eval_dataset.folder, "--videos", 2).count("\n") == 1


@pytest.mark.slow
def test_bench_and_compare(exports: Path, eval_dataset: Dataset, tmp_path: Path):
    folder = exports / "attend-fusion"
    quiet("bench", folder, "--data", eval_dataset.folder, "--runs", 2, "--rounds", 1, "--out", tmp_path / "r.json")
    quiet("compare", folder, folder, "--data", eval_dataset.folder)


@pytest.mark.slow
def test_export(run_folder: Path, dataset: Dataset, tmp_path: Path):
    data = ("--calibration-data", dataset.folder, "--any-calibration-data", "--calibration-videos", 32)
    quiet("export", run_folder, "--int8", "--fp16", *data, "--out", tmp_path / "float")
    quiet("export", run_folder, "--format", "tflite", "--int8", "--io", "int8", *data, "--out", tmp_path / "integer")
    # The first use of LiteRT is not the one that another part of the export silences.
    code = (
        "import sys; from pathlib import Path; from edge_af.export.proof import tflite_execution\n"
        "tflite_execution(Path(sys.argv[1]), [])"
    )
    file = tmp_path / "float/attend-fusion-int8.tflite"
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_data_prepare(tmp_path: Path):
    records = tmp_path / "records"
    quiet("data", "synth", records, "--videos-train", 20, "--videos-eval", 5, "--classes", 10)
    quiet("data", "prepare", records / "train", "--out", tmp_path / "prepared")
    quiet("data", "info", records / "train")


def test_a_load_with_packed_weights(exports: Path, tmp_path: Path):
    # LiteRT says something when it is unloaded, which nothing can hide. `os._exit` skips that.
    code = (
        "import os, sys, edge_af\nkept = [edge_af.load(sys.argv[1], packed=sys.argv[2]) for _ in range(2)]\nos._exit(0)"
    )
    file = exports / "attend-fusion/attend-fusion-int8.tflite"
    done = subprocess.run([sys.executable, "-c", code, file, tmp_path / "packed"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
