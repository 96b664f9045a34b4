"""What a comparison found: its dataclasses, its JSON, and how checks make an exit status."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from edge_af.bench.conditions import Conditions
from edge_af.bench.device import Device
from edge_af.bench.results import Data, Delta
from edge_af.bench.schema import violation
from edge_af.compare.facts import Facts
from edge_af.compare.limits import Relative
from edge_af.compare.timing import Timing
from edge_af.errors import EdgeAfError
from edge_af.files import read_json, write_atomic

SCHEMA_VERSION = 1

PASSED, FAILED, INVALID, UNKNOWN = "passed", "failed", "invalid", "unknown"
"""What becomes of a check: held; not held; the base or the machine is at fault; it cannot be told."""
EXIT_STATUS = {PASSED: 0, FAILED: 1, INVALID: 2, UNKNOWN: 3}


@dataclass(frozen=True)
class Check:
    """One thing that was compared or limited."""

    name: str
    """`runs`, `agreement`, `time`, `size_bytes` and so on; with the pattern before it if it is of the budget file."""
    status: str
    verdict: str
    """In a few words."""
    base: float | None = None
    candidate: float | None = None
    limit: float | None = None
    """What `candidate` was held against; in the unit of it."""


@dataclass(frozen=True)
class PairResult:
    """What was found of one pair of files."""

    name: str
    base_file: str
    candidate_file: str
    base_sha256: str
    candidate_sha256: str
    runtimes: list[str]
    checks: list[Check]
    base: Facts | None = None
    candidate: Facts | None = None
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
    """When it began, ISO 8601, UTC."""
    commit: str | None
    """Of edge-af, where it runs from its repository."""
    device: Device
    threads: int
    cores: list[int]
    """That the timed processes could run on, those of a generation on the same; empty for any."""
    seed: int
    budget_seconds: float
    """For timing all pairs."""
    relative: Relative
    inputs: str
    """What was timed: `videos` of the evaluation set, or `random` values."""
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


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of `compare.json`."""
    text = resources.files("edge_af.compare").joinpath("compare.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def dump(comparison: Comparison) -> str:
    """The text of `compare.json`."""
    return json.dumps(comparison.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write(path: Path, comparison: Comparison) -> None:
    """Write `compare.json` atomically."""
    write_atomic(path, dump(comparison))


def read(path: Path) -> dict[str, Any]:
    """Read `compare.json` as the object that its schema describes.

    Raises:
        EdgeAfError: it is missing, no JSON, of another version, or does not follow the schema; names the field.
    """
    value = read_json(path, "comparison")
    if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
        found = value.get("schema_version") if isinstance(value, dict) else None
        raise EdgeAfError(f"{path}: schema_version {found!r}; this edge-af reads {SCHEMA_VERSION}. Compare again.")
    if wrong := violation(value, schema()):
        raise EdgeAfError(f"{path}: not a file of `edge-af compare`: {wrong}.")
    return value
