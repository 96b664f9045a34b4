"""Request and plan of a bench: how to measure, and the rows to measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_af.bench.subject import Subject
from edge_af.bench.suite import Suite
from edge_af.data.dataset import Dataset
from edge_af.records.results import ExtractionCost, Method, Row

STANDARD = Method(rounds=4, packed=True)
"""The default of `edge-af bench`."""

QUICK = Method(inferences=200, seconds=2.0, packed=True)
"""The method of `--quick`: enough for a check, not for publication."""


@dataclass(frozen=True)
class BenchRequest:
    """Settings of a bench: method, data, and where the results go."""

    dataset: Dataset | None = None
    """The evaluation set. None measures latency on random values, and no accuracy."""
    threads: tuple[int, ...] = (1,)
    batches: tuple[int, ...] = (1,)
    """Videos per inference."""
    method: Method = STANDARD
    quick: bool = False
    """Marks the results as quick."""
    suite: Suite | None = None
    """Chooses among the subjects."""
    out: Path | None = None
    """Results file, written after each row. An interrupted bench in it is continued. None saves nothing."""
    fresh: bool = False
    """Start over if `out` contains a bench of the same files."""
    overwrite: bool = False
    """Replace any contents of `out`."""
    extraction: ExtractionCost | None = None
    """The cost of extracting features, for the results."""


@dataclass(frozen=True)
class PlannedRow:
    """One row to measure."""

    subject: Subject
    threads: int
    batch: int

    @property
    def title(self) -> str:
        """A short name for messages and progress."""
        more = [f"{self.threads} threads"] if self.threads > 1 else []
        more += [f"batch {self.batch}"] if self.batch > 1 else []
        return ", ".join([self.subject.title, *more])

    @property
    def key(self) -> str:
        """`artifact/file`, as in `Row.key`."""
        return f"{self.subject.artifact}/{self.subject.path.name}"

    def is_of(self, row: Row) -> bool:
        """Return True if a row of other results has the same bytes and was measured the same way."""
        mine = (self.subject.sha256, self.key, self.subject.runtime, self.threads, self.batch)
        return mine[0] is not None and mine == (row.sha256, row.key, row.runtime, row.threads, row.batch)


def plan_of(request: BenchRequest, subjects: Sequence[Subject]) -> list[PlannedRow]:
    """List the rows of a bench in the order of the table."""
    return [
        PlannedRow(subject, threads, batch)
        for subject in subjects
        for threads in request.threads
        for batch in request.batches
    ]


def rounds_of(request: BenchRequest) -> int:
    """Return the number of rounds; each has at least one inference."""
    return min(request.method.rounds, request.method.inferences)


def round_of(method: Method, round_: int) -> Method:
    """Return one round's share of a method: its inferences and seconds."""
    share, more = divmod(method.inferences, method.rounds)
    return dataclasses.replace(
        method,
        inferences=max(1, share + (round_ < more)),
        seconds=method.seconds / method.rounds if method.seconds is not None else None,
    )
