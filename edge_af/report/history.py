"""Show past comparisons of `edge-af compare --history`: a table, Markdown, and a page that plots them over time.

They are informational only: verdicts compare a base and a candidate measured side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge_af.records.comparison import CANNOT_TELL, FASTER, NOT_SLOWER, PASSED, SLOWER, UNKNOWN
from edge_af.records.history import Entry, History
from edge_af.report import tables
from edge_af.report.charts import Chart
from edge_af.report.columns import megabytes, quantity
from edge_af.report.page import Section, rendered
from edge_af.report.page_table import ABSENT, Cell, PageTable, Shown, TableRow, text_cell
from edge_af.report.specs import Datum, history_spec
from edge_af.report.verdict import MARKS, interval_text, percent

EXPLAINED = (
    "Each point is a candidate and its base, measured side by side. Verdicts never depend on earlier comparisons."
)

HELD, BETTER, BAD, OPEN = "held", "faster", "failed", "cannot tell"
STYLES = {
    HELD: ("circle", "var(--fp32)"),
    BETTER: ("triangle-down", "var(--int4)"),
    BAD: ("triangle-up", "var(--part-anonymous)"),
    OPEN: ("diamond", "var(--soft)"),
}
"""Shape and color of a point by its verdict; the shape alone distinguishes them."""
_OF_VERDICT = {SLOWER: BAD, FASTER: BETTER, NOT_SLOWER: HELD, CANNOT_TELL: OPEN}
_OF_STATUS = {PASSED: HELD, UNKNOWN: OPEN}
LEAST_SPAN = 0.02
"""Least span of the axis as a share of the largest figure, so that small changes look small."""
SKIPPED_SHOWN = 5
"""Number of unusable lines that are listed."""


@dataclass(frozen=True)
class TrackedFigure:
    """A figure shown in addition to the timing ratio."""

    key: str
    """A field of `FileFacts`, and the name of its check."""
    title: str
    unit: str
    scale: float
    """Factor that converts the figure to the shown unit."""
    write: Callable[[float], str]
    """Format the figure without its unit."""
    has_chart: bool = True


FIGURES = (
    TrackedFigure("size_bytes", "File", "MB", 1e6, megabytes),
    TrackedFigure("peak_memory_bytes", "Peak memory", "MB", 1e6, megabytes),
    TrackedFigure("gap_at_20", "GAP@20", "", 1.0, lambda value: f"{value:.4f}"),
    TrackedFigure("weight_bytes", "Weights", "MB", 1e6, megabytes, has_chart=False),
    TrackedFigure("multiply_adds", "Multiply-adds", "M", 1e6, lambda value: quantity(value / 1e6), has_chart=False),
)


def table(history: History, width: int | None = None) -> str:
    """Return the table for a terminal of this width, a row per pair, newest first."""
    lines = tables.aligned(_rows(history), _LEFT, width)
    return "\n".join([*lines, "", *tables.wrapped(map(tables.printable, _remarks(history)), width)])


def markdown_table(history: History) -> str:
    """Return the table in Markdown."""
    rows = [[tables.escape(cell) for cell in row] for row in _rows(history)]
    lines = tables.table_lines(rows, left=_LEFT)
    return "\n".join([*lines, "", *(f"* {tables.escape(text)}" for text in _remarks(history))]) + "\n"


def summary(history: History) -> dict[str, Any]:
    """Return the entries and the skipped lines for machine-readable output."""
    return {"entries": [asdict(entry) for entry in history.entries], "skipped": history.skipped}


def page(history: History) -> str:
    """Return the page: a section for each pair on each device, and the table."""
    entries = history.entries
    devices = list(dict.fromkeys(entry.device for entry in entries))
    days = dict.fromkeys((entries[0].created[:10], entries[-1].created[:10]))
    groups = dict.fromkeys((entry.pair, entry.device, entry.threads) for entry in entries)
    # Leave what all sections share out of the titles.
    several = [len({group[at] for group in groups}) > 1 for at in range(3)]
    sections: list[Section] = []
    for number, group in enumerate(groups):
        pair, device, threads = group
        title = (
            pair
            + (f", {device}" if several[1] else "")
            + (f", {threads} thread{'s' if threads > 1 else ''}" if several[2] else "")
        )
        own = [(at, entry) for at, entry in enumerate(entries) if (entry.pair, entry.device, entry.threads) == group]
        sections.append((f"pair-{number}", title, _charts(number, pair, own)))
    facets = [
        {"files": one.pair, "device": one.device, "threads": str(one.threads), "status": MARKS[one.status]}
        for one in entries
    ]
    count = f"{len(entries)} comparison{'s' if len(entries) != 1 else ''} of a pair"
    return rendered(
        "base.html",
        sections=sections,
        facets=facets,
        title="Comparisons over time",
        meta=[count, " to ".join(days), " and ".join(devices)],
        caveats=_remarks(history),
        table_title="All comparisons",
        table=_page_table(entries),
        sources=count,
    )


def _remarks(history: History) -> list[str]:
    """List remarks for the reader."""
    found = [EXPLAINED]
    if history.skipped:
        more = len(history.skipped) - SKIPPED_SHOWN
        lines = "; ".join(history.skipped[:SKIPPED_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        found.append(f"{len(history.skipped)} line{'s' if len(history.skipped) != 1 else ''} left out: {lines}.")
    return found


def _charts(number: int, pair: str, own: Sequence[tuple[int, Entry]]) -> list[Chart]:
    """Plot the ratio, and each figure that an entry has."""
    rows: list[Datum] = []
    for at, entry in own:
        if entry.ratio is None:
            continue
        mark = _OF_VERDICT.get(entry.verdict or "", OPEN)
        text = (
            f"{_when(entry)}: {interval_text(entry.ratio)}, {entry.verdict}, {percent(1 + entry.max_slowdown)} allowed"
        )
        value, low, high = ((one - 1) * 100 for one in (entry.ratio.value, entry.ratio.low, entry.ratio.high))
        rows.append(
            {**_place(at, entry), "y": value, "low": low, "high": high, "limit": entry.max_slowdown * 100,
             "mark": mark, "text": text}
        )  # fmt: skip
    note = "Above zero the candidate takes longer. Vertical lines: the interval. Short horizontal lines: the limit."
    found = _chart(f"chart-{number}-ratio", f"{pair}: time against its base", "change, %", note, rows, True)
    for figure in FIGURES:
        if not figure.has_chart:
            continue
        rows = []
        for at, entry in own:
            known = _value(entry, figure)
            if known is None:
                continue
            status = entry.checks.get(figure.key, PASSED)
            text = f"{_when(entry)}: {figure.write(known)} {figure.unit}".rstrip()
            text += "" if status == PASSED else f", {MARKS[status].lower()}"
            rows.append(
                {**_place(at, entry), "y": known / figure.scale, "mark": _OF_STATUS.get(status, BAD), "text": text}
            )
        title, axis = f"{pair}: {figure.title}", figure.unit or figure.title
        found += _chart(f"chart-{number}-{figure.key}", title, axis, "Of the candidate.", rows, False)
    return found


def _chart(name: str, title: str, axis: str, note: str, rows: Sequence[Datum], is_ratio: bool) -> list[Chart]:
    if not rows:
        return []
    failed = [row["text"] for row in rows if row["mark"] == BAD]
    described = f"{len(rows)} comparison{'s' if len(rows) != 1 else ''}. The last: {rows[-1]['text']}."
    if failed:
        described += f" Failed: {'; '.join(failed)}."
    marks = {row["mark"] for row in rows}
    styles = {name: style for name, style in STYLES.items() if name in marks}
    spec = history_spec(title, axis, described, _span(rows, is_ratio), styles, is_ratio)
    return [Chart(name, title, note, described, spec, {"rows": rows})]


def _span(rows: Sequence[Datum], is_ratio: bool) -> tuple[float, float]:
    """Return the span of the axis: all figures and, for a ratio, zero, the limits, and the intervals as far as the rest stays
    visible.
    """
    values = [row["y"] for row in rows]
    if is_ratio:
        values += [0.0, *(row["limit"] for row in rows)]
    low, high = min(values), max(values)
    # For a ratio one or two percent; for another figure a share of it.
    least = 100 * LEAST_SPAN if is_ratio else LEAST_SPAN * max(abs(high), 1e-9)
    room = max(high - low, least)
    if is_ratio:
        bounds = [min(max(row[end], low - room), high + room) for row in rows for end in ("low", "high")]
        low, high = min(low, *bounds), max(high, *bounds)
    middle, half = (low + high) / 2, max(high - low, least) / 2 * 1.1
    return middle - half, middle + half


def _place(at: int, entry: Entry) -> Datum:
    """Return a unique place on the axis for an entry, labeled by commit and day."""
    label = " ".join((_short(entry.commit) or "no commit").split())
    return {"id": at, "place": f"{at}\n{label}\n{entry.created[5:10]}"}


def _short(commit: str | None) -> str:
    """Return a commit's first seven digits, or a name's first letters."""
    if commit is None:
        return ""
    digits = commit.removesuffix("-changed")
    if len(digits) == 40 and all(one in "0123456789abcdef" for one in digits):
        return digits[:7] + ("+" if digits != commit else "")
    return commit if len(commit) <= 12 else commit[:11] + "…"


def _when(entry: Entry) -> str:
    return f"{_time(entry)}, {_short(entry.commit) or 'no commit'}"


def _time(entry: Entry) -> str:
    return entry.created[:16].replace("T", " ")


def _value(entry: Entry, figure: TrackedFigure) -> float | None:
    value = getattr(entry.candidate, figure.key) if entry.candidate is not None else None
    return float(value) if value is not None and math.isfinite(value) else None


def _failed(entry: Entry) -> str:
    """Return the failed checks."""
    return ", ".join(name for name, status in entry.checks.items() if status != PASSED)


_LEFT = range(5)
"""Return the left-aligned columns."""


def _rows(history: History) -> list[list[str]]:
    """Return the table's cells as text, head first, then newest first."""
    heads = [f"{figure.title} {figure.unit}".rstrip() for figure in FIGURES]
    rows = [["Time (UTC)", "Commit", "Files", "Device", "Status", "Time to base", *heads]]
    for entry in reversed(history.entries):
        status = MARKS[entry.status] + (f": {_failed(entry)}" if _failed(entry) else "")
        ratio = interval_text(entry.ratio) if entry.ratio is not None else ""
        values = [_value(entry, figure) for figure in FIGURES]
        figures = [
            figure.write(value) if value is not None else "" for figure, value in zip(FIGURES, values, strict=True)
        ]
        rows.append([_time(entry), _short(entry.commit), entry.pair, entry.device, status, ratio, *figures])
    return rows


