"""Histories: files with one line of JSON per compared pair, for plotting. Verdicts never depend on them; a comparison always
measures base and candidate now."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_af.documents import DocumentError, parse_json
from edge_af.errors import EdgeAfError
from edge_af.files import explain_os_errors
from edge_af.records.comparison import Comparison, FileFacts, Interval, Status, Verdict
from edge_af.typed import Amount, Mismatch, Positive, built

SCHEMA_VERSION = 1
"""Schema version of a line."""


@dataclass(frozen=True)
class Entry:
    """A line: one pair of one comparison."""

    created: str
    """Start of the comparison, ISO 8601, UTC."""
    commit: str | None
    """Commit or name of the candidate."""
    device: str
    threads: Positive
    pair: str
    base_sha256: str
    candidate_sha256: str
    status: Status
    checks: dict[str, Status]
    """Status of each check by name."""
    max_slowdown: Amount
    verdict: Verdict | None
    """The clock of the timing; None without timing."""
    ratio: Interval | None
    candidate: FileFacts | None
    """Facts about the candidate; None if it could not be run."""


@dataclass(frozen=True)
class History:
    """Entries of one or several history files, oldest first."""

    entries: list[Entry]
    skipped: list[str]
    """Unusable lines: where, and why."""


def append_history(path: Path, comparison: Comparison, commit: str | None) -> None:
    """Append a line for each pair in one write. An incomplete line left by a kill stays a separate line.

    Args:
        path: the file, created if missing.
        comparison: the comparison to append.
        commit: the candidate's commit or name.

    Raises:
        EdgeAfError: the file cannot be written.
    """
    lines = []
    for pair in comparison.pairs:
        timing = pair.timing
        entry = Entry(
            created=comparison.created,
            commit=commit,
            device=comparison.device.label,
            threads=comparison.threads,
            pair=pair.name,
            base_sha256=pair.base_sha256,
            candidate_sha256=pair.candidate_sha256,
            status=pair.status,
            checks={check.name: check.status for check in pair.checks},
            max_slowdown=comparison.relative.max_slowdown,
            verdict=timing.verdict if timing is not None else None,
            ratio=timing.ratio if timing is not None else None,
            candidate=pair.candidate,
        )
        value = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(entry)}
        lines.append(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    with explain_os_errors(path), path.open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                lines.insert(0, "\n")
        file.write("".join(lines).encode(errors="backslashreplace"))


def read_history(paths: Sequence[Path]) -> History:
    """Read files of `append_history`. Damaged lines and lines of other versions are skipped and listed.

    Raises:
        EdgeAfError: a file is missing or unreadable, or no line of any file is usable.
    """
    entries: list[Entry] = []
    skipped: list[str] = []
    for path in paths:
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            raise EdgeAfError(f"{path}: no such history.") from None
        except OSError as error:
            raise EdgeAfError(f"{path}: cannot read this history ({error.strerror}).") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            found = _entry(line)
            if isinstance(found, Entry):
                entries.append(found)
            else:
                skipped.append(f"{path}: line {number}: {found}")
    if not entries:
        names = ", ".join(map(str, paths))
        if skipped:
            raise EdgeAfError(f"{names}: none of {len(skipped)} lines can be used. The first one: {skipped[0]}.")
        raise EdgeAfError(f"{names}: holds no comparison yet. `edge-af compare … --history FILE` appends them.")
    return History(sorted(entries, key=lambda entry: entry.created), skipped)


def _entry(line: bytes) -> Entry | str:
    """Read a line, or return why it is unusable."""
    try:
        value: Any = parse_json(line)
    except DocumentError:
        return "is damaged or was not written to its end"
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        return f"schema_version {str(version)[:20]}; this edge-af reads {SCHEMA_VERSION}"
    try:
        return built(Entry, value, unknown=True)
    except Mismatch as error:
        return f"is not of `edge-af compare --history`: {error}"
