"""Choose the artifact to ship: the best row of those that meet requirements."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_af.errors import EdgeAfError, GateFailed, unknown
from edge_af.records.results import OK, Row
from edge_af.report.columns import MAIN_COLUMNS, MORE_COLUMNS, PARAMS, quantity
from edge_af.report.rows import Line, summary
from edge_af.report.tables import aligned, wrapped

HIGHER_IS_BETTER = frozenset(
    {"gap_at_20", "f1_micro", "f1_micro_at_half", "f1_macro", "hit_at_1", "perr", "map", "videos_per_s"}
)
TESTS: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda figure, limit: figure >= limit,
    "<=": lambda figure, limit: figure <= limit,
    ">": lambda figure, limit: figure > limit,
    "<": lambda figure, limit: figure < limit,
}


def _modeled(row: Row) -> float | None:
    return row.modelled_latency_ms.value if row.modelled_latency_ms is not None else None


COLUMNS = (
    PARAMS,
    *MAIN_COLUMNS,
    *(column for column in MORE_COLUMNS if column.key not in ("n", "f1_threshold", "limit_ms", "ties_share")),
)
"""Columns whose figures have a better and a worse end."""
FIGURES: dict[str, Callable[[Row], float | None]] = {
    "modeled_ms": _modeled,
    **{column.key: column.value for column in COLUMNS},
}
"""Figure of a row by name; see `_figure` for those in megabytes."""
NAMES = tuple(name.replace("_bytes", "_mb") for name in FIGURES)
"""Names in requirements: latencies in milliseconds, sizes in megabytes."""


def _figure(row: Row, name: str) -> float | None:
    """Return a figure, in megabytes if its name says so."""
    value = FIGURES[name.replace("_mb", "_bytes")](row)
    return value / 1e6 if value is not None and name.endswith("_mb") else value


@dataclass(frozen=True)
class Requirement:
    """A limit on one figure."""

    name: str
    """One of `NAMES`."""
    test: str
    """One of `TESTS`."""
    limit: float

    def __str__(self) -> str:
        return f"{self.name}{self.test}{self.limit:g}"

    def is_met(self, row: Row) -> bool:
        """Return True if the row has the figure and meets the limit."""
        figure = _figure(row, self.name)
        return figure is not None and TESTS[self.test](figure, self.limit)


def parse_requirement(text: str) -> Requirement:
    """Parse a requirement such as `gap_at_20>=0.68`.

    Raises:
        EdgeAfError: the text has another form, or the figure is unknown.
    """
    found = re.fullmatch(r"\s*(\w+)\s*(>=|<=|>|<)\s*([-+.\deE]+)\s*", text)
    try:
        limit = float(found[3]) if found is not None else None
    except ValueError:
        limit = None
    if found is None or limit is None:
        raise EdgeAfError(f"{text!r} is not of the form NAME>=NUMBER, such as gap_at_20>=0.68 or size_mb<=10.")
    return Requirement(parse_name(found[1]), found[2], limit)


def parse_name(text: str) -> str:
    """Return a figure's name.

    Raises:
        EdgeAfError: it is unknown; the message suggests the nearest.
    """
    if text not in NAMES:
        raise EdgeAfError(unknown("figure", text, NAMES))
    return text


@dataclass(frozen=True)
class Choice:
    """The best row that meets all requirements."""

    line: Line
    by: str
    """Name of the figure that decided."""
    meeting: int
    """Number of rows that meet the requirements."""
    rows: int
    requirements: Sequence[Requirement]
    next_best: Line | None


def choose(lines: Sequence[Line], requirements: Sequence[Requirement], by: str) -> Choice:
    """Choose the row with the best figure `by` among those that meet the requirements; the smaller file decides ties.

    Raises:
        GateFailed: no row meets them; the message says how many meet each.
    """
    measured = [line for line in lines if line.row.status == OK and _figure(line.row, by) is not None]
    meeting = [line for line in measured if all(one.is_met(line.row) for one in requirements)]
    if not meeting:
        counts = ", ".join(f"{one}: {sum(one.is_met(line.row) for line in measured)}" for one in requirements)
        raise GateFailed(
            f"no row meets all requirements. Rows that meet each, of {len(measured)} with {by}: {counts}."
            if measured and requirements
            else f"no row has the figure {by}."
        )
    sign = -1 if by in HIGHER_IS_BETTER else 1
    ranked = sorted(meeting, key=lambda line: (sign * (_figure(line.row, by) or 0.0), line.row.size_bytes))
    return Choice(ranked[0], by, len(meeting), len(lines), requirements, ranked[1] if len(ranked) > 1 else None)


def choice_text(choice: Choice, width: int | None = None) -> str:
    """Describe a choice and its cost against the baseline, for a terminal of this width."""
    line, row, base = choice.line, choice.line.row, choice.line.base
    threads = f"{row.threads} thread{'s' if row.threads > 1 else ''}"
    table = [("", "this", "baseline", "to baseline")]
    named = {name.replace("_mb", "_bytes") for name in (choice.by, *(one.name for one in choice.requirements))}
    for column in COLUMNS:
        if (column in (PARAMS, *MAIN_COLUMNS) or column.key in named) and (text := column.text(row)):
            reference = column.text(base) if base is not None else ""
            title = f"{column.title} {column.unit}".rstrip()
            table.append((title, text, reference, column.relation(row, base)))
    if "modeled_ms" in named and (modeled := _figure(row, "modeled_ms")) is not None:
        table.append(("Modeled ms", quantity(modeled), "", ""))
    if base is None:
        table = [cells[:2] for cells in table]  # type: ignore[misc]
    after = [f"{choice.meeting} of {choice.rows} rows meet the requirements."] if choice.requirements else []
    if choice.next_best is not None:
        after.append(f"Next best by {choice.by}: {choice.next_best.row.key} ({choice.next_best.name}).")
    return "\n".join(
        [
            *wrapped([f"Ship {row.key}: {line.name}, {threads}, on {line.device}."], width),
            *aligned(table, {0}, width),
            *wrapped(after, width),
        ]
    )


def choice_summary(choice: Choice) -> dict[str, object]:
    """Return a choice for machine-readable output."""
    return {
        "choice": summary(choice.line),
        "by": choice.by,
        "meeting": choice.meeting,
        "rows": choice.rows,
        "next_best": summary(choice.next_best) if choice.next_best is not None else None,
    }