def _page_table(entries: Sequence[Entry]) -> PageTable:
    """Build the page's table, newest first."""
    columns: list[Shown[Entry]] = [
        Shown("Commit", "", lambda entry: text_cell(_short(entry.commit)), is_text=True),
        Shown("Files", "", lambda entry: text_cell(entry.pair), is_text=True),
        Shown(
            "Status",
            "",
            lambda entry: Cell(entry.status, MARKS[entry.status], _failed(entry), is_text=True),
            is_text=True,
        ),
        Shown("Time", "to the base", _ratio_cell),
        *(Shown(figure.title, figure.unit, _figure_cell(figure)) for figure in FIGURES),
        Shown("Device", "", lambda entry: text_cell(entry.device), is_text=True),
        Shown("Threads", "", lambda entry: Cell(repr(entry.threads), str(entry.threads))),
    ]
    rows = [
        TableRow(at, entry.created, _time(entry), [column.cell(entry) for column in columns])
        for at, entry in reversed(list(enumerate(entries)))
    ]
    caption = (
        "Time to base: the candidate's time divided by its base's, minus one, with the interval. "
        "Figures are the candidate's."
    )
    return PageTable("When (UTC)", columns, rows, caption, "Table of all comparisons", is_long=True)


def _ratio_cell(entry: Entry) -> Cell:
    if entry.ratio is None:
        return ABSENT
    change, interval = interval_text(entry.ratio).split(" [", 1)
    return Cell(repr(entry.ratio.value), change, f"[{interval}")


def _figure_cell(figure: TrackedFigure) -> Callable[[Entry], Cell]:
    def cell(entry: Entry) -> Cell:
        value = _value(entry, figure)
        return ABSENT if value is None else Cell(repr(value), figure.write(value))

    return cell
