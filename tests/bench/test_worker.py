"""Worker processes: results arrive even if the process misbehaves afterwards. Uses real workers and stand-ins."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from edge_af.bench.process import WORKER, run_worker
from edge_af.bench.rows import latency_of
from edge_af.bench.worker import Job, measure
from edge_af.data.dataset import Dataset
from edge_af.export.graph import Graph, Node
from edge_af.export.to_tflite import write_tflite
from edge_af.files import sha256_file
from edge_af.machine import memory
from edge_af.machine.memory import MemoryReading, read_memory, reset_peak
from edge_af.metrics.bootstrap import load_outcomes
from edge_af.records.results import Method, Row, read_results
from edge_af.typed import built

SHORT = Method(inferences=20, seconds=2.0, warm_up=3, timeout_seconds=120)


def job(path: Path | str, runtime: str = "onnxruntime", data: Dataset | None = None, method: Method = SHORT) -> Job:
    return Job(str(path), runtime, 1, str(data.folder) if data else None, 0.25, method)


def stand_in(body: str) -> list[str]:
    """Return the command of a worker that runs `body` instead of measuring. `body` may call `tell(**fields)`."""
    head = """
        import json, os, signal, sys, time
        out = os.fdopen(json.load(sys.stdin)["result_fd"], "w")
        def tell(**fields):
            out.write(json.dumps(fields) + "\\n")
            out.flush()
    """
    return [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body)]


@pytest.mark.parametrize("runtime, suffix", [("onnxruntime", "onnx"), ("litert", "tflite")])
def test_a_real_worker_finds_everything(
    exports: Path, eval_dataset: Dataset, tmp_path: Path, runtime: str, suffix: str
):
    path = exports / f"attend-fusion/attend-fusion-int8.{suffix}"
    wanted = job(path, runtime, eval_dataset)
    found = run_worker(wanted)
    assert (found["status"], found["reason"]) == ("ok", None)
    assert found["latency_ms"]["n"] == len(found["latency_raw_us"]) == 20
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p90"] <= found["latency_ms"]["p99"]
    assert found["load_ms"] > 0 and found["first_ms"] > 0
    assert 0 < found["runtime_memory_bytes"] <= found["peak_memory_bytes"]
    assert list(found["memory"]) == ["before_load", "after_load", "after_run"]
    after = found["memory"]["after_run"]
    assert after["file_backed"] + after["anonymous"] <= after["resident"] <= after["peak"]
    scored = run_worker(dataclasses.replace(wanted, task="score", outcomes=str(tmp_path / "outcomes.npz")))
    kept = load_outcomes(tmp_path / "outcomes.npz")
    assert kept.best.shape == (eval_dataset.videos, 20) and scored["f1_macro"] >= 0
    assert scored["videos"] == eval_dataset.videos and 0 <= scored["gap_at_20"] <= 1
    assert scored["f1_threshold"] == 0.25 and "gap_at_20" not in found


def test_without_data_there_is_latency_and_no_accuracy(exports: Path):
    found = run_worker(job(exports / "attend-fusion/attend-fusion-fp32.onnx"))
    assert found["status"] == "ok" and found["latency_ms"]["n"] == 20
    assert "gap_at_20" not in found


def test_what_libraries_print_does_not_spoil_the_result(exports: Path):
    noisy = ["bash", "-c", 'echo "{not json"; echo "warning: {" >&2; exec "$@"', "bash", *WORKER]
    assert run_worker(job(exports / "attend-fusion/attend-fusion-fp32.onnx"), command=noisy)["status"] == "ok"


def test_stages_are_told_as_they_come(exports: Path):
    stages: list[str] = []
    run_worker(job(exports / "attend-fusion/attend-fusion-fp32.onnx"), on_stage=stages.append)
    assert stages[:3] == ["reading the file", "importing the runtime", "loading the file"]


@pytest.mark.parametrize("name, words", [("SIGSEGV", ""), ("SIGILL", "instructions"), ("SIGKILL", "lack of memory")])
def test_a_crash_is_a_row_with_the_signals_name(name: str, words: str):
    command = stand_in(f'tell(stage="loading the file"); os.kill(os.getpid(), signal.{name})')
    found = run_worker(job("x.onnx"), command=command)
    assert found["status"] == "crashed"
    assert found["reason"].startswith(f"{name} while loading the file") and words in found["reason"]


def test_a_hang_ends_at_its_time_limit_and_what_was_found_is_kept():
    command = stand_in('tell(load_ms=5.0); tell(stage="measuring accuracy"); time.sleep(600)')
    found = run_worker(job("x.onnx", method=Method(timeout_seconds=1.5)), command=command)
    assert found["status"] == "timeout" and found["load_ms"] == 5.0
    assert found["reason"] == "no result within 1.5 s; stopped while measuring accuracy"


def test_a_worker_that_hangs_after_its_last_word_does_not_hold_the_bench(tmp_path: Path):
    pid = tmp_path / "pid"
    body = f'open({str(pid)!r}, "w").write(str(os.getpid())); tell(status="ok", reason=None); time.sleep(600)'
    assert run_worker(job("x.onnx"), command=stand_in(body))["status"] == "ok"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_worker_that_hangs_after_closing_its_results_ends_at_the_limit():
    found = run_worker(
        job("x.onnx", method=Method(timeout_seconds=1)), command=stand_in("out.close(); time.sleep(600)")
    )
    assert found["status"] == "timeout"


def test_an_unexpected_end_gives_the_last_line_it_said():
    found = run_worker(job("x.onnx"), command=stand_in('tell(stage="timing inferences"); raise KeyError("odd")'))
    assert (found["status"], found["reason"]) == (
        "failed",
        "ended with status 1 while timing inferences: KeyError: 'odd'",
    )


def test_a_file_that_cannot_be_loaded_is_a_row(tmp_path: Path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x08\x0a nothing")
    found = run_worker(job(path))
    assert found["status"] == "failed" and found["reason"].startswith("onnxruntime cannot load this file")
    assert str(tmp_path) not in found["reason"].split(":")[0]


@pytest.mark.slow
def test_too_little_memory_is_a_row_that_says_so(tmp_path: Path):
    """Set the memory limit just above the runtime's own use; the file needs far more."""
    path = tmp_path / "large.onnx"
    _write_large(path, hidden=60_000)
    probe = tmp_path / "small.onnx"
    _write_large(probe, hidden=10)
    code = "import sys; from edge_af.runtime import load; load(sys.argv[1]); print(open('/proc/self/status').read())"
    status = subprocess.run([sys.executable, "-c", code, str(probe)], capture_output=True, text=True, check=True).stdout
    needed = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmPeak"))
    limited = ["bash", "-c", f'ulimit -v {needed + 100_000}; exec "$@"', "bash", *WORKER]
    assert run_worker(job(probe), command=limited)["status"] == "ok"
    # A file larger than the free memory is refused before loading. One that fits once, but not twice, fails while loading.
    foreseen = run_worker(job(path), command=limited)
    assert foreseen["status"] == "does-not-fit" and foreseen["needed_bytes"] > path.stat().st_size
    assert foreseen["available_bytes"] < foreseen["needed_bytes"]
    assert foreseen["reason"].startswith("does not fit: needs at least ") and " MB available" in foreseen["reason"]
    between = tmp_path / "between.onnx"
    _write_large(between, hidden=17_000)
    found = run_worker(job(between), command=limited)
    assert found["status"] == "does-not-fit" and found["reason"].startswith(
        "ran out of memory while loading the file: "
    )
    assert 0 < found["needed_bytes"] < found["available_bytes"]


