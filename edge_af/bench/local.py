"""Backend for this machine: each measurement in a fresh process, with weights packed beforehand."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge_af.bench.backend import Machine, Measured, OnScored, OnStage
from edge_af.bench.bandwidth import buffers, measure_apart
from edge_af.bench.process import EMPTY, run_worker
from edge_af.bench.request import PlannedRow
from edge_af.bench.worker import Job
from edge_af.data.dataset import Dataset
from edge_af.files import sha256_file, sha256_json
from edge_af.machine.conditions import Activity, conditions, remarks
from edge_af.machine.device import Device, this_device
from edge_af.metrics import Metrics
from edge_af.records.results import OK, Bandwidth, Method

METRICS = tuple(field.name for field in dataclasses.fields(Metrics))


class LocalBackend:
    """This machine. See `edge_af.bench.backend.Backend`."""

    label = "this machine"
    uses_videos = True
    machine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def method(self, wanted: Method) -> Method:
        return wanted

    def refuses(self, row: PlannedRow) -> None:
        return None

    def prepare(self, plan: Sequence[PlannedRow], dataset: Dataset | None, method: Method, scratch: Path) -> None:
        self._data, self._method = str(dataset.folder) if dataset is not None else None, method
        self._measurer = Measurer(scratch)

    def describe(self) -> Machine:
        return Machine(self._measurer.device, conditions())

    def bandwidth(self, threads: Sequence[int], weight_bytes: Sequence[int]) -> list[Bandwidth]:
        return self._measurer.bandwidth(threads, weight_bytes)

    def measure(self, row: PlannedRow, method: Method, on_stage: OnStage) -> Measured:
        return self._measurer.measure(job_of(row, method, self._data), on_stage)

    def score(
        self, row: PlannedRow, dataset: Dataset, outcomes: Path, on_stage: OnStage, on_scored: OnScored
    ) -> dict[str, Any]:
        job = dataclasses.replace(job_of(row, self._method, self._data), outcomes=str(outcomes))
        found = self._measurer.score(job, on_stage)
        on_scored(dataset.videos)
        return found


def job_of(row: PlannedRow, method: Method, data: str | None) -> Job:
    """Describe a row for a worker."""
    subject = row.subject
    return Job(
        path=str(subject.path),
        runtime=subject.runtime,
        threads=row.threads,
        data=data,
        f1_threshold=subject.f1_threshold,
        method=method,
        sha256=subject.sha256,
        precision=subject.precision,
        integer=bool(subject.integer_share),
        batch=row.batch,
    )


class Measurer:
    """Runs workers on this machine and monitors it meanwhile."""

    def __init__(self, scratch: Path) -> None:
        """Prepare to measure.

        Args:
            scratch: folder for packed weights, kept until the bench is complete.
        """
        self.device: Device = this_device()
        self._scratch = scratch
        self._bare: dict[tuple[str, int], int | None] = {}
        self._packed: dict[str, Path | None] = {}
        self._sizes: list[int] = []

    def bandwidth(self, threads: Sequence[int], weight_bytes: Sequence[int]) -> list[Bandwidth]:
        """Measure with buffers as large as the weights and one beyond the caches."""
        self._sizes = self._sizes or buffers(weight_bytes, self.device.last_level_cache_bytes)
        return measure_apart(threads, self._sizes)

    def measure(self, job: Job, on_stage: OnStage) -> Measured:
        """Do a job in a fresh process."""
        packed, disturbed = self._pack(job, on_stage)
        job = dataclasses.replace(job, packed=packed)
        bare = self._bare_memory(job)
        before = Activity.now()
        found = run_worker(job, on_stage=on_stage)
        disturbed |= remarks(before, Activity.now(), self.device.cores)
        return Measured({"bare_memory_bytes": bare, **found}, conditions(), disturbed)

    def score(self, job: Job, on_stage: OnStage) -> dict[str, Any]:
        """Score the evaluation set in a fresh process; see `edge_af.bench.backend.Backend.score`."""
        packed = self._packed.get(job.path)
        job = dataclasses.replace(job, task="score", packed=str(packed) if packed is not None else None)
        found = run_worker(job, on_stage=on_stage)
        if found["status"] != OK:
            return {"reason": f"no accuracy: {found['reason']}"}
        return {name: found[name] for name in METRICS}

    def _pack(self, job: Job, on_stage: OnStage) -> tuple[str | None, dict[str, float]]:
        """Return the folder of packed weights, created if needed, and a remark if packing was requested but failed."""
        if not job.method.packed:
            return None, {}
        if job.path not in self._packed:
            folder, path = self._packed_folder(job), Path(job.path)
            room, needed = shutil.disk_usage(self._scratch).free, 3 * path.stat().st_size
            why = None
            if not folder.exists() and room <= needed:
                why = f"the disk has {room / 1e6:,.0f} MB left and it takes up to {needed / 1e6:,.0f} MB"
            elif not folder.exists():
                on_stage("packing its weights for this processor")
                found = run_worker(dataclasses.replace(job, packed=str(folder), task="pack"))
                why = found["reason"] or "the runtime did not write them"
                if found["status"] != OK:  # They may belong to a file other than the planned one.
                    shutil.rmtree(folder, ignore_errors=True)
            self._packed[job.path] = folder if folder.exists() else None
            if self._packed[job.path] is None:
                why = (why or "they are gone").translate({ord("{"): "(", ord("}"): ")"})  # Braces are for amounts.
                return None, {f"Weights could not be packed beforehand ({why}): more memory was taken": 0.0}
        packed = self._packed[job.path]
        return str(packed) if packed is not None else None, {}

    def _packed_folder(self, job: Job) -> Path:
        """Name the folder by everything its contents depend on: file bytes, runtime, versions and processor."""
        versions = {name: version for name, version in self.device.versions.items() if name != "numpy"}
        about = [job.sha256 or job.path, job.runtime, versions, self.device.cpu, self.device.features]
        return self._scratch / "packed" / sha256_json(about)[:16]

    def _bare_memory(self, job: Job) -> int | None:
        """Return the peak memory of the same measurement with an empty model."""
        key = (job.runtime, job.threads)
        if key not in self._bare:
            method = dataclasses.replace(job.method, inferences=50, seconds=1.0)
            path = EMPTY[job.runtime]
            bare = dataclasses.replace(job, path=str(path), sha256=sha256_file(path), method=method)
            if job.packed is not None:
                bare = dataclasses.replace(bare, packed=str(self._packed_folder(bare)))
                if not Path(str(bare.packed)).exists():
                    run_worker(dataclasses.replace(bare, task="pack"))
            self._bare[key] = run_worker(bare).get("peak_memory_bytes")
        return self._bare[key]
