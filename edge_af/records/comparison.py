"""Comparisons: their dataclasses, their JSON, and how checks make an exit code."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from edge_af.files import write_atomic
from edge_af.machine.conditions import Conditions
from edge_af.machine.device import Device
from edge_af.records.results import Data, Delta
from edge_af.typed import Amount, Count, Positive, one_of

SCHEMA_VERSION = 1

PASSED, FAILED, INVALID, UNKNOWN = "passed", "failed", "invalid", "unknown"
"""Outcomes of a check: held; not held; the base or the machine is at fault; inconclusive."""
EXIT_STATUS = {PASSED: 0, FAILED: 1, INVALID: 2, UNKNOWN: 3}


SLOWER, NOT_SLOWER, FASTER, CANNOT_TELL = "slower", "not slower", "faster", "cannot tell"

Status = Annotated[str, one_of(PASSED, FAILED, INVALID, UNKNOWN)]
Verdict = Annotated[str, one_of(SLOWER, NOT_SLOWER, FASTER, CANNOT_TELL)]


@dataclass(frozen=True)
class FileFacts:
    """Facts of one file. None is unknown."""

    size_bytes: Count
    weight_bytes: Count | None
    """Bytes of the constants, all of which an inference reads."""
    operators: dict[str, int]
    """By type, as the file has them."""
    multiply_adds: Count | None
    """MACs of the matrix products, for one video."""
    integer_share: float | None
    """Share of the weights that integer kernels were seen to read at export."""
    peak_memory_bytes: Count | None
    """High-water mark of a process that loads the file and runs it, the runtime among it."""
    gap_at_20: float | None = None
    f1_micro: float | None = None


@dataclass(frozen=True)
class Relative:
    """Largest worsening allowed against the base. Shares: 0.05 is 5 %."""

    max_slowdown: Amount = 0.05
    max_growth: Amount = 0.01
    """Growth of file bytes, weight bytes and MACs."""
    max_memory_growth: Amount = 0.10
    """Growth of the process's peak memory, which itself differs by up to 6 % from process to process."""
    max_gap_drop: Amount = 0.002
    """GAP@20 lost, in absolute terms."""
    min_agreement: float | None = None
    """See `edge_af.compare.agreement`; its own limits when None."""


@dataclass(frozen=True)
class Interval:
    """A center between two bounds: of differences of logarithms, or of ratios."""

    value: float
    low: float
    high: float

    def as_ratio(self) -> Interval:
        """The ratios of which these are the logarithms."""
        # A ratio of e^50 is as good as any beyond it, and fits a float.
        value, low, high = (math.exp(min(max(one, -50.0), 50.0)) for one in (self.value, self.low, self.high))
        return Interval(value, low, high)


@dataclass(frozen=True)
class LogRatio:
    """A generation's figure: a difference of logarithms, and its own standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Look:
    """Result of one planned look at the interval."""

    seconds: float
    """Since the comparison of this pair began."""
    generations: int
    error: float
    """The probability that the interval was made for, on either side."""
    ratio: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Timing:
    """Candidate against base."""

    verdict: Verdict
    """`slower`, `not slower`, `faster`, `cannot tell`."""
    reason: str | None
    """Reason why it is inconclusive; None if it is not."""
    max_slowdown: float
    ratio: Interval | None
    """Candidate's time over base's; None if there were too few generations for one."""
    noise: Interval | None
    """The same of a second process of the base over the first."""
    generations: Count
    rounds: Count
    seconds: float
    budget_seconds: float
    clock: Annotated[str, one_of("cpu", "wall")]
    """`cpu`: the processor time of the process; `wall` with several threads, and where a file waits for something."""
    base_ms: float | None
    """The fastest inference of a round, median over all; by `clock`."""
    candidate_ms: float | None
    preempted_share: float | None
    """Share of the blocks that another process interrupted."""
    core_share: float | None
    """Share of its core's time that a process got while it was timed."""
    looks: list[Look] = field(default_factory=list)
    log_ratios: list[LogRatio] = field(default_factory=list)
    """Each generation's candidate over the mean of the bases, in logarithms."""
    log_noises: list[LogRatio] = field(default_factory=list)
    """Each generation's base over itself, in logarithms."""
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Check:
    """One thing that was compared or limited."""

    name: str
    """`runs`, `agreement`, `time`, `size_bytes` and so on; with the pattern before it if it is of the budget file."""
    status: Status
    verdict: str
    """In a few words."""
    base: float | None = None
    candidate: float | None = None
    limit: float | None = None
    """Value that `candidate` was held against, in its unit."""


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
    """Operator type to [base's count, candidate's], where they differ."""
    agreement: float | None = None
    gap_at_20_delta: Delta | None = None
    """Candidate minus base, and 95 % of a paired bootstrap over the videos; None without evaluation data."""
    timing: Timing | None = None

    @property
    def status(self) -> str:
        """The weightiest of its checks."""
        return worst(check.status for check in self.checks)


@dataclass(frozen=True)
class Comparison:
    """One comparison on one machine."""

    created: str
    """Start of the comparison, ISO 8601, UTC."""
    commit: str | None
    """Commit of edge-af, where it runs from its repository."""
    device: Device
    threads: Positive
    cores: list[int]
    """Cores that the timed processes could run on, those of a generation on the same; empty for any."""
    seed: int
    budget_seconds: Amount
    """For timing all pairs."""
    relative: Relative
    inputs: Annotated[str, one_of("videos", "random")]
    """Inputs of the timing: `videos` of the evaluation set, or `random` values."""
    data: Data | None
    pairs: list[PairResult]
    only_base: list[str]
    only_candidate: list[str]
    conditions: dict[str, Conditions]
    """`before` and `after`."""
    warnings: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """The weightiest of its pairs'."""
        return worst(pair.status for pair in self.pairs)

    @property
    def exit_status(self) -> int:
        """0, 1 (a gate failed), 2 (the base or the machine is at fault) or 3 (cannot tell)."""
        return EXIT_STATUS[self.status]

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of the schema."""
        value = dataclasses.asdict(self)
        for pair, own in zip(value["pairs"], self.pairs, strict=True):
            pair["status"] = own.status
        return {"schema_version": SCHEMA_VERSION, "status": self.status, "exit_status": self.exit_status, **value}


def worst(statuses: Iterable[str]) -> str:
    """The weightiest: a gate that failed, then what could not be compared, then what could not be told."""
    found = set(statuses)
    return next((status for status in (FAILED, INVALID, UNKNOWN) if status in found), PASSED)


def dump(comparison: Comparison) -> str:
    """The text of `compare.json`."""
    return json.dumps(comparison.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write(path: Path, comparison: Comparison) -> None:
    """Write `compare.json` atomically."""
    write_atomic(path, dump(comparison))