def test_too_little_memory_for_litert_is_told_from_other_failures(tmp_path: Path):
    """LiteRT reports the same error for both. The file would fit once, but is both mapped and packed."""
    path, probe = tmp_path / "large.tflite", tmp_path / "small.tflite"
    _write_large_tflite(path, hidden=30_000)
    _write_large_tflite(probe, hidden=8)
    code = "import sys; from edge_af.runtime import load; load(sys.argv[1]); print(open('/proc/self/status').read())"
    status = subprocess.run([sys.executable, "-c", code, str(probe)], capture_output=True, text=True, check=True).stdout
    needed = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmPeak"))
    limited = ["bash", "-c", f'ulimit -v {needed + path.stat().st_size * 3 // 2048}; exec "$@"', "bash", *WORKER]
    assert run_worker(job(probe, "litert"), command=limited)["status"] == "ok"
    found = run_worker(job(path, "litert"), command=limited)
    assert found["status"] == "does-not-fit" and found["needed_bytes"] < found["available_bytes"], found["reason"]
    assert found["reason"].startswith("ran out of memory while loading the file: needs at least ")
    other = stand_in(
        "tell(needed_bytes=10, available_bytes=100); "
        "tell(status='failed', reason='LiteRT cannot load this file: failed to create XNNPACK runtime')"
    )
    assert run_worker(job(path, "litert"), command=other)["status"] == "failed"


