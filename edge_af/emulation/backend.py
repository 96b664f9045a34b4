"""Backend for an emulated board: accuracy and instruction counts as on the board, and a modeled latency.

Scoring runs in parts of a minute, each in its own process. Their scores and the counts are saved, so an interrupted bench
continues where it stopped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_af.bench.accuracy import accuracy_fields
from edge_af.bench.backend import Machine, Measured, OnScored, OnStage, TargetOptions
from edge_af.bench.process import run_worker
from edge_af.bench.request import PlannedRow
from edge_af.bench.subject import Subject
from edge_af.data.dataset import Dataset
from edge_af.emulation.boards import Board, parse_emulated
from edge_af.emulation.counts import GUEST, build_plugin, count, guest_job
from edge_af.emulation.latency_model import modeled_latency
from edge_af.emulation.setup import System, find_system
from edge_af.errors import EdgeAfError
from edge_af.files import read_json, sha256_json, unchanged, write_json
from edge_af.machine.conditions import conditions
from edge_af.machine.device import Device
from edge_af.records.results import FAILED, OK, Bandwidth, Instructions, Method
from edge_af.runtime.kernels import kernels
from edge_af.runtime.multiply_adds import multiply_adds

NO_LATENCY = (
    "Emulated: nothing was timed, and memory was not measured. Counts and scores are the board's; latency is modeled."
)


class EmulatedBackend:
    """A board under QEMU. See `edge_af.bench.backend.Backend`."""

    uses_videos = True
    machine = "aarch64"

    def __init__(self, board: Board) -> None:
        self.label, self._board = board.label, board

    def __enter__(self) -> Self:
        self._system = find_system()
        build_plugin()  # Fail early, before scoring.
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def method(self, wanted: Method) -> Method:
        return Method(inferences=1, seconds=None, warm_up=2, batch=1, timeout_seconds=wanted.timeout_seconds)

    def refuses(self, row: PlannedRow) -> tuple[str, str] | None:
        if (row.threads, row.batch) == (1, 1):
            return None
        return (
            FAILED,
            "an emulated board counts one video on one thread: counts of several threads vary from run to run",
        )

    def prepare(self, plan: Sequence[PlannedRow], dataset: Dataset | None, method: Method, scratch: Path) -> None:
        self._method, self._scratch = method, scratch

    def describe(self) -> Machine:
        return Machine(device_of(self._board, self._system), conditions(), warnings=(NO_LATENCY,))

    def bandwidth(self, threads: Sequence[int], weight_bytes: Sequence[int]) -> list[Bandwidth]:
        return []

    def measure(self, row: PlannedRow, method: Method, on_stage: OnStage) -> Measured:
        subject, board = row.subject, self._board
        kept = self._place(subject) / "counts.json"
        if kept.is_file():
            found = read_json(kept, "counts")
        else:
            with unchanged(subject.path, subject.sha256):
                job = guest_job(subject.path, subject.runtime, method.timeout_seconds)
                found = count(job, board, self._system, on_stage)
            write_json(kept, found)
        counted = found.get("instructions")
        modeled = modeled_latency(Instructions(**counted), board.profile) if counted else None
        return Measured(
            {
                "kernels": kernels(
                    subject.runtime,
                    subject.precision,
                    integer=bool(subject.integer_share),
                    features=board.profile.features,
                ),
                "multiply_adds": multiply_adds(subject.path, method.timeout_seconds),
                **found,
                "modelled_latency_ms": dataclasses.asdict(modeled) if modeled else None,
            },
            conditions(),
        )

    def score(
        self, row: PlannedRow, dataset: Dataset, outcomes: Path, on_stage: OnStage, on_scored: OnScored
    ) -> dict[str, Any]:
        subject = row.subject
        scores = self._scores(subject, dataset, on_stage, on_scored)
        if isinstance(scores, str):
            return {"reason": f"no accuracy: {scores}"}
        return accuracy_fields(scores, dataset.labels(slice(None)), subject.f1_threshold, outcomes)

    def _place(self, subject: Subject) -> Path:
        """Return the folder for a file's saved results, which depends on its bytes, the board, the packages and the plugin."""
        key = f"{subject.artifact}/{subject.path.name}"
        about = [key, subject.sha256, self._board.label, self._board.cpu, self._system.folder.name, build_plugin().stem]
        folder = self._scratch / sha256_json(about)[:16]
        folder.mkdir(exist_ok=True)
        return folder

    def _scores(
        self, subject: Subject, dataset: Dataset, on_stage: OnStage, on_scored: OnScored
    ) -> NDArray[np.float32] | str:
        """Score part by part; return scores (videos, classes), or the reason why a part failed."""
        folder = self._place(subject) / dataset.fingerprint()[:16]
        folder.mkdir(exist_ok=True)
        command = self._system.command(self._board, GUEST)
        parts: list[NDArray[np.float32]] = []
        while (done := sum(map(len, parts))) < dataset.videos:
            path = folder / f"{done}.npy"
            if not path.is_file():
                on_stage("scoring videos")
                job = guest_job(
                    subject.path, subject.runtime, self._method.timeout_seconds,
                    data=str(dataset.folder.resolve()), start=done, scores=str(path.resolve()),
                )  # fmt: skip
                try:
                    with unchanged(subject.path, subject.sha256):
                        ended = run_worker(job, command=command)
                except EdgeAfError:
                    path.unlink(missing_ok=True)
                    raise
                if ended["status"] != OK:
                    return str(ended["reason"])
            parts.append(np.load(path))
            on_scored(len(parts[-1]))
        return np.concatenate(parts)


def device_of(board: Board, system: System) -> Device:
    """Describe the board for the results."""
    return Device(
        machine="aarch64",
        cpu=f"{board.profile.name}, emulated",
        cores=board.profile.cores,
        memory_bytes=board.memory_bytes,
        kernel=f"qemu-user {system.qemu}",
        python=system.python,
        governor=None,
        versions=system.versions,
        features=board.profile.features,
        last_level_cache_bytes=board.profile.last_level_cache_bytes,
        emulator=f"qemu-user {system.qemu} as {board.cpu}",
    )


def open_backend(address: str, options: TargetOptions) -> EmulatedBackend:
    """See `edge_af.targets.BACKENDS`."""
    options.refuse_for(address, "offline", "benchmark_model", "cores")
    return EmulatedBackend(parse_emulated(address))
