"""Time base and candidate in turns, each in its own process: the nursery and the children it forks.

`python -m edge_af.compare.worker` is the nursery. It imports the runtimes, loads no file, and forks a child for each one.
All children therefore have the same address layout and share the memory of inputs and libraries; only the file differs.
A child loads its file and runs a block of inferences on each command. A generation of children times a few rounds and is
ended. The next one loads again, which redraws the random effects of loading (memory pages and their places in the caches).
Forking is safe here because no thread has been started yet: OpenBLAS and OpenMP are told to start none, and a runtime
starts its own when it loads a file.

The nursery reads a `PairJob`, one line of JSON, from standard input, then one command per line. It answers on the file
descriptor named in the job: `{"stage": …}` lines for progress, then one line with the answer, which is `{"failed": …}` if
a child died or refused its file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from edge_af.bench.worker import inputs_of
from edge_af.data import Features
from edge_af.errors import EdgeAfError
from edge_af.runtime import MissingRuntime, import_runtime, load, score_all
from edge_af.runtime.probe import input_widths
from edge_af.subprocesses import die_with_parent

BASE, CANDIDATE, BASE_AGAIN = 0, 1, 2
"""Indexes of a generation's children in every list."""
NAMES = ("the base", "the candidate", "the base's second process")

FIRST_INFERENCES = 3
"""Number of untimed inferences after loading: a runtime defers work until then."""
LEAST_ROUNDS, MOST_ROUNDS = 3, 32
"""Smallest and largest number of rounds in a generation."""
LEAST_BLOCK, MOST_BLOCK, BLOCK_SECONDS = 3, 8, 0.04
"""Inferences in a block, as many as fit the time. The first quarter, two of eight, is not counted: after another process
had the core, it takes a few inferences until the weights are back in the caches."""
PROBE_SECONDS, MOST_PROBED = 0.006, 4
"""Seconds for which each core is probed before a generation, and the number of cores probed."""
INPUT_VIDEOS = 64
"""Number of different videos in timing."""
AGREEMENT_VIDEOS = 256
"""Number of different videos that both score for the agreement check."""


@dataclass(frozen=True)
class PairJob:
    """The pair of files of one nursery."""

    base: str
    candidate: str
    runtimes: tuple[str, str]
    threads: int
    cores: list[int]
    """Cores that the children may run on, the same for all children of a generation; empty for any."""
    data: str | None
    """Folder of the dataset that provides the videos; None for random values."""
    result_fd: int

    @staticmethod
    def from_json(text: str) -> PairJob:
        value = json.loads(text)
        return PairJob(**{**value, "runtimes": tuple(value["runtimes"])})

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


class _Failed(Exception):
    """A child died or refused its file; holds the nursery's answer."""

    def __init__(self, which: int, *, reason: str = "", signal_number: int | None = None, died: bool = False) -> None:
        super().__init__(reason)
        self.answer = {"failed": {"which": which, "reason": reason, "signal": signal_number, "died": died}}


Tell = Callable[[dict[str, Any]], None]
Inputs = list[Features]


@dataclass
class _Child:
    which: int
    pid: int
    orders: int
    answers: IO[bytes]

    def ask(self, **order: Any) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):
            os.write(self.orders, json.dumps(order).encode() + b"\n")
        return self.answer()

    def answer(self) -> dict[str, Any]:
        line = self.answers.readline()
        if not line.endswith(b"\n"):
            status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.pid = 0
            if status < 0:
                raise _Failed(self.which, signal_number=-status)
            raise _Failed(self.which, reason=f"ended with status {status}", died=True)
        found: dict[str, Any] = json.loads(line)
        if "refused" in found:
            raise _Failed(self.which, reason=found["refused"])
        return found

    def end(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.orders)
        self.answers.close()


