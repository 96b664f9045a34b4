"""Data of the page's sortable table, and of the filters for its rows and the charts.

The table works without the page's script, which only moves and hides rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edge_af.report.columns import F1, GAP, LIMIT, MORE_COLUMNS, P90, Column, parameters, signed
from edge_af.report.counted import COUNTED_COLUMNS, EXPLAINED, MODELED, counted_cells, is_counted
from edge_af.report.rows import (
    PRECISION_ORDER,
    Line,
    device_names,
    devices_of,
    gap_interval,
    gap_to_fp32,
    has_batches,
    has_threads,
    main_columns,
    parameters_relation,
)
from edge_af.report.specs import PRECISIONS

SORTED_UP = (GAP, F1, LIMIT)
"""Columns where more is better; for the others, less is."""


Row = TypeVar("Row")


@dataclass(frozen=True)
class Cell:
    """A cell of the page's table."""

    value: str = ""
    """Text or number for sorting."""
    text: str = "–"
    below: str = ""
    """Smaller line below it."""
    share: float | None = None
    """Length of the bar, as a share of the column's largest value; None for no bar."""
    color: str = ""
    """Style class of the bar."""
    chip: str = ""
    """Style class of the label around the text."""
    is_text: bool = False
    is_more: bool = False
    """True if shown only with all figures."""


ABSENT = Cell()


def text_cell(text: str, *, is_more: bool = False) -> Cell:
    """Make a cell that is sorted by its text."""
    return Cell(text, text, is_text=True, is_more=is_more)


@dataclass(frozen=True)
class Shown(Generic[Row]):
    """A column of the page's table."""

    title: str
    unit: str
    cell: Callable[[Row], Cell]
    is_text: bool = False
    more_first: bool = False
    """True if sorting begins with the largest."""
    is_more: bool = False
    """True if shown only with all figures."""


@dataclass(frozen=True)
class TableRow:
    """A row of the page's table."""

    id: int
    """Index of its facets."""
    value: str
    """Text that its head is sorted by."""
    head: str
    cells: Sequence[Cell]
    is_first: bool = False
    """True for the first row of each network."""
    is_baseline: bool = False
    problem: str = ""


@dataclass(frozen=True)
class PageTable:
    """A table of the page."""

    heading: str
    """Title of the first column, which holds the rows' heads."""
    columns: Sequence[Shown[Any]]
    rows: Sequence[TableRow]
    caption: str
    label: str
    """Accessible name."""
    is_long: bool = False
    """True if it scrolls vertically too, which keeps the page short."""


@dataclass(frozen=True)
class FilterGroup:
    """Checkboxes for the values of one facet."""

    key: str
    title: str
    choices: Sequence[str]


FILTERS = {
    "network": "Network",
    "files": "Files",
    "precision": "Precision",
    "runtime": "Runtime",
    "device": "Device",
    "threads": "Threads",
    "batch": "Videos an inference",
    "status": "Status",
}
"""Facets of the filters, and their titles."""


def filter_groups(facets: Sequence[Mapping[str, str]]) -> list[FilterGroup]:
    """Return the facets in which rows differ, each with its values."""
    groups = []
    for key, title in FILTERS.items():
        choices = list(dict.fromkeys(own[key] for own in facets if key in own))
        if key == "precision":
            choices.sort(key=lambda value: (_order(value), value))
        if key in ("threads", "batch"):
            choices.sort(key=int)
        if len(choices) > 1:
            groups.append(FilterGroup(key, title, choices))
    return groups


def comparison_table(lines: Sequence[Line]) -> PageTable:
    """Build the table of a comparison."""
    columns = _columns(lines) if lines else []
    rows = [
        TableRow(
            index,
            line.network,
            line.network,
            [column.cell(line) for column in columns],
            is_first=bool(index) and lines[index - 1].network != line.network,
            is_baseline=line.is_baseline,
            problem=line.problem or "",
        )
        for index, line in enumerate(lines)
    ]
    return PageTable("Network", columns, rows, _caption(lines), "Table of the comparison")


