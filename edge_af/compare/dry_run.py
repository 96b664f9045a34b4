"""Dry run of a comparison: its pairs, gates and duration. Nothing is measured or written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_af.bench.subject import check_data
from edge_af.compare.agreement import LEAST_AGREEMENT
from edge_af.compare.facts import FACTS_SECONDS, MEMORY_RUNS
from edge_af.compare.gates import LEAST_SHARE_DROP
from edge_af.compare.match import Matched, Pair
from edge_af.compare.run import Settings, sha256_of
from edge_af.data.dataset import Dataset


@dataclass(frozen=True)
class DryRunPair:
    """A pair that would be compared."""

    name: str
    base: str
    candidate: str
    runtimes: list[str]
    is_timed: bool
    """False if both files have the same bytes, or one cannot run."""
    problem: str | None
    """Reason why a file cannot run, if known beforehand."""


@dataclass(frozen=True)
class CompareDryRun:
    """Plan of a comparison."""

    pairs: list[DryRunPair] | None
    """None with --base-ref: the command has not made the files yet."""
    only_base: list[str]
    only_candidate: list[str]
    gates: dict[str, float]
    """Limits against the base, as shares: 0.05 is 5 %. The drop of GAP@20 is absolute."""
    limits: dict[str, dict[str, Any]]
    """Limits of the budget file, by file pattern."""
    budget_seconds: float
    """Time for timing all pairs."""
    seconds_at_most: float
    """The budget, and the time limits of the processes that measure memory. Loading and scoring come on top."""
    accuracy_videos: int
    """Videos to score, over all files."""


def dry_run(matched: Matched | None, dataset: Dataset | None, settings: Settings) -> CompareDryRun:
    """Plan a comparison; `matched` is None if the files are not made yet.

    Raises:
        EdgeAfError: the evaluation data does not fit the files.
    """
    pairs = [_pair(pair) for pair in matched.pairs] if matched is not None else None
    if matched is not None:
        sides = [side for pair in matched.pairs for side in (pair.base, pair.candidate)]
        check_data([side.subject for side in sides if side.subject is not None], dataset)
    runnable = [pair for pair in pairs or [] if pair.problem is None]
    files = sum(2 if pair.is_timed else 1 for pair in runnable)
    relative, inputs = settings.relative, "random" if dataset is None else "videos"
    gates = {
        "max_slowdown": relative.max_slowdown,
        "max_growth": relative.max_growth,
        "max_memory_growth": relative.max_memory_growth,
        "max_integer_share_drop": LEAST_SHARE_DROP,
        "min_agreement": LEAST_AGREEMENT[inputs] if relative.min_agreement is None else relative.min_agreement,
    }
    if dataset is not None:
        gates["max_gap_drop"] = relative.max_gap_drop
    timing = settings.budget_seconds if pairs is None or any(pair.is_timed for pair in pairs) else 0.0
    return CompareDryRun(
        pairs=pairs,
        only_base=matched.only_base if matched is not None else [],
        only_candidate=matched.only_candidate if matched is not None else [],
        gates=gates,
        limits=settings.budget_file.limits if settings.budget_file is not None else {},
        budget_seconds=settings.budget_seconds,
        seconds_at_most=timing + files * MEMORY_RUNS * FACTS_SECONDS,
        accuracy_videos=files * dataset.videos if dataset is not None else 0,
    )


def _pair(pair: Pair) -> DryRunPair:
    problem = pair.base.problem or pair.candidate.problem
    is_same = pair.base.runtime == pair.candidate.runtime and sha256_of(pair.base) == sha256_of(pair.candidate)
    return DryRunPair(
        name=pair.name,
        base=str(pair.base.path),
        candidate=str(pair.candidate.path),
        runtimes=[pair.base.runtime, pair.candidate.runtime],
        is_timed=problem is None and not is_same,
        problem=problem,
    )
