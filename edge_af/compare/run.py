"""Compare pair by pair: first the gates that need no clock, then the times within the budget."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_af.bench.subject import check_data, data_of
from edge_af.compare import gates
from edge_af.compare.agreement import agreement, disorder
from edge_af.compare.facts import facts_of
from edge_af.compare.instructions import check_instructions
from edge_af.compare.limits import INSTRUCTIONS, BudgetFile
from edge_af.compare.match import Matched, Pair, Side, version_changes
from edge_af.compare.nursery import REFUSED, WORKER, BrokenFile, Nursery, nursery
from edge_af.compare.timing import measure_pair
from edge_af.compare.worker import NAMES, PairJob
from edge_af.console import Progress
from edge_af.data.dataset import Dataset
from edge_af.files import sha256_file, unchanged
from edge_af.machine.conditions import available_memory, conditions
from edge_af.machine.device import allowed_cores, project_commit, this_device
from edge_af.metrics.bootstrap import interval, load_outcomes, resampled_gap
from edge_af.records.comparison import PASSED, UNKNOWN, Check, Comparison, FileFacts, PairResult, Relative, Timing
from edge_af.records.results import Delta

COPIES = 2
"""Memory of a loaded file, in copies of the file: the file itself and its weights in the kernels' layout."""

SAME_BYTES = "base and candidate are the same, byte for byte."
"""Warning for when all pairs are identical: the change had no effect on the files, which may be a mistake."""


@dataclass(frozen=True)
class Settings:
    """Settings of a comparison."""

    relative: Relative = field(default_factory=Relative)
    budget_seconds: float = 100.0
    """Seconds for timing all pairs. Each pair gets an equal share of what is left when its turn comes."""
    threads: int = 1
    seed: int = 0
    timeout_seconds: float = 300.0
    """Timeout of each step: loading, a block of inferences, scoring."""
    budget_file: BudgetFile | None = None
    worker: tuple[str, ...] = WORKER


def compare(matched: Matched, dataset: Dataset | None, settings: Settings) -> Comparison:
    """Compare the pairs.

    Raises:
        EdgeAfError: before any measuring, the evaluation data has no labels, classes that differ from a file's, or a feature
            that is not a number.
    """
    sides = [side for pair in matched.pairs for side in (pair.base, pair.candidate)]
    check_data([side.subject for side in sides if side.subject is not None], dataset)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    before = conditions()
    cores = allowed_cores()
    session = _Session(dataset, settings, cores)
    results = []
    left = settings.budget_seconds
    with Progress("compare", len(matched.pairs), "pairs") as progress:
        for at, pair in enumerate(matched.pairs):
            result = session.compare_pair(pair, max(left, 0.0) / (len(matched.pairs) - at), progress)
            left -= result.timing.seconds if result.timing is not None else 0.0
            results.append(result)
            progress.update(1, "")
    return Comparison(
        created=created,
        commit=project_commit(),
        device=this_device(),
        threads=settings.threads,
        cores=cores,
        seed=settings.seed,
        budget_seconds=settings.budget_seconds,
        relative=settings.relative,
        inputs=session.inputs,
        data=data_of(dataset),
        pairs=results,
        only_base=matched.only_base,
        only_candidate=matched.only_candidate,
        conditions={"before": before, "after": conditions()},
        warnings=[
            *version_changes(matched.pairs),
            *([SAME_BYTES] if all(result.base_sha256 == result.candidate_sha256 for result in results) else []),
            *sorted({text for result in results if result.timing for text in result.timing.warnings}),
        ],
    )


