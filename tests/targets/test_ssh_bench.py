"""`edge-af bench --target ssh://…` against a real OpenSSH server: the main path, interruptions, broken connections."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import LoopbackBoard, Started, wait_for

from edge_af.data.dataset import Dataset
from edge_af.records.results import read_results

QUICKLY = ("--runs", 3, "--rounds", 1, "--no-packed")
IN_TWO_ROUNDS = ("--runs", 2000, "--rounds", 2, "--no-packed", "--runtime", "litert")
HOSTILE = """it's $(touch pwned) `touch pwned` "q" ; touch pwned \\
& | * -rf"""


def test_the_results_are_those_of_a_bench_there(
    board: LoopbackBoard, exports: Path, eval_dataset: Dataset, tmp_path: Path
):
    """File names contain shell syntax."""
    networks, data, out = tmp_path / HOSTILE, tmp_path / f"-{HOSTILE}", tmp_path / "results 'of it'.json"
    shutil.copytree(exports / "attend-fusion", networks)
    shutil.copytree(eval_dataset.folder, data)
    arguments = (networks, "--data", data, *QUICKLY, "--runtime", "litert", "--threads", 2)
    done = board.bench(*arguments, "--out", out, "--markdown", tmp_path / "table.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = read_results(out)
    assert [(row.precision, row.threads) for row in results.rows] == [("fp32", 2), ("int8", 2)]
    assert {row.artifact for row in results.rows} == {HOSTILE} and results.data is not None
    assert results.data.name == f"-{HOSTILE}" and results.data.fingerprint == eval_dataset.fingerprint()
    assert all(row.status == "ok" and row.gap_at_20 is not None and row.latency_ms.n == 3 for row in results.rows)
    assert "Attend-Fusion tiny" in done.stdout and "LiteRT" in (tmp_path / "table.md").read_text()
    assert "bench: 2 measurements" in done.stderr and f"accuracy: {2 * eval_dataset.videos} videos" in done.stderr
    assert f"copying to 127.0.0.1:{board.port}" in done.stderr and "Welcome" not in done.stderr
    assert board.is_quiet()
    assert not list((board.cache / "sessions").iterdir()) and not list((board.folder / "tmp").iterdir())
    assert not [path for path in tmp_path.rglob("pwned")]
    assert board.cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_what_is_there_is_not_copied_again(board: LoopbackBoard, exports: Path, tmp_path: Path):
    """Files are found under other names, and only damaged ones are copied again."""
    shutil.copytree(exports / "attend-fusion", tmp_path / "other")
    arguments = (*QUICKLY, "--runtime", "litert", "--out", tmp_path / "r.json", "--overwrite")
    assert board.bench(tmp_path / "other", *arguments).returncode == 0
    damaged = next(path for path in (board.cache / "files").iterdir() if path.stat().st_size < 50_000)
    damaged.chmod(0o600)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    done = board.bench(exports / "attend-fusion", *arguments)
    assert done.returncode == 0, done.stderr
    assert f"copying to 127.0.0.1:{board.port}: 0 MB" in done.stderr
    done = board.bench(exports / "attend-fusion", *arguments)
    assert done.returncode == 0 and "copying" not in done.stderr
    assert board.is_quiet()
    assert not list((board.cache / "sessions").iterdir()) and not list((board.folder / "tmp").iterdir())


@pytest.mark.slow
def test_files_for_another_processor_are_named(board: LoopbackBoard, own_exports: Path, tmp_path: Path):
    manifest = own_exports / "attend-fusion/manifest.json"
    manifest.write_text(manifest.read_text().replace('"cpu": "x86-64"', '"cpu": "arm64"'))
    file = own_exports / "attend-fusion/attend-fusion-int8.onnx"
    done = board.bench(file, *QUICKLY, "--out", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    if os.uname().machine == "x86_64":
        assert "attend-fusion-int8.onnx: made for arm64" in done.stderr
        assert "Made for another kind of processor" in done.stdout


@pytest.mark.slow
def test_a_suite_is_chosen_for_the_machine_that_runs_it(board: LoopbackBoard, exports: Path, tmp_path: Path):
    suite = tmp_path / "suite.yaml"
    text = (
        "name: one\nnetworks: [{model: attend-fusion}]\nprecisions: [int8]\nruntimes: [litert]\n"
        "method: {inferences: 2, rounds: 1, packed: false}\ndevices: [%s]\n"
    )
    suite.write_text(text % os.uname().machine)
    done = board.bench(exports, "--suite", suite, "--no-packed", "--out", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "r.json")
    assert results.suite == "one" and [row.file for row in results.rows] == ["attend-fusion-int8.tflite"]
    suite.write_text(text % "riscv64")
    done = board.bench(exports, "--suite", suite, "--out", tmp_path / "none.json")
    assert done.returncode == 2 and f"the target is {os.uname().machine}" in done.stderr


@pytest.mark.slow
def test_nothing_measured_there_is_nothing_measured_here(board: LoopbackBoard, exports: Path, tmp_path: Path):
    """A runtime that crashes on the board gives a row with the reason."""
    python = next((board.cache / "environments").glob("*/bin/python"))
    fake = board.home / "fake/ai_edge_litert/__init__.py"
    fake.parent.mkdir(parents=True)
    fake.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    python.write_text(python.read_text().replace("exec", f'PYTHONPATH="$PYTHONPATH:{fake.parents[1]}" exec'))
    file = exports / "fc-late-fusion/fc-late-fusion-int8.tflite"
    done = board.bench(file, *QUICKLY, "--out", tmp_path / "r.json")
    assert done.returncode == 2 and "nothing could be measured" in done.stderr
    (row,) = read_results(tmp_path / "r.json").rows
    assert row.status == "crashed" and "SIGILL" in (row.reason or "")


def finished_rows(out: Path) -> int:
    """Return the number of rows in a running bench's results file."""
    return len(read_results(out).rows) if out.is_file() else 0


