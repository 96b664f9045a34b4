"""Several targets benched at once, each by an `edge-af bench --target` in a process of its own.

A fleet is a file, YAML for people to write:

```yaml
targets:
  - ssh://pi@pi5.local
  - {target: "ssh://pi@pi4.local", offline: true}   # it has no network: see --offline
  - adb:8A1X0LZ5K                                   # a phone
  - emulated:pi5                                    # a board that is not there
```
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_af.console import say
from edge_af.errors import EdgeAfError
from edge_af.files import read_yaml
from edge_af.records.results import Results, read_results
from edge_af.records.schema import violation
from edge_af.subprocesses import environment
from edge_af.targets import AdbTarget, Target, parse_target

_MEMBER: dict[str, Any] = {
    "type": ["string", "object"],
    "required": ["target"],
    "properties": {"target": {"type": "string"}, "offline": {"type": "boolean"}},
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["targets"],
    "properties": {"targets": {"type": "array", "items": _MEMBER}},
}


@dataclass(frozen=True)
class Member:
    """A target of a fleet."""

    address: str
    target: Target
    offline: bool

    def out(self, out: Path) -> Path:
        """Where its results go: `results.json` of the fleet is `results-pi-pi5.local.json` of this one."""
        name = re.sub(r"[^A-Za-z0-9.]+", "-", self.target.label).strip("-")
        return out.with_name(f"{out.stem}-{name}{out.suffix}")


@dataclass(frozen=True)
class Outcome:
    """What became of a member: its results, or why there are none."""

    member: Member
    results: Results | None
    reason: str | None


def read_fleet(path: Path) -> list[Member]:
    """Read a fleet.

    Raises:
        EdgeAfError: it is missing, no YAML, names no target or one twice, or says something that a fleet does not.
    """
    value = read_yaml(path, "fleet")
    if wrong := violation(value, SCHEMA):
        raise EdgeAfError(f"{path}: not a fleet: {wrong}.")
    members = []
    for index, entry in enumerate(value["targets"]):
        fields: dict[str, Any] = {"target": entry} if isinstance(entry, str) else entry
        if unknown := set(fields) - set(_MEMBER["properties"]):
            raise EdgeAfError(f"{path}: targets[{index}]: there is no field {min(unknown)!r}.")
        try:
            target = parse_target(fields["target"])
        except EdgeAfError as error:
            raise EdgeAfError(f"{path}: targets[{index}]: {error}") from None
        members.append(Member(fields["target"], target, fields.get("offline", False)))
    if not members:
        raise EdgeAfError(f"{path}: names no target.")
    names = [member.out(Path("r.json")) for member in members]
    for member, name in zip(members, names, strict=True):
        if names.count(name) > 1:
            raise EdgeAfError(f"{path}: names {member.target.label} more than once, or one that is written like it.")
    return members


def bench_fleet(
    members: Sequence[Member], arguments: Sequence[str], out: Path, *, for_phones: Sequence[str] = ()
) -> list[Outcome]:
    """Bench every member at once. One that fails stops none of the others.

    Args:
        members: the targets.
        arguments: of `edge-af bench`, but for `--target`, `--offline` and `--out`.
        out: what the members' results files are named after.
        for_phones: more arguments, for `adb` targets alone.

    Raises:
        KeyboardInterrupt: by Ctrl-C, once every member has stopped and put away what it had.
    """
    running = []
    for member in members:
        command = [sys.executable, "-P", "-m", "edge_af", "bench", "--target", member.address]
        command += ["--offline"] if member.offline else []
        command += for_phones if isinstance(member.target, AdbTarget) else []
        command += ["--out", str(member.out(out)), *arguments]
        process = subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            # Ctrl-C is for this process, which hands it on.
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        said: list[str] = []
        reader = threading.Thread(target=_relay, args=(process, member.target.label, said), daemon=True)
        reader.start()
        running.append((member, process, reader, said))
    try:
        for _, process, _, _ in running:
            process.wait()
    except KeyboardInterrupt:
        for _, process, _, _ in running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
        for _, process, reader, _ in running:
            process.wait()
            reader.join()
        raise
    outcomes = []
    for member, process, reader, said in running:
        reader.join()
        outcomes.append(_outcome(member, process.returncode, said, member.out(out)))
    return outcomes


def _relay(process: subprocess.Popen[str], label: str, said: list[str]) -> None:
    """Hand on what a member's process says, each line under the member's name."""
    assert process.stderr is not None
    for line in process.stderr:
        text = line.rstrip()
        if text:
            said.append(text)
            say(text if label in text else f"{label}: {text}")


def _outcome(member: Member, status: int, said: Sequence[str], out: Path) -> Outcome:
    if status == 0:
        return Outcome(member, read_results(out), None)
    # An error is the last thing said, in a line or two of which the first bears the program's name.
    first = max((index for index, line in enumerate(said) if line.startswith("edge-af: ")), default=None)
    reason = " ".join(said[first:]).removeprefix("edge-af: ") if first is not None else f"ended with status {status}"
    return Outcome(member, None, reason.removeprefix(f"{member.target.label}: "))
