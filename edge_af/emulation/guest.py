"""Program under QEMU: score videos, or run a few inferences between marks at which the plugin writes its counts.

`python -m edge_af.emulation.guest` reads a `GuestJob` and answers like `edge_af.bench.worker`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.bench.worker import Job, check_room, inputs_of
from edge_af.bench.worker import main as worker
from edge_af.data.dataset import open_dataset
from edge_af.files import atomic_path
from edge_af.machine.memory import read_memory
from edge_af.runtime import import_runtime, load

MARK = 0x0ED6E000
"""Base of the argument of `getpgid`, a system call without effect that the plugin recognizes; the mark is added to it."""
WARM_UP = 2
COUNTED = 2
"""Inferences counted separately; the last one is reported."""


@dataclass(frozen=True)
class GuestJob(Job):
    """Count instructions; with `scores`, score videos from `start` on instead: as many as `seconds` allow, at least one."""

    start: int = 0
    seconds: float = 60.0
    scores: str | None = None
    """File for the scores: (videos, classes) float32, as `.npy`."""


def run(job: GuestJob, tell: Callable[[dict[str, Any]], None]) -> None:
    """Do the job.

    Raises:
        EdgeAfError, MemoryError, DoesNotFit: see `edge_af.bench.worker.measure`.
    """
    tell({"stage": "importing the runtime"})
    import_runtime(job.runtime)
    check_room(job, read_memory(), tell)
    tell({"stage": "loading the file"})
    scorer = load(job.path, runtime=job.runtime, threads=1)
    if job.scores is None:
        # The counts do not depend on the values.
        (video,) = inputs_of(None, 1, scorer.widths, videos=1)
        tell({"stage": "counting inferences"})
        mark(0)
        for _ in range(WARM_UP):
            scorer.score(video)
        mark(1)
        for index in range(COUNTED):
            scorer.score(video)
            mark(2 + index)
        return
    assert job.data is not None
    dataset = open_dataset(job.data, verify=False)
    tell({"stage": "scoring videos"})
    found: list[NDArray[np.float32]] = []
    end = time.monotonic() + job.seconds
    while job.start + len(found) < dataset.videos and (not found or time.monotonic() < end):
        one = slice(job.start + len(found), job.start + len(found) + 1)
        found.append(scorer.score(dataset.features(one))[0])
    with atomic_path(Path(job.scores)) as path, path.open("wb") as file:
        np.save(file, np.stack(found))


def mark(number: int) -> None:
    """Make the plugin write its counts."""
    with contextlib.suppress(ProcessLookupError):
        os.getpgid(MARK | number)


if __name__ == "__main__":
    worker(GuestJob, run)
