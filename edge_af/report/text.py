"""Show the comparison as text: aligned columns for a terminal, and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edge_af.records.results import Results
from edge_af.report.columns import F1, GAP, LIMIT, MEMORY, P50, P90, SIZE, parameters, signed
from edge_af.report.counted import EXPLAINED, counted_cells, counted_text, counted_titles, is_counted
from edge_af.report.extraction import TITLES as EXTRACTION
from edge_af.report.extraction import extraction_rows, extraction_text
from edge_af.report.notes import caveats, data_text, kernels_text, measured_text
from edge_af.report.rows import (
    Line,
    compare,
    device_titles,
    devices_of,
    gap_interval,
    gap_to_fp32,
    has_batches,
    has_threads,
    main_columns,
    parameters_relation,
)
from edge_af.report.tables import aligned, aligned_rows, escape, printable, table_lines, table_width, wrapped


def table(many: Sequence[Results], width: int | None = None) -> str:
    """Return the comparison for a terminal: a heading per network, a line per row.

    Without a `width` it has some 135 columns. With one, it leaves out columns, the least important first.
    """
    lines = compare(many)
    devices = devices_of(lines)
    columns, left_out = _narrowed(_columns(lines), width)
    body = [list(row) for row in zip(*(column.texts() for column in columns), strict=True)]
    left = [at for at, column in enumerate(columns) if column.key in ("runtime", "precision", MARK)]
    head, *rows = aligned_rows([[column.title for column in columns], *body], left, width)
    out = [*head]
    notes: list[str] = []
    heading = None
    # Sort by device first, so that adjacent rows are from one machine.
    for line, row in sorted(zip(lines, rows, strict=True), key=lambda pair: devices.index(pair[0].device)):
        relation = parameters_relation(line)
        title = f"{line.network}, {parameters(line.row)} parameters" + (f" ({relation})" if relation else "")
        title += f", on {line.device}" if len(devices) > 1 else ""
        if (line.device, line.network) != heading:
            heading = (line.device, line.network)
            out += ["", *wrapped([title], width)]
        if line.problem:
            where = f" on {line.device}" if len(devices) > 1 else ""
            notes.append(f"! {line.network}, {line.runtime} {line.weights}{where}: {line.problem}")
        out += row
    out += counted_text(lines, width)
    if extracted := extraction_rows(many):
        titles = [title.lower().replace(",", "") for title in EXTRACTION]
        out += ["", *aligned([titles, *extracted], (0,), width), "", *wrapped([extraction_text(many)], width)]
    notes += [f"! {text}" for text in caveats(many)]
    notes = ["", *notes, *([""] if notes else [])]
    if left_out:
        notes.append(left_out)
    if any(column.has_relations for column in columns):
        notes.append("Beside a figure: factor of, or difference to, the baseline in the same runtime.")
    shown = {column.key for column in columns}
    if TO_FP32 in shown and any(line.row.gap_at_20_delta is not None for line in lines):
        notes.append(
            "To FP32: ΔGAP against the same network in FP32; after ±, the larger half-width of its 95 % interval."
        )
    if LIMIT.key in shown:
        notes.append("Limit: the time to read the weights once, as a share of the p50.")
    notes += kernels_text(lines)
    titles = device_titles(many)
    notes += [f"{title}. Evaluation data: {data_text(one)}." for one, title in zip(many, titles, strict=True)]
    # Names may come from untrusted files, so escape sequences are removed.
    return "\n".join(map(printable, [*out, *wrapped(notes, width)]))


Cell = tuple[str, str]
"""A figure and its relation."""
MARK = "mark"
"""Key of the last column, without a title; it marks what stands out in a row."""
TO_FP32 = "to_fp32"


@dataclass(frozen=True)
class TextColumn:
    """A column of the table for a terminal."""

    key: str
    title: str
    cells: list[Cell]

    @property
    def has_relations(self) -> bool:
        """True if a relation to the baseline stands beside a figure."""
        return self.key != TO_FP32 and any(relation for _, relation in self.cells)

    def texts(self) -> list[str]:
        """Align the figures and the relations."""
        first, second = (max((len(cell[part]) for cell in self.cells), default=0) for part in (0, 1))
        if not second:
            return [figure for figure, _ in self.cells]
        return [f"{figure:>{first}} {relation:>{second}}" for figure, relation in self.cells]

    @property
    def width(self) -> int:
        """Width of the title and the cells."""
        return max(map(len, [self.title, *self.texts()]))


NARROWING = (
    *((key, True) for key in (F1.key, P90.key, GAP.key, MEMORY.key, SIZE.key)),
    (P90.key, False),
    (TO_FP32, True),
    (F1.key, False),
    (LIMIT.key, False),
    (P50.key, True),
    (MEMORY.key, False),
    (TO_FP32, False),
)
"""Parts that a narrow table leaves out, in this order: a column's relations or intervals (True), or the column (False)."""


def _narrowed(columns: list[TextColumn], width: int | None) -> tuple[list[TextColumn], str]:
    """Leave out columns until the table fits, and return a note that says which."""
    if width is None or _fits(columns, width):
        return columns, ""
    short = {"baseline": "*", "": ""}
    columns = [
        replace(column, cells=[(short.get(text, "!"), "") for text, _ in column.cells])
        if column.key == MARK
        else column
        for column in columns
    ]
    left_out: dict[str, bool] = {}
    for key, only_relation in NARROWING:
        if _fits(columns, width):
            break
        column = next((one for one in columns if one.key == key), None)
        if column is None or (only_relation and not any(relation for _, relation in column.cells)):
            continue
        left_out[column.title] = only_relation
        kept = [replace(column, cells=[(figure, "") for figure, _ in column.cells])] if only_relation else []
        at = columns.index(column)
        columns[at : at + 1] = kept
    whole = [title for title, only_relation in left_out.items() if not only_relation]
    beside = [title for title, only_relation in left_out.items() if only_relation]
    parts = [*whole, *([f"what stands beside {', '.join(beside)}"] if beside else [])]
    return columns, "*: baseline." + (f" Left out to fit {width} columns: {'; '.join(parts)}." if parts else "")


