"""A bench on an Android phone: LiteRT's `benchmark_model` is copied there and run over adb, and what it prints is parsed.

There is no Python on a phone, so .onnx files have nothing to run in. Latency first, in all its rounds, then accuracy: scoring
an evaluation set makes a phone hot.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_af.bench.accuracy import Judge
from edge_af.bench.process import EMPTY
from edge_af.bench.run import STANDARD, Item, baseline_of, check_data, check_goes_on, data_of, row_of, scratch_folder
from edge_af.bench.subject import Subject, sensitivity_of, training_warnings
from edge_af.bench.suite import Suite
from edge_af.console import Progress, say
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.files import explain_os_errors, sha256_file
from edge_af.machine.device import project_commit
from edge_af.metrics import evaluate
from edge_af.metrics.bootstrap import outcomes, save_outcomes
from edge_af.records.results import FAILED, MISSING_RUNTIME, OK, Method, Results, Row, Tool, disagreements
from edge_af.runtime.accuracy import score_dataset
from edge_af.targets import AdbTarget
from edge_af.targets.adb import File, Gone, Phone, alone, find_phone
from edge_af.targets.benchmark_model import NAME, found_of, latency_of, most_seconds, options
from edge_af.targets.phone import chosen_cores, facts, state
from edge_af.targets.phone_scorer import VIDEOS, PhoneScorer

_ELF_MACHINES = {"aarch64": 183, "x86_64": 62}
"""`e_machine` of the programs that such a phone runs."""
_SPARE_SECONDS = 60.0
"""For loading the file, over what `benchmark_model` is told to take at most."""


def bench_on_phone(
    target: AdbTarget,
    subjects: Sequence[Subject],
    dataset: Dataset | None,
    *,
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    method: Method = STANDARD,
    quick: bool = False,
    benchmark_model: Path | None = None,
    cores: str | None = None,
    suite: Suite | None = None,
    suite_file: Path | None = None,
    earlier: Results | None = None,
    scratch: Path | None = None,
    save: Callable[[Results], None] = lambda results: None,
) -> Results:
    """Measure each .tflite file with each number of threads, each time in a fresh process on the phone.

    Args:
        target: the phone.
        subjects: exported files.
        dataset: the evaluation set; without it there is no accuracy. Latency is measured on random values either way.
        threads: of the runtime's own pool.
        batches: videos an inference; other rows than those of one say that they are not measured.
        method: how; weights are not packed beforehand.
        quick: recorded in the results.
        benchmark_model: the program for Android; the one on the PATH when None.
        cores: `big`, or a list such as `4-7`, to measure on; None leaves it to the phone.
        suite: of the subjects those that it compares are benched.
        suite_file: the suite's file.
        earlier: results of an interrupted bench: what it had measured the same way is not measured again.
        scratch: a folder for what accuracy's intervals need, there as long as the bench is not complete; a temporary one
            when None.
        save: called after each row with the results so far.

    Raises:
        EdgeAfError: the phone cannot be used or has no room, `benchmark_model` does not run on it, or the data has other
            classes than a subject, no labels, or a feature that is no number.
        Gone: the phone went away in the middle; what was saved by then holds.
    """
    check_data(subjects, dataset)
    program = _program(benchmark_model)
    phone = find_phone(target)
    with alone(phone):
        phone.stop()
        found = facts(phone)
        if suite is not None and suite_file is not None:
            subjects = suite.choose(subjects, suite_file, machine=found.device.machine)
        _check_machine(program.path, found.device.machine, phone.label)
        pinned = chosen_cores(cores, found, phone.label) if cores is not None else None
        say(f"{phone.label}: {found.device.label}, {found.device.system or 'Android of an unknown version'}")
        if dataset is None:
            say("no --data: no accuracy.")
        device = found.device
        if pinned is not None:
            device = dataclasses.replace(device, affinity=pinned, cores=len(pinned))
        now, before = datetime.now(UTC).isoformat(timespec="seconds"), state(phone)
        method = dataclasses.replace(method, packed=False, warm_up_seconds=most_seconds(method))
        planned = Results(
            created=now,
            device=dataclasses.replace(device, governor=before.governor),
            quick=quick,
            inputs="random",
            data=data_of(dataset),
            baseline=baseline_of(subjects),
            method=method,
            rows_planned=len(subjects) * len(threads) * len(batches),
            rows=[],
            commit=project_commit(),
            suite=suite.name if suite is not None else None,
            conditions={"before": before, "after": before},
            sensitivity=sensitivity_of(subjects),
            tool=Tool(NAME, program.sha256, options(method, _share(method, 0))),
        )
        plan = [Item(subject, count, batch) for subject in subjects for count in threads for batch in batches]
        with scratch_folder(scratch) as folder:
            session = _Session(phone, program, plan, pinned, dataset, planned, folder)
            if earlier is not None and earlier.rows:
                check_goes_on(earlier, planned, plan)
                session.take_over(earlier, now)
                say(f"going on: {len(session.results.rows)} of {len(plan)} rows have been begun or finished before.")
            session.measure(save)
            session.judge(save)
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        return session.results


class _Session:
    """One bench under way: the rows so far, by the place of their item in the plan."""

    def __init__(
        self,
        phone: Phone,
        program: File,
        plan: list[Item],
        pinned: list[int] | None,
        dataset: Dataset | None,
        results: Results,
        folder: Path,
    ) -> None:
        self.results = results
        self._phone, self._program, self._plan, self._pinned = phone, program, plan, pinned
        self._dataset, self._folder, self._judge = dataset, folder, Judge(dataset, folder)
        self._rows: dict[int, Row] = {}
        self._bare: dict[int, int | None] = {}
        self._hot: dict[str, list[str]] = {}
        self._kept_warnings: list[str] = []

    def take_over(self, earlier: Results, now: str) -> None:
        """Begin with the rows of an interrupted bench."""
        for index, item in enumerate(self._plan):
            if (row := next((row for row in earlier.rows if item.is_of(row)), None)) is not None:
                known = row.gap_at_20 is None or self._judge.knows(row)
                self._rows[index] = row if known else dataclasses.replace(row, gap_at_20=None)
        self._kept_warnings = earlier.warnings
        self.results = dataclasses.replace(
            self.results,
            created=earlier.created,
            continued=[*earlier.continued, now],
            rows=[self._rows[index] for index in sorted(self._rows)],
            conditions={**(self.results.conditions or {}), "before": (earlier.conditions or {})["before"]}
            if earlier.conditions
            else self.results.conditions,
        )

    def measure(self, save: Callable[[Results], None]) -> None:
        """Go through the plan until every row has had all its rounds."""
        for index, item in enumerate(self._plan):
            if (reason := _why_not(item)) is not None and index not in self._rows:
                status = MISSING_RUNTIME if item.subject.runtime != "litert" else FAILED
                self._rows[index] = row_of(item, None, {"status": status, "reason": reason})
        todo = [
            (round_, index)
            for round_ in range(self.results.method.rounds)
            for index in range(len(self._plan))
            if not self._is_done(index) and len(self._rows[index].rounds or [] if index in self._rows else []) <= round_
        ]
        empty = _file(EMPTY["litert"])
        subjects = [self._plan[index].subject for index in dict.fromkeys(index for _, index in todo)]
        if subjects:
            self._copy([self._program, empty, *(_file(one.path, one.sha256) for one in subjects)])
        with Progress("bench", len(todo), "measurements") as progress:
            for round_, index in todo:
                if not self._is_done(index):
                    item = self._plan[index]
                    progress.update(0, f"{item.title}, round {round_ + 1}")
                    if item.threads not in self._bare:
                        self._bare[item.threads] = self._bare_memory(empty, item.threads)
                    self._measure_row(round_, index)
                    self._put_together()
                    save(self.results)
                progress.update(1, note="")
        self._put_together()
        save(self.results)

    def judge(self, save: Callable[[Results], None]) -> None:
        """Have each file score the evaluation set, if there is one, on the rows that were measured."""
        if self._dataset is None:
            return
        measured = {index: row for index, row in sorted(self._rows.items()) if row.status == OK}
        known = {row.key for row in measured.values() if row.gap_at_20 is not None or row.reason}
        todo: dict[str, int] = {}
        for index, row in measured.items():
            if row.key not in known:
                todo.setdefault(row.key, index)
        subjects = [self._plan[index].subject for index in todo.values()]
        if subjects:
            self._copy([self._program, *(_file(one.path, one.sha256) for one in subjects)])
        with Progress("accuracy", len(todo) * self._dataset.videos, "videos") as progress:
            for index in todo.values():
                progress.update(0, self._plan[index].subject.title)
                self._judge_file(index, self._dataset, progress.update)
                self._put_together()
                save(self.results)
            progress.update(0, note="")
        self._rows = dict(zip(sorted(self._rows), self._judge.judged(self.results.rows), strict=True))
        self.results = dataclasses.replace(self.results, gallery=self._judge.gallery(self.results.rows))
        self._put_together()
        save(self.results)

    def _judge_file(self, index: int, dataset: Dataset, on_scored: Callable[[int], None]) -> None:
        """The accuracy of a row's file, or why there is none, in all its rows: it is the file's, however many threads."""
        subject, threads = self._plan[index].subject, self._plan[index].threads
        key, place = self._rows[index].key, _file(subject.path, subject.sha256).place

        def run(arguments: Sequence[str]) -> dict[str, Any]:
            return self._run(place, threads, arguments, self.results.method.timeout_seconds)

        found: dict[str, Any]
        try:
            scorer = PhoneScorer(self._phone, subject.path, subject.classes, run, self._folder, on_scored)
            scores = score_dataset(scorer, subject.path, dataset, batch=VIDEOS)
        except Gone:
            raise
        except EdgeAfError as error:
            reason = " ".join(str(error).splitlines()).removeprefix(f"{subject.path}: ")
            found = {"reason": f"no accuracy: {reason}"}
        else:
            labels = dataset.labels(slice(None))
            save_outcomes(
                self._judge.path(subject.sha256, subject.f1_threshold), outcomes(scores, labels, subject.f1_threshold)
            )
            found = evaluate(scores, labels, subject.f1_threshold).as_dict()
        for at, row in self._rows.items():
            if row.key == key and row.status == OK:
                self._rows[at] = dataclasses.replace(row, **found)

    def _is_done(self, index: int) -> bool:
        row = self._rows.get(index)
        return row is not None and (row.status != OK or len(row.rounds or []) >= self.results.method.rounds)

    def _copy(self, files: Sequence[File]) -> None:
        lacking = self._phone.lacking(files)
        if not lacking:
            return
        total, copied = sum(file.size for file in lacking), 0
        with Progress(f"copying to {self._phone.label}", round(total / 1e6) or 1, "MB") as progress:
            for file in lacking:
                self._phone.push(file)
                progress.update(round((copied + file.size) / 1e6) - round(copied / 1e6))
                copied += file.size

    def _run(self, place: str, threads: int, arguments: Sequence[str], seconds: float | None = None) -> dict[str, Any]:
        """What `benchmark_model` found within so many seconds; as long as a round takes at most when None."""
        method = self.results.method
        seconds = seconds or min(method.timeout_seconds, 2 * most_seconds(method) + _SPARE_SECONDS)
        command = [self._program.place, f"--graph={place}", f"--num_threads={threads}", *arguments]
        if self._pinned is not None:
            command = ["taskset", f"{sum(1 << core for core in self._pinned):x}", *command]
        return found_of(self._phone.run(command, seconds), seconds)

    def _bare_memory(self, empty: File, threads: int) -> int | None:
        """High-water mark with an empty model. Where not even that runs, nothing will.

        Raises:
            EdgeAfError: it does not run.
        """
        method = dataclasses.replace(self.results.method, seconds=1.0, rounds=1)
        found = self._run(empty.place, threads, options(method, 50))
        if found["status"] != OK:
            raise EdgeAfError(
                f"{self._phone.label}: {NAME} does not run there, not even on an empty model: {found['reason']}\n"
                f"Take the build for {self.results.device.machine} (docs/android.md)."
            )
        peak: int | None = found["peak_memory_bytes"]
        return peak

    def _measure_row(self, round_: int, index: int) -> None:
        item, earlier = self._plan[index], self._rows.get(index)
        method = self.results.method
        place = _file(item.subject.path, item.subject.sha256).place
        found = self._run(place, item.threads, options(method, _share(method, round_)))
        self._look_at_heat(item)
        round_found = found.pop("round", None)
        if earlier is not None and round_found is None:
            reason = f"in round {round_ + 1}: {found['reason']}"
            self._rows[index] = dataclasses.replace(earlier, status=found["status"], reason=reason)
            return
        row = earlier if earlier is not None else row_of(item, self._bare[item.threads], found)
        if round_found is not None:
            rounds = [*(row.rounds_ms or []), round_found]
            latency = latency_of(rounds)
            row = dataclasses.replace(
                row,
                rounds_ms=rounds,
                rounds=[one.n for one in rounds],
                latency_ms=latency,
                videos_per_s=round(row.batch / latency.mean * 1e3, 2) if latency.mean else None,
            )
        self._rows[index] = row

    def _look_at_heat(self, item: Item) -> None:
        now = state(self._phone)
        for text in now.throttled:
            names = self._hot.setdefault(text, [])
            names += [item.title] if item.title not in names else []
        self.results = dataclasses.replace(self.results, conditions={**(self.results.conditions or {}), "after": now})

    def _put_together(self) -> None:
        hot = [
            f"The phone was hot, and slowed down: {text} after measuring "
            + (", ".join(names) if len(names) <= 3 else f"{len(names)} of {len(self._plan)} rows")
            + "."
            for text, names in self._hot.items()
        ]
        silent = {
            self._plan[index].subject.title: row.reason
            for index, row in self._rows.items()
            if row.status == OK and row.reason
        }
        told = [
            *training_warnings([item.subject for item in self._plan], self._dataset),
            *hot,
            *(f"{title}: {reason}." for title, reason in silent.items()),
        ]
        rows = [row for _, row in sorted(self._rows.items())]
        self.results = dataclasses.replace(self.results, rows=rows)
        if self.results.is_complete:
            told += disagreements((self._plan[index].title, row) for index, row in sorted(self._rows.items()))
        warnings = [*self._kept_warnings, *(text for text in told if text not in self._kept_warnings)]
        self.results = dataclasses.replace(self.results, warnings=warnings)


def _why_not(item: Item) -> str | None:
    """Why a row is not measured on a phone; None if it is."""
    if item.subject.runtime != "litert":
        return f"{NAME} runs .tflite files alone; for .onnx files see docs/android.md (a Debian in Termux, over ssh)"
    if item.batch != 1:
        return f"on a phone {NAME} is run with one video an inference"
    return None


def _share(method: Method, round_: int) -> int:
    """Timed inferences of a round."""
    share, more = divmod(method.inferences, method.rounds)
    return max(1, share + (round_ < more))


def _file(path: Path, sha256: str | None = None) -> File:
    return File(path, sha256 or sha256_file(path), path.stat().st_size)


def _program(path: Path | None) -> File:
    """`benchmark_model` as named, or on the PATH."""
    if path is None:
        on_path = shutil.which(NAME)
        if on_path is None:
            raise EdgeAfError(
                f"--target adb needs LiteRT's {NAME} for Android: name it with --benchmark-model FILE, or put it on the PATH.\n"
                "docs/android.md says where Google publishes it."
            )
        path = Path(on_path)
    if not path.is_file():
        raise EdgeAfError(f"{path}: no such file; --benchmark-model names LiteRT's {NAME} for Android.")
    with explain_os_errors(path):
        return _file(path)


def _check_machine(path: Path, machine: str, label: str) -> None:
    """Refuse a program for another kind of processor before it is copied. A 32-bit ARM one may run on a 64-bit phone."""
    head = path.open("rb").read(20)
    wanted = _ELF_MACHINES.get(machine)
    if head[:4] != b"\x7fELF" or wanted is None or (machine == "aarch64" and head[18] == 40):
        return
    if head[18] != wanted:
        names = {number: name for name, number in _ELF_MACHINES.items()}
        raise EdgeAfError(
            f"{path}: a {NAME} for {names.get(head[18], f'machine {head[18]}')}, and {label} is {machine}.\n"
            f"Take the build for {machine} (docs/android.md)."
        )
