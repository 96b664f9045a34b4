"""A command that receives a termination signal cleans up, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def started(*arguments: object, ignore_ctrl_c: bool = False) -> subprocess.Popen[str]:
    def as_from_a_terminal() -> None:
        # The test runner may have been started with these signals ignored, and children inherit that.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignore_ctrl_c else signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "edge_af", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=as_from_a_terminal,
    )  # fmt: skip


def staged(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the command has created its staging folder in `folder`."""
    end = time.monotonic() + 60
    while not any(path.is_dir() for path in folder.iterdir()):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("ignore_ctrl_c", [False, True])
@pytest.mark.parametrize("name, status", [("SIGTERM", 143), ("SIGHUP", 129)])
def test_what_was_half_made_is_gone(tmp_path: Path, name: str, status: int, ignore_ctrl_c: bool):
    videos = ("--videos-train", 200_000, "--videos-eval", 100)
    process = started("data", "synth", tmp_path / "out", *videos, ignore_ctrl_c=ignore_ctrl_c)
    staged(tmp_path, process)
    process.send_signal(getattr(signal, name))
    _, told = process.communicate(timeout=60)
    assert process.returncode == status and told.rstrip().endswith(f"edge-af: ended by {name}."), told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_terminal_may_go_under_nohup(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_af", "data", "synth", str(tmp_path / "out"), "--videos-train", "20000"],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    staged(tmp_path, process)
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait(120) == 0 and (tmp_path / "out").is_dir()


@pytest.mark.slow
def test_a_bench_keeps_its_rows(tmp_path: Path, exports: Path):
    out = tmp_path / "r.json"
    files = [exports / f"attend-fusion/attend-fusion-{name}.tflite" for name in ("fp32", "int8")]
    process = started(
        "bench", *files, "--no-packed", "--rounds", 2, "--runs", 100_000_000, "--timeout", 4, "--out", out
    )
    end = time.monotonic() + 60
    while not out.exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 143 and "1 finished rows are kept" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == [".r.json.bench", "r.json"]
