"""What a bench leaves behind: `results.json`, as frozen dataclasses. Its schema is `results.schema.json` beside this file."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from edge_af.bench.device import Device
from edge_af.bench.memory import MemoryReading
from edge_af.bench.schema import violation
from edge_af.errors import EdgeAfError
from edge_af.files import read_json, write_atomic

SCHEMA_VERSION = 1

OK, MISSING_RUNTIME, CRASHED, TIMEOUT, FAILED = "ok", "missing-runtime", "crashed", "timeout", "failed"
"""What became of a row. Anything but `ok` has a `reason`."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one inference of one video."""

    p50: float
    p90: float
    p99: float
    mean: float
    n: int


@dataclass(frozen=True)
class Row:
    """One file in one runtime with so many threads. Figures that were not reached are None."""

    artifact: str
    """Name of the folder the file is in, with the end of the path before it where another folder has the same name."""
    file: str
    model: str
    preset: str
    runtime: str
    precision: str
    recipe: str | None
    cpu: str | None
    """The kind of processor the file was made for, `x86-64` or `arm64`; None if for any."""
    threads: int
    status: str
    reason: str | None
    params: int
    """Trainable parameters of the network as trained."""
    classes: int
    size_bytes: int
    load_ms: float | None = None
    first_ms: float | None = None
    """The first inference after loading, where a runtime does what it put off."""
    latency_ms: Latency | None = None
    latency_raw_us: list[int] | None = None
    """Every timed inference, in order."""
    peak_memory_bytes: int | None = None
    """High-water mark of the process from before loading until after the timed inferences."""
    runtime_memory_bytes: int | None = None
    """High-water mark after importing the runtime, before loading."""
    memory: dict[str, MemoryReading] | None = None
    """`before_load`, `after_load`, `after_run`, as far as the row came."""
    gap_at_20: float | None = None
    f1_micro: float | None = None
    f1_threshold: float | None = None
    f1_micro_at_half: float | None = None
    hit_at_1: float | None = None
    perr: float | None = None
    map: float | None = None
    videos: int | None = None


@dataclass(frozen=True)
class Data:
    """The evaluation set."""

    name: str
    videos: int
    classes: int


@dataclass(frozen=True)
class Baseline:
    """The network and precision that the others' figures are to be set beside, in the same runtime."""

    artifact: str
    model: str
    preset: str
    precision: str


@dataclass(frozen=True)
class Method:
    """How each row is measured."""

    inferences: int = 1024
    """Timed inferences of one video each (MLPerf's single-stream minimum), or fewer if `seconds` pass first."""
    seconds: float | None = 10.0
    warm_up: int = 32
    """Inferences before the timed ones, or fewer if `warm_up_seconds` pass first."""
    warm_up_seconds: float = 1.0
    batch: int = 256
    """Videos scored at a time for accuracy; one at a time where a video's scores would depend on the others'."""
    timeout_seconds: float = 600.0
    """After which a row's process is stopped."""


@dataclass(frozen=True)
class Results:
    """One bench on one device."""

    created: str
    """When it began, ISO 8601, UTC."""
    device: Device
    quick: bool
    inputs: str
    """What latency was measured on: `videos` of the evaluation set, or `random` values."""
    data: Data | None
    baseline: Baseline
    method: Method
    rows_planned: int
    """More than `rows` holds: the bench was interrupted."""
    rows: list[Row]

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of the schema."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of `results.json`."""
    text = resources.files("edge_af.bench").joinpath("results.schema.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def write_results(path: Path, results: Results) -> None:
    """Write `results.json` atomically."""
    write_atomic(path, dump_results(results))


def dump_results(results: Results) -> str:
    """The text of `results.json`: indented, but for the raw latencies, a row's on one line."""
    text = json.dumps(results.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[[\d,\s]+\]", lambda match: re.sub(r"\s+", " ", match[0]), text) + "\n"


def read_results(path: Path) -> Results:
    """Read `results.json`. Fields this version does not know are passed over.

    Raises:
        EdgeAfError: it is missing, no JSON, of another schema version, or does not follow the schema; names the field.
    """
    value = read_json(path, "results file")
    if not isinstance(value, dict) or "schema_version" not in value:
        raise EdgeAfError(f"{path}: not a results file of `edge-af bench` (no schema_version).")
    if value["schema_version"] != SCHEMA_VERSION or isinstance(value["schema_version"], bool):
        raise EdgeAfError(
            f"{path}: schema_version {value['schema_version']!r}; this edge-af reads {SCHEMA_VERSION}. "
            "Bench again, or report with the edge-af that wrote it."
        )
    if found := violation(value, schema()):
        raise EdgeAfError(f"{path}: not a results file of `edge-af bench`: {found}.")
    return Results(
        **{
            **_known(Results, value),
            "device": Device(**_known(Device, value["device"])),
            "data": Data(**_known(Data, value["data"])) if value["data"] else None,
            "baseline": Baseline(**_known(Baseline, value["baseline"])),
            "method": Method(**_known(Method, value["method"])),
            "rows": [row_from_dict(row) for row in value["rows"]],
        }
    )


def row_from_dict(value: dict[str, Any]) -> Row:
    """A row of the JSON, of the types that the schema promises."""
    latency, memory = value.get("latency_ms"), value.get("memory")
    return Row(
        **{
            **_known(Row, value),
            "latency_ms": Latency(**_known(Latency, latency)) if latency else None,
            "memory": {
                when: MemoryReading(**_known(MemoryReading, reading))
                for when, reading in memory.items()
                if when in ("before_load", "after_load", "after_run")
            }
            if memory
            else None,
        }
    )


def _known(kind: type[Any], value: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: inner for name, inner in value.items() if name in names}
