"""Gates of a comparison: each returns a `Check` with figures and a short verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_af.compare.agreement import LEAST_AGREEMENT
from edge_af.compare.limits import AT_LEAST, INSTRUCTIONS, OPERATORS
from edge_af.compare.nursery import HANGS, BrokenFile
from edge_af.records.comparison import (
    CANNOT_TELL,
    FAILED,
    INVALID,
    PASSED,
    SLOWER,
    UNKNOWN,
    Check,
    FileFacts,
    Relative,
    Timing,
)
from edge_af.records.results import Delta

LEAST_SHARE_DROP = 0.005
"""Largest drop of the integer share that passes: a layer with more than half a percent of the weights counts."""

_KILLED = 9
_WORDS = {
    "size_bytes": "file bytes",
    "weight_bytes": "weight bytes",
    "multiply_adds": "multiply-adds",
    "peak_memory_bytes": "peak memory",
    "integer_share": "integer share",
    "gap_at_20": "GAP@20",
    "f1_micro": "F1",
}


def broken(error: BrokenFile) -> Check:
    """Return the check for a file that could not be measured.

    A candidate that crashes, hangs or is refused fails. If the base does, the input is invalid. SIGKILL and out-of-memory
    can be the machine's fault, so they count as inconclusive.
    """
    starved = error.signal_number == _KILLED or error.kind == "does-not-fit" or "SIGKILL" in error.reason
    if error.kind == "missing-runtime":
        status = INVALID
    elif starved or error.which is None:
        status = UNKNOWN
    else:
        status = FAILED if error.which == "candidate" else INVALID
    who = {"base": "the base", "candidate": "the candidate", None: "the comparison"}[error.which]
    what = {HANGS: "hangs", "timeout": "hangs", "crashed": "died", "does-not-fit": "does not fit"}.get(
        error.kind, "cannot be run"
    )
    return Check("runs", status, f"{who} {what}: {error.reason}")


def check_agreement(agreement: float, disorder: tuple[str, str] | None, inputs: str, relative: Relative) -> Check:
    """Check that the candidate computes the same as the base; `disorder` says why it cannot."""
    limit = relative.min_agreement if relative.min_agreement is not None else LEAST_AGREEMENT[inputs]
    if disorder is not None:
        role, what = disorder
        status, verdict = INVALID if role == "base" else FAILED, f"the {role} {what}, so its speed is meaningless"
    elif agreement < limit:
        status, verdict = FAILED, "disagrees: it scores the same videos differently, so its speed is meaningless"
    else:
        status, verdict = PASSED, "agrees"
    return Check("agreement", status, verdict, 1.0, agreement, limit)


def check_time(timing: Timing) -> Check:
    """Turn the timing's verdict into a check."""
    status = {SLOWER: FAILED, CANNOT_TELL: UNKNOWN}.get(timing.verdict, PASSED)
    verdict = f"{timing.verdict}: {timing.reason}" if timing.reason else timing.verdict
    candidate = timing.ratio.value if timing.ratio is not None else None
    return Check("time", status, verdict, 1.0, candidate, 1 + timing.max_slowdown)


def check_growth(base: FileFacts, candidate: FileFacts, relative: Relative) -> list[Check]:
    """Check file bytes, weight bytes, multiply-adds, memory and integer share, where known for both files."""
    found = []
    for name in ("size_bytes", "weight_bytes", "multiply_adds", "peak_memory_bytes"):
        before, after = getattr(base, name), getattr(candidate, name)
        if before is None or after is None:
            continue
        allowed = relative.max_memory_growth if name == "peak_memory_bytes" else relative.max_growth
        good = after <= before * (1 + allowed)
        change = f"{after / before - 1:+.1%}" if before else f"{after:+,}"
        verdict = change if change not in ("+0.0%", "-0.0%") else "the same"
        if not good:
            verdict = f"{_WORDS[name]} grew by {change.removeprefix('+')}, {allowed:.1%} allowed"
        found.append(Check(name, PASSED if good else FAILED, verdict, before, after, before * (1 + allowed)))
    if base.integer_share is not None and candidate.integer_share is not None:
        least = max(0.0, base.integer_share - LEAST_SHARE_DROP)
        good = candidate.integer_share >= least
        fell = (
            f"fewer weights are read by integer kernels: {candidate.integer_share:.1%}, {base.integer_share:.1%} before"
        )
        found.append(
            Check(
                "integer_share",
                PASSED if good else FAILED,
                "kept" if good else fell,
                base.integer_share,
                candidate.integer_share,
                least,
            )
        )
    return found


def check_gap(base: FileFacts, candidate: FileFacts, delta: Delta, relative: Relative) -> Check:
    """Check GAP@20 on the same videos. It has no noise; the interval says how well it generalizes to other videos."""
    drop = -delta.value
    good = drop <= relative.max_gap_drop
    verdict = f"{delta.value:+.4f} [{delta.low:+.4f}, {delta.high:+.4f}]"
    if not good:
        verdict = f"GAP@20 fell by {drop:.4f} [{-delta.high:.4f}, {-delta.low:.4f}], {relative.max_gap_drop:g} allowed"
    limit = (base.gap_at_20 or 0.0) - relative.max_gap_drop
    return Check("gap_at_20", PASSED if good else FAILED, verdict, base.gap_at_20, candidate.gap_at_20, limit)


def check_limits(candidate: FileFacts, pattern: str, limits: Mapping[str, Any]) -> list[Check]:
    """Check a candidate against the budget file."""
    found = []
    for name, limit in limits.items():
        if name == INSTRUCTIONS:  # Checked in `edge_af.compare.instructions`.
            continue
        if name == OPERATORS:
            for op, most in limit.items():
                count = candidate.operators.get(op, 0)
                verdict = "within the budget" if count <= most else f"{count} {op} where the budget has {most:g}"
                found.append(Check(f"{pattern}: {op}", PASSED if count <= most else FAILED, verdict, None, count, most))
            continue
        value = getattr(candidate, name)
        if value is None:
            found.append(Check(f"{pattern}: {name}", UNKNOWN, f"{_WORDS[name]} is not known", None, None, limit))
            continue
        least = name in AT_LEAST
        good = value >= limit if least else value <= limit
        shown, bound = (f"{one:.4g}" if least else f"{one:,.0f}" for one in (value, limit))
        verdict = "within the budget" if good else f"{_WORDS[name]} is {shown}, {'below' if least else 'above'} {bound}"
        found.append(Check(f"{pattern}: {name}", PASSED if good else FAILED, verdict, None, value, limit))
    return found