class _Session:
    def __init__(self, dataset: Dataset | None, settings: Settings, cores: list[int]) -> None:
        self._dataset, self._settings, self._cores = dataset, settings, cores
        self.inputs = "random" if dataset is None else "videos"

    def compare_pair(self, pair: Pair, budget_seconds: float, progress: Progress) -> PairResult:
        result = _Building(pair)
        try:
            with (
                tempfile.TemporaryDirectory(prefix="edge-af-compare-") as folder,
                unchanged(pair.base.path, result.base_sha256),
                unchanged(pair.candidate.path, result.candidate_sha256),
            ):
                self._compare(result, Path(folder), budget_seconds, progress)
        except BrokenFile as error:
            # An earlier "runs" check passed too soon.
            result.checks = [gates.broken(error), *(check for check in result.checks if check.name != "runs")]
        return result.done()

    def _compare(self, result: _Building, folder: Path, budget_seconds: float, progress: Progress) -> None:
        pair, settings = result.pair, self._settings
        data = self._dataset.folder if self._dataset is not None else None
        outcomes = {role: folder / f"{role}.npz" if data is not None else None for role in ("base", "candidate")}
        facts = {}
        if pair.base.runtime == pair.candidate.runtime and result.base_sha256 == result.candidate_sha256:
            self._same_bytes(result, outcomes["candidate"], progress)
            return
        for side in (pair.base, pair.candidate):
            if side.problem is not None:
                raise BrokenFile(side.role, REFUSED, side.problem)
        for side in (pair.base, pair.candidate):
            progress.update(0, f"{pair.name}: size and memory of {NAMES[side.role == 'candidate']}")
            facts[side.role] = facts_of(
                side,
                threads=settings.threads,
                timeout_seconds=settings.timeout_seconds,
                data=data,
                outcomes=outcomes[side.role],
            )
        result.base, result.candidate = base, candidate = facts["base"], facts["candidate"]
        result.checks.append(Check("runs", PASSED, "both run"))
        with self._nursery(pair) as started:
            scores = self._scores(started, folder)
            result.agreement = agreement(*scores)
            result.checks.append(
                gates.check_agreement(result.agreement, disorder(*scores), self.inputs, settings.relative)
            )
            result.checks += gates.check_growth(base, candidate, settings.relative)
            if outcomes["base"] is not None and outcomes["candidate"] is not None:
                result.gap_at_20_delta = _gap_delta(base, candidate, outcomes["base"], outcomes["candidate"])
                result.checks.append(gates.check_gap(base, candidate, result.gap_at_20_delta, settings.relative))
            result.checks += self._limits(pair, candidate)
            if (needed := _needed(base, candidate)) > (available := available_memory() or needed):
                amounts = f"{needed / 1e6:,.0f} MB, {available / 1e6:,.0f} MB available"
                reason = f"cannot tell: three loaded files need about {amounts}"
                result.checks.insert(1, Check("time", UNKNOWN, reason))
                return
            result.timing = measure_pair(
                started,
                threads=settings.threads,
                max_slowdown=settings.relative.max_slowdown,
                budget_seconds=budget_seconds,
                seed=settings.seed,
                on_generation=lambda generations: progress.update(0, f"{pair.name}: timing, {generations} loads"),
            )
            result.checks.insert(1, gates.check_time(result.timing))

    def _same_bytes(self, result: _Building, outcomes: Path | None, progress: Progress) -> None:
        """Compare two identical files: run the file once and time nothing."""
        pair, settings = result.pair, self._settings
        side = pair.base
        if side.problem is not None:
            raise BrokenFile(side.role, REFUSED, side.problem)
        progress.update(0, f"{pair.name}: size and memory")
        result.base = result.candidate = facts = facts_of(
            side,
            threads=settings.threads,
            timeout_seconds=settings.timeout_seconds,
            data=self._dataset.folder if self._dataset is not None else None,
            outcomes=outcomes,
        )
        result.agreement = 1.0
        result.checks += [
            Check("runs", PASSED, "both run"),
            Check("time", PASSED, "the same bytes, so not timed"),
            *gates.check_growth(facts, facts, settings.relative),
        ]
        if facts.gap_at_20 is not None:
            result.gap_at_20_delta = Delta(0.0, 0.0, 0.0)
            result.checks.append(gates.check_gap(facts, facts, result.gap_at_20_delta, settings.relative))
        result.checks += self._limits(pair, facts)

    def _limits(self, pair: Pair, candidate: FileFacts) -> list[Check]:
        """Check the candidate against the budget file, if there is one."""
        budget, found = self._settings.budget_file, []
        for pattern, limits in budget.limits_of(pair.candidate.path.name) if budget is not None else ():
            found += gates.check_limits(candidate, pattern, limits)
            found += check_instructions(
                pair.candidate.path, pattern, limits.get(INSTRUCTIONS, {}), self._settings.timeout_seconds
            )
        return found

    def _nursery(self, pair: Pair) -> AbstractContextManager[Nursery]:
        job = PairJob(
            base=str(pair.base.path),
            candidate=str(pair.candidate.path),
            runtimes=(pair.base.runtime, pair.candidate.runtime),
            threads=self._settings.threads,
            cores=self._cores,
            data=str(self._dataset.folder) if self._dataset is not None else None,
            result_fd=-1,
        )
        return nursery(job, timeout_seconds=self._settings.timeout_seconds, command=self._settings.worker)

    def _scores(self, started: Nursery, folder: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Score the same videos with base and candidate."""
        targets = {"base_to": str(folder / "base.npy"), "candidate_to": str(folder / "candidate.npy")}
        started.order(targets)
        base, candidate = (np.load(target) for target in targets.values())
        return base, candidate


class _Building:
    """A pair's partial result; keeps what was found before a failure."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.base_sha256, self.candidate_sha256 = sha256_of(pair.base), sha256_of(pair.candidate)
        self.checks: list[Check] = []
        self.base: FileFacts | None = None
        self.candidate: FileFacts | None = None
        self.agreement: float | None = None
        self.gap_at_20_delta: Delta | None = None
        self.timing: Timing | None = None

    def done(self) -> PairResult:
        before = self.base.operators if self.base is not None else {}
        after = self.candidate.operators if self.candidate is not None else before
        return PairResult(
            name=self.pair.name,
            base_file=self.pair.base.path.name,
            candidate_file=self.pair.candidate.path.name,
            base_sha256=self.base_sha256,
            candidate_sha256=self.candidate_sha256,
            runtimes=[self.pair.base.runtime, self.pair.candidate.runtime],
            checks=self.checks,
            base=self.base,
            candidate=self.candidate,
            operators_changed={
                op: [before.get(op, 0), after.get(op, 0)]
                for op in sorted({*before, *after})
                if before.get(op, 0) != after.get(op, 0)
            },
            agreement=self.agreement,
            gap_at_20_delta=self.gap_at_20_delta,
            timing=self.timing,
        )


def sha256_of(side: Side) -> str:
    """Return the SHA-256 of a file; one from a manifest was verified when the file was found."""
    known = side.subject.sha256 if side.subject is not None else None
    return known or sha256_file(side.path)


def _gap_delta(base: FileFacts, candidate: FileFacts, base_outcomes: Path, candidate_outcomes: Path) -> Delta:
    """Return the difference in GAP@20, candidate minus base, with a bootstrap interval over the common videos."""
    difference = resampled_gap(load_outcomes(candidate_outcomes)) - resampled_gap(load_outcomes(base_outcomes))
    low, high = interval(difference)
    return Delta((candidate.gap_at_20 or 0.0) - (base.gap_at_20 or 0.0), low, high)


def _needed(base: FileFacts, candidate: FileFacts) -> int:
    """Estimate the bytes that three loaded files take."""
    return COPIES * (2 * base.size_bytes + candidate.size_bytes)