@pytest.mark.slow
def test_a_limit_set_on_this_process_holds_for_its_rows_and_the_table_goes_on(exports: Path, tmp_path: Path):
    """Set the limit with setrlimit in a separate bench process, so that this one keeps its memory."""
    folder = tmp_path / "large"
    shutil.copytree(exports / "attend-fusion", folder)
    _write_large(folder / "attend-fusion-fp32.onnx", hidden=200_000)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][0]["sha256"] = sha256_file(folder / manifest["files"][0]["path"])
    assert manifest["files"][0]["path"] == "attend-fusion-fp32.onnx"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code = """
        import resource, sys
        from pathlib import Path
        resource.setrlimit(resource.RLIMIT_DATA, (900_000_000,) * 2)
        from edge_af.records.results import Method, write_results
        from edge_af.bench.local import LocalBackend
        from edge_af.bench.request import BenchRequest
        from edge_af.bench.session import bench
        from edge_af.bench.subject import subjects_of
        request = BenchRequest(method=Method(inferences=5, warm_up=1))
        found = bench(subjects_of([Path(sys.argv[1])]), request, LocalBackend())
        write_results(Path(sys.argv[2]), found)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(folder), str(tmp_path / "r.json")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    rows = {row.file: row for row in read_results(tmp_path / "r.json").rows}
    lost = rows.pop("attend-fusion-fp32.onnx")
    assert lost.status == "does-not-fit" and lost.needed_bytes and lost.available_bytes
    assert lost.needed_bytes > 900_000_000 > lost.available_bytes
    assert len(rows) == 3 and {row.status for row in rows.values()} == {"ok"}


def _write_large_tflite(path: Path, hidden: int) -> None:
    """Write the network of `_write_large` as TFLite."""
    constants = {
        "first": np.zeros((hidden, 1152), np.float32), "bias": np.zeros(hidden, np.float32),
        "second": np.zeros((30, hidden), np.float32), "last": np.zeros(30, np.float32),
    }  # fmt: skip
    nodes = (
        Node("Concat", "both", ("visual", "audio"), ("x",), {"axis": 1}),
        Node("Gemm", "fc1", ("x", "first", "bias"), ("h",), {"transB": 1}),
        Node("Gemm", "fc2", ("h", "second", "last"), ("y",), {"transB": 1}),
        Node("Sigmoid", "sigmoid", ("y",), ("scores",)),
    )
    write_tflite(
        Graph(nodes, constants, {name: (None, size) for name, size in SIZES.items()}, {"scores": (None, 30)}), path
    )


def _write_large(path: Path, hidden: int) -> None:
    """Write a network of 1,152 x `hidden` weights with our inputs and output as ONNX."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in SIZES.items()]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 30])
    weights = {"first": np.zeros((1152, hidden), np.float32), "second": np.zeros((hidden, 30), np.float32)}
    nodes = [
        helper.make_node("Concat", ["visual", "audio"], ["x"], axis=1),
        helper.make_node("MatMul", ["x", "first"], ["h"]),
        helper.make_node("MatMul", ["h", "second"], ["y"]),
        helper.make_node("Sigmoid", ["y"], ["scores"]),
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "large", inputs, [output], constants)
    save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)


SIZES = {"visual": 1024, "audio": 128}


def test_percentiles_are_of_the_single_inferences():
    latency = latency_of(np.arange(1, 1002) * 1_000_000)
    assert (latency.p50, latency.p90, latency.p99, latency.mean, latency.n) == (501, 901, 991, 501, 1001)


def test_memory_is_the_kernels_high_water_mark():
    before = read_memory()
    assert before is not None
    block = np.ones(80_000_000, np.uint8)
    held = read_memory()
    assert held is not None
    assert held.peak and before.resident and held.peak >= before.resident + 70_000_000
    assert held.anonymous and before.anonymous and held.anonymous > before.anonymous
    del block
    released = read_memory()
    # Not compared with `held.peak`: the kernel counts pages in batches per core, so a later peak may be slightly lower.
    assert released is not None and released.peak and released.peak >= before.resident + 70_000_000
    assert released.resident and held.resident and released.resident < held.resident - 70_000_000
    if reset_peak():
        again = read_memory()
        assert again is not None and again.peak and again.peak < held.peak - 50_000_000


@pytest.mark.parametrize("status, resident", [("VmRSS:\t  2048 kB\nThreads:\t1\n", 2048 * 1024), ("", None)])
def test_what_a_kernel_does_not_tell_costs_no_row(
    exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, resident: int | None
):
    (tmp_path / "status").write_text(status)
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    assert read_memory() == MemoryReading(None, resident, None, None)
    found: dict[str, Any] = {}
    measure(job(exports / "attend-fusion/attend-fusion-fp32.onnx"), found.update)
    assert found["latency_ms"]["n"] == 20 and found["peak_memory_bytes"] is None
    reading = found["memory"]["after_run"]
    assert built(MemoryReading, reading) == MemoryReading(None, resident, None, None)
    assert built(Row, {**ROW, "memory": found["memory"]}).memory == {
        when: MemoryReading(None, resident, None, None) for when in ("before_load", "after_load", "after_run")
    }


ROW = dict(
    artifact="a", file="a.onnx", model="m", preset="p", runtime="onnxruntime", precision="fp32", recipe=None, cpu=None,
    threads=1, status="ok", reason=None, params=1, classes=30, size_bytes=1,
)  # fmt: skip


def test_a_job_survives_its_way_through_json():
    original = job("a b.onnx", method=Method(seconds=None))
    assert Job.from_dict(json.loads(original.as_json())) == original
