"""Columns of the comparison's tables, and the formatting of their figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_af.records.results import Latency, Row


@dataclass(frozen=True)
class Column:
    """A column of the table: a figure of a row."""

    key: str
    title: str
    unit: str
    value: Callable[[Row], float | None]
    write: Callable[[float], str]
    is_ratio: bool
    """True to compare with the baseline as a factor, False as a difference."""

    def text(self, row: Row) -> str:
        """Return the figure without its unit; empty if it is missing."""
        value = self.value(row)
        return "" if value is None else self.write(value)

    def relation(self, row: Row, base: Row | None) -> str:
        """Return the relation to the baseline, `0.09×` or `+0.0123`; empty for the baseline and for missing figures."""
        value, reference = self.value(row), self.value(base) if base is not None else None
        if value is None or reference is None or row is base:
            return ""
        if not self.is_ratio:
            return signed(value - reference)
        return factor(value / reference) if reference else ""


def signed(difference: float) -> str:
    """Format a difference of accuracies with its sign: `+0.0123`, `−0.0004`, `±0`."""
    text = f"{abs(difference):.4f}"
    if float(text) == 0:
        return "±0"
    return f"+{text}" if difference > 0 else f"−{text}"


def percent(share: float) -> str:
    """Format a share: `34 %`, below 10 % `3.4 %`."""
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"


def factor(ratio: float) -> str:
    """Format a multiple of the baseline with two digits: `0.0081×`, `0.034×`, `0.52×`, `1.70×`, `2.3×`, `12×`."""
    for least, digits in ((9.95, 0), (1.995, 1), (0.0995, 2), (0.00995, 3)):
        if ratio >= least:
            return f"{ratio:,.{digits}f}×"
    return f"{ratio:.4f}×"


def quantity(value: float) -> str:
    """Format with about three digits: `0.034`, `1.23`, `12.3`, `1,363`."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.995 else f"{value:.3f}"


def megabytes(value: float) -> str:
    """Format bytes in units of 1,000,000."""
    return quantity(value / 1e6)


def parameters(row: Row) -> str:
    """Format a number of parameters: `341 M` or `3,950`."""
    return f"{quantity(row.params / 1e6)} M" if row.params >= 1e5 else f"{row.params:,}"


def _four(value: float) -> str:
    return f"{value:.4f}"


def _latency(pick: Callable[[Latency], float | None]) -> Callable[[Row], float | None]:
    return lambda row: pick(row.latency_ms) if row.latency_ms is not None else None


GAP = Column("gap_at_20", "GAP@20", "", lambda row: row.gap_at_20, _four, False)
F1 = Column("f1_micro", "F1", "", lambda row: row.f1_micro, _four, False)
PARAMS = Column("params", "Parameters", "M", lambda row: row.params, lambda value: quantity(value / 1e6), True)
SIZE = Column("size_bytes", "File", "MB", lambda row: row.size_bytes, megabytes, True)
P50 = Column("p50", "p50", "ms", _latency(lambda latency: latency.p50), quantity, True)
P90 = Column("p90", "p90", "ms", _latency(lambda latency: latency.p90), quantity, True)
MEMORY = Column("peak_memory_bytes", "Memory", "MB", lambda row: row.peak_memory_bytes, megabytes, True)

LIMIT = Column("limit_share", "Of the limit", "", lambda row: row.limit_share, percent, False)

MAIN_COLUMNS = (GAP, F1, SIZE, P50, P90, MEMORY)
"""Columns of the table, each with its relation. Parameters are shown with the network's name."""

UNTIMED_COLUMNS = (GAP, F1, SIZE)
"""Columns for emulated boards."""

MORE_COLUMNS = (
    Column("f1_macro", "Macro F1", "", lambda row: row.f1_macro, _four, False),
    Column("f1_micro_at_half", "F1 at 0.5", "", lambda row: row.f1_micro_at_half, _four, False),
    Column("f1_threshold", "F1 threshold", "", lambda row: row.f1_threshold, _four, False),
    Column("hit_at_1", "Hit@1", "", lambda row: row.hit_at_1, _four, False),
    Column("perr", "PERR", "", lambda row: row.perr, _four, False),
    Column("map", "mAP", "", lambda row: row.map, _four, False),
    Column("ties_share", "Ties", "", lambda row: row.ties_share, percent, False),
    Column("p95", "p95", "ms", _latency(lambda latency: latency.p95), quantity, True),
    Column("p99", "p99", "ms", _latency(lambda latency: latency.p99), quantity, True),
    Column("mean", "Mean", "ms", _latency(lambda latency: latency.mean), quantity, True),
    Column("n", "Inferences", "", _latency(lambda latency: latency.n), lambda value: f"{value:,.0f}", True),
    Column("load_ms", "Load", "ms", lambda row: row.load_ms, quantity, True),
    Column("first_ms", "First", "ms", lambda row: row.first_ms, quantity, True),
    Column("videos_per_s", "Videos", "a second", lambda row: row.videos_per_s, quantity, True),
    Column("limit_ms", "Limit", "ms", lambda row: row.limit_ms, quantity, True),
    Column("runtime_memory_bytes", "Bare runtime", "MB", lambda row: row.runtime_memory_bytes, megabytes, True),
)
"""Columns shown on request."""
