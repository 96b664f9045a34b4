"""Run a bench in the test process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edge_af.bench.backend import Backend
from edge_af.bench.local import LocalBackend
from edge_af.bench.request import BenchRequest
from edge_af.bench.session import bench
from edge_af.bench.subject import Subject
from edge_af.data.dataset import Dataset
from edge_af.records.results import Method, Results


def run_bench(
    subjects: Sequence[Subject],
    dataset: Dataset | None = None,
    *,
    method: Method,
    backend: Backend | None = None,
    on_saved: Callable[[Results], None] = lambda results: None,
    **more: Any,
) -> Results:
    """Bench on this machine or on another backend; `more` holds fields of `BenchRequest`."""
    request = BenchRequest(dataset, method=method, **more)
    return bench(subjects, request, backend or LocalBackend(), on_saved)


def interrupt_after(calls: int) -> tuple[list[Results], Callable[[Results], None]]:
    """Return a list, and an `on_saved` that fills it and raises KeyboardInterrupt at call number `calls`."""
    kept: list[Results] = []

    def on_saved(results: Results) -> None:
        kept.append(results)
        if len(kept) == calls:
            raise KeyboardInterrupt

    return kept, on_saved
