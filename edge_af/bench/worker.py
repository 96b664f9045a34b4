"""Measure one file in one runtime, in its own process, so that no other memory or warm caches count.

`python -m edge_af.bench.worker` reads a job (a JSON object, see `Job`) from standard input and writes its findings, one JSON
object per line, to the file descriptor named in the job. Standard output and standard error are left to the libraries.
A line `{"stage": …}` comes before each stage and a line with fields of `Row` after it. So results from before a crash are
kept, and the reader knows the stage in which it happened.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_af.bench.accuracy import accuracy_fields
from edge_af.bench.rows import latency_of
from edge_af.data import Features, Widths, random_features
from edge_af.data.dataset import open_dataset
from edge_af.errors import EdgeAfError
from edge_af.files import unchanged
from edge_af.machine.conditions import available_memory
from edge_af.machine.device import cpu_features
from edge_af.machine.memory import MemoryReading, read_memory, reset_peak
from edge_af.records.results import DOES_NOT_FIT, FAILED, MISSING_RUNTIME, OK, Method
from edge_af.runtime import MissingRuntime, Scorer, import_runtime, load
from edge_af.runtime.accuracy import score_dataset
from edge_af.runtime.kernels import kernels
from edge_af.runtime.ort import unsigned_weights
from edge_af.runtime.probe import input_widths
from edge_af.subprocesses import die_with_parent

INPUT_VIDEOS = 256
"""Number of different videos, at least one batch, that timed inferences cycle through: 1.2 MB and more."""


@dataclass(frozen=True)
class Job:
    """Task of one worker."""

    path: str
    runtime: str
    threads: int
    data: str | None
    """Folder of the evaluation set. None measures latency on random values, and no accuracy."""
    f1_threshold: float
    method: Method
    sha256: str | None = None
    """SHA-256 of the planned file; a different file is not measured. None allows any."""
    precision: str = "fp32"
    """Precision of the weights. With `integer`, it determines the kernels."""
    integer: bool = False
    batch: int = 1
    """Videos per inference."""
    packed: str | None = None
    """Folder of packed weights to load the file with, see `edge_af.runtime.load`."""
    task: str = "measure"
    """`measure`, `pack` (load once to create the folder of packed weights) or `score`."""
    outcomes: str | None = None
    """File to which `score` writes the outcomes, for the intervals."""
    result_fd: int = -1
    """File descriptor to answer on; set by `edge_af.bench.process.run_worker`."""

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """Build a job from the output of `dataclasses.asdict`."""
        return cls(**{**value, "method": Method(**value["method"])})

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


class DoesNotFit(Exception):
    """The file needs more memory than is available."""


def measure(job: Job, tell: Callable[[dict[str, Any]], None]) -> None:
    """Do the job and pass stages and fields of `Row` to `tell` as they come.

    Raises:
        EdgeAfError, MemoryError, DoesNotFit: the runtime is missing, the file cannot be loaded or run, or it differs from
            the planned one before or after.
    """
    tell({"stage": "reading the file"})
    with unchanged(Path(job.path), job.sha256):
        _measure_file(job, tell)


def _measure_file(job: Job, tell: Callable[[dict[str, Any]], None]) -> None:
    inputs = inputs_of(job.data, job.batch, input_widths(Path(job.path))) if job.task == "measure" else []
    tell({"stage": "importing the runtime"})
    import_runtime(job.runtime)
    before = read_memory()
    if job.task != "pack":
        check_room(job, before, tell)
    memory = _kept({}, "before_load", before)
    tell({"memory": memory, "runtime_memory_bytes": before.peak if before else None})
    reset_peak()

    tell({"stage": "loading the file"})
    started = time.perf_counter_ns()
    scorer = load(job.path, runtime=job.runtime, threads=job.threads, packed=job.packed)
    if job.task == "pack":
        return
    if job.task == "score":
        _score(job, scorer, tell)
        return
    tell({"load_ms": _milliseconds(time.perf_counter_ns() - started)})
    tell(
        {
            "kernels": kernels(
                job.runtime,
                job.precision,
                integer=job.integer,
                features=cpu_features(),
                unsigned_weights=job.runtime == "onnxruntime" and unsigned_weights(Path(job.path)),
            )
        }
    )
    memory = _kept(memory, "after_load", read_memory())
    tell({"memory": memory})

    tell({"stage": "running its first inference"})
    tell({"first_ms": _milliseconds(_timed(scorer, inputs, count=1, seconds=None)[0])})

    tell({"stage": "timing inferences"})
    _timed(scorer, inputs, count=job.method.warm_up, seconds=job.method.warm_up_seconds)
    nanoseconds = _timed(scorer, inputs, count=job.method.inferences, seconds=job.method.seconds)
    after = read_memory()
    tell({"memory": _kept(memory, "after_run", after), "peak_memory_bytes": after.peak if after else None})
    tell(
        {
            "latency_ms": dataclasses.asdict(latency_of(nanoseconds)),
            "latency_raw_us": np.rint(nanoseconds / 1e3).astype(int).tolist(),
        }
    )


def _score(job: Job, scorer: Scorer, tell: Callable[[dict[str, Any]], None]) -> None:
    """Score the evaluation set, save the outcomes, and report the metrics."""
    assert job.data is not None and job.outcomes is not None
    tell({"stage": "measuring accuracy"})
    dataset = open_dataset(job.data, verify=False)
    scores = score_dataset(scorer, Path(job.path), dataset, batch=job.method.batch)
    tell(accuracy_fields(scores, dataset.labels(slice(None)), job.f1_threshold, Path(job.outcomes)))


def check_room(job: Job, held: MemoryReading | None, tell: Callable[[dict[str, Any]], None]) -> None:
    """Compare the least memory that the file needs with what is available, and report both.

    At the least, the file is in memory once: packed by the runtime, or packed beforehand and memory-mapped. Even then, every
    inference reads every page. Twice is usual.

    Raises:
        DoesNotFit: less memory is available.
    """
    left = available_memory()
    if left is None:
        return
    now = (held.resident if held else None) or 0
    needed, available = now + Path(job.path).stat().st_size, now + left
    tell({"needed_bytes": needed, "available_bytes": available})
    if needed > available:
        raise DoesNotFit


def _timed(scorer: Scorer, inputs: list[Features], *, count: int, seconds: float | None) -> NDArray[np.int64]:
    """Time `count` inferences, or as many as `seconds` allow but at least one, in nanoseconds."""
    score, clock, taken = scorer.score, time.perf_counter_ns, []
    stop = clock() + int(seconds * 1e9) if seconds is not None else None
    # A garbage collection during an inference would be timed with it.
    gc.disable()
    try:
        for index in range(count):
            features = inputs[index % len(inputs)]
            started = clock()
            score(features)
            ended = clock()
            taken.append(ended - started)
            if stop is not None and ended >= stop:
                break
    finally:
        gc.enable()
    return np.array(taken, np.int64)


def inputs_of(data: str | None, batch: int, widths: Widths, videos: int = INPUT_VIDEOS) -> list[Features]:
    """Return inputs of inferences: float32 features of `batch` videos each, which own their memory.

    They are the first `videos` of the dataset in the folder `data`, at least one batch, or random values without a folder.
    """
    videos = max(videos, batch)
    if data is None:
        features = random_features(videos, widths)
    else:
        features = open_dataset(data, verify=False).features(slice(videos))
    starts = range(0, max(features.videos - batch, 0) + 1, batch)
    # A dataset smaller than a batch is repeated.
    return [features.take(np.arange(start, start + batch) % features.videos) for start in starts]


def _kept(
    memory: dict[str, dict[str, int | None]], when: str, reading: MemoryReading | None
) -> dict[str, dict[str, int | None]]:
    return {**memory, when: dataclasses.asdict(reading)} if reading else memory


def _milliseconds(nanoseconds: float) -> float:
    return round(nanoseconds / 1e6, 4)


def main(
    kind: type[Job] = Job,
    action: Callable[[Any, Callable[[dict[str, Any]], None]], None] = measure,
) -> None:
    """Read the job, do it, and report how it ended. The exit code is 0 even if the file cannot be run: that is a result."""
    die_with_parent()
    job = kind.from_dict(json.loads(sys.stdin.read()))
    with os.fdopen(job.result_fd, "w", encoding="utf-8") as out:

        def tell(fields: dict[str, Any]) -> None:
            out.write(json.dumps(fields) + "\n")
            out.flush()

        try:
            action(job, tell)
            tell({"status": OK, "reason": None})
        except DoesNotFit:
            tell({"status": DOES_NOT_FIT, "reason": "the weights alone need more memory than is available"})
        except MissingRuntime as error:
            tell({"status": MISSING_RUNTIME, "reason": " ".join(str(error).splitlines())})
        except EdgeAfError as error:
            # The row names the file, so the message need not repeat its path.
            tell({"status": FAILED, "reason": " ".join(str(error).splitlines()).removeprefix(f"{Path(job.path)}: ")})
        except MemoryError as error:
            tell({"status": DOES_NOT_FIT, "reason": f"out of memory: {error}"})


if __name__ == "__main__":
    main()
