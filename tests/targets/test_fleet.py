"""Several boards at once: one table, with a reason for each board that fails."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import LoopbackBoard, Started, wait_for

from edge_af.errors import EdgeAfError
from edge_af.records.results import read_results
from edge_af.targets.fleet import read_fleet

QUICKLY = ("--runs", 3, "--rounds", 1, "--no-packed")


def fleet_file(folder: Path, *targets: object) -> Path:
    path = folder / "fleet.yaml"
    path.write_text(json.dumps({"targets": targets}))
    return path


@pytest.mark.slow
def test_one_that_fails_stops_none_of_the_others(board: LoopbackBoard, exports: Path, tmp_path: Path):
    fleet = fleet_file(tmp_path, board.target, "ssh://no-such-host.invalid")
    file, out = exports / "attend-fusion/attend-fusion-int8.tflite", tmp_path / "results.json"
    command = [sys.executable, "-m", "edge_af", "bench", file, *QUICKLY, "--target-file", fleet, "--out", out]
    done = subprocess.run(
        [*map(str, command), "--markdown", str(tmp_path / "t.md")],
        env=board.client_environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 2 and "1 of 2 targets gave no results" in done.stderr, done.stderr
    assert "Attend-Fusion tiny" in done.stdout
    assert "no-such-host.invalid: not measured: its host name cannot be resolved" in done.stdout
    (row,) = read_results(tmp_path / f"results-127.0.0.1-{board.port}.json").rows
    assert row.status == "ok" and not out.exists() and "LiteRT" in (tmp_path / "t.md").read_text()


@pytest.mark.slow
def test_ctrl_c_ends_all_of_them(board: LoopbackBoard, exports: Path, tmp_path: Path):
    fleet = fleet_file(tmp_path, {"target": board.target})
    out = tmp_path / "results.json"
    started = Started(
        board, exports / "attend-fusion", "--runs", 10**6, "--no-packed", "--out", out, where=("--target-file", fleet)
    )
    wait_for(lambda: any("worker" in line for line in board.processes()), started)
    started.process.send_signal(signal.SIGINT)
    status, _, news = started.end()
    assert status == 130 and "Traceback" not in news, news
    assert board.is_quiet()


@pytest.mark.parametrize(
    "text, message",
    [
        ("targets: [", "cannot read this fleet"),
        ("targets: []", "names no target"),
        ("hosts: []", "missing required field `targets`"),
        ("targets: [pi]", "targets[0]: --target 'pi'"),
        ("targets: [3]", "targets[0]: expected `str | object`, got `int`"),
        ("targets: [{target: 'ssh://a', of-line: true}]", "of-line: unknown field"),
        ("targets: ['ssh://a', 'ssh://b', 'ssh://a']", "names a more than once"),
    ],
)
def test_what_is_no_fleet(tmp_path: Path, text: str, message: str):
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    with pytest.raises(EdgeAfError) as caught:
        read_fleet(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
