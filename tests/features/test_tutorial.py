"""A shortened form of the tutorial on video clips: every held-out clip gets its right label first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("av", reason="video files need PyAV")


@pytest.mark.slow
def test_clips_of_every_class_get_their_label(tmp_path: Path):
    def run(*words: object) -> str:
        command = [sys.executable, "-m", "edge_af", *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("data", "clips", "train", "--clips", 6)
    run("data", "clips", "eval", "--clips", 2, "--seed", 1)
    run("features", "train", "--labels", "train/labels.csv", "--out", "prepared/train")
    run("features", "eval", "--labels", "eval/labels.csv", "--vocabulary", "prepared/train", "--out", "prepared/eval")
    how = ("--epochs", 100, "--batch", 8, "--lr", "3e-3", "--held-out", 0.1)
    run("train", "--model", "attend-fusion", "--preset", "1m", *how, "--data", "prepared/train", "--out", "run")
    run("export", "run", "--int8", "--calibration-data", "prepared/train", "--out", "artifacts")
    artifact = "artifacts/attend-fusion-int8.tflite"
    found = json.loads(run("predict", artifact, "prepared/eval", "--videos", 12, "--json"))
    assert len(found) == 12
    for video in found:
        assert video["labels"][0]["name"] == video["id"].partition("-")[0]
    last = json.loads(run("watch", artifact, "eval/siren-1.mp4", "--json").splitlines()[-1])
    assert last["labels"][0]["name"] == "siren"
