"""Several targets benched at once, each in a process of its own.

A fleet is a file, YAML for people to write:

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
    """A target as a fleet file names it."""

    target: str
    offline: bool | None = None
    """None: as the command line says."""


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
        """Name its results file: `results.json` of the fleet is `results-pi-pi5.local.json` of this one."""
        name = re.sub(r"[^A-Za-z0-9.]+", "-", self.label).strip("-")
        return out.with_name(f"{out.stem}-{name}{out.suffix}")


@dataclass(frozen=True)
class Outcome:
    """Outcome of a target."""

    label: str
    out: Path
    """Its results file."""
    reason: str | None = None
    """Reason why it gave no results; None if it did."""


def read_fleet(path: Path, options: TargetOptions = TargetOptions()) -> list[Member]:  # noqa: B008 - it is frozen
    """Read a fleet. `options` are those of the command line; each target takes those that apply to it.

    Raises:
        EdgeAfError: it is missing, not YAML, names no target or one twice, or has an unknown field.
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
            raise EdgeAfError(f"{path}: names {member.label} more than once, or one that is written like it.")
    return members


def bench_fleet(subjects: Sequence[Subject], request: BenchRequest, members: Sequence[Member]) -> list[Outcome]:
    """Bench every member at once. One that fails stops none of the others.

    Args:
        subjects: the exported files.
        request: `out` is what the members' results files are named after.
        members: the targets.

    Raises:
        KeyboardInterrupt: by Ctrl-C, once every member has stopped and saved what it had.
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
    """Bench one member, in a process of its own; send the reason if it gives no results."""
    os.setsid()  # Ctrl-C is for the process that started this one, which passes it on.
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
