"""Results of a bench: `results.json`, as frozen dataclasses. `docs/schemas` has its JSON Schema."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

from edge_af.errors import EdgeAfError
from edge_af.files import read_json, write_atomic
from edge_af.machine.conditions import Conditions
from edge_af.machine.device import Device
from edge_af.machine.memory import MemoryReading
from edge_af.typed import Amount, Count, Mismatch, Positive, built, one_of

SCHEMA_VERSION = 2
READABLE = (1, 2)
"""Schema versions that `read_results` takes; older ones are brought up to the current one."""

OK, MISSING_RUNTIME, CRASHED, TIMEOUT, FAILED = "ok", "missing-runtime", "crashed", "timeout", "failed"
DOES_NOT_FIT = "does-not-fit"
STATUSES = (OK, MISSING_RUNTIME, DOES_NOT_FIT, CRASHED, TIMEOUT, FAILED)
"""Outcomes of a row. Anything but `ok` has a `reason`; `does-not-fit` has `needed_bytes` and `available_bytes` as well."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one inference of a row's `batch` videos."""

    p50: float
    p90: float | None
    """None where only a tool's summary is known, which does not have it; p99 likewise."""
    p99: float | None
    mean: float
    n: Positive
    p95: float | None = None


LEAST_FOR_MEDIAN = 20
"""Inferences of a round, below which its median says little."""


@dataclass(frozen=True)
class Round:
    """Summary of a round by a tool that keeps no raw values: milliseconds per inference."""

    n: Positive
    mean: float
    p50: float
    p5: float | None = None
    p95: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class Delta:
    """A difference, and the interval that a paired bootstrap over the same videos gives it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Instructions:
    """Instructions of one inference of one video on one thread, as counted under emulation, with Python's call of the
    runtime.
    """

    instructions: Count
    dot_product: Count
    """SDOT, UDOT and their kin."""
    dot_product_macs: Count
    """Multiply-adds that those do: 16 for a whole vector."""
    integer_multiply: Count
    """Multiplications of integer vectors: SMLAL, MLA, MUL, SQRDMULH and their kin."""
    integer_multiply_macs: Count
    float_multiply_add: Count
    """FMLA, FMADD and their kin."""
    float_multiply_add_macs: Count
    vector: Count
    """All on vector and floating-point registers but loads and stores; those above are among them."""
    loads: Count
    stores: Count
    loaded_bytes: Count
    stored_bytes: Count
    memory_read_bytes: Count
    """Fetched by a cache as large as the board's last one: 16 ways, least recently used out first."""
    memory_written_bytes: Count
    """Written back by it."""


@dataclass(frozen=True)
class Modeled:
    """A figure from a model, with its band. Never measured."""

    value: Amount
    low: Amount
    high: Amount


