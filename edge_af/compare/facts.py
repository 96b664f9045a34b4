"""Facts that need no clock: file bytes, weight bytes that an inference reads, operators, MACs and peak memory.

All but the memory are exact. Peak memory is the kernel's high-water mark of a process, the lowest of `MEMORY_RUNS` fresh
processes: what a runtime allocates besides the weights differs per process (see docs/explanation/comparison.md).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from edge_af.bench.process import run_worker
from edge_af.bench.worker import Job
from edge_af.compare.match import Side
from edge_af.compare.nursery import BrokenFile
from edge_af.records.comparison import FileFacts
from edge_af.records.results import OK, Method
from edge_af.runtime.multiply_adds import multiply_adds
from edge_af.runtime.operators import operator_counts
from edge_af.runtime.probe import weight_bytes

MEMORY_RUNS = 2
_INFERENCE_SECONDS = 2.0
FACTS_SECONDS = Method().warm_up_seconds + _INFERENCE_SECONDS
"""Time limit of the inferences in one of these processes."""
DEFAULT_F1_THRESHOLD = 0.5
"""F1 threshold for files without a manifest."""


def facts_of(
    side: Side, *, threads: int, timeout_seconds: float, data: Path | None, outcomes: Path | None
) -> FileFacts:
    """Collect the facts of one file, with `outcomes` also its accuracy on `data`.

    The outcomes (see `edge_af.metrics.bootstrap`) are written to `outcomes`.

    Raises:
        BrokenFile: the file cannot be loaded or run.
    """
    method = Method(inferences=32, seconds=_INFERENCE_SECONDS, warm_up=4, timeout_seconds=timeout_seconds)
    job = Job(
        path=str(side.path),
        runtime=side.runtime,
        threads=threads,
        data=str(data) if data is not None else None,
        f1_threshold=side.subject.f1_threshold if side.subject is not None else DEFAULT_F1_THRESHOLD,
        method=method,
    )
    peaks: list[int] = []
    found: dict[str, Any] = {}
    jobs = [job] * MEMORY_RUNS
    jobs += [dataclasses.replace(job, task="score", outcomes=str(outcomes))] if outcomes is not None else []
    for one in jobs:
        found = run_worker(one)
        if found["status"] != OK:
            raise BrokenFile(side.role, found["status"], found["reason"])
        if one.task == "measure" and found.get("peak_memory_bytes"):
            peaks.append(found["peak_memory_bytes"])
    return FileFacts(
        size_bytes=side.path.stat().st_size,
        weight_bytes=weight_bytes(side.path),
        operators=operator_counts(side.path),
        multiply_adds=multiply_adds(side.path, timeout_seconds),
        integer_share=side.subject.integer_share if side.subject is not None else None,
        peak_memory_bytes=min(peaks, default=None),
        gap_at_20=found.get("gap_at_20"),
        f1_micro=found.get("f1_micro"),
    )
