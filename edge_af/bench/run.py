"""Runs one worker a row, outlives whatever it does, and puts the rows together."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import edge_af
from edge_af.bench.device import this_device
from edge_af.bench.results import CRASHED, FAILED, TIMEOUT, Baseline, Data, Method, Results, Row, row_from_dict
from edge_af.bench.subject import Subject, check_classes
from edge_af.bench.worker import Job
from edge_af.console import Progress
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.runtime import check_features
from edge_af.runtime.accuracy import check_labels

QUICK = Method(inferences=200, seconds=2.0)
"""What `--quick` measures: enough to see that all is well, not enough to publish."""

# -P: a file in the working directory must not stand in for a package.
WORKER = (sys.executable, "-P", "-m", "edge_af.bench.worker")

# What the kernel's signal most often means here; `signal.strsignal` says only what it is.
_MEANING: dict[int, str] = {
    signal.SIGKILL: "most likely stopped by the system for lack of memory",
    signal.SIGILL: "the runtime uses instructions that this processor does not have",
    signal.SIGBUS: "the file was cut short while it was in use, or memory ran out",
}
_MEMORY_WORDS = ("bad_alloc", "memoryerror", "out of memory", "cannot allocate memory", "failed to allocate memory")


def bench(
    subjects: Sequence[Subject],
    dataset: Dataset | None,
    *,
    threads: Sequence[int] = (1,),
    method: Method | None = None,
    quick: bool = False,
    save: Callable[[Results], None] = lambda results: None,
) -> Results:
    """Measure each subject with each number of threads, one after the other, each in a fresh process.

    Args:
        subjects: exported files.
        dataset: the evaluation set; without it there is no accuracy and latency is measured on random values.
        threads: of the runtime's own pool.
        method: how; the standard measurement, or `QUICK`, when None.
        quick: recorded in the results.
        save: called after each row with the results so far, so that an interruption loses only the row under way.

    Raises:
        EdgeAfError: before any measuring, the data has other classes than a subject, no labels, or a feature that is no number.
    """
    if dataset is not None:
        for subject in subjects:
            check_classes(subject.path, subject.classes, dataset)
        check_labels(dataset)
        check_features(dataset.visual, dataset.audio, str(dataset.folder))
    plan = [(subject, count) for subject in subjects for count in threads]
    results = Results(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        device=this_device(),
        quick=quick,
        inputs="random" if dataset is None else "videos",
        data=None if dataset is None else Data(dataset.folder.resolve().name, dataset.videos, dataset.classes),
        baseline=_baseline(subjects),
        method=method or (QUICK if quick else Method()),
        rows_planned=len(plan),
        rows=[],
    )
    with Progress("bench", len(plan), "rows") as progress:
        for subject, count in plan:
            row = _measure(subject, count, dataset, results.method, progress)
            results = dataclasses.replace(results, rows=[*results.rows, row])
            save(results)
            progress.update(1, note="")
    return results


def _baseline(subjects: Sequence[Subject]) -> Baseline:
    """FP32 of the network with the most parameters; where there is no FP32, the first file of the largest network."""
    largest = max(subjects, key=lambda subject: (subject.precision == "fp32", subject.params))
    return Baseline(largest.artifact, largest.model, largest.preset, largest.precision)


def _measure(subject: Subject, threads: int, dataset: Dataset | None, method: Method, progress: Progress) -> Row:
    job = Job(
        path=str(subject.path),
        runtime=subject.runtime,
        threads=threads,
        data=str(dataset.folder) if dataset is not None else None,
        f1_threshold=subject.f1_threshold,
        method=method,
        result_fd=-1,
    )
    found = run_worker(job, on_stage=lambda stage: progress.update(0, f"{subject.title}: {stage}"))
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
            "threads": threads,
            "params": subject.params,
            "classes": subject.classes,
            "size_bytes": subject.path.stat().st_size,
            **found,
        }
    )


def run_worker(
    job: Job,
    *,
    command: Sequence[str] = WORKER,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Do a job in a fresh process and return the fields of `Row` it found, `status` and `reason` always among them.

    Whatever becomes of the process, what it had found by then is kept. It has `job.method.timeout_seconds` in all, and is
    gone when this returns or raises.
    """
    deadline = time.monotonic() + job.method.timeout_seconds
    package_folder = str(Path(edge_af.__file__).resolve().parents[1])
    search_path = os.pathsep.join(filter(None, [package_folder, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile() as chatter, contextlib.ExitStack() as cleanup:
        reader, writer = os.pipe()
        cleanup.callback(os.close, reader)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=chatter,
                stderr=chatter,
                pass_fds=(writer,),
                env={**os.environ, "PYTHONPATH": search_path},
                # Ctrl-C is for the bench, which then ends the worker; the worker has nothing to say about it.
                start_new_session=True,
            )
        except OSError as error:
            raise EdgeAfError(f"cannot start a process to measure in: {error}.") from None
        finally:
            os.close(writer)
        cleanup.callback(_end, process)
        _send(process, dataclasses.replace(job, result_fd=writer).as_json())
        found: dict[str, Any] = {}
        stage = "starting"
        ended = False
        buffer = b""
        while not ended and "status" not in found and (left := deadline - time.monotonic()) > 0:
            if not select.select([reader], [], [], left)[0]:
                break
            part = os.read(reader, 1 << 16)
            ended = not part
            *lines, buffer = (buffer + part).split(b"\n")
            for line in lines:
                fields = json.loads(line)
                if "stage" in fields:
                    stage = fields["stage"]
                    on_stage(stage)
                else:
                    found.update(fields)
        if "status" not in found:
            found |= _how_it_ended(process, stage, ended, deadline, job, chatter)
        return _plain_words(found, stage)


def _send(process: subprocess.Popen[bytes], text: str) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(text.encode())
        process.stdin.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the worker and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _how_it_ended(
    process: subprocess.Popen[bytes], stage: str, ended: bool, deadline: float, job: Job, chatter: IO[bytes]
) -> dict[str, str]:
    """Status and reason of a worker that did not give its own."""
    try:
        # Having closed its results it is about to be gone, unless it hangs on the way out.
        status = process.wait(timeout=max(1.0, deadline - time.monotonic())) if ended else process.poll()
    except subprocess.TimeoutExpired:
        status = None
    if status is None:
        return {
            "status": TIMEOUT,
            "reason": f"no result within {job.method.timeout_seconds:g} s; stopped while {stage}",
        }
    last = _last_line(chatter)
    if status < 0:
        names = {int(number): number.name for number in signal.Signals}
        meaning = _MEANING.get(-status) or last or signal.strsignal(-status) or "no more is known"
        return {"status": CRASHED, "reason": f"{names.get(-status, f'signal {-status}')} while {stage}: {meaning}"}
    return {"status": FAILED, "reason": f"ended with status {status} while {stage}: {last or 'no message'}"}


def _plain_words(found: dict[str, Any], stage: str) -> dict[str, Any]:
    """The same, with a reason that speaks of an allocator put as what it means."""
    reason = found["reason"]
    if reason and any(word in reason.lower() for word in _MEMORY_WORDS):
        found["reason"] = f"does not fit: ran out of memory while {stage}"
    return found


def _last_line(chatter: IO[bytes]) -> str:
    chatter.seek(max(0, chatter.seek(0, os.SEEK_END) - 4096))
    lines = [line.strip() for line in chatter.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
