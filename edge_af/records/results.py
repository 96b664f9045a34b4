"""Results of a bench, `results.json`, as frozen dataclasses. Its JSON Schema is in `docs/schemas`."""

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
"""Schema versions that `read_results` accepts; older ones are converted to the current one."""

OK, MISSING_RUNTIME, CRASHED, TIMEOUT, FAILED = "ok", "missing-runtime", "crashed", "timeout", "failed"
DOES_NOT_FIT = "does-not-fit"
STATUSES = (OK, MISSING_RUNTIME, DOES_NOT_FIT, CRASHED, TIMEOUT, FAILED)
"""Outcomes of a row. All except `ok` have a `reason`; `does-not-fit` also has `needed_bytes` and `available_bytes`."""


@dataclass(frozen=True)
class Latency:
    """Latency of one inference of a row's `batch` videos, in milliseconds."""

    p50: float
    p90: float | None
    """None if a tool's summary lacks it; p99 likewise."""
    p99: float | None
    mean: float
    n: Positive
    p95: float | None = None


LEAST_FOR_MEDIAN = 20
"""Fewest inferences that a round needs for a meaningful median."""


@dataclass(frozen=True)
class Round:
    """Summary of a round by a tool without raw values, in milliseconds per inference."""

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
    """A difference, with its interval from a paired bootstrap over the same videos."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Instructions:
    """Instructions of one inference of one video on one thread, counted under emulation, including Python's call of the
    runtime.
    """

    instructions: Count
    dot_product: Count
    """SDOT, UDOT and similar."""
    dot_product_macs: Count
    """MACs of those: 16 for a full vector."""
    integer_multiply: Count
    """Integer vector multiplications: SMLAL, MLA, MUL, SQRDMULH and similar."""
    integer_multiply_macs: Count
    float_multiply_add: Count
    """FMLA, FMADD and similar."""
    float_multiply_add_macs: Count
    vector: Count
    """All instructions on vector and floating-point registers except loads and stores, including those above."""
    loads: Count
    stores: Count
    loaded_bytes: Count
    stored_bytes: Count
    memory_read_bytes: Count
    """Bytes read from memory by a cache of the board's last-level size (16 ways, least recently used)."""
    memory_written_bytes: Count
    """Bytes that this cache writes back."""


@dataclass(frozen=True)
class Modeled:
    """A modeled figure with its band; never measured."""

    value: Amount
    low: Amount
    high: Amount


