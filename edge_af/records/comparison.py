"""Comparisons: their dataclasses, JSON and exit codes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from edge_af.errors import BAD_INPUT, DONE, GATE_FAILED, INCONCLUSIVE
from edge_af.files import write_atomic
from edge_af.machine.conditions import Conditions
from edge_af.machine.device import Device
from edge_af.records.results import Data, Delta
from edge_af.typed import Amount, Count, Positive, one_of

SCHEMA_VERSION = 1

PASSED, FAILED, INVALID, UNKNOWN = "passed", "failed", "invalid", "unknown"
"""Outcomes of a check: passed; failed; the base or the machine is at fault; inconclusive."""
EXIT_CODES = {PASSED: DONE, FAILED: GATE_FAILED, INVALID: BAD_INPUT, UNKNOWN: INCONCLUSIVE}

SLOWER, NOT_SLOWER, FASTER, CANNOT_TELL = "slower", "not slower", "faster", "cannot tell"

Status = Annotated[str, one_of(PASSED, FAILED, INVALID, UNKNOWN)]
Verdict = Annotated[str, one_of(SLOWER, NOT_SLOWER, FASTER, CANNOT_TELL)]


@dataclass(frozen=True)
class FileFacts:
    """Facts about one file; None if unknown."""

    size_bytes: Count
    weight_bytes: Count | None
    """Bytes of the constants, which each inference reads completely."""
    operators: dict[str, int]
    """Number of operators by type, as named in the file."""
    multiply_adds: Count | None
    """MACs of the matrix products for one video."""
    integer_share: float | None
    """Share of the weights that integer kernels read, from the check at export."""
    peak_memory_bytes: Count | None
    """Peak memory of a process that loads and runs the file, including the runtime."""
    gap_at_20: float | None = None
    f1_micro: float | None = None


@dataclass(frozen=True)
class Relative:
    """Largest regression allowed against the base, as shares: 0.05 is 5 %."""

    max_slowdown: Amount = 0.05
    max_growth: Amount = 0.01
    """Largest growth of file bytes, weight bytes and MACs."""
    max_memory_growth: Amount = 0.10
    """Largest growth of the process's peak memory, which varies by up to 6 % between processes."""
    max_gap_drop: Amount = 0.002
    """Largest absolute loss of GAP@20."""
    min_agreement: float | None = None
    """See `edge_af.compare.agreement`; None for its default limits."""


@dataclass(frozen=True)
class Interval:
    """A center and two bounds, of differences of logarithms or of ratios."""

    value: float
    low: float
    high: float

    def as_ratio(self) -> Interval:
        """Convert logarithms to ratios."""
        # Cap at e^50, so that the ratio fits a float.
        value, low, high = (math.exp(min(max(one, -50.0), 50.0)) for one in (self.value, self.low, self.high))
        return Interval(value, low, high)


@dataclass(frozen=True)
class LogRatio:
    """A generation's result: a difference of logarithms, and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Look:
    """Result of one planned interim look at the interval."""

    seconds: float
    """Seconds since the comparison of this pair began."""
    generations: int
    error: float
    """Error probability of the interval on each side."""
    ratio: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Timing:
    """Timing of the candidate against the base."""

    verdict: Verdict
    """`slower`, `not slower`, `faster`, `cannot tell`."""
    reason: str | None
    """Reason if it is inconclusive; else None."""
    max_slowdown: float
    ratio: Interval | None
    """Ratio of the candidate's time to the base's; None with too few generations."""
    noise: Interval | None
    """The same for a second process of the base against the first."""
    generations: Count
    rounds: Count
    seconds: float
    budget_seconds: float
    clock: Annotated[str, one_of("cpu", "wall")]
    """`cpu` for processor time; `wall` for wall-clock time, with several threads or if a file waits for something."""
    base_ms: float | None
    """Median over all rounds of the fastest inference of a round, by `clock`."""
    candidate_ms: float | None
    preempted_share: float | None
    """Share of the timed blocks that another process interrupted."""
    core_share: float | None
    """Share of its core's time that a process got during timing."""
    looks: list[Look] = field(default_factory=list)
    log_ratios: list[LogRatio] = field(default_factory=list)
    """Each generation's candidate against the mean of the bases, in logarithms."""
    log_noises: list[LogRatio] = field(default_factory=list)
    """Each generation's second base against the first, in logarithms."""
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Check:
    """One check of a comparison."""

    name: str
    """`runs`, `agreement`, `time`, `size_bytes` and so on; prefixed by the pattern if it is from the limits file."""
    status: Status
    verdict: str
    """The outcome in a few words."""
    base: float | None = None
    candidate: float | None = None
    limit: float | None = None
    """Limit for `candidate`, in its unit."""


@dataclass(frozen=True)
class PairResult:
    """Result of one pair of files."""

    name: str
    base_file: str
    candidate_file: str
    base_sha256: str
    candidate_sha256: str
    runtimes: list[str]
    checks: list[Check]
    base: FileFacts | None = None
    candidate: FileFacts | None = None
    operators_changed: dict[str, list[int]] = field(default_factory=dict)
    """Operator type -> [base's count, candidate's count], where they differ."""
    agreement: float | None = None
    gap_at_20_delta: Delta | None = None
    """Candidate minus base, with the 95 % interval of a paired bootstrap over the videos; None without evaluation data."""
    timing: Timing | None = None

    @property
    def status(self) -> str:
        """Most severe outcome of its checks."""
        return worst(check.status for check in self.checks)


@dataclass(frozen=True)
class Comparison:
    """A comparison on one machine."""

    created: str
    """Start of the comparison, ISO 8601, UTC."""
    commit: str | None
    """Commit of edge-af if it runs from its repository."""
    device: Device
    threads: Positive
    cores: list[int]
    """Cores for the timed processes, the same for all of a generation; empty for any."""
    seed: int
    budget_seconds: Amount
    """Time budget for all pairs."""
    relative: Relative
    inputs: Annotated[str, one_of("videos", "random")]
    """Timed inputs: `videos` of the evaluation set, or `random` values."""
    data: Data | None
    pairs: list[PairResult]
    only_base: list[str]
    only_candidate: list[str]
    conditions: dict[str, Conditions]
    """`before` and `after`."""
    warnings: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """Most severe outcome of its pairs."""
        return worst(pair.status for pair in self.pairs)

    @property
    def exit_code(self) -> int:
        """Exit code, see `edge_af.errors`."""
        return EXIT_CODES[self.status]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of the schema."""
        value = dataclasses.asdict(self)
        for pair, own in zip(value["pairs"], self.pairs, strict=True):
            pair["status"] = own.status
        return {"schema_version": SCHEMA_VERSION, "status": self.status, "exit_status": self.exit_code, **value}


def worst(statuses: Iterable[str]) -> str:
    """Return the most severe outcome: a failed gate, then an error, then inconclusive."""
    found = set(statuses)
    return next((status for status in (FAILED, INVALID, UNKNOWN) if status in found), PASSED)


def dump(comparison: Comparison) -> str:
    """Return the text of `compare.json`."""
    return json.dumps(comparison.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write(path: Path, comparison: Comparison) -> None:
    """Write `compare.json` atomically."""
    write_atomic(path, dump(comparison))