@dataclass(frozen=True)
class Row:
    """One file in one runtime with so many threads and videos an inference. Figures that were not reached are None."""

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
    threads: Positive
    status: Annotated[str, one_of(*STATUSES)]
    reason: str | None
    """Reason why it is not `ok`; in an `ok` row, why it has no accuracy in spite of the data."""
    params: Count
    """Trainable parameters of the network as trained."""
    classes: Positive
    size_bytes: Count
    sha256: str | None = None
    """SHA-256 of the file, by which a later bench recognizes it."""
    batch: Positive = 1
    """Videos an inference."""
    weight_bytes: Count | None = None
    """Bytes of the constants in the file, all of which an inference reads."""
    integer_share: Amount | None = None
    """Share of the network's multiplications that was seen to run in integer kernels at export; None if unknown."""
    kernels: str | None = None
    """Kernels that the runtime uses here: types of activations and weights, then the instructions, as in `U8S8 AVX-512
    VNNI`. Derived from the file and the processor; None if unknown.
    """
    load_ms: float | None = None
    first_ms: float | None = None
    """The first inference after loading, where a runtime does what it put off."""
    latency_ms: Latency | None = None
    latency_raw_us: list[int] | None = None
    """Every timed inference, in order."""
    rounds: list[int] | None = None
    """Number of inferences of each round, which is a process of its own; their sum is `latency_ms.n`."""
    rounds_ms: list[Round] | None = None
    """Summary of each round, where no raw values are known. `latency_ms` then has the medians of their p50 and p95."""
    videos_per_s: float | None = None
    """`batch` over the mean latency."""
    limit_ms: float | None = None
    """Reading as many bytes as the weights once, with as many threads, on this machine, in the same session."""
    limit_share: float | None = None
    """`limit_ms` over the p50: the share of the limit that was reached, 1 at best."""
    peak_memory_bytes: int | None = None
    """High-water mark of the process from before loading until after the timed inferences."""
    runtime_memory_bytes: int | None = None
    """High-water mark after importing the runtime, before loading."""
    bare_memory_bytes: int | None = None
    """High-water mark of the same measurement with an empty model: Python, numpy and the runtime at work."""
    needed_bytes: int | None = None
    """Memory that loading and running a row that does not fit is expected to take."""
    available_bytes: int | None = None
    """Memory that was available to a row that does not fit."""
    memory: dict[str, MemoryReading] | None = None
    """`before_load`, `after_load`, `after_run`, as far as the row came."""
    gap_at_20: float | None = None
    gap_at_20_interval: list[float] | None = None
    """[low, high]: 95 % of a bootstrap over the videos."""
    gap_at_20_delta: Delta | None = None
    """Against FP32 of the same network, same runtime if that was measured; None for FP32 itself."""
    f1_micro: float | None = None
    f1_micro_interval: list[float] | None = None
    f1_threshold: float | None = None
    f1_micro_at_half: float | None = None
    f1_macro: float | None = None
    """Mean of the classes' own F1 at `f1_threshold`, over the classes that occur."""
    hit_at_1: float | None = None
    perr: float | None = None
    map: float | None = None
    ties_share: float | None = None
    """Share of all videos' 20 best scores that another of them equals."""
    videos: int | None = None
    multiply_adds: Count | None = None
    """MACs of the network's matrix products, for one video; in emulated rows."""
    instructions: Instructions | None = None
    """Instruction counts of an emulated row."""
    modelled_latency_ms: Modeled | None = None
    """Latency of an emulated row, modeled from its instructions and the board's published figures; it has no other."""

    @property
    def key(self) -> str:
        """`artifact/file`: what the gallery calls the network by, whatever the threads."""
        return f"{self.artifact}/{self.file}"

    def round_p50_ms(self) -> list[float]:
        """Each round's median, of the rounds with enough inferences to have one."""
        if self.rounds_ms is not None:
            return [one.p50 for one in self.rounds_ms if one.n >= LEAST_FOR_MEDIAN]
        medians, at = [], 0
        for count in self.rounds or []:
            part = (self.latency_raw_us or [])[at : at + count]
            medians += [median(part) / 1e3] if len(part) >= LEAST_FOR_MEDIAN else []
            at += count
        return medians


@dataclass(frozen=True)
class Data:
    """The evaluation set."""

    name: str
    videos: Positive
    classes: Positive
    fingerprint: str | None = None
    """By which a later bench knows the videos again."""


@dataclass(frozen=True)
class Baseline:
    """The network and precision that the others' figures are to be set beside, in the same runtime."""

    artifact: str
    model: str
    preset: str
    precision: str


@dataclass(frozen=True)
class Method:
    """Method of measuring each row."""

    inferences: Positive = 1024
    """Timed inferences (MLPerf's single-stream minimum) over all rounds, or fewer if `seconds` pass first."""
    seconds: float | None = 10.0
    """Limit of timed inferences over all rounds, in seconds; None for no limit."""
    warm_up: Count = 32
    """Inferences before the timed ones of a round, or fewer if `warm_up_seconds` pass first."""
    warm_up_seconds: float = 1.0
    batch: Positive = 256
    """Videos scored at a time for accuracy; one at a time where a video's scores would depend on the others'."""
    timeout_seconds: float = 600.0
    """After which a row's process is stopped."""
    packed: bool = False
    """True if weights were packed for this processor beforehand and are memory-mapped."""
    rounds: Positive = 1
    """Number of measurement rounds, each row in a fresh process with its part of the inferences."""


@dataclass(frozen=True)
class Tool:
    """Another project's program that measured, and not this package."""

    name: str
    sha256: str
    options: list[str]
    """Its options in the first round, beside each row's file and threads."""


@dataclass(frozen=True)
class Bandwidth:
    """Bandwidth of reading memory from end to end, again and again, on this machine."""

    threads: Positive
    buffer_bytes: Positive
    """Read over and over. The largest lies beyond the caches; the others are as large as the rows' weights."""
    bytes_per_s: Amount
    """Speed of the fastest pass: a measurement that was held up must not beat the limit."""


@dataclass(frozen=True)
class Sensitivity:
    """Effect of quantizing one layer alone, as in an export's `sensitivity.json`."""

    artifact: str
    model: str
    preset: str
    format: str
    recipe: str
    precision: str
    layer: str
    weight_bytes: Count
    snr_db: float | None
    """Signal-to-noise ratio at the logits, in dB; None if quantization adds no noise."""
    gap_at_20_drop: float | None


