"""Rows of a bench: built from measurements, merged round by round, and compared with the bandwidth limit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.bench.request import PlannedRow
from edge_af.records.results import OK, Bandwidth, Latency, Round, Row
from edge_af.runtime.probe import weight_bytes
from edge_af.typed import built

ROUNDS_AGREE = 1.1
"""Largest ratio of the slowest to the fastest round's median that raises no warning."""


def row_of(item: PlannedRow, found: dict[str, Any]) -> Row:
    """Build a row without latencies from the fields of its first measurement."""
    subject = item.subject
    about = {
        "artifact": subject.artifact,
        "file": subject.path.name,
        "model": subject.model,
        "preset": subject.preset,
        "runtime": subject.runtime,
        "precision": subject.precision,
        "recipe": subject.recipe,
        "cpu": subject.cpu,
        "threads": item.threads,
        "params": subject.params,
        "classes": subject.classes,
        "size_bytes": subject.path.stat().st_size,
        "sha256": subject.sha256,
        "batch": item.batch,
        "integer_share": subject.integer_share,
        "weight_bytes": weight_bytes(subject.path),
    }
    latencies = ("latency_raw_us", "latency_ms", "round")
    fields = {name: value for name, value in found.items() if name not in latencies}
    return built(Row, {**about, **fields}, unknown=True)


def add_round(row: Row, found: dict[str, Any], round_: int) -> Row:
    """Add a round's latencies to a row. If the round failed, the row keeps its figures and gets the reason."""
    if found["status"] != OK and round_ > 0:
        return dataclasses.replace(row, status=found["status"], reason=f"in round {round_ + 1}: {found['reason']}")
    raw, summary = found.get("latency_raw_us"), found.get("round")
    if raw:
        together = [*(row.latency_raw_us or []), *raw]
        latency = latency_of(np.array(together, np.int64) * 1000)
        return dataclasses.replace(
            row, latency_raw_us=together, latency_ms=latency, rounds=[*(row.rounds or []), len(raw)]
        )
    if summary is not None:
        rounds = [*(row.rounds_ms or []), summary]
        return dataclasses.replace(
            row, rounds_ms=rounds, latency_ms=latency_of_rounds(rounds), rounds=[one.n for one in rounds]
        )
    return row


def rounds_done(row: Row | None) -> int:
    """Count the rounds of a row; a row of an emulated board has one, without latencies."""
    if row is None:
        return 0
    return len(row.rounds or []) or int(row.instructions is not None)


def latency_of(nanoseconds: NDArray[np.int64]) -> Latency:
    """Compute percentiles and mean, in milliseconds, of single inferences (n,) in nanoseconds."""
    p50, p90, p95, p99 = (round(float(value) / 1e6, 4) for value in np.percentile(nanoseconds, [50, 90, 95, 99]))
    mean = round(float(nanoseconds.mean()) / 1e6, 4)
    return Latency(p50=p50, p90=p90, p99=p99, mean=mean, n=len(nanoseconds), p95=p95)


def latency_of_rounds(rounds: Sequence[Round]) -> Latency:
    """Combine round summaries: mean and n of all inferences, and the medians of the rounds' p50 and p95.

    p90 and p99 are None because they cannot be computed from summaries.
    """
    n = sum(one.n for one in rounds)
    slow = [one.p95 for one in rounds if one.p95 is not None]
    return Latency(
        p50=round(median(one.p50 for one in rounds), 4),
        p90=None,
        p99=None,
        mean=round(sum(one.mean * one.n for one in rounds) / n, 4),
        n=n,
        p95=round(median(slow), 4) if len(slow) == len(rounds) else None,
    )


def with_limit(row: Row, bandwidth: Sequence[Bandwidth]) -> Row:
    """Add the throughput and the limit, the time to read the row's weights once from memory or cache."""
    latency = row.latency_ms
    if latency is None:
        return row
    same = [one for one in bandwidth if one.threads == row.threads]
    fitting = [one for one in same if row.weight_bytes and abs(one.buffer_bytes - row.weight_bytes) < 64]
    speed = fitting[0] if fitting else max(same, key=lambda one: one.buffer_bytes, default=None)
    limit = round(row.weight_bytes / speed.bytes_per_s * 1e3, 4) if speed is not None and row.weight_bytes else None
    return dataclasses.replace(
        row,
        videos_per_s=round(row.batch / latency.mean * 1e3, 2) if latency.mean else None,
        limit_ms=limit,
        limit_share=round(limit / latency.p50, 4) if limit is not None else None,
    )


def disagreements(titled: Iterable[tuple[str, Row]]) -> list[str]:
    """Warn about rows with rounds that differ in the p50, which means that something disturbed them.

    Args:
        titled: rows with their titles.
    """
    apart = [
        f"{title} ({min(medians):.3g} to {max(medians):.3g} ms)"
        for title, row in titled
        if (medians := row.round_p50_ms()) and max(medians) > ROUNDS_AGREE * min(medians)
    ]
    if not apart:
        return []
    named = ", ".join(apart[:3]) + (f", and {len(apart) - 3} more" if len(apart) > 3 else "")
    return [f"Rounds differ by more than {round(100 * (ROUNDS_AGREE - 1))} % in the p50 of {named}."]
