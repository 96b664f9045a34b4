"""Dry run of a bench: the rows that it would measure, and how long that takes at most. Nothing is measured or written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from edge_af.bench.backend import Backend
from edge_af.bench.request import BenchRequest, PlannedRow, plan_of, round_of, rounds_of
from edge_af.bench.rows import rounds_done
from edge_af.bench.session import kept_results
from edge_af.bench.subject import Subject, check_data
from edge_af.console import warn
from edge_af.errors import EdgeAfError
from edge_af.machine.conditions import available_memory
from edge_af.packages import PACKAGES_OF, is_installed
from edge_af.records.results import DOES_NOT_FIT, MISSING_RUNTIME, OK, Method, Results


@dataclass(frozen=True)
class DryRunRow:
    """A row of a bench that was not started."""

    file: str
    """`artifact/file`."""
    runtime: str
    precision: str
    threads: int
    batch: int
    status: str | None
    """Status that the row will have for sure; None if it has to be measured."""
    reason: str | None
    measurements: int
    """Rounds that are left to measure."""


@dataclass(frozen=True)
class BenchDryRun:
    """Plan of a bench on one machine."""

    target: str
    out: str | None
    rows: list[DryRunRow]
    rounds: int
    measurements: int
    """Measurements of all rows; each is one round in a fresh process."""
    inferences: int
    """Timed inferences of a measurement, at most."""
    seconds: float | None
    """Time limit of the timed inferences of a measurement; None for no limit."""
    warm_up_seconds: float
    """Time limit of the warm-up of a measurement."""
    seconds_at_most: float | None
    """Upper bound of warm-up and timing of all measurements; None without a time limit. Loading and scoring come on top."""
    accuracy_files: int
    accuracy_videos: int
    """Videos to score, over all files."""


def dry_run(subjects: Sequence[Subject], request: BenchRequest, backend: Backend, *, is_here: bool) -> BenchDryRun:
    """Plan a bench without connecting to its machine.

    Args:
        subjects: the exported files.
        request: how to measure, on which data, and where the results would go.
        backend: the machine, not entered.
        is_here: True if it is this machine, whose memory and runtimes are known.

    Raises:
        EdgeAfError: the data does not fit the subjects, or the suite has no files.
    """
    if request.suite is not None:
        # The type of another machine is unknown before connecting to it.
        machine = None if is_here else next(iter(request.suite.devices), None)
        subjects = request.suite.choose(subjects, machine)
    check_data(subjects, request.dataset)
    method = backend.method(dataclasses.replace(request.method, rounds=rounds_of(request)))
    earlier = _earlier(subjects, request, method)
    rows = []
    for item in plan_of(request, subjects):
        kept = next((row for row in earlier.rows if item.is_of(row)), None) if earlier is not None else None
        left = method.rounds - rounds_done(kept)
        known: tuple[str, str] | None
        if kept is not None and (kept.status != OK or left <= 0):
            known = kept.status, kept.reason or "kept from the interrupted bench"
        else:
            known = backend.refuses(item) or (_foreseen(item) if is_here else None)
        status, reason = known or (None, None)
        rows.append(
            DryRunRow(
                file=item.key,
                runtime=item.subject.runtime,
                precision=item.subject.precision,
                threads=item.threads,
                batch=item.batch,
                status=status,
                reason=reason,
                measurements=left if status is None else 0,
            )
        )
    measurements, one = sum(row.measurements for row in rows), round_of(method, 0)
    files = {row.file for row in rows if row.status is None} if request.dataset is not None else set()
    return BenchDryRun(
        target=backend.label,
        out=str(request.out) if request.out is not None else None,
        rows=rows,
        rounds=method.rounds,
        measurements=measurements,
        inferences=one.inferences,
        seconds=one.seconds,
        warm_up_seconds=one.warm_up_seconds,
        seconds_at_most=measurements * (one.warm_up_seconds + one.seconds) if one.seconds is not None else None,
        accuracy_files=len(files),
        accuracy_videos=len(files) * request.dataset.videos if request.dataset is not None else 0,
    )


def _earlier(subjects: Sequence[Subject], request: BenchRequest, method: Method) -> Results | None:
    """Read the interrupted bench that this one would continue. Warn if `out` is taken, so that the bench would not start."""
    try:
        found = kept_results(request, {subject.sha256 for subject in subjects})
    except EdgeAfError as error:
        warn(f"the bench would not start: {error}")
        return None
    if found is not None and found.method != method:
        if not request.overwrite:
            warn(f"the bench would not start: {request.out}: the interrupted bench there differs in its method.")
        return None
    return found


def _foreseen(item: PlannedRow) -> tuple[str, str] | None:
    """Return status and reason of a row that cannot be measured on this machine; None if it can be tried."""
    runtime = item.subject.runtime
    if not any(is_installed(package.replace("-", "_")) for package in PACKAGES_OF[runtime]):
        return MISSING_RUNTIME, f"{runtime} is not installed. Install it with: pip install {PACKAGES_OF[runtime][0]}"
    needed, available = item.subject.path.stat().st_size, available_memory()
    if available is not None and needed > available:
        return DOES_NOT_FIT, f"needs at least {needed / 1e6:,.0f} MB, {available / 1e6:,.0f} MB available"
    return None
