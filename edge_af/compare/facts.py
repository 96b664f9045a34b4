"""What needs no clock: a file's bytes, the bytes of weights that an inference reads, its operators and multiply-adds, and the
memory that its process takes at the most.

All but the memory are exact. The high-water mark of a process is the kernel's own count, the lowest of `MEMORY_RUNS` fresh
processes: what a runtime allocates beside the weights differs from one process to the next (see docs/compare.md).

`python -m edge_af.compare.facts FILE.onnx` prints the multiply-adds of an ONNX file, which depend on shapes that only its
runtime knows, in a process that may take the memory for it.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from edge_af.bench.process import environment, run_worker
from edge_af.bench.results import OK, Method
from edge_af.bench.worker import Job
from edge_af.compare.match import Side
from edge_af.compare.nursery import BrokenFile
from edge_af.runtime.operators import operator_counts, tflite_multiply_adds
from edge_af.runtime.probe import weight_bytes

MEMORY_RUNS = 2
DEFAULT_F1_THRESHOLD = 0.5
"""Of a file that no manifest knows."""
MATRIX_PRODUCTS = frozenset(("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "MatMulNBits", "FusedMatMul"))


@dataclass(frozen=True)
class Facts:
    """Of one file. None is what could not be found out."""

    size_bytes: int
    weight_bytes: int | None
    """Of the constants, all of which an inference reads."""
    operators: dict[str, int]
    """By type, as the file has them."""
    multiply_adds: int | None
    """Of the matrix products, for one video."""
    integer_share: float | None
    """Of the weights, those that integer kernels were seen to read at export."""
    peak_memory_bytes: int | None
    """High-water mark of a process that loads the file and runs it, the runtime among it."""
    gap_at_20: float | None = None
    f1_micro: float | None = None


def facts_of(side: Side, *, threads: int, timeout_seconds: float, data: Path | None, outcomes: Path | None) -> Facts:
    """Find out everything; with `data`, accuracy too, whose outcomes (see `edge_af.metrics.bootstrap`) are left in `outcomes`.

    Raises:
        BrokenFile: it cannot be loaded or run.
    """
    method = Method(inferences=32, seconds=2.0, warm_up=4, timeout_seconds=timeout_seconds)
    job = Job(
        path=str(side.path),
        runtime=side.runtime,
        threads=threads,
        data=str(data) if data is not None else None,
        f1_threshold=side.subject.f1_threshold if side.subject is not None else DEFAULT_F1_THRESHOLD,
        method=method,
        result_fd=-1,
    )
    peaks: list[int] = []
    found: dict[str, Any] = {}
    for run in range(MEMORY_RUNS):
        last = run == MEMORY_RUNS - 1
        wanted = dataclasses.replace(job, outcomes=str(outcomes)) if last and outcomes is not None else job
        found = run_worker(wanted)
        if found["status"] != OK:
            raise BrokenFile(side.role, found["status"], found["reason"])
        if found.get("peak_memory_bytes"):
            peaks.append(found["peak_memory_bytes"])
    return Facts(
        size_bytes=side.path.stat().st_size,
        weight_bytes=weight_bytes(side.path),
        operators=operator_counts(side.path),
        multiply_adds=multiply_adds(side.path, timeout_seconds),
        integer_share=side.subject.integer_share if side.subject is not None else None,
        peak_memory_bytes=min(peaks, default=None),
        gap_at_20=found.get("gap_at_20"),
        f1_micro=found.get("f1_micro"),
    )


def multiply_adds(path: Path, timeout_seconds: float = 600.0) -> int | None:
    """Of a model file's matrix products, for one video; None where its runtime does not tell."""
    if path.suffix == ".tflite":
        return tflite_multiply_adds(path)
    command = [sys.executable, "-P", "-m", "edge_af.compare.facts", str(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", env=environment(), timeout=timeout_seconds
        )
        return int(done.stdout) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError):
        return None


def _profiled_multiply_adds(path: Path) -> int:
    """From the shapes that ONNX Runtime tells of one inference of the graph as the file has it, nothing fused or left out."""
    import numpy as np

    from edge_af.data import AUDIO_FEATURES, VISUAL_FEATURES
    from edge_af.runtime.ort import onnxruntime_module, session_options

    onnxruntime = onnxruntime_module()
    with tempfile.TemporaryDirectory(prefix="edge-af-compare-") as folder:
        options = session_options(path, threads=1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        sizes = {"visual": VISUAL_FEATURES, "audio": AUDIO_FEATURES}
        session.run(None, {name: np.zeros((1, size), np.float32) for name, size in sizes.items()})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    total = 0
    for event in events:
        about = event.get("args", {})
        if about.get("op_name") in MATRIX_PRODUCTS and event["name"].endswith("_kernel_time"):
            (first, *_), (output, *_) = (
                [shape for one in about[field] for shape in one.values()]
                for field in ("input_type_shape", "output_type_shape")
            )
            total += prod(first) * output[-1]
    return total


if __name__ == "__main__":
    sys.stdout.write(f"{_profiled_multiply_adds(Path(sys.argv[1]))}\n")
