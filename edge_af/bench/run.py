"""Plans the table, goes through it in rounds, and puts together what each row's processes found."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from edge_af.bench.accuracy import Judge
from edge_af.bench.bandwidth import buffers, measure_apart
from edge_af.bench.process import EMPTY, run_worker
from edge_af.bench.subject import Subject, check_classes, sensitivity_of, training_warnings
from edge_af.bench.worker import Job, latency_of
from edge_af.console import Progress, say
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.files import sha256_file
from edge_af.machine.conditions import Activity, conditions, remarks
from edge_af.machine.device import project_commit, this_device
from edge_af.records.results import OK, Baseline, Data, Latency, Method, Results, Row, disagreements, row_from_dict
from edge_af.runtime import check_features
from edge_af.runtime.accuracy import check_labels
from edge_af.runtime.probe import weight_bytes
from edge_af.subprocesses import environment

STANDARD = Method(rounds=4, packed=True)
"""What the command line measures unless told otherwise."""

QUICK = Method(inferences=200, seconds=2.0, packed=True)
"""What `--quick` measures: enough to see that all is well, not enough to publish."""


@dataclass(frozen=True)
class Item:
    """A row to be measured."""

    subject: Subject
    threads: int
    batch: int

    @property
    def title(self) -> str:
        more = [f"{self.threads} threads"] if self.threads > 1 else []
        more += [f"batch {self.batch}"] if self.batch > 1 else []
        return ", ".join([self.subject.title, *more])

    def is_of(self, row: Row) -> bool:
        """Whether a row of other results is this one: the same bytes, measured the same way."""
        mine = (self.subject.sha256, self.subject.artifact, self.subject.path.name, self.subject.runtime)
        return self.subject.sha256 is not None and (*mine, self.threads, self.batch) == (
            row.sha256, row.artifact, row.file, row.runtime, row.threads, row.batch,
        )  # fmt: skip


def bench(
    subjects: Sequence[Subject],
    dataset: Dataset | None,
    *,
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    method: Method | None = None,
    quick: bool = False,
    suite: str | None = None,
    earlier: Results | None = None,
    scratch: Path | None = None,
    save: Callable[[Results], None] = lambda results: None,
) -> Results:
    """Measure each subject with each number of threads and videos an inference, each time in a fresh process.

    The table is gone through in `method.rounds` rounds, so that a machine that is slower for some minutes is slower for all
    rows alike.

    Args:
        subjects: exported files.
        dataset: the evaluation set; without it there is no accuracy and latency is measured on random values.
        threads: of the runtime's own pool.
        batches: videos an inference.
        method: how; the standard measurement in one round, or `QUICK`, when None.
        quick: recorded in the results.
        suite: the name of the suite that this is, recorded in the results.
        earlier: results of an interrupted bench: what it had measured is not measured again.
        scratch: a folder for packed weights and what accuracy's intervals need, kept as long as the bench is not complete;
            a temporary one when None.
        save: called after each row with the results so far, so that an interruption loses only the row under way.

    Raises:
        EdgeAfError: before any measuring, the data has other classes than a subject, no labels, or a feature that is no number.
        OtherBench: `earlier` is of another bench.
    """
    check_data(subjects, dataset)
    plan = [Item(subject, count, batch) for subject in subjects for count in threads for batch in batches]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    state = conditions()
    results = Results(
        created=now,
        device=this_device(),
        quick=quick,
        inputs="random" if dataset is None else "videos",
        data=data_of(dataset),
        baseline=baseline_of(subjects),
        method=method or (QUICK if quick else Method()),
        rows_planned=len(plan),
        rows=[],
        commit=project_commit(),
        suite=suite,
        conditions={"before": state, "after": state},
        sensitivity=sensitivity_of(subjects),
    )
    with scratch_folder(scratch) as folder:
        session = _Session(plan, dataset, results, folder)
        if earlier is not None and earlier.rows:
            check_goes_on(earlier, results, plan)
            session.take_over(earlier, now)
            say(f"going on: {len(session.results.rows)} of {len(plan)} rows have been begun or finished before.")
        session.measure(save)
        if scratch is not None and session.results.is_complete:
            shutil.rmtree(scratch, ignore_errors=True)
    return session.results


def check_data(subjects: Sequence[Subject], dataset: Dataset | None) -> None:
    """Refuse an evaluation set, if there is one, that accuracy cannot be measured on.

    Raises:
        EdgeAfError: it has other classes than a subject, no labels, or a feature that is no number.
    """
    if dataset is None:
        return
    for subject in subjects:
        check_classes(subject.path, subject.classes, dataset)
    check_labels(dataset)
    check_features(dataset.visual, dataset.audio, str(dataset.folder))


def data_of(dataset: Dataset | None) -> Data | None:
    """What the results say of the evaluation set."""
    if dataset is None:
        return None
    return Data(dataset.folder.resolve().name, dataset.videos, dataset.classes, dataset.fingerprint())


def row_of(item: Item, bare: int | None, found: dict[str, Any]) -> Row:
    """The row of an item whose first round found these fields; `bare` is the peak memory with an empty model."""
    subject, raw = item.subject, found.get("latency_raw_us")
    return row_from_dict(
        {
            "artifact": subject.artifact,
            "file": subject.path.name,
            "model": subject.model,
            "preset": subject.preset,
            "runtime": subject.runtime,
            "precision": subject.precision,
            "recipe": subject.recipe,
            "cpu": subject.cpu,
            "threads": item.threads,
            "params": subject.params,
            "classes": subject.classes,
            "size_bytes": subject.path.stat().st_size,
            "sha256": subject.sha256,
            "batch": item.batch,
            "integer_share": subject.integer_share,
            "weight_bytes": weight_bytes(subject.path),
            "bare_memory_bytes": bare,
            **found,
            "rounds": [len(raw)] if raw else None,
        }
    )


class OtherBench(EdgeAfError):
    """The results to go on with are of another bench."""


def check_goes_on(earlier: Results, planned: Results, plan: Sequence[Item]) -> None:
    """Refuse to go on with results that were measured in another way, or of which no row is in the plan.

    Raises:
        OtherBench: naming what differs.
    """
    names = ("device", "method", "data", "inputs", "quick", "suite", "baseline", "tool")
    differing = [name for name in names if getattr(earlier, name) != getattr(planned, name)]
    if not differing and not any(item.is_of(row) for item in plan for row in earlier.rows):
        differing = ["files"]
    if differing:
        raise OtherBench(
            f"the interrupted bench of {earlier.created} had another {' and another '.join(differing)}. Pass --fresh to "
            "start over, or choose another --out."
        )


class _Session:
    """One bench under way: the rows so far, by the place of their item in the plan."""

    def __init__(self, plan: list[Item], dataset: Dataset | None, results: Results, folder: Path) -> None:
        self.results = results
        self._plan, self._dataset, self._folder = plan, dataset, folder
        self._rows: dict[int, Row] = {}
        self._judge = Judge(dataset, folder)
        self._bare: dict[tuple[str, int], int | None] = {}
        self._packed: dict[Path, Path | None] = {}
        self._remarks: dict[str, tuple[float, list[str]]] = {}
        self._kept_warnings: list[str] = []
        self._given = training_warnings([item.subject for item in plan], dataset)
        self._done_before: set[int] = set()
        self._sizes: list[int] = []

    def take_over(self, earlier: Results, now: str) -> None:
        """Begin with the rows of an interrupted bench, as far as what their intervals need is still there."""
        for index, item in enumerate(self._plan):
            for row in earlier.rows:
                if item.is_of(row) and (row.gap_at_20 is None or self._judge.knows(row)):
                    self._rows[index] = row
        if self._rows:
            self._kept_warnings = earlier.warnings
            self._done_before = {index for index in self._rows if self._is_done(index)}
            rows = [self._rows[index] for index in sorted(self._rows)]
            kept = self.results.conditions or {}
            self.results = dataclasses.replace(
                self.results,
                rows=rows,
                created=earlier.created,
                continued=[*earlier.continued, now],
                conditions={**kept, "before": (earlier.conditions or kept)["before"]},
            )

    def measure(self, save: Callable[[Results], None]) -> None:
        """Go through the plan until every row has had all its rounds."""
        method = self.results.method
        todo = [
            (round_, index)
            for round_ in range(method.rounds)
            for index in range(len(self._plan))
            if not self._is_done(index) and len(self._rows[index].rounds or [] if index in self._rows else []) <= round_
        ]
        with Progress("bench", len(todo), "measurements") as progress:
            begun = -1
            for round_, index in todo:
                if not self._is_done(index):
                    if round_ > begun:
                        begun = round_
                        progress.update(0, "how fast memory is read")
                        self._measure_bandwidth()
                    self._measure_row(round_, index, progress)
                    self._put_together()
                    save(self.results)
                progress.update(1, note="")
        self._put_together(finished=True)
        save(self.results)

    def _is_done(self, index: int) -> bool:
        row = self._rows.get(index)
        return row is not None and (row.status != OK or len(row.rounds or []) >= self.results.method.rounds)

    def _measure_bandwidth(self) -> None:
        """Once a round: the fastest of all rounds is the limit."""
        weights = [weight_bytes(item.subject.path) for item in self._plan]
        if not self._sizes:
            self._sizes = buffers([size for size in weights if size], self.results.device.last_level_cache_bytes)
        counts = sorted({item.threads for item in self._plan})
        fastest = {(one.threads, one.buffer_bytes): one for one in self.results.bandwidth}
        for one in measure_apart(counts, self._sizes, environment()):
            key = (one.threads, one.buffer_bytes)
            if key not in fastest or one.bytes_per_s > fastest[key].bytes_per_s:
                fastest[key] = one
        self.results = dataclasses.replace(self.results, bandwidth=[fastest[key] for key in sorted(fastest)])

    def _measure_row(self, round_: int, index: int, progress: Progress) -> None:
        item, earlier = self._plan[index], self._rows.get(index)
        subject, method = item.subject, self.results.method

        def on_stage(stage: str) -> None:
            progress.update(
                0, f"{item.title}, round {round_ + 1}: {stage}" if method.rounds > 1 else f"{item.title}: {stage}"
            )

        share, more = divmod(method.inferences, method.rounds)
        part = dataclasses.replace(
            method,
            inferences=max(1, share + (round_ < more)),
            seconds=method.seconds / method.rounds if method.seconds is not None else None,
        )
        wants_accuracy = self._dataset is not None and not any(
            row.gap_at_20 is not None and row.key == f"{subject.artifact}/{subject.path.name}"
            for row in self._rows.values()
        )
        job = Job(
            path=str(subject.path),
            runtime=subject.runtime,
            threads=item.threads,
            data=str(self._dataset.folder) if self._dataset is not None else None,
            f1_threshold=subject.f1_threshold,
            method=part,
            result_fd=-1,
            sha256=subject.sha256,
            precision=subject.precision,
            integer=bool(subject.integer_share),
            batch=item.batch,
            outcomes=str(self._judge.path(subject.sha256, subject.f1_threshold)) if wants_accuracy else None,
        )
        job = dataclasses.replace(job, packed=self._pack(job, item.title, on_stage))
        if earlier is None:
            bare = self._bare_memory(job)
        before = Activity.now()
        found = run_worker(job, on_stage=on_stage)
        for text, amount in remarks(before, Activity.now(), self.results.device.cores).items():
            self._remark(text, amount, item.title)
        if earlier is not None:
            self._rows[index] = _with_round(earlier, found, round_)
            return
        self._rows[index] = row_of(item, bare, found)

    def _pack(self, job: Job, title: str, on_stage: Callable[[str], None]) -> str | None:
        """The file's folder of packed weights, made unless it is there; None where that is not wanted or does not work,
        which is remarked."""
        if not self.results.method.packed:
            return None
        path = Path(job.path)
        if path not in self._packed:
            folder = self._packed_folder(job)
            why = None
            room, needed = shutil.disk_usage(self._folder).free, 3 * path.stat().st_size
            if not folder.exists() and room <= needed:
                why = f"the disk has {room / 1e6:,.0f} MB left and it takes up to {needed / 1e6:,.0f} MB"
            elif not folder.exists():
                on_stage("packing its weights for this processor")
                found = run_worker(dataclasses.replace(job, packed=str(folder), pack_only=True, outcomes=None))
                why = found["reason"] or "the runtime did not write them"
                if found["status"] != OK:  # They may be of another file than was meant.
                    shutil.rmtree(folder, ignore_errors=True)
            self._packed[path] = folder if folder.exists() else None
            if self._packed[path] is None:
                why = (why or "they are gone").translate({ord("{"): "(", ord("}"): ")"})  # Braces are for amounts.
                self._remark(f"Weights could not be packed beforehand ({why}): more memory was taken", 0.0, title)
        return str(self._packed[path]) if self._packed[path] is not None else None

    def _packed_folder(self, job: Job) -> Path:
        """Named by all that decides what it holds: the file's bytes, the runtime, its version and the processor."""
        device = self.results.device
        versions = {name: version for name, version in device.versions.items() if name != "numpy"}
        about = json.dumps([job.sha256 or job.path, job.runtime, versions, device.cpu, device.features], sort_keys=True)
        return self._folder / "packed" / hashlib.sha256(about.encode()).hexdigest()[:16]

    def _remark(self, text: str, amount: float, title: str) -> None:
        worst, names = self._remarks.get(text, (0.0, []))
        self._remarks[text] = (max(worst, amount), names if title in names else [*names, title])

    def _bare_memory(self, job: Job) -> int | None:
        """High-water mark of the same measurement with an empty model."""
        if (job.runtime, job.threads) not in self._bare:
            method = dataclasses.replace(job.method, inferences=50, seconds=1.0)
            bare = dataclasses.replace(
                job, path=str(EMPTY[job.runtime]), sha256=sha256_file(EMPTY[job.runtime]), method=method, outcomes=None
            )
            folder = self._packed_folder(bare)
            packed = str(folder) if job.packed is not None else None
            bare = dataclasses.replace(bare, packed=packed)
            if packed is not None and not folder.exists():
                run_worker(dataclasses.replace(bare, pack_only=True))
            self._bare[job.runtime, job.threads] = run_worker(bare).get("peak_memory_bytes")
        return self._bare[job.runtime, job.threads]

    def _put_together(self, finished: bool = False) -> None:
        # A row that was finished in an earlier session keeps the limit of that session.
        rows = [
            row if index in self._done_before else self._with_limit(row) for index, row in sorted(self._rows.items())
        ]
        rows = self._judge.judged(rows) if finished else rows
        before = (self.results.conditions or {})["before"]
        self.results = dataclasses.replace(
            self.results,
            rows=rows,
            conditions={"before": before, "after": conditions()},
            warnings=[
                *self._given,
                *(text for text in self._kept_warnings if text not in self._given),
                *self._warnings(),
                *(
                    disagreements((self._plan[index].title, row) for index, row in sorted(self._rows.items()))
                    if finished
                    else []
                ),
            ],
            gallery=self._judge.gallery(rows) if finished else None,
        )

    def _warnings(self) -> list[str]:
        return [
            f"{text.format(worst) if '{' in text else text} while measuring "
            + (", ".join(names) if len(names) <= 3 else f"{len(names)} of {len(self._plan)} rows")
            + "."
            for text, (worst, names) in self._remarks.items()
        ]

    def _with_limit(self, row: Row) -> Row:
        if row.latency_ms is None:
            return row
        same = [one for one in self.results.bandwidth if one.threads == row.threads]
        fitting = [one for one in same if row.weight_bytes and abs(one.buffer_bytes - row.weight_bytes) < 64]
        speed = fitting[0] if fitting else self.results.memory_bandwidth(row.threads)
        limit = None
        if speed is not None and row.weight_bytes:
            limit = round(row.weight_bytes / speed.bytes_per_s * 1e3, 4)
        return dataclasses.replace(
            row,
            videos_per_s=round(row.batch / row.latency_ms.mean * 1e3, 2),
            limit_ms=limit,
            limit_share=round(limit / row.latency_ms.p50, 4) if limit is not None else None,
        )


