"""Backend for an Android phone: copy LiteRT's `benchmark_model` there, run it over adb, and parse its output.

A phone has no Python, so .onnx files cannot run there. Scoring comes last because it heats the phone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge_af.bench.accuracy import accuracy_fields
from edge_af.bench.backend import Machine, Measured, OnScored, OnStage, TargetOptions
from edge_af.bench.process import EMPTY
from edge_af.bench.request import PlannedRow, round_of
from edge_af.console import Progress, say
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.files import explain_os_errors, sha256_file
from edge_af.records.results import FAILED, MISSING_RUNTIME, OK, Bandwidth, Method, Tool
from edge_af.runtime.accuracy import score_dataset
from edge_af.targets.adb import AdbTarget, File, Gone, alone, find_phone, parse_adb
from edge_af.targets.benchmark_model import NAME, found_of, most_seconds, options
from edge_af.targets.phone import PhoneFacts, chosen_cores, facts, state
from edge_af.targets.phone_scorer import VIDEOS, PhoneScorer

_ELF_MACHINES = {"aarch64": 183, "x86_64": 62}
"""ELF `e_machine` of programs for each type of phone."""
_SPARE_SECONDS = 60.0
"""Time for loading the file, in addition to the limits passed to `benchmark_model`."""


class AdbBackend:
    """An Android phone. See `edge_af.bench.backend.Backend`."""

    uses_videos = False

    def __init__(self, target: AdbTarget, benchmark_model: Path | None = None, cores: str | None = None) -> None:
        self.label, self._target, self._cores = target.label, target, cores
        self._program_file = benchmark_model
        self._bare: dict[int, int | None] = {}

    def __enter__(self) -> Self:
        self._program = _program(self._program_file)
        self._phone = find_phone(self._target)
        with contextlib.ExitStack() as stack:
            stack.enter_context(alone(self._phone))
            self._phone.stop()
            self._facts: PhoneFacts = facts(self._phone)
            device, label = self._facts.device, self._phone.label
            _check_machine(self._program.path, device.machine, label)
            self._pinned = chosen_cores(self._cores, self._facts, label) if self._cores is not None else None
            say(f"{label}: {device.label}, {device.system or 'Android of an unknown version'}")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def machine(self) -> str:
        return self._facts.device.machine

    def method(self, wanted: Method) -> Method:
        return dataclasses.replace(wanted, packed=False, warm_up_seconds=most_seconds(round_of(wanted, 0)))

    def refuses(self, row: PlannedRow) -> tuple[str, str] | None:
        if row.subject.runtime != "litert":
            where = "for .onnx files see docs/how-to/android.md (a Debian in Termux, over ssh)"
            return MISSING_RUNTIME, f"{NAME} runs only .tflite files; {where}"
        return (FAILED, f"on a phone {NAME} is run with one video per inference") if row.batch != 1 else None

    def prepare(self, plan: Sequence[PlannedRow], dataset: Dataset | None, method: Method, scratch: Path) -> None:
        self._method, self._scratch = method, scratch
        self._empty = file_of(EMPTY["litert"])
        subjects = {row.key: row.subject for row in plan if self.refuses(row) is None}.values()
        if subjects:
            self._copy([self._program, self._empty, *(file_of(one.path, one.sha256) for one in subjects)])

    def describe(self) -> Machine:
        device, before = self._facts.device, state(self._phone)
        if self._pinned is not None:
            device = dataclasses.replace(device, affinity=self._pinned, cores=len(self._pinned))
        tool = Tool(NAME, self._program.sha256, options(round_of(self._method, 0)))
        return Machine(dataclasses.replace(device, governor=before.governor), before, tool)

    def bandwidth(self, threads: Sequence[int], weight_bytes: Sequence[int]) -> list[Bandwidth]:
        return []

    def measure(self, row: PlannedRow, method: Method, on_stage: OnStage) -> Measured:
        if row.threads not in self._bare:
            self._bare[row.threads] = self._bare_memory(row.threads, method)
        on_stage("timing inferences")
        place = file_of(row.subject.path, row.subject.sha256).place
        found = self._run(place, row.threads, options(method), self._most_seconds(method))
        now = state(self._phone)
        # `benchmark_model` reports no times of a run that failed.
        hot = {f"The phone was hot, and slowed down: {text}": 0.0 for text in now.throttled}
        return Measured({"bare_memory_bytes": self._bare[row.threads], **found}, now, hot)

    def score(
        self, row: PlannedRow, dataset: Dataset, outcomes: Path, on_stage: OnStage, on_scored: OnScored
    ) -> dict[str, Any]:
        subject, place = row.subject, file_of(row.subject.path, row.subject.sha256).place
        on_stage("scoring videos")

        def run(arguments: Sequence[str]) -> dict[str, Any]:
            return self._run(place, row.threads, arguments, self._method.timeout_seconds)

        try:
            scorer = PhoneScorer(self._phone, subject.path, subject.classes, run, self._scratch, on_scored)
            scores = score_dataset(scorer, subject.path, dataset, batch=VIDEOS)
        except Gone:
            raise
        except EdgeAfError as error:
            reason = " ".join(str(error).splitlines()).removeprefix(f"{subject.path}: ")
            return {"reason": f"no accuracy: {reason}"}
        return accuracy_fields(scores, dataset.labels(slice(None)), subject.f1_threshold, outcomes)

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

    def _run(self, place: str, threads: int, arguments: Sequence[str], seconds: float) -> dict[str, Any]:
        """Run `benchmark_model` for at most `seconds` and return its fields of `Row`."""
        command = [self._program.place, f"--graph={place}", f"--num_threads={threads}", *arguments]
        if self._pinned is not None:
            command = ["taskset", f"{sum(1 << core for core in self._pinned):x}", *command]
        return found_of(self._phone.run(command, seconds), seconds)

    @staticmethod
    def _most_seconds(method: Method) -> float:
        return min(method.timeout_seconds, 2 * most_seconds(method) + _SPARE_SECONDS)

    def _bare_memory(self, threads: int, method: Method) -> int | None:
        """Measure the peak memory with an empty model.

        Raises:
            EdgeAfError: it does not run, so no model will.
        """
        method = dataclasses.replace(method, inferences=50, seconds=1.0)
        found = self._run(self._empty.place, threads, options(method), self._most_seconds(method))
        if found["status"] != OK:
            raise EdgeAfError(
                f"{self._phone.label}: {NAME} does not run there, not even on an empty model: {found['reason']}\n"
                f"Use the build for {self.machine} (docs/how-to/android.md)."
            )
        peak: int | None = found["peak_memory_bytes"]
        return peak


def file_of(path: Path, sha256: str | None = None) -> File:
    """Describe a file to copy."""
    return File(path, sha256 or sha256_file(path), path.stat().st_size)


def _program(path: Path | None) -> File:
    """Find `benchmark_model`: the named file, or the one on the PATH."""
    if path is None:
        on_path = shutil.which(NAME)
        if on_path is None:
            raise EdgeAfError(
                f"--target adb needs LiteRT's {NAME} for Android: name it with --benchmark-model FILE, or put it on the PATH.\n"
                "See docs/how-to/android.md for the download."
            )
        path = Path(on_path)
    if not path.is_file():
        raise EdgeAfError(f"{path}: no such file; --benchmark-model names LiteRT's {NAME} for Android.")
    with explain_os_errors(path):
        return file_of(path)


def _check_machine(path: Path, machine: str, label: str) -> None:
    """Refuse a program for another processor before copying it. A 64-bit ARM phone may run a 32-bit ARM program."""
    with path.open("rb") as file:
        head = file.read(20)
    wanted = _ELF_MACHINES.get(machine)
    if head[:4] != b"\x7fELF" or wanted is None or (machine == "aarch64" and head[18] == 40):
        return
    if head[18] != wanted:
        names = {number: name for name, number in _ELF_MACHINES.items()}
        raise EdgeAfError(
            f"{path}: a {NAME} for {names.get(head[18], f'machine {head[18]}')}, but {label} is {machine}.\n"
            f"Use the build for {machine} (docs/how-to/android.md)."
        )


def open_backend(address: str, options: TargetOptions) -> AdbBackend:
    """See `edge_af.targets.BACKENDS`."""
    options.refuse_for(address, "offline")
    return AdbBackend(parse_adb(address), options.benchmark_model, options.cores)
