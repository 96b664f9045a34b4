"""The comparison as an HTML table that can be sorted by every column, and the filters that choose its rows and the charts'.

What the table holds is there without the page's script; the script only moves and hides rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Generic, TypeVar

from edge_af.report.counted import COUNTED_COLUMNS, EXPLAINED, MODELED, counted_cells, is_counted
from edge_af.report.rows import (
    F1,
    GAP,
    LIMIT,
    MORE_COLUMNS,
    P90,
    PRECISION_ORDER,
    Column,
    Line,
    device_names,
    devices_of,
    gap_interval,
    gap_to_fp32,
    has_batches,
    has_threads,
    main_columns,
    parameters,
    parameters_relation,
    signed,
)
from edge_af.report.specs import PRECISIONS

SORTED_UP = (GAP, F1, LIMIT)
"""More is better; of the others less."""

ABSENT = '<td data-value="">–</td>'


Row = TypeVar("Row")


@dataclass(frozen=True)
class Shown(Generic[Row]):
    """A column of the page's table."""

    title: str
    unit: str
    cell: Callable[[Row], str]
    """The whole `td` with the value that it is sorted by."""
    is_text: bool = False
    more_first: bool = False
    """Sorting begins with the largest."""
    is_more: bool = False
    """Shown only when all figures are asked for."""


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
"""Facets by which rows are chosen, and their titles."""


def filters(facets: Sequence[Mapping[str, str]]) -> str:
    """A group of check boxes for everything that rows differ in; empty if they differ in nothing."""
    groups = []
    for key, title in FILTERS.items():
        values = list(dict.fromkeys(own[key] for own in facets if key in own))
        if key == "precision":
            values.sort(key=lambda value: (_order(value), value))
        if key in ("threads", "batch"):
            values.sort(key=int)
        if len(values) < 2:
            continue
        boxes = "".join(
            f'<label><input type="checkbox" name="{key}" value="{escape(value)}" checked autocomplete="off">'
            f"<span>{escape(value)}</span></label>"
            for value in values
        )
        groups.append(f"<fieldset><legend>{title}</legend>{boxes}</fieldset>")
    if not groups:
        return ""
    return (
        f'<form id="filters" aria-label="Filters of the table and the charts">{"".join(groups)}'
        '<button type="reset" class="plain">Show all</button></form>'
    )


def comparison_table(lines: Sequence[Line]) -> str:
    """The table, in a box that scrolls sideways where the screen is narrow; a sentence if there are no lines."""
    if not lines:
        return "<p>No row was measured.</p>"
    columns = _columns(lines)
    rows = []
    for index, line in enumerate(lines):
        cells = "".join(column.cell(line) for column in columns)
        new = " class=first" if index and lines[index - 1].network != line.network else ""
        rows.append(f'<tr data-id="{index}"{new}>{_row_head(line)}{cells}</tr>')
    return html_table("Network", columns, rows, _caption(lines), "Table of the comparison")