@dataclass(frozen=True)
class Row:
    """One artifact in one runtime with one thread count and batch size. Missing figures are None."""

    artifact: str
    """Name of the file's folder, preceded by parts of its path if several folders have this name."""
    file: str
    model: str
    preset: str
    runtime: str
    precision: str
    recipe: str | None
    cpu: str | None
    """Processor kind that the file was made for, `x86-64` or `arm64`; None for any."""
    threads: Positive
    status: Annotated[str, one_of(*STATUSES)]
    reason: str | None
    """Reason why the row is not `ok`, or why an `ok` row has no accuracy despite evaluation data."""
    params: Count
    """Trainable parameters of the trained network."""
    classes: Positive
    size_bytes: Count
    sha256: str | None = None
    """SHA-256 of the file, which a resumed bench compares."""
    batch: Positive = 1
    """Videos per inference."""
    weight_bytes: Count | None = None
    """Bytes of the constants in the file, which each inference reads completely."""
    integer_share: Amount | None = None
    """Share of the weight bytes that integer kernels read, from the check at export; None if unknown."""
    kernels: str | None = None
    """Kernels that the runtime uses on this processor: types of activations and weights, then the instructions, such as
    `U8S8 AVX-512 VNNI`; None if unknown.
    """
    load_ms: float | None = None
    first_ms: float | None = None
    """Time of the first inference after loading, which includes delayed initialization."""
    latency_ms: Latency | None = None
    latency_raw_us: list[int] | None = None
    """All timed inferences in order."""
    rounds: list[int] | None = None
    """Number of inferences of each round, each in its own process; the sum is `latency_ms.n`."""
    rounds_ms: list[Round] | None = None
    """Summary of each round if raw values are unknown; `latency_ms` then has the medians of their p50 and p95."""
    videos_per_s: float | None = None
    """Videos per second: `batch` divided by the mean latency."""
    limit_ms: float | None = None
    """Time to read the weights' number of bytes once, with the row's threads, measured in the same bench."""
    limit_share: float | None = None
    """`limit_ms` divided by the p50; 1 is the best possible."""
    peak_memory_bytes: int | None = None
    """Peak memory of the process, from before loading until after the timed inferences."""
    runtime_memory_bytes: int | None = None
    """Peak memory after importing the runtime, before loading."""
    bare_memory_bytes: int | None = None
    """Peak memory of the same measurement with an empty model: Python, numpy and the runtime."""
    needed_bytes: int | None = None
    """Estimated memory needed by a row with the status `does-not-fit`."""
    available_bytes: int | None = None
    """Memory available to a row with the status `does-not-fit`."""
    memory: dict[str, MemoryReading] | None = None
    """Memory at `before_load`, `after_load` and `after_run`, as far as the row got."""
    gap_at_20: float | None = None
    gap_at_20_interval: list[float] | None = None
    """[low, high], the 95 % interval of a bootstrap over the videos."""
    gap_at_20_delta: Delta | None = None
    """Difference to FP32 of the same network, in the same runtime if measured there; None for FP32."""
    f1_micro: float | None = None
    f1_micro_interval: list[float] | None = None
    f1_threshold: float | None = None
    f1_micro_at_half: float | None = None
    f1_macro: float | None = None
    """Macro-averaged F1 at `f1_threshold`, over the classes that occur."""
    hit_at_1: float | None = None
    perr: float | None = None
    map: float | None = None
    ties_share: float | None = None
    """Share of the pooled top-20 pairs whose score equals another pair's."""
    videos: int | None = None
    multiply_adds: Count | None = None
    """MACs of the network's matrix products for one video; in emulated rows."""
    instructions: Instructions | None = None
    """Instruction counts of an emulated row."""
    modelled_latency_ms: Modeled | None = None
    """Latency of an emulated row, modeled from its instructions and the board's published figures."""

    @property
    def key(self) -> str:
        """`artifact/file`, which identifies the network in the gallery."""
        return f"{self.artifact}/{self.file}"

    def round_p50_ms(self) -> list[float]:
        """Return the median of each round with enough inferences."""
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
    """SHA-256 of the videos, which a resumed bench compares."""


@dataclass(frozen=True)
class Baseline:
    """Network and precision that the other rows are compared with, in the same runtime."""

    artifact: str
    model: str
    preset: str
    precision: str


@dataclass(frozen=True)
class Method:
    """Measurement method of each row."""

    inferences: Positive = 1024
    """Timed inferences over all rounds (MLPerf's single-stream minimum), or fewer if `seconds` pass first."""
    seconds: float | None = 10.0
    """Time limit of the timed inferences over all rounds, in seconds; None for no limit."""
    warm_up: Count = 32
    """Warm-up inferences of each round, or fewer if `warm_up_seconds` pass first."""
    warm_up_seconds: float = 1.0
    batch: Positive = 256
    """Videos scored at a time for accuracy; 1 if a video's scores would depend on the other videos."""
    timeout_seconds: float = 600.0
    """Time after which a row's process is ended."""
    packed: bool = False
    """True if weights were packed for this processor in advance and are memory-mapped."""
    rounds: Positive = 1
    """Number of measurement rounds; each measures a part of every row's inferences in a fresh process."""


@dataclass(frozen=True)
class Tool:
    """Another project's program that measured instead of this package."""

    name: str
    sha256: str
    options: list[str]
    """Its options in the first round, in addition to the row's file and threads."""


@dataclass(frozen=True)
class Bandwidth:
    """Sequential memory read bandwidth of this machine."""

    threads: Positive
    buffer_bytes: Positive
    """Bytes read repeatedly. The largest exceeds the caches; the others have the size of the rows' weights."""
    bytes_per_s: Amount
    """Speed of the fastest pass, so that a disturbed measurement cannot make the limit too easy."""


