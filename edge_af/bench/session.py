"""One bench on any machine: plan, rounds, accuracy, saving, interruption and continuation."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_af.bench.accuracy import Judge
from edge_af.bench.backend import Backend, Machine
from edge_af.bench.request import BenchRequest, PlannedRow, plan_of, round_of, rounds_of
from edge_af.bench.rows import add_round, disagreements, rounds_done, row_of, with_limit
from edge_af.bench.subject import (
    Subject,
    check_data,
    data_of,
    extractor_warnings,
    sensitivity_of,
    training_warnings,
)
from edge_af.console import Progress, say
from edge_af.errors import EdgeAfError
from edge_af.files import explain_os_errors, lock_output
from edge_af.machine.device import project_commit
from edge_af.records.results import OK, Baseline, Results, Row, read_results, write_results
from edge_af.runtime.probe import weight_bytes

OnSaved = Callable[[Results], None]


class OtherBench(EdgeAfError):
    """The results to continue belong to another bench."""


def bench(
    subjects: Sequence[Subject],
    request: BenchRequest,
    backend: Backend,
    on_saved: OnSaved = lambda results: None,
) -> Results:
    """Measure each subject with each number of threads and each batch size, in a fresh process each time.

    Each round measures all rows once, so a machine that is slow for some minutes slows all rows alike.

    Args:
        subjects: the exported files.
        request: how to measure, on which data, and where the results go.
        backend: the machine.
        on_saved: called with the results so far, after each row and at the end.

    Raises:
        EdgeAfError: the data does not fit the subjects, `request.out` is taken, or the machine cannot be used.
        KeyboardInterrupt: after reporting what is kept.
    """
    with contextlib.ExitStack() as stack:
        if request.out is not None:
            stack.enter_context(lock_output(request.out))
        earlier = kept_results(request, {subject.sha256 for subject in subjects})
        if request.suite is None:
            check_data(subjects, request.dataset)
        stack.enter_context(backend)
        if request.suite is not None:
            subjects = request.suite.choose(subjects, backend.machine)
            check_data(subjects, request.dataset)
        if request.dataset is None:
            say("no --data: accuracy is not measured, and latency is measured on random values.")
        scratch = _scratch_folder(request, stack, keep=earlier is not None)
        session = _Session(request, backend, plan_of(request, subjects), scratch, on_saved)
        try:
            return session.run(earlier)
        except KeyboardInterrupt:
            session.say_what_is_kept()
            raise


class _Session:
    """A running bench. Rows are kept by their index in the plan."""

    def __init__(
        self, request: BenchRequest, backend: Backend, plan: list[PlannedRow], scratch: Path, on_saved: OnSaved
    ) -> None:
        self._request, self._backend, self._plan, self._on_saved = request, backend, plan, on_saved
        self._scratch, self._dataset = scratch, request.dataset
        self._judge = Judge(request.dataset, scratch)
        self._method = backend.method(dataclasses.replace(request.method, rounds=rounds_of(request)))
        self._rows: dict[int, Row] = {}
        self._remarks: dict[str, tuple[float, list[str]]] = {}
        self._given_warnings: list[str] = []
        self._earlier_warnings: list[str] = []
        self._done_earlier: set[int] = set()
        self._results: Results | None = None

    def run(self, earlier: Results | None) -> Results:
        """Measure, score and judge what is missing in `earlier`."""
        self._backend.prepare(self._plan, self._dataset, self._method, self._scratch)
        machine = self._backend.describe()
        self._results = planned = self._planned(machine)
        self._given_warnings = [
            *machine.warnings,
            *training_warnings(self._subjects, self._dataset),
            *extractor_warnings(self._subjects, self._dataset),
        ]
        if earlier is not None:
            self._continue(earlier, planned)
        self._measure()
        self._score()
        self._finish()
        if self._results.is_complete:
            shutil.rmtree(self._scratch, ignore_errors=True)
        return self._results

    @property
    def _subjects(self) -> list[Subject]:
        return list({id(row.subject): row.subject for row in self._plan}.values())

    def _planned(self, machine: Machine) -> Results:
        """Assemble the results before the first row."""
        return Results(
            created=_now(),
            device=machine.device,
            quick=self._request.quick,
            inputs="videos" if self._dataset is not None and self._backend.uses_videos else "random",
            data=data_of(self._dataset),
            baseline=_baseline_of(self._subjects),
            method=self._method,
            rows_planned=len(self._plan),
            rows=[],
            commit=project_commit(),
            suite=self._request.suite.name if self._request.suite is not None else None,
            conditions={"before": machine.conditions, "after": machine.conditions},
            sensitivity=sensitivity_of(self._subjects),
            extraction=self._request.extraction,
            tool=machine.tool,
        )

    def _continue(self, earlier: Results, planned: Results) -> None:
        """Reuse the rows of an interrupted bench, if their outcomes still exist.

        Raises:
            OtherBench: it was measured differently or none of its rows is planned, and `overwrite` is not set.
        """
        names = ("device", "method", "data", "inputs", "quick", "suite", "baseline", "tool")
        differing = [name for name in names if getattr(earlier, name) != getattr(planned, name)]
        if not differing and not any(item.is_of(row) for item in self._plan for row in earlier.rows):
            differing = ["files"]
        if differing and self._request.overwrite:
            return
        if differing:
            raise OtherBench(
                f"{self._request.out}: the interrupted bench of {earlier.created} differs in its "
                f"{' and '.join(differing)}. Pass --fresh to start over, or choose another --out."
            )
        for index, item in enumerate(self._plan):
            if (row := next((row for row in earlier.rows if item.is_of(row)), None)) is not None:
                known = row.gap_at_20 is None or self._judge.knows(row)
                self._rows[index] = row if known else dataclasses.replace(row, gap_at_20=None)
        self._earlier_warnings = earlier.warnings
        self._done_earlier = {index for index in self._rows if self._is_done(index)}
        before = (earlier.conditions or planned.conditions or {})["before"]
        self._results = dataclasses.replace(
            planned,
            rows=[self._rows[index] for index in sorted(self._rows)],
            created=earlier.created,
            continued=[*earlier.continued, _now()],
            conditions={**(planned.conditions or {}), "before": before},
        )
        say(f"continuing: {len(self._rows)} of {len(self._plan)} rows have measurements from before.")

    def _measure(self) -> None:
        """Go through the plan round by round."""
        for index, item in enumerate(self._plan):
            if index not in self._rows and (refused := self._backend.refuses(item)) is not None:
                self._rows[index] = row_of(item, {"status": refused[0], "reason": refused[1]})
        todo = [
            (round_, index)
            for round_ in range(self._method.rounds)
            for index in range(len(self._plan))
            if not self._is_done(index) and rounds_done(self._rows.get(index)) <= round_
        ]
        begun = -1
        with Progress("bench", len(todo), "measurements") as progress:
            for round_, index in todo:
                if not self._is_done(index):
                    if round_ > begun:
                        begun = round_
                        progress.update(0, "memory bandwidth")
                        self._measure_bandwidth()
                    self._measure_row(round_, index, progress)
                    self._save()
                progress.update(1, note="")

    def _is_done(self, index: int) -> bool:
        row = self._rows.get(index)
        return row is not None and (row.status != OK or rounds_done(row) >= self._method.rounds)

    def _measure_bandwidth(self) -> None:
        """Measure the memory bandwidth and keep the fastest of all rounds."""
        assert self._results is not None
        weights = [size for item in self._plan if (size := weight_bytes(item.subject.path))]
        fastest = {(one.threads, one.buffer_bytes): one for one in self._results.bandwidth}
        for one in self._backend.bandwidth(sorted({item.threads for item in self._plan}), weights):
            key = (one.threads, one.buffer_bytes)
            if key not in fastest or one.bytes_per_s > fastest[key].bytes_per_s:
                fastest[key] = one
        self._results = dataclasses.replace(self._results, bandwidth=[fastest[key] for key in sorted(fastest)])

    def _measure_row(self, round_: int, index: int, progress: Progress) -> None:
        item = self._plan[index]
        where = f"{item.title}, round {round_ + 1}" if self._method.rounds > 1 else item.title

        def on_stage(stage: str) -> None:
            progress.update(0, f"{where}: {stage}")

        measured = self._backend.measure(item, round_of(self._method, round_), on_stage)
        for text, amount in measured.remarks.items():
            worst, titles = self._remarks.get(text, (0.0, []))
            titles = titles if item.title in titles else [*titles, item.title]
            self._remarks[text] = (max(worst, amount), titles)
        assert self._results is not None
        conditions = {**(self._results.conditions or {}), "after": measured.conditions}
        self._results = dataclasses.replace(self._results, conditions=conditions)
        earlier = self._rows.get(index)
        self._rows[index] = add_round(earlier or row_of(item, measured.fields), measured.fields, round_)

    def _score(self) -> None:
        """Score the evaluation set once per file: accuracy does not depend on threads and batch."""
        if self._dataset is None:
            return
        measured = {index: row for index, row in sorted(self._rows.items()) if row.status == OK}
        known = {row.key for row in measured.values() if row.gap_at_20 is not None or row.reason}
        todo = {row.key: index for index, row in reversed(measured.items()) if row.key not in known}
        with Progress("accuracy", len(todo) * self._dataset.videos, "videos") as progress:
            for key, index in sorted(todo.items(), key=lambda item: item[1]):
                item = self._plan[index]
                outcomes = self._judge.path(item.subject.sha256, item.subject.f1_threshold)

                def on_stage(stage: str, title: str = item.subject.title) -> None:
                    progress.update(0, f"{title}: {stage}")

                found = self._backend.score(item, self._dataset, outcomes, on_stage, progress.update)
                for at, row in self._rows.items():
                    if row.key == key and row.status == OK:
                        self._rows[at] = dataclasses.replace(row, **found)
                self._save()
            progress.update(0, note="")

    def _finish(self) -> None:
        """Add intervals, differences, the gallery and the warnings that concern all rows."""
        assert self._results is not None
        judged = self._judge.judged([self._rows[index] for index in sorted(self._rows)])
        self._rows = dict(zip(sorted(self._rows), judged, strict=True))
        self._save(
            gallery=self._judge.gallery(judged),
            more_warnings=disagreements((self._plan[index].title, row) for index, row in sorted(self._rows.items())),
        )

    def _save(self, more_warnings: Sequence[str] = (), **changes: Any) -> None:
        assert self._results is not None
        # A row that was finished before an interruption keeps its limit.
        rows = [
            row if index in self._done_earlier else with_limit(row, self._results.bandwidth)
            for index, row in sorted(self._rows.items())
        ]
        warnings = dict.fromkeys([*self._given_warnings, *self._earlier_warnings, *self._warnings(), *more_warnings])
        self._results = dataclasses.replace(self._results, rows=rows, warnings=list(warnings), **changes)
        if self._request.out is not None:
            write_results(self._request.out, self._results)
        self._on_saved(self._results)

    def _warnings(self) -> list[str]:
        """List disturbances of rows, and files without accuracy."""
        found = []
        for text, (worst, titles) in self._remarks.items():
            which = ", ".join(titles) if len(titles) <= 3 else f"{len(titles)} of {len(self._plan)} rows"
            found.append(f"{text.format(worst) if '{' in text else text} while measuring {which}.")
        silent = {
            self._plan[index].subject.title: row.reason
            for index, row in sorted(self._rows.items())
            if row.status == OK and row.reason
        }
        return [*found, *(f"{title}: {reason}." for title, reason in silent.items())]

    def say_what_is_kept(self) -> None:
        """Tell the user what an interrupted bench leaves behind."""
        rows = self._results.rows if self._results is not None else []
        kept = f"{len(rows)} finished rows are kept in {self._request.out}. The same command continues from there."
        say(f"interrupted: {kept}" if rows and self._request.out is not None else "interrupted before the first row.")


def _baseline_of(subjects: Sequence[Subject]) -> Baseline:
    """Choose the largest network in FP32. Without FP32 files, choose the largest network's first file."""
    largest = max(subjects, key=lambda subject: (subject.precision == "fp32", subject.params))
    return Baseline(largest.artifact, largest.model, largest.preset, largest.precision)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _scratch_folder(request: BenchRequest, stack: contextlib.ExitStack, keep: bool) -> Path:
    """Create the folder for packed weights and outcomes: beside `out`, and kept until the bench is complete."""
    if request.out is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-af-bench-")))
    folder = request.out.parent / f".{request.out.name}.bench"
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def kept_results(request: BenchRequest, hashes: set[str | None]) -> Results | None:
    """Read the interrupted bench in `out`; None if there is nothing to continue, or it may be replaced.

    Raises:
        EdgeAfError: it contains something else that may not be replaced.
    """
    out = request.out
    if out is None or not out.is_file() or out.stat().st_size == 0:
        return None
    try:
        found = read_results(out)
    except EdgeAfError:
        if request.overwrite:
            return None
        raise EdgeAfError(
            f"{out}: is not a results file that can be read. Choose another --out, or pass --overwrite."
        ) from None
    if not any(row.status == OK for row in found.rows):
        return None
    same = not hashes.isdisjoint(row.sha256 for row in found.rows)
    if same and not found.is_complete:
        return None if request.fresh else found
    if request.overwrite or (same and request.fresh):
        return None
    what = f"the {'finished' if found.is_complete else 'interrupted'} bench of {found.created}, {len(found.rows)} rows"
    what += "" if same else " of other files"
    how = "--fresh to start over" if same else "--overwrite to replace it"
    raise EdgeAfError(f"{out}: holds {what}. Choose another --out, or pass {how}.")