def _fork(which: int, job: PairJob, inputs: Inputs) -> _Child:
    theirs, orders = os.pipe()
    answers, answer_to = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(orders)
        os.close(answers)
        _live(job, which, inputs, os.fdopen(theirs, "rb"), answer_to)
    os.close(theirs)
    os.close(answer_to)
    return _Child(which, pid, orders, os.fdopen(answers, "rb"))


def _live(job: PairJob, which: int, inputs: Inputs, orders: IO[bytes], answer_to: int) -> NoReturn:
    """Run as a child: load, then follow commands until the nursery exits."""

    def tell(answer: dict[str, Any]) -> None:
        os.write(answer_to, json.dumps(answer).encode() + b"\n")

    status = 1
    try:
        die_with_parent()
        started = time.perf_counter_ns()
        path = Path(job.candidate if which == CANDIDATE else job.base)
        scorer = load(path, runtime=job.runtimes[which == CANDIDATE], threads=job.threads)
        first = []
        for at in range(FIRST_INFERENCES):
            begun = time.process_time_ns()
            scorer.score(inputs[at % len(inputs)])
            first.append(time.process_time_ns() - begun)
        tell({"load_ms": (time.perf_counter_ns() - started) / 1e6, "inference_s": min(first) / 1e9})
        begin = 0
        for line in orders:
            order = json.loads(line)
            if "scores_to" in order:
                count = order["videos"]
                together = Features(*(np.concatenate(arrays) for arrays in zip(*inputs[:count], strict=True)))
                scores = score_all(scorer, together)
                np.save(order["scores_to"], scores)
                tell({"scored": len(scores)})
                continue
            tell(_block(scorer.score, inputs, begin, order["warm_up"], order["inferences"]))
            begin += order["inferences"]
        status = 0
    except MemoryError as error:
        tell({"refused": f"out of memory: {error}"})
    except EdgeAfError as error:
        tell({"refused": " ".join(str(error).splitlines())})
    except BaseException as error:
        tell({"refused": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(status)


def _block(
    score: Callable[..., Any],
    inputs: Inputs,
    begin: int,
    warm_up: int,
    inferences: int,
) -> dict[str, Any]:
    """Run a block and return each inference's nanoseconds: wall-clock time and processor time of the process."""
    videos = min(INPUT_VIDEOS, len(inputs))
    chosen = [inputs[at % videos] for at in range(begin, begin + warm_up + inferences)]
    wall_clock, cpu_clock = time.perf_counter_ns, time.process_time_ns
    wall, cpu = [], []
    # The processes that ran in between have evicted this one's data from the caches.
    for video in chosen[:warm_up]:
        score(video)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for video in chosen[warm_up:]:
        wall_start, cpu_start = wall_clock(), cpu_clock()
        score(video)
        cpu_end, wall_end = cpu_clock(), wall_clock()
        wall.append(wall_end - wall_start)
        cpu.append(cpu_end - cpu_start)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {"wall": wall, "cpu": cpu, "preempted": after.ru_nivcsw > before.ru_nivcsw}


def time_generation(job: PairJob, inputs: Inputs, order: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Fork three children, time them in turns, and end them.

    A round runs each child once in random order and once in the reverse order, so that a machine that slows down steadily
    slows all children alike. Rounds continue for as long as loading took, and for at least `seconds`. They end after
    `at_most` seconds once there have been three. `block` sets the numbers of inferences in a block, for experiments.

    Returns:
        `load_ms` (3,), `wall` and `cpu` (3, blocks, inferences) in nanoseconds, `preempted` (3, blocks), `rounds`.
    """
    random = np.random.default_rng([order["seed"], order["generation"]])
    children: list[_Child] = []
    try:
        started = time.monotonic()
        _choose_cores(job, random)
        load_ms = [0.0] * len(NAMES)
        slowest = 1e-9
        # One at a time, in random order: loading disturbs the others, and the first may find a colder machine.
        for which in random.permutation(len(NAMES)).tolist():
            tell({"stage": f"loading {NAMES[which]}"})
            children.append(_fork(which, job, inputs))
            answer = children[-1].answer()
            load_ms[which] = answer["load_ms"]
            slowest = max(slowest, answer["inference_s"])
        children.sort(key=lambda child: child.which)
        loaded = time.monotonic()
        until = loaded + min(max(order["seconds"], loaded - started), max(order["at_most"] - (loaded - started), 0.0))
        size = min(max(round(BLOCK_SECONDS / slowest), LEAST_BLOCK), MOST_BLOCK)
        block = order.get("block") or {"warm_up": (size + 1) // 4, "inferences": size - (size + 1) // 4}
        blocks: list[list[dict[str, Any]]] = [[] for _ in NAMES]
        rounds = 0
        tell({"stage": "timing"})
        while rounds < MOST_ROUNDS and (rounds < LEAST_ROUNDS or time.monotonic() < until):
            there = random.permutation(len(NAMES)).tolist()
            for which in [*there, *reversed(there)]:
                blocks[which].append(children[which].ask(**block))
            rounds += 1
        return {
            "load_ms": load_ms,
            "rounds": rounds,
            **{name: [[one[name] for one in own] for own in blocks] for name in ("wall", "cpu", "preempted")},
        }
    finally:
        for child in children:
            child.end()


def _choose_cores(job: PairJob, random: np.random.Generator) -> None:
    """Pin this process and its future children to as many cores as threads, choosing the least busy ones.

    On a core that runs other work, time and caches are shared with that work.
    """
    if not job.cores:
        return
    if job.threads >= len(job.cores):
        os.sched_setaffinity(0, job.cores)
        return
    tried = random.permutation(job.cores)[: max(MOST_PROBED, job.threads)].tolist()
    given = sorted(((_share_of(core), core) for core in tried), reverse=True)
    os.sched_setaffinity(0, [core for _, core in given[: job.threads]])


def _share_of(core: int) -> float:
    """Measure the share of a core's time that this process gets."""
    os.sched_setaffinity(0, [core])
    wall, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < PROBE_SECONDS:
        pass
    return (time.process_time() - cpu) / (time.perf_counter() - wall)


def score_both(job: PairJob, inputs: Inputs, order: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Score the same videos with base and candidate and save the scores, (videos, classes) float32 each."""
    for which, target in ((BASE, order["base_to"]), (CANDIDATE, order["candidate_to"])):
        tell({"stage": f"loading {NAMES[which]}"})
        child = _fork(which, job, inputs)
        try:
            child.answer()
            tell({"stage": f"scoring with {NAMES[which]}"})
            child.ask(scores_to=target, videos=AGREEMENT_VIDEOS)
        finally:
            child.end()
    return {"scored": True}


def main() -> None:
    """Serve until standard input ends."""
    die_with_parent()
    job = PairJob.from_json(sys.stdin.readline())
    with os.fdopen(job.result_fd, "w", encoding="utf-8") as out:

        def tell(fields: dict[str, Any]) -> None:
            out.write(json.dumps(fields) + "\n")
            out.flush()

        tell({"stage": "importing the runtime"})
        try:
            for runtime in dict.fromkeys(job.runtimes):
                import_runtime(runtime)
            inputs = inputs_of(job.data, 1, input_widths(Path(job.base)), AGREEMENT_VIDEOS)
        except MissingRuntime as error:
            tell(
                {"failed": {"which": None, "reason": " ".join(str(error).splitlines()), "signal": None, "died": False}}
            )
            return
        # A garbage collection during an inference would be timed with it, and it would write to pages the children share.
        gc.collect()
        gc.freeze()
        gc.disable()
        tell({"ready": True})
        for line in sys.stdin:
            order = json.loads(line)
            act = score_both if "base_to" in order else time_generation
            try:
                tell(act(job, inputs, order, tell))
            except _Failed as failed:
                tell(failed.answer)


if __name__ == "__main__":
    main()