@dataclass(frozen=True)
class Sensitivity:
    """Effect of quantizing one layer alone, from an export's `sensitivity.json`."""

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


STAGES = ("decode", "visual", "audio")


@dataclass(frozen=True)
class StageCost:
    """One stage of turning a video into features, per second of video, on one thread."""

    stage: Annotated[str, one_of(*STAGES)]
    processor_ms: Amount | None = None
    """Measured processor time; None if emulated."""
    instructions: Instructions | None = None
    """Instructions, counted under emulation."""
    modelled_ms: Modeled | None = None
    """Processor time modeled from them."""

    @property
    def milliseconds(self) -> float | None:
        """The measured or modeled processor time."""
        if self.processor_ms is not None:
            return self.processor_ms
        return self.modelled_ms.value if self.modelled_ms is not None else None


@dataclass(frozen=True)
class ExtractionCost:
    """Cost of turning a video into features."""

    video: str
    """Name of the file."""
    width: Count
    """Width of the video's frames in pixels; 0 without a video track. The same for `height`."""
    height: Count
    codec: str
    """Codec of the video track, or of the sound without one."""
    seconds: Amount
    """Seconds of the video that were extracted."""
    extractor: str
    every: Amount
    """Seconds between two frames."""
    stages: list[StageCost]


@dataclass(frozen=True)
class GalleryPrediction:
    """One of a network's best classes for a video."""

    name: str
    score: float
    hit: bool
    """True if it is one of the video's labels."""


@dataclass(frozen=True)
class GalleryVideo:
    """A video of the evaluation set, its labels, and each network's predictions."""

    id: str
    labels: list[str]
    predictions: dict[str, list[GalleryPrediction]]
    """Each network's three best classes, best first, keyed by `Row.key`."""


@dataclass(frozen=True)
class Gallery:
    """Example videos, sampled with a fixed seed."""

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
    """Timed inputs: `videos` of the evaluation set, or `random` values."""
    data: Data | None
    baseline: Baseline
    method: Method
    rows_planned: Count
    """Number of planned rows; larger than the number of `rows` after an interruption."""
    rows: list[Row]
    commit: str | None = None
    """Commit of edge-af if it runs from its repository, with `-changed` appended if files were modified."""
    suite: str | None = None
    """Name of the suite; None without one."""
    continued: list[str] = field(default_factory=list)
    """Times at which an interrupted bench resumed, ISO 8601, UTC."""
    conditions: dict[str, Conditions] | None = None
    """Conditions `before` the first row and `after` the last one."""
    warnings: list[str] = field(default_factory=list)
    """Problems during measurement."""
    bandwidth: list[Bandwidth] = field(default_factory=list)
    sensitivity: list[Sensitivity] = field(default_factory=list)
    gallery: Gallery | None = None
    extraction: ExtractionCost | None = None
    """Cost of extracting the features of a video on this device."""
    tool: Tool | None = None
    """None for this package's own worker."""

    @property
    def is_complete(self) -> bool:
        """True if every planned row has all its rounds and its accuracy's interval, or a final failure."""

        def is_done(row: Row) -> bool:
            # Version 1 lacks conditions and intervals.
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
    """Return the text of `results.json`, indented, with each list of numbers on one line."""
    text = json.dumps(results.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    # Only a list's bracket is followed by a line break, never one in a string.
    return re.sub(r"\[\n[-+.\de,\s]+\]", lambda match: " ".join(match[0].split()), text) + "\n"


def read_results(path: Path) -> Results:
    """Read `results.json`; unknown fields are ignored.

    Raises:
        EdgeAfError: the file is missing or not JSON, has an unknown schema version, or violates the schema (the
            message names the field).
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
    """Convert to the current version. Version 1's rows were measured in one round, one video at a time."""
    method = value.get("method")
    later = ("commit", "suite", "continued", "conditions", "warnings", "bandwidth", "sensitivity", "gallery")
    return {
        **{name: inner for name, inner in value.items() if name not in later},
        "method": {**method, "rounds": 1, "packed": False} if isinstance(method, dict) else method,
    }
