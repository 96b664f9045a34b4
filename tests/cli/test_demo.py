"""`edge-af demo` on real videos. CI runs the quick demo on synthetic data."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REAL = Path(__file__).resolve().parents[3] / "shared" / "yt8m" / "rounded-2018"


def test_the_demo_replaces_nothing_that_is_not_its_own(tmp_path):
    weights = tmp_path / "runs" / "attend-fusion" / "weights-e6.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_text("a week of training")
    demo = [sys.executable, "-m", "edge_af", "demo", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(demo, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no demo made it" in done.stderr
    assert weights.read_text() == "a week of training"


@pytest.mark.slow
def test_a_stopped_demo_says_how_to_go_on(tmp_path):
    command = [sys.executable, "-m", "edge_af", "demo", "--quick", "--out", str(tmp_path / "demo")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        said = []
        for line in demo.stdout:
            said.append(line)
            if line.startswith("epoch 1/2"):
                demo.send_signal(signal.SIGINT)
    assert demo.returncode == 130, said
    assert said[-1] == "edge-af: the demo was stopped. Run it again: it keeps the prepared data and repeats the rest.\n"
    assert "--resume" not in said[-1]


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the YouTube-8M sample beside the repository, in ../shared/yt8m")
def test_real_videos_from_tfrecords_to_the_page(tmp_path):
    demo = [sys.executable, "-m", "edge_af", "demo", "--data", str(REAL), "--out", str(tmp_path / "demo")]
    done = subprocess.run(demo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "demo" / "results.json").read_text())["rows"]
    gap = {(row["model"], row["precision"], row["runtime"]): row["gap_at_20"] for row in rows}
    assert len(gap) == 8
    for runtime in ("onnxruntime", "litert"):
        assert gap["attend-fusion", "fp32", runtime] >= 0.62
        for model in ("attend-fusion", "fc-late-fusion"):
            assert gap[model, "int8", runtime] == pytest.approx(gap[model, "fp32", runtime], abs=0.002)
    page = (tmp_path / "demo" / "results.html").read_text()
    assert "attend-fusion" in page.lower()
