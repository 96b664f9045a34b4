"""Journal of a preparation: its plan and the result of each source file, so that it can resume."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from edge_af.documents import DocumentError, parse_json
from edge_af.errors import EdgeAfError
from edge_af.typed import Mismatch, built

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class SourceResult:
    """Result of one source file: a line of the journal."""

    videos: int
    labels: int
    layout: str | None
    """None for a file without records."""
    classes: int | None
    left_out: list[dict[str, Any]]
    vocabulary_sha256: str | None = None
    """SHA-256 of the vocabulary that its classes come from; None without one."""


class Journal:
    """A file with one JSON line for the plan and one for each finished source, locked while open.

    A line counts once it ends in a newline, so a kill during a write loses only that line.
    """

    def __init__(self, path: Path, plan: dict[str, Any], out: Path, overwrite: bool) -> None:
        """Open or create the file, and read the `results` of the sources finished earlier; `overwrite` discards them.

        Raises:
            EdgeAfError: the file is locked by another process, belongs to another plan, or is damaged.
        """
        self.path, self.plan = path, plan
        self.results: list[SourceResult] = []
        self._file: BinaryIO = path.open("a+b")
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise EdgeAfError(f"{out}: another process is preparing it.") from None
            self._file.seek(0)
            lines, whole = ([], 0) if overwrite else _whole_lines(self._file.read())
            if lines and lines[0] != plan:
                asked = lines[0].get("asked") if isinstance(lines[0], dict) else None
                raise other_interrupted(out, "sources" if asked == plan["asked"] else "options")
            try:
                self.results = [built(SourceResult, line) for line in lines[1:]]
            except Mismatch as error:
                raise EdgeAfError(f"{path}: damaged ({error}). Pass --overwrite to start over.") from None
            self._file.truncate(whole)
            if not lines:
                self._write(plan)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, result: SourceResult) -> None:
        """Record a finished source, whose arrays must be on the disk already."""
        self._write(dataclasses.asdict(result))
        self.results.append(result)

    def _write(self, line: dict[str, Any]) -> None:
        # A name that is not UTF-8 is escaped, as in `files.write_atomic`.
        self._file.write(json.dumps(line, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def other_interrupted(out: Path, what: str) -> EdgeAfError:
    """Return the error for an interrupted preparation of `out` whose `what` (sources, options, …) differ."""
    return EdgeAfError(
        f"{out}: an interrupted preparation with other {what} (or changed) is in the way.\n"
        "Run its command again to finish it, or pass --overwrite to start over."
    )


def _whole_lines(data: bytes) -> tuple[list[Any], int]:
    """Parse the complete lines; return them and their total length in bytes."""
    lines: list[Any] = []
    whole = 0
    for line in data.split(b"\n")[:-1]:
        try:
            lines.append(parse_json(line))
        except DocumentError:
            break
        whole += len(line) + 1
    return lines, whole
