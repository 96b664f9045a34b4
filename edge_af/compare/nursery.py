"""Start a nursery (see `edge_af.compare.worker`), send it commands, and describe its failures."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edge_af.compare.worker import BASE, BASE_AGAIN, CANDIDATE, PairJob
from edge_af.subprocesses import Running, running, signal_in_words

WORKER = (sys.executable, "-P", "-m", "edge_af.compare.worker")
"""-P: a file in the working directory must not stand in for a package."""
TUNABLES, HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
"""Makes glibc (2.35 and newer) ask the kernel for pages of 2 MB. Pages of 4 KB are scattered over physical memory, and which
of them compete for a place in the caches differs per load. This causes most of the difference between loads of one file."""

HANGS, CRASHED, REFUSED, NO_WORKER = "hangs", "crashed", "refused", "no worker"


class BrokenFile(Exception):
    """A file could not be measured: it would not load, its process died, or it timed out."""

    def __init__(self, which: str | None, kind: str, reason: str, signal_number: int | None = None) -> None:
        super().__init__(reason)
        self.which = which
        """`base` or `candidate`; None if neither is at fault."""
        self.kind = kind
        self.reason = reason
        self.signal_number = signal_number


class Nursery:
    """A running nursery."""

    def __init__(self, worker: Running, timeout_seconds: float, on_stage: Callable[[str], None]) -> None:
        self._worker, self._timeout, self._on_stage = worker, timeout_seconds, on_stage

    def order(self, order: dict[str, Any] | None) -> dict[str, Any]:
        """Send an order and wait for its answer.

        Raises:
            BrokenFile: a child died, refused its file, or sent nothing for `timeout_seconds`.
        """
        if order is not None:
            self._worker.send(json.dumps(order) + "\n")
        stage = "starting"
        while True:
            try:
                found = self._worker.next(time.monotonic() + self._timeout)
            except TimeoutError:
                reason = f"no answer within {self._timeout:g} s while {stage}"
                raise BrokenFile(_blamed(stage), HANGS, reason) from None
            if found is None:
                last = self._worker.last_line() or "no message"
                raise BrokenFile(None, NO_WORKER, f"the process that starts the others ended while {stage}: {last}")
            if "failed" in found:
                raise _broken(found["failed"], stage, self._worker.last_line())
            if "stage" not in found:
                return found
            stage = found["stage"]
            self._on_stage(stage)


@contextlib.contextmanager
def nursery(
    job: PairJob,
    *,
    timeout_seconds: float,
    command: Sequence[str] = WORKER,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Iterator[Nursery]:
    """Run a nursery for a pair of files; it and its children are ended with the block.

    Raises:
        BrokenFile: it does not start, or a runtime is missing.
    """
    tunables = ":".join(filter(None, (os.environ.get(TUNABLES), HUGE_PAGES)))
    # `running` keeps numpy's libraries from starting threads, so forking is safe.
    with running(command, {"TF_CPP_MIN_LOG_LEVEL": "3", TUNABLES: tunables}) as worker:
        worker.send(dataclasses.replace(job, result_fd=worker.result_fd).as_json() + "\n")
        started = Nursery(worker, timeout_seconds, on_stage)
        started.order(None)
        yield started


def _broken(failed: dict[str, Any], stage: str, last: str) -> BrokenFile:
    which = {None: None, BASE: "base", CANDIDATE: "candidate", BASE_AGAIN: "base"}[failed["which"]]
    number = failed["signal"]
    if number is not None:
        name, meaning = signal_in_words(number, last)
        return BrokenFile(which, CRASHED, f"{name} while {stage}: {meaning}", number)
    return BrokenFile(which, CRASHED if failed["died"] else REFUSED, failed["reason"])


def _blamed(stage: str) -> str | None:
    return "candidate" if "candidate" in stage else "base" if "the base" in stage else None