def _fits(columns: Sequence[TextColumn], width: int) -> bool:
    return table_width([column.width for column in columns]) <= width


def _has_limits(lines: Sequence[Line]) -> bool:
    return any(line.row.limit_share is not None for line in lines)


def _settings(lines: Sequence[Line]) -> list[tuple[str, Callable[[Line], str]]]:
    """Return columns in which rows of one network, runtime and precision differ."""
    found: list[tuple[str, Callable[[Line], str]]] = []
    if has_threads(lines):
        found.append(("Threads", lambda line: str(line.row.threads)))
    if has_batches(lines):
        found.append(("Batch", lambda line: str(line.row.batch)))
    return found


def _columns(lines: Sequence[Line]) -> list[TextColumn]:
    """Return all columns, with the relations to the baseline."""
    found = [
        TextColumn("runtime", "runtime", [(line.runtime, "") for line in lines]),
        TextColumn("precision", "precision", [(line.weights, "") for line in lines]),
    ]
    for title, write in _settings(lines):
        found.append(TextColumn(title.lower(), title.lower(), [(write(line), "") for line in lines]))
    for column in main_columns(lines):
        cells = [(column.text(line.row) or "–", column.relation(line.row, line.base)) for line in lines]
        found.append(TextColumn(column.key, f"{column.title} {column.unit}".strip(), cells))
        if column is GAP:
            found.append(TextColumn(TO_FP32, "to FP32", [_to_fp32(line) for line in lines]))
        if column is P90 and _has_limits(lines):
            found.append(TextColumn(LIMIT.key, "limit", [(LIMIT.text(line.row), "") for line in lines]))
    marks = [line.row.status if line.problem else "baseline" if line.is_baseline else "" for line in lines]
    return [*found, TextColumn(MARK, "", [(mark, "") for mark in marks])]


def _to_fp32(line: Line) -> Cell:
    difference, interval = gap_to_fp32(line), line.row.gap_at_20_delta
    if difference is None:
        return "", ""
    if interval is None:
        return signed(difference), ""
    # One figure for the interval, its larger half-width, keeps the table narrow.
    return signed(difference), f"±{max(interval.high - interval.value, interval.value - interval.low):.4f}"


def markdown_table(many: Sequence[Results]) -> str:
    """Return the comparison in Markdown, with notes on how it was measured."""
    lines = compare(many)
    devices, settings = devices_of(lines), _settings(lines)
    limits = _has_limits(lines)
    kernels = any(line.row.kernels is not None for line in lines)
    header = [
        "Network",
        *(["Device"] if len(devices) > 1 else []),
        "Runtime",
        "Precision",
        *(["Kernels"] if kernels else []),
        *[title for title, _ in settings],
    ]
    left = range(len(header))
    for column in main_columns(lines):
        header.append(f"{column.title}, {column.unit}" if column.unit else column.title)
        if column is GAP:
            header.append("ΔGAP to own FP32")
        if column is P90 and limits:
            header.append("Share of limit")
    header.insert(len(left), "Parameters")
    rows = [header]
    for line in lines:
        cells = [
            f"**{escape(line.network)}**" + (" (baseline)" if line.is_baseline else ""),
            *([escape(line.device)] if len(devices) > 1 else []),
            escape(line.runtime),
            escape(line.weights),
            *([escape(line.row.kernels or "")] if kernels else []),
            *[write(line) for _, write in settings],
            _with_relation(parameters(line.row), parameters_relation(line)),
        ]
        for column in main_columns(lines):
            cells.append(_with_relation(column.text(line.row) or "–", column.relation(line.row, line.base)))
            if column is GAP:
                difference = gap_to_fp32(line)
                cells.append("" if difference is None else f"{signed(difference)} {gap_interval(line)}".strip())
            if column is P90 and limits:
                cells.append(LIMIT.text(line.row))
        rows.append(cells)
    out = table_lines(rows, left)
    if is_counted(lines):
        titles = ["Network", *(["Device"] if len(devices) > 1 else []), "Runtime", "Precision"]
        counted = [[*titles, *counted_titles()]]
        for line in lines:
            if line.row.instructions is not None:
                names = [line.network, *([line.device] if len(devices) > 1 else []), line.runtime, line.weights]
                counted.append([*map(escape, names), *counted_cells(line)])
        out += ["", EXPLAINED, "", *table_lines(counted, range(len(titles)))]
    if extracted := extraction_rows(many):
        rows = [[*EXTRACTION], *([escape(cell) for cell in row] for row in extracted)]
        out += ["", escape(extraction_text(many)), "", *table_lines(rows, (0,))]
    out += ["", "In brackets: factor of, or difference to, the baseline in the same runtime."]
    if any(line.row.gap_at_20_delta is not None for line in lines):
        out += ["", "In square brackets: 95 % of a paired bootstrap over the videos."]
    problems = [
        f"* {escape(line.network)}, {escape(line.runtime)} {escape(line.weights)}: {escape(line.problem)}"
        for line in lines
        if line.problem
    ]
    if problems:
        out += ["", "Not measured, or only partly:", "", *problems]
    out += ["", *(f"* {escape(text)}" for text in caveats(many))]
    for results, device in zip(many, device_titles(many), strict=True):
        out.append(f"* {measured_text(results, device)}")
    return "\n".join(out) + "\n"


def _with_relation(figure: str, relation: str) -> str:
    return f"{figure} ({relation})" if relation else figure