@dataclass(frozen=True)
class Prediction:
    """One of a network's best classes for a video."""

    name: str
    score: float
    hit: bool
    """True if it is one of the video's labels."""


@dataclass(frozen=True)
class GalleryVideo:
    """A video of the evaluation set, its labels, and what each network says of it."""

    id: str
    labels: list[str]
    predictions: dict[str, list[Prediction]]
    """The three best, best first, by `Row.key`."""


@dataclass(frozen=True)
class Gallery:
    """Videos to look at, drawn by a fixed seed and not picked."""

    seed: int
    videos: list[GalleryVideo]


@dataclass(frozen=True)
class Results:
    """One bench on one device."""

    created: str
    """Start of the bench, ISO 8601, UTC."""
    device: Device
    quick: bool
    inputs: Annotated[str, one_of("videos", "random")]
    """Inputs of the latency: `videos` of the evaluation set, or `random` values."""
    data: Data | None
    baseline: Baseline
    method: Method
    rows_planned: Count
    """More than `rows` holds: the bench was interrupted."""
    rows: list[Row]
    commit: str | None = None
    """Commit of edge-af, where it runs from its repository; `-changed` at its end if files differed from it."""
    suite: str | None = None
    """The name of the suite, if it was one."""
    continued: list[str] = field(default_factory=list)
    """Times at which an interrupted bench was continued, ISO 8601, UTC."""
    conditions: dict[str, Conditions] | None = None
    """`before` the first row and `after` the last one."""
    warnings: list[str] = field(default_factory=list)
    """Problems while measuring, in plain words."""
    bandwidth: list[Bandwidth] = field(default_factory=list)
    sensitivity: list[Sensitivity] = field(default_factory=list)
    gallery: Gallery | None = None
    tool: Tool | None = None
    """None: this package's own worker."""

    @property
    def is_complete(self) -> bool:
        """True if every planned row has all its rounds and its accuracy's interval, or ended before that."""

        def is_done(row: Row) -> bool:
            # Version 1 had neither conditions nor intervals.
            accuracy = row.gap_at_20 if self.conditions is None else row.gap_at_20_interval
            judged = self.data is None or accuracy is not None or row.reason is not None
            return row.status != OK or (judged and len(row.rounds or [0]) >= self.method.rounds)

        return sum(map(is_done, self.rows)) >= self.rows_planned

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of the schema."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}


def write_results(path: Path, results: Results) -> None:
    """Write `results.json` atomically."""
    write_atomic(path, dump_results(results))


def dump_results(results: Results) -> str:
    """The text of `results.json`: indented, but for lists of numbers, such as a row's raw latencies, each on one line."""
    text = json.dumps(results.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    # A line break follows the bracket of a list alone, never one in a string.
    return re.sub(r"\[\n[-+.\de,\s]+\]", lambda match: " ".join(match[0].split()), text) + "\n"


def read_results(path: Path) -> Results:
    """Read `results.json`. Fields this version does not know are passed over.

    Raises:
        EdgeAfError: it is missing, no JSON, of a schema version not known, or does not follow the schema; names the field.
    """
    value = read_json(path, "results file")
    if not isinstance(value, dict) or "schema_version" not in value:
        raise EdgeAfError(f"{path}: not a results file of `edge-af bench` (no schema_version).")
    version = value["schema_version"]
    if version not in READABLE or isinstance(version, bool):
        raise EdgeAfError(
            f"{path}: schema_version {version!r}; this edge-af reads {' and '.join(map(str, READABLE))}. "
            "Bench again, or report with the edge-af that wrote it."
        )
    if version == 1:
        value = _from_version_1(value)
    try:
        found = built(Results, value, unknown=True)
        if found.conditions is not None and not {"before", "after"} <= set(found.conditions):
            raise Mismatch("conditions: object missing `before` or `after`")
    except Mismatch as error:
        raise EdgeAfError(f"{path}: not a results file of `edge-af bench`: {error}.") from None
    return found


def _from_version_1(value: dict[str, Any]) -> dict[str, Any]:
    """Drop what only later versions have. Version 1's rows were measured in one round, one video at a time."""
    method = value.get("method")
    later = ("commit", "suite", "continued", "conditions", "warnings", "bandwidth", "sensitivity", "gallery")
    return {
        **{name: inner for name, inner in value.items() if name not in later},
        "method": {**method, "rounds": 1, "packed": False} if isinstance(method, dict) else method,
    }
