"""Benches of several targets at once, each in its own process.

A fleet is a YAML file:

```yaml
targets:
  - ssh://pi@pi5.local
  - {target: "ssh://pi@pi4.local", offline: true}   # it has no network: see --offline
  - adb:8A1X0LZ5K                                   # a phone
  - emulated:pi5                                    # an emulated board
```
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from edge_af.bench.backend import TargetOptions
from edge_af.bench.request import BenchRequest
from edge_af.bench.session import bench
from edge_af.bench.subject import Subject
from edge_af.console import prefix_lines
from edge_af.errors import EdgeAfError
from edge_af.files import read_yaml
from edge_af.targets import open_backend
from edge_af.typed import Mismatch, built


@dataclass(frozen=True)
class FleetEntry:
    """An entry of a fleet file."""

    target: str
    offline: bool | None = None
    """None for the command line's value."""


@dataclass(frozen=True)
class Fleet:
    """A fleet file."""

    targets: list[str | FleetEntry]


@dataclass(frozen=True)
class Member:
    """A target of a fleet."""

    address: str
    label: str
    options: TargetOptions

    def out(self, out: Path) -> Path:
        """Name its results file: from `results.json` of the fleet, for example `results-pi-pi5.local.json`."""
        name = re.sub(r"[^A-Za-z0-9.]+", "-", self.label).strip("-")
        return out.with_name(f"{out.stem}-{name}{out.suffix}")


@dataclass(frozen=True)
class Outcome:
    """Outcome of a target."""

    label: str
    out: Path
    """Its results file."""
    reason: str | None = None
    """Reason why results are missing; None if they are there."""


def read_fleet(path: Path, options: TargetOptions = TargetOptions()) -> list[Member]:  # noqa: B008 - it is frozen
    """Read a fleet. `options` come from the command line; each target gets those that apply to it.

    Raises:
        EdgeAfError: it is missing, is not YAML, names no target or one twice, or has an unknown field.
    """
    try:
        entries = built(Fleet, read_yaml(path, "fleet")).targets
    except Mismatch as error:
        raise EdgeAfError(f"{path}: not a fleet: {error}.") from None
    members = []
    for index, entry in enumerate(entries):
        one = FleetEntry(entry) if isinstance(entry, str) else entry
        address, is_phone = one.target, one.target.startswith("adb")
        offline = options.offline and address.startswith("ssh") if one.offline is None else one.offline
        own = TargetOptions(
            offline=offline,
            benchmark_model=options.benchmark_model if is_phone else None,
            cores=options.cores if is_phone else None,
        )
        try:
            members.append(Member(address, open_backend(address, own).label, own))
        except EdgeAfError as error:
            raise EdgeAfError(f"{path}: targets[{index}]: {error}") from None
    if not members:
        raise EdgeAfError(f"{path}: names no target.")
    names = [member.out(Path("r.json")) for member in members]
    for member, name in zip(members, names, strict=True):
        if names.count(name) > 1:
            raise EdgeAfError(
                f"{path}: names {member.label} more than once, or another target with the same results file."
            )
    return members


def bench_fleet(subjects: Sequence[Subject], request: BenchRequest, members: Sequence[Member]) -> list[Outcome]:
    """Bench all members at once. A member that fails does not stop the others.

    Args:
        subjects: the exported files.
        request: the members' results files are named after its `out`.
        members: the targets.

    Raises:
        KeyboardInterrupt: on Ctrl-C, once every member has stopped and saved its results.
    """
    assert request.out is not None
    context = multiprocessing.get_context("spawn")
    running = []
    for member in members:
        reasons, writer = context.Pipe(duplex=False)
        out = member.out(request.out)
        process = context.Process(
            target=_bench_member, args=(subjects, dataclasses.replace(request, out=out), member, writer)
        )
        process.start()
        writer.close()
        running.append((member, out, process, reasons))
    try:
        for _, _, process, _ in running:
            process.join()
    except KeyboardInterrupt:
        for _, _, process, _ in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid or 0, signal.SIGINT)
        for _, _, process, _ in running:
            process.join()
        raise
    return [_outcome(member, out, process.exitcode, reasons) for member, out, process, reasons in running]


def _bench_member(subjects: Sequence[Subject], request: BenchRequest, member: Member, reasons: Connection) -> None:
    """Bench one member in its own process; if that fails, send the reason."""
    os.setsid()  # Only the parent process gets Ctrl-C; it passes it on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prefix_lines(member.label)
    try:
        bench(subjects, request, open_backend(member.address, member.options))
        reasons.send(None)
    except EdgeAfError as error:
        reasons.send(" ".join(str(error).splitlines()).removeprefix(f"{member.label}: "))
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)  # Without multiprocessing's traceback.


def _outcome(member: Member, out: Path, status: int | None, reasons: Connection) -> Outcome:
    try:
        reason = reasons.recv()
    except EOFError:
        reason = f"its process ended with status {status}"
    return Outcome(member.label, out, reason)