def html_table(
    heading: str, columns: Sequence[Shown[Row]], rows: Sequence[str], caption: str, label: str, long: bool = False
) -> str:
    """A table that can be sorted, in a box that scrolls sideways.

    Args:
        heading: of the first column, whose cells head the rows.
        columns: the others.
        rows: HTML of the rows; each has the number of its facets as `data-id`.
        caption: text.
        label: text; the box's name to those who do not see it.
        long: the box scrolls up and down too, so that what comes behind it is soon reached.
    """
    head = "".join(
        f'<th scope="col" aria-sort="none"{_classes(column)} data-first="{"descending" if column.more_first else "ascending"}">'
        f'<button type="button"><span>{escape(column.title)}'
        f"{f'<small>{escape(column.unit)}</small>' if column.unit else ''}</span></button></th>"
        for column in columns
    )  # fmt: skip
    style = "scroll long" if long else "scroll"
    return (
        f'<div class="{style}" id="table" role="region" aria-label="{escape(label)}" tabindex="0"><table>'
        f"<caption><span>{escape(caption)}</span></caption>"
        '<thead><tr><th scope="col" aria-sort="none" class="text" data-first="ascending">'
        f'<button type="button"><span>{escape(heading)}</span></button></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _caption(lines: Sequence[Line]) -> str:
    text = (
        "Small figures: factor of, or difference to, the baseline in the same runtime. Bars: the figure itself, the column's "
        "largest being full width; shorter is better."
    )
    if any(line.row.gap_at_20_delta is not None for line in lines):
        text += " ΔGAP: against the same network in FP32, with the 95 % interval of a paired bootstrap over the videos."
    if any(line.row.limit_share is not None for line in lines):
        text += " Of the limit: the share that the time to read the weights once is of the p50."
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
        found.append(Shown("Kernels", "", lambda line: text_cell(line.row.kernels or "–"), is_text=True, is_more=True))
    if has_threads(lines):
        found.append(Shown("Threads", "", lambda line: cell_of(line.row.threads, str(line.row.threads))))
    if has_batches(lines):
        found.append(Shown("Batch", "videos", lambda line: cell_of(line.row.batch, str(line.row.batch))))
    found.append(
        Shown("Parameters", "", lambda line: cell_of(line.row.params, parameters(line.row), parameters_relation(line)))
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

    def cell(line: Line) -> str:
        value = column.value(line.row)
        if value is None:
            return ABSENT if bars or not is_more else ABSENT.replace("<td", '<td class="more"')
        relation = column.relation(line.row, line.base) if bars and column is not LIMIT else ""
        share = max(0.0, min(1.0, value / largest)) if largest else None
        more = "more" if is_more and not bars else ""
        return cell_of(value, column.text(line.row), relation, share, precision_class(line), more)

    return Shown(column.title, column.unit, cell, more_first=column in SORTED_UP)


def cell_of(
    value: float, text: str, below: str = "", share: float | None = None, color: str = "", style: str = ""
) -> str:
    """A `td`.

    Args:
        value: what it is sorted by.
        text: what it says.
        below: a smaller line under it.
        share: of the column's largest, drawn as a bar; no bar when None.
        color: the bar's style class.
        style: the cell's.
    """
    small = f"<small>{escape(below)}</small>" if below else ""
    bar = "" if share is None else f'<i class="{color}" aria-hidden="true" style="width:{100 * share:.2f}%"></i>'
    classes = f' class="{style}"' if style else ""
    return f'<td{classes} data-value="{value!r}">{escape(text)}{small}{bar}</td>'


def text_cell(text: str) -> str:
    """A cell that is sorted by its text."""
    return f'<td class="text" data-value="{escape(text)}">{escape(text)}</td>'


def _precision_cell(line: Line) -> str:
    order = f"{_order(line.precision)}{line.weights}"
    variant = f"<small>{escape(line.variant)}</small>" if line.variant else ""
    chip = f'<span class="chip {precision_class(line)}">{escape(line.precision)}</span>'
    return f'<td class="text" data-value="{escape(order)}">{chip}{variant}</td>'


def _delta_cell(line: Line) -> str:
    delta = gap_to_fp32(line)
    return ABSENT if delta is None else cell_of(delta, signed(delta), gap_interval(line))


def _modeled_cell(line: Line) -> str:
    modeled = line.row.modelled_latency_ms
    if modeled is None:
        return ABSENT
    value, _, band = counted_cells(line)[0].partition(" ")
    return cell_of(modeled.value, value, band)


def _row_head(line: Line) -> str:
    tag = '<span class="tag">baseline</span>' if line.is_baseline else ""
    problem = f'<span class="problem">{escape(line.problem)}</span>' if line.problem else ""
    return f'<th scope="row" data-value="{escape(line.network)}"><span>{escape(line.network)}</span>{tag}{problem}</th>'


def _classes(column: Shown[Row]) -> str:
    names = [name for name, has in (("text", column.is_text), ("more", column.is_more)) if has]
    return f' class="{" ".join(names)}"' if names else ""


def _order(precision: str) -> int:
    return PRECISION_ORDER.index(precision.lower()) if precision.lower() in PRECISION_ORDER else len(PRECISION_ORDER)


def precision_class(line: Line) -> str:
    """The style class that colors a precision; one class for those without a color of their own."""
    return line.row.precision if line.precision in PRECISIONS else "other"