def _caption(lines: Sequence[Line]) -> str:
    text = (
        "Small figures: factor of, or difference to, the baseline in the same runtime. Bars: relative to the column's largest "
        "figure; shorter is better."
    )
    if any(line.row.gap_at_20_delta is not None for line in lines):
        text += " ΔGAP: against the same network in FP32, with the 95 % interval of a paired bootstrap over the videos."
    if any(line.row.limit_share is not None for line in lines):
        text += " Of limit: the time to read the weights once, as a share of the p50."
    if is_counted(lines):
        text += f" {EXPLAINED}"
    return text


def _columns(lines: Sequence[Line]) -> list[Shown[Line]]:
    names, several = device_names(lines), len(devices_of(lines)) > 1
    device: Shown[Line] = Shown("Device", "", lambda line: text_cell(names[line.device]), is_text=True)
    found = [
        Shown("Precision", "", _precision_cell, is_text=True),
        Shown("Runtime", "", lambda line: text_cell(line.runtime), is_text=True),
        *([device] if several else []),
    ]
    if any(line.row.kernels is not None for line in lines):
        found.append(
            Shown(
                "Kernels",
                "",
                lambda line: text_cell(line.row.kernels or "–", is_more=True),
                is_text=True,
                is_more=True,
            )
        )
    if has_threads(lines):
        found.append(Shown("Threads", "", lambda line: Cell(repr(line.row.threads), str(line.row.threads))))
    if has_batches(lines):
        found.append(Shown("Batch", "videos", lambda line: Cell(repr(line.row.batch), str(line.row.batch))))
    found.append(
        Shown(
            "Parameters", "", lambda line: Cell(repr(line.row.params), parameters(line.row), parameters_relation(line))
        )
    )
    for column in main_columns(lines):
        found.append(_shown(column, lines))
        if column is P90:
            found.append(_shown(LIMIT, lines))
        if column is GAP and any(gap_to_fp32(line) is not None for line in lines):
            found.append(Shown("ΔGAP", "to own FP32", _delta_cell, more_first=True))
    if is_counted(lines):
        found.append(Shown(MODELED, "ms, not measured", _modeled_cell))
        found += [_shown(column, lines, bars=False, is_more=False) for column in COUNTED_COLUMNS[1:]]
    for column in MORE_COLUMNS:
        more_first = column.unit == "a second" or not (column.unit or column.key in ("ties_share", "f1_threshold"))
        shown = _shown(column, lines, bars=False)
        found.append(Shown(shown.title, shown.unit, shown.cell, more_first=more_first, is_more=True))
    return found if several else [*found, device]


def _shown(column: Column, lines: Sequence[Line], bars: bool = True, is_more: bool = True) -> Shown[Line]:
    largest = max((column.value(line.row) or 0.0 for line in lines), default=0.0) if bars and column.is_ratio else 0.0
    is_more = is_more and not bars

    def cell(line: Line) -> Cell:
        value = column.value(line.row)
        if value is None:
            return Cell(is_more=is_more)
        relation = column.relation(line.row, line.base) if bars and column is not LIMIT else ""
        share = max(0.0, min(1.0, value / largest)) if largest else None
        color = precision_class(line)
        return Cell(repr(value), column.text(line.row), relation, share, color, is_more=is_more)

    return Shown(column.title, column.unit, cell, more_first=column in SORTED_UP)


def _precision_cell(line: Line) -> Cell:
    order = f"{_order(line.precision)}{line.weights}"
    return Cell(order, line.precision, line.variant, chip=precision_class(line), is_text=True)


def _delta_cell(line: Line) -> Cell:
    delta = gap_to_fp32(line)
    return ABSENT if delta is None else Cell(repr(delta), signed(delta), gap_interval(line))


def _modeled_cell(line: Line) -> Cell:
    modeled = line.row.modelled_latency_ms
    if modeled is None:
        return ABSENT
    value, _, band = counted_cells(line)[0].partition(" ")
    return Cell(repr(modeled.value), value, band)


def _order(precision: str) -> int:
    return PRECISION_ORDER.index(precision.lower()) if precision.lower() in PRECISION_ORDER else len(PRECISION_ORDER)


def precision_class(line: Line) -> str:
    """Return the style class that colors a precision; precisions without a color share one."""
    return line.row.precision if line.precision in PRECISIONS else "other"
