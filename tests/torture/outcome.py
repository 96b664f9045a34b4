"""Outcome of a case: how a command ended, and what is wrong with that."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

NAMES = {
    0: "done",
    1: "gate failed",
    2: "refused",
    3: "inconclusive",
    70: "defect",
    128 + signal.SIGINT: "interrupted",
    128 + signal.SIGTERM: "interrupted",
    128 + signal.SIGHUP: "interrupted",
}
"""Exit codes as `edge-af --help` documents them."""
GOOD = {"done", "gate failed", "refused", "inconclusive", "interrupted", "killed"}


@dataclass(frozen=True)
class Ended:
    """Process that has exited, or that was killed after a timeout."""

    status: int | None
    """Exit code; negative: the signal that killed it; None: timeout."""
    said: bytes
    """Standard output and standard error."""

    def outcome(self, sent: int | None = None) -> str:
        """Return one of `GOOD`, or the name of a fault. `sent` is the signal that the process received."""
        if self.status is None:
            return "hang"
        if b"Traceback (most recent call last)" in self.said:
            # Python's own start, before it has called edge-af, is not edge-af's to handle.
            starting = self.status == -signal.SIGINT == -(sent or 0) and b"edge_af/__main__.py" not in self.said
            return "killed" if starting else "traceback"
        if self.status < 0:
            name = signal.Signals(-self.status).name
            return "killed" if -self.status == sent else f"crash: {name}"
        return NAMES.get(self.status, f"undocumented exit code {self.status}")


@dataclass(frozen=True)
class Case:
    """One case and its outcome."""

    kind: str
    """`kills`, `damage`, …"""
    what: str
    """Verb, file or limit that the case is counted under."""
    outcome: str
    """How the command ended."""
    fault: str | None = None
    """What is wrong; None: nothing."""
    details: str = ""
    """How to reproduce the case, and the end of its output."""


def judged(
    kind: str, what: str, ended: Ended, details: str, *, sent: int | None = None, wrong: str | None = None
) -> Case:
    """Make a case. Its fault is a bad outcome, or else `wrong`."""
    outcome = ended.outcome(sent)
    fault = outcome if outcome not in GOOD else wrong
    said = ended.said[-600:].decode(errors="backslashreplace") if fault else ""
    return Case(kind, what, outcome, fault, f"{details}\n{said}".strip() if fault else details)


def summary(cases: Iterable[Case]) -> dict[str, Any]:
    """Count the cases by kind and outcome, and list the faults."""
    cases = list(cases)
    kinds = {}
    for kind in dict.fromkeys(case.kind for case in cases):
        own = [case for case in cases if case.kind == kind]
        kinds[kind] = {
            "cases": len(own),
            "outcomes": dict(Counter(case.outcome for case in own).most_common()),
            "of": {
                what: dict(Counter(case.outcome for case in own if case.what == what).most_common())
                for what in sorted({case.what for case in own})
            },
            "faults": sum(case.fault is not None for case in own),
        }
    faults = [
        {"kind": case.kind, "what": case.what, "fault": case.fault, "details": case.details}
        for case in cases
        if case.fault is not None
    ]
    return {"kinds": kinds, "faults": faults}
