"""Results and a history with known figures, and a parser for the pages made from them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from html.parser import HTMLParser

from edge_af.machine.device import Device
from edge_af.records.comparison import FileFacts, Interval
from edge_af.records.history import Entry, History
from edge_af.records.results import Baseline, Data, Latency, Method, Results, Row

HOSTILE = '<img src=x onerror="alert(1)">|`[a](http://example.com)'

FACTS = FileFacts(11_500_000, 11_400_000, {"GEMM": 5}, 11_000_000, 1.0, 90_000_000, 0.69, 0.68)
VERDICTS = {"passed": "not slower", "failed": "slower", "unknown": "cannot tell"}

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


class Reader(HTMLParser):
    """Collects tags, attributes and text; fails on unclosed tags."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def edge_af(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_af", "report", *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


def entry(at: int = 0, status: str = "passed", **changes: object) -> Entry:
    base = Entry(
        created=f"2026-01-{at + 1:02d}T03:04:05+00:00", commit=f"{at + 10:02d}" * 20, device="AMD EPYC", threads=1,
        pair="attend-fusion-int8.onnx", base_sha256="0" * 64, candidate_sha256="1" * 64, status=status,
        checks={"runs": "passed", "time": status, "size_bytes": "passed"}, max_slowdown=0.05, verdict=VERDICTS[status],
        ratio=Interval(1.01, 0.99, 1.03),
        candidate=dataclasses.replace(FACTS, size_bytes=FACTS.size_bytes + at),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


MANY = History(
    [
        entry(0),
        entry(1, "failed", ratio=Interval(1.4, 1.3, 1.5)),
        entry(2, "unknown", ratio=Interval(1.0, 0.0001, 900.0)),
        entry(3, verdict="faster", ratio=Interval(0.8, 0.7, 0.9)),
        entry(4, "failed", verdict=None, ratio=None, candidate=None, commit=None, checks={"runs": "failed"}),
        entry(5, commit="5" * 40 + "-changed", candidate=dataclasses.replace(FACTS, gap_at_20=None)),
        entry(6, "failed", pair=HOSTILE, device=HOSTILE, commit=HOSTILE, checks={HOSTILE: "failed"}),
    ],
    [f"{HOSTILE}: line 3: is damaged or was not written to its end"],
)