def _with_round(row: Row, found: dict[str, Any], round_: int) -> Row:
    """A row with one more round's latencies; if that round failed, what it was before and why."""
    raw = found.get("latency_raw_us") or []
    if found["status"] != OK:
        return dataclasses.replace(row, status=found["status"], reason=f"in round {round_ + 1}: {found['reason']}")
    together = [*(row.latency_raw_us or []), *raw]
    latency: Latency = latency_of(np.array(together, np.int64) * 1000)
    return dataclasses.replace(row, latency_raw_us=together, latency_ms=latency, rounds=[*(row.rounds or []), len(raw)])


def baseline_of(subjects: Sequence[Subject]) -> Baseline:
    """FP32 of the network with the most parameters; where there is no FP32, the first file of the largest network."""
    largest = max(subjects, key=lambda subject: (subject.precision == "fp32", subject.params))
    return Baseline(largest.artifact, largest.model, largest.preset, largest.precision)


@contextmanager
def scratch_folder(scratch: Path | None) -> Iterator[Path]:
    """`scratch`, made if it is not there; a temporary folder when None."""
    if scratch is None:
        with tempfile.TemporaryDirectory(prefix="edge-af-bench-") as temporary:
            yield Path(temporary)
        return
    try:
        scratch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgeAfError(f"{scratch}: cannot write here ({error.strerror}).") from None
    yield scratch
