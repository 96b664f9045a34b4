"""Results with known figures, for the tests of what is made of them."""

from __future__ import annotations

import dataclasses

from edge_af.machine.device import Device
from edge_af.records.results import Baseline, Data, Latency, Method, Results, Row

PI = Device(
    "aarch64", "Raspberry Pi 5 Model B Rev 1.0", 4, 4 * 2**30, "Linux 6.6", "3.11.2", "ondemand", {"numpy": "2.4"}
)
LAPTOP = Device("x86_64", "AMD EPYC", 2, 24 * 2**30, "Linux 6.1", "3.11.7", None, {"numpy": "2.4"})


def row(model: str, runtime: str, precision: str, **changes: object) -> Row:
    size = {"attend-fusion": 1.0, "fc-late-fusion": 5.0}.get(model, 2.0) * (1.0 if precision == "fp32" else 0.25)
    slower = 1.0 if runtime == "litert" else 2.0
    base = Row(
        artifact=model, file=f"{precision}.x", model=model, preset="small", runtime=runtime, precision=precision,
        recipe=None, cpu=None, threads=1, status="ok", reason=None, params=5_000_000 if "fc" in model else 1_000_000,
        classes=30, size_bytes=int(4e6 * size), load_ms=10.0, first_ms=2.0,
        latency_ms=Latency(size * slower, size * slower * 1.2, size * slower * 2, size * slower * 1.1, 1024),
        peak_memory_bytes=int(4e7 + 8e6 * size), runtime_memory_bytes=int(4e7), gap_at_20=0.64 - 0.001 * size,
        f1_micro=0.5, f1_threshold=0.3, f1_micro_at_half=0.45, hit_at_1=0.8, perr=0.6, map=0.3, videos=400,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def results(device: Device = LAPTOP, second: str = "attend-fusion", **changes: object) -> Results:
    rows = [
        row(model, runtime, precision)
        for model in (second, "fc-late-fusion")
        for runtime in ("onnxruntime", "litert")
        for precision in ("fp32", "int8")
    ]
    base = Results(
        created="2026-01-02T03:04:05+00:00", device=device, quick=False, inputs="videos", data=Data("eval", 400, 30),
        baseline=Baseline("fc-late-fusion", "fc-late-fusion", "small", "fp32"), method=Method(), rows_planned=8, rows=rows,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]
