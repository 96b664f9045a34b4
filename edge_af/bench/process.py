"""Run a worker in a fresh process, survive its failures, and report how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edge_af.files import package_data
from edge_af.machine.conditions import Activity
from edge_af.records.results import CRASHED, DOES_NOT_FIT, FAILED, TIMEOUT
from edge_af.subprocesses import Running, running, signal_in_words

if TYPE_CHECKING:  # The worker imports numpy, whose crashes this module must be able to report.
    from edge_af.bench.worker import Job

# -P: a file in the working directory must not stand in for a package.
WORKER = (sys.executable, "-P", "-m", "edge_af.bench.worker")


EMPTY = {
    name: package_data("bench", file) for name, file in (("onnxruntime", "empty.onnx"), ("litert", "empty.tflite"))
}
"""Models with one layer from 1,152 features to one class: they show a runtime's own memory and whether it runs."""

_MEMORY_WORDS = ("bad_alloc", "memoryerror", "out of memory", "cannot allocate memory", "failed to allocate memory")
_NO_RUNTIME = "failed to create xnnpack runtime"
"""LiteRT's only message when XNNPACK fails, for example because its copy of the weights does not fit into memory."""


def run_worker(
    job: Job,
    *,
    command: Sequence[str] = WORKER,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Do a job in a fresh process and return its fields of `Row`, always including `status` and `reason`.

    However the process ends, its findings so far are kept. It may run for `job.method.timeout_seconds` in total, and has
    ended when this returns or raises.
    """
    deadline = time.monotonic() + job.method.timeout_seconds
    killed = Activity.now().killed
    with running(command) as worker:
        worker.send(dataclasses.replace(job, result_fd=worker.result_fd).as_json())
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            worker.process.stdin.close()
        found: dict[str, Any] = {}
        stage = "starting"
        ended = False
        while "status" not in found:
            try:
                fields = worker.next(deadline)
            except TimeoutError:
                break
            if fields is None:
                ended = True
                break
            if "stage" in fields:
                stage = fields["stage"]
                on_stage(stage)
            else:
                found.update(fields)
        if "status" not in found:
            found |= _how_it_ended(worker, stage, ended, deadline, job.method.timeout_seconds)
        return _in_words(found, stage, Activity.now().killed > killed)


def _how_it_ended(worker: Running, stage: str, ended: bool, deadline: float, timeout: float) -> dict[str, str]:
    """Return status and reason for a worker that did not report its own."""
    try:
        # It has closed its results, so it should exit soon unless it hangs.
        status = worker.process.wait(timeout=max(1.0, deadline - time.monotonic())) if ended else worker.process.poll()
    except subprocess.TimeoutExpired:
        status = None
    if status is None:
        return {
            "status": TIMEOUT,
            "reason": f"no result within {timeout:g} s; stopped while {stage}",
        }
    last = worker.last_line()
    if status < 0:
        name, meaning = signal_in_words(-status, last)
        return {"status": CRASHED, "reason": f"{name} while {stage}: {meaning}"}
    return {"status": FAILED, "reason": f"ended with status {status} while {stage}: {last or 'no message'}"}


def _in_words(found: dict[str, Any], stage: str, killed: bool) -> dict[str, Any]:
    """Return the findings with out-of-memory failures recognized; keep the amounts only for those."""
    reason = found["reason"] or ""
    starved = any(word in reason.lower() for word in _MEMORY_WORDS) or (killed and reason.startswith("SIGKILL"))
    needed, available = found.pop("needed_bytes", None), found.pop("available_bytes", None)
    if needed is not None and available is not None and _NO_RUNTIME in reason.lower():
        starved |= available < 2 * needed
    if not starved and found["status"] != DOES_NOT_FIT:
        return found
    amounts = ""
    if needed is not None and available is not None:
        amounts = f": needs at least {needed / 1e6:,.0f} MB, {available / 1e6:,.0f} MB available"
    how = "does not fit" if found["status"] == DOES_NOT_FIT and not starved else f"ran out of memory while {stage}"
    return {
        **found,
        "status": DOES_NOT_FIT,
        "reason": f"{how}{amounts}",
        "needed_bytes": needed,
        "available_bytes": available,
    }
