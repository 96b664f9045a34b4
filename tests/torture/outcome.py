"""What became of a tried command, and whether that is as it should be."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

NAMES = {
    0: "done",
    1: "a gate failed",
    2: "refused",
    3: "could not tell",
    70: "defect",
    128 + signal.SIGINT: "ended as asked",
    128 + signal.SIGTERM: "ended as asked",
    128 + signal.SIGHUP: "ended as asked",
}
"""Exit statuses as `edge-af --help` documents them."""
GOOD = {"done", "a gate failed", "refused", "could not tell", "ended as asked", "killed"}


@dataclass(frozen=True)
class Ended:
    """A process that has ended, or was ended after too long."""

    status: int | None
    """Its exit status; negative: the signal that ended it; None: it hung."""
    said: bytes
    """Both standard streams."""

    def outcome(self, sent: int | None = None) -> str:
        """In a few words; one of `GOOD`, or a fault. `sent` is the signal that it was sent."""
        if self.status is None:
            return "hang"
        if b"Traceback (most recent call last)" in self.said:
            return "traceback"
        if self.status < 0:
            name = signal.Signals(-self.status).name
            return "killed" if -self.status == sent else f"crash: {name}"
        return NAMES.get(self.status, f"undocumented status {self.status}")


@dataclass(frozen=True)
class Case:
    """One thing that was tried."""

    kind: str
    """As in `edge-af` tortured by `kills`, `damage`, …"""
    what: str
    """Verb, file or limit: what cases are counted by."""
    outcome: str
    """In a few words."""
    fault: str | None = None
    """What is wrong with that; None: nothing."""
    details: str = ""
    """How to try it again, and what was said."""


def judged(
    kind: str, what: str, ended: Ended, details: str, *, sent: int | None = None, wrong: str | None = None
) -> Case:
    """A case whose fault is its outcome's, or else `wrong`."""
    outcome = ended.outcome(sent)
    fault = outcome if outcome not in GOOD else wrong
    said = ended.said[-600:].decode(errors="backslashreplace") if fault else ""
    return Case(kind, what, outcome, fault, f"{details}\n{said}".strip() if fault else details)


def summary(cases: Iterable[Case]) -> dict[str, Any]:
    """Counts by kind and outcome, by kind and what, and the faults."""
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