@pytest.mark.slow
def test_ctrl_c_ends_both_sides_and_the_same_command_goes_on(board: LoopbackBoard, exports: Path, tmp_path: Path):
    out = tmp_path / "r.json"
    arguments = (exports / "attend-fusion", *IN_TWO_ROUNDS, "--out", out)
    started = Started(board, *arguments)
    wait_for(lambda: finished_rows(out) >= 1, started)
    started.process.send_signal(signal.SIGINT)
    status, said, news = started.end()
    assert status == 130 and said == "", news
    assert "rows are kept in" in news and "Traceback" not in news
    begun = read_results(out)
    assert 1 <= len(begun.rows) <= 2 and not begun.is_complete
    assert board.is_quiet() and not list((board.folder / "tmp").iterdir())

    done = board.bench(*arguments)
    assert done.returncode == 0, done.stderr
    assert "continuing:" in done.stderr
    results = read_results(out)
    assert results.is_complete and len(results.rows) == 2 and results.created == begun.created
    assert results.rows[0].latency_raw_us[:20] == begun.rows[0].latency_raw_us[:20]


@pytest.mark.slow
def test_a_connection_that_breaks_is_made_again_and_the_bench_goes_on(
    board: LoopbackBoard, exports: Path, tmp_path: Path
):
    out = tmp_path / "r.json"
    started = Started(board, exports / "attend-fusion", *IN_TWO_ROUNDS, "--fresh", "--out", out)
    wait_for(lambda: finished_rows(out) >= 1, started)
    board.drop()
    status, _, news = started.end()
    assert status == 0, news
    assert "the connection broke; trying again" in news
    results = read_results(out)
    assert results.is_complete and len(results.rows) == 2 and [row.rounds for row in results.rows] == [[1000, 1000]] * 2
    assert board.is_quiet() and not list((board.cache / "sessions").iterdir())


@pytest.mark.slow
def test_a_client_that_is_killed_leaves_nothing_running(board: LoopbackBoard, exports: Path, tmp_path: Path):
    started = Started(board, exports / "attend-fusion", "--runs", 10**6, "--no-packed", "--out", tmp_path / "r.json")
    wait_for(lambda: any("worker" in line for line in board.processes()), started)
    # A board runs one bench at a time.
    busy = board.bench(exports / "fc-late-fusion", *QUICKLY, "--out", tmp_path / "other.json")
    assert busy.returncode == 2 and "a bench has been running here since" in busy.stderr
    started.process.kill()
    started.end()
    assert board.is_quiet()


@pytest.mark.slow
def test_the_doctor_goes_there_too(board: LoopbackBoard):
    def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge_af", "doctor", "--target", board.target, *arguments]
        return subprocess.run(command, env=board.client_environment(), capture_output=True, text=True, timeout=600)

    # Block the packages that only training and export need.
    python = next((board.cache / "environments").glob("*/bin/python"))
    block = board.home / "block"
    block.mkdir()
    names = "torch", "tensorflow", "onnx", "safetensors"
    (block / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({names!r}))\n")
    text = python.read_text()
    python.write_text(text.replace("exec", f'PYTHONPATH="$PYTHONPATH:{block}" exec'))
    done = doctor("--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["status"] for one in found["runtimes"]] == ["ok", "ok"] and "ulimit -v" in found["memory_limits"]
    for name in ("onnxruntime", "ai_edge_litert"):
        (block / name).mkdir()
        (block / name / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    done = doctor()
    assert done.returncode == 1 and "SIGILL" in done.stdout
    assert f"no runtime works on 127.0.0.1:{board.port}" in done.stderr and board.is_quiet()
