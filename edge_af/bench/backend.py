"""The protocol between a bench and the machine that it measures on.

A backend measures and scores; `edge_af.bench.session` plans, repeats, saves and puts the results together. The backends are
`edge_af.bench.local`, `edge_af.targets.ssh_backend`, `edge_af.targets.adb_backend` and `edge_af.emulation.backend`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from edge_af.bench.request import PlannedRow
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.machine.conditions import Conditions
from edge_af.machine.device import Device
from edge_af.records.results import Bandwidth, Method, Tool

OnStage = Callable[[str], None]
"""Hears what a backend is doing, in a few words, for the progress line."""
OnScored = Callable[[int], None]
"""Hears how many more videos were scored."""


@dataclass(frozen=True)
class Machine:
    """Description of a backend's machine when the bench begins."""

    device: Device
    conditions: Conditions
    tool: Tool | None = None
    """The program that measures; None for edge-af's own worker."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """Findings of one measurement of one row."""

    fields: dict[str, Any]
    """Fields of `Row`, `status` and `reason` always among them, and `round` (a `Round`) where no raw latencies are known."""
    conditions: Conditions
    """Conditions of the machine after it."""
    remarks: dict[str, float] = field(default_factory=dict)
    """Disturbances: a text with a place for the amount, and the amount."""


@dataclass(frozen=True)
class TargetOptions:
    """Options that only some kinds of targets have."""

    offline: bool = False
    benchmark_model: Path | None = None
    cores: str | None = None

    def refuse_for(self, address: str, *names: str) -> None:
        """Refuse the named options where they are given.

        Raises:
            EdgeAfError: naming the option and the target.
        """
        for name in names:
            if getattr(self, name):
                raise EdgeAfError(f"--{name.replace('_', '-')} does not apply to the target {address}.")


class Backend(Protocol):
    """A machine to measure on. Use it as a context manager: nothing of it runs after the block.

    The calls come in this order: `machine`, `method`, `prepare`, `describe`, and then the others as often as needed.
    """

    label: str
    """Name in messages."""
    uses_videos: bool
    """True if latency is measured on the evaluation set's videos; on random values otherwise."""

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            EdgeAfError: the machine cannot be used; says what to do.
        """

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def machine(self) -> str | None:
        """The kind of machine as `uname -m` names it; None for this one."""

    def method(self, wanted: Method) -> Method:
        """Return how rows are measured here when `wanted` is asked for."""

    def refuses(self, row: PlannedRow) -> tuple[str, str] | None:
        """Return the status and the reason of a row that cannot be measured here; None for others."""

    def prepare(self, plan: Sequence[PlannedRow], dataset: Dataset | None, method: Method, scratch: Path) -> None:
        """Bring what the plan needs to the machine.

        Args:
            plan: the rows that are left to measure.
            dataset: the evaluation set.
            method: as `self.method` gave it.
            scratch: a folder on this machine that is kept until the bench is complete.
        """

    def describe(self) -> Machine:
        """Describe the machine."""

    def bandwidth(self, threads: Sequence[int], weight_bytes: Sequence[int]) -> list[Bandwidth]:
        """Measure how fast memory is read; empty where that is not measured."""

    def measure(self, row: PlannedRow, method: Method, on_stage: OnStage) -> Measured:
        """Measure one round of a row.

        Raises:
            EdgeAfError: the machine cannot be used any more. What goes wrong in a row becomes its `status` and `reason`.
        """

    def score(
        self, row: PlannedRow, dataset: Dataset, outcomes: Path, on_stage: OnStage, on_scored: OnScored
    ) -> dict[str, Any]:
        """Score the evaluation set with a row's file.

        Args:
            row: of which the file and the threads are used.
            dataset: the evaluation set.
            outcomes: where `edge_af.metrics.bootstrap.save_outcomes` leaves the outcomes, on this machine.
            on_stage: see `OnStage`.
            on_scored: see `OnScored`.

        Returns:
            the metrics as fields of `Row`, or `reason` where there are none.
        """
