"""The protocol between a bench and the machine that it measures on.

A backend measures and scores; `edge_af.bench.session` plans, repeats, saves and assembles the results. The backends are
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
"""Called with a short description of what a backend is doing, for the progress line."""
OnScored = Callable[[int], None]
"""Called with the number of videos scored since the last call."""


@dataclass(frozen=True)
class Machine:
    """Description of a backend's machine at the start of the bench."""

    device: Device
    conditions: Conditions
    tool: Tool | None = None
    """Program that measures; None for edge-af's own worker."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """Findings of one measurement of one row."""

    fields: dict[str, Any]
    """Fields of `Row`, always including `status` and `reason`, and `round` (a `Round`) if raw latencies are unknown."""
    conditions: Conditions
    """Conditions of the machine after the measurement."""
    remarks: dict[str, float] = field(default_factory=dict)
    """Disturbances: text with a placeholder for the amount, to amount."""


@dataclass(frozen=True)
class TargetOptions:
    """Options that only some kinds of targets have."""

    offline: bool = False
    benchmark_model: Path | None = None
    cores: str | None = None

    def refuse_for(self, address: str, *names: str) -> None:
        """Refuse the named options if they are given.

        Raises:
            EdgeAfError: one of them is given; names it and the target.
        """
        for name in names:
            if getattr(self, name):
                raise EdgeAfError(f"--{name.replace('_', '-')} does not apply to the target {address}.")


class Backend(Protocol):
    """A machine to measure on. Use it as a context manager; nothing keeps running after the block.

    Calls come in this order: `machine`, `method`, `prepare`, `describe`, then the others as often as needed.
    """

    label: str
    """Name in messages."""
    uses_videos: bool
    """True if latency is measured on the evaluation set's videos; on random values otherwise."""

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            EdgeAfError: the machine cannot be used; says how to fix it.
        """

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def machine(self) -> str | None:
        """The machine type as in `uname -m`; None for this machine."""

    def method(self, wanted: Method) -> Method:
        """Return the method used on this machine when `wanted` is requested."""

    def refuses(self, row: PlannedRow) -> tuple[str, str] | None:
        """Return status and reason if a row cannot be measured on this machine; else None."""

    def prepare(self, plan: Sequence[PlannedRow], dataset: Dataset | None, method: Method, scratch: Path) -> None:
        """Transfer what the plan needs to the machine.

        Args:
            plan: the rows that are left to measure.
            dataset: the evaluation set.
            method: as returned by `self.method`.
            scratch: a local folder that is kept until the bench is complete.
        """

    def describe(self) -> Machine:
        """Describe the machine."""

    def bandwidth(self, threads: Sequence[int], weight_bytes: Sequence[int]) -> list[Bandwidth]:
        """Measure memory read bandwidth; empty where it is not measured."""

    def measure(self, row: PlannedRow, method: Method, on_stage: OnStage) -> Measured:
        """Measure one round of a row.

        Raises:
            EdgeAfError: the connection to the machine is lost. If only one row fails, its `status` and `reason` say so.
        """

    def score(
        self, row: PlannedRow, dataset: Dataset, outcomes: Path, on_stage: OnStage, on_scored: OnScored
    ) -> dict[str, Any]:
        """Score the evaluation set with a row's file.

        Args:
            row: provides the file and the number of threads.
            dataset: the evaluation set.
            outcomes: local file for `edge_af.metrics.bootstrap.save_outcomes`.
            on_stage: see `OnStage`.
            on_scored: see `OnScored`.

        Returns:
            the metrics as fields of `Row`, or the `reason` why they are missing.
        """
