"""Show the comparison as text: aligned columns for a terminal, and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_af.records.results import Results
from edge_af.report.columns import GAP, LIMIT, P90, parameters, signed
from edge_af.report.counted import EXPLAINED, counted_cells, counted_text, counted_titles, is_counted
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
from edge_af.report.tables import aligned, escape, printable, table_lines


def table(many: Sequence[Results]) -> str:
    """Return the comparison for a terminal, some 135 columns wide: a heading per network, a line per row."""
    lines = compare(many)
    devices, limits = devices_of(lines), any(line.row.limit_share is not None for line in lines)
    titles = ["runtime", "precision", *[title.lower() for title, _ in _settings(lines)]]
    for column in main_columns(lines):
        titles.append(f"{column.title} {column.unit}".strip())
        if column is GAP:
            titles.append("to FP32")
        if column is P90 and limits:
            titles.append("limit")
    cells = [_cells(line, lines, limits) for line in lines]
    columns = [_beside(column) for column in zip(*cells, strict=True)] or [[] for _ in titles]
    # The last column has no title; it marks what stands out in a row.
    marks = [line.row.status if line.problem else "baseline" if line.is_baseline else "" for line in lines]
    body = [list(row) for row in zip(*columns, marks, strict=True)]
    head, *rows = aligned([[*titles, ""], *body], (0, 1, len(titles)))
    out = [head]
    notes: list[str] = []
    heading = None
    # Sort by device first, so that adjacent rows are from one machine.
    for line, row in sorted(zip(lines, rows, strict=True), key=lambda pair: devices.index(pair[0].device)):
        relation = parameters_relation(line)
        title = f"{line.network}, {parameters(line.row)} parameters" + (f" ({relation})" if relation else "")
        title += f", on {line.device}" if len(devices) > 1 else ""
        if (line.device, line.network) != heading:
            heading = (line.device, line.network)
            out += ["", title]
        if line.problem:
            where = f" on {line.device}" if len(devices) > 1 else ""
            notes.append(f"! {line.network}, {line.runtime} {line.weights}{where}: {line.problem}")
        out.append(row)
    out += counted_text(lines)
    notes += [f"! {text}" for text in caveats(many)]
    out += ["", *notes, *([""] if notes else [])]
    out.append("Beside a figure: factor of, or difference to, the baseline in the same runtime.")
    if any(line.row.gap_at_20_delta is not None for line in lines):
        out.append(
            "To FP32: ΔGAP against the same network in FP32; after ±, the larger half-width of its 95 % interval."
        )
    if limits:
        out.append("Limit: the time to read the weights once, as a share of the p50.")
    out += kernels_text(lines)
    titles = device_titles(many)
    out += [f"{title}. Evaluation data: {data_text(one)}." for one, title in zip(many, titles, strict=True)]
    # Names may come from untrusted files, so escape sequences are removed.
    return "\n".join(map(printable, out))


Cell = tuple[str, str]
"""Return a figure and its relation."""


def _settings(lines: Sequence[Line]) -> list[tuple[str, Callable[[Line], str]]]:
    """Return columns in which rows of one network, runtime and precision differ."""
    found: list[tuple[str, Callable[[Line], str]]] = []
    if has_threads(lines):
        found.append(("Threads", lambda line: str(line.row.threads)))
    if has_batches(lines):
        found.append(("Batch", lambda line: str(line.row.batch)))
    return found


def _cells(line: Line, lines: Sequence[Line], limits: bool) -> list[Cell]:
    cells = [(line.runtime, ""), (line.weights, ""), *[(write(line), "") for _, write in _settings(lines)]]
    for column in main_columns(lines):
        cells.append((column.text(line.row) or "–", column.relation(line.row, line.base)))
        if column is GAP:
            cells.append(_to_fp32(line))
        if column is P90 and limits:
            cells.append((LIMIT.text(line.row), ""))
    return cells


def _to_fp32(line: Line) -> Cell:
    difference, interval = gap_to_fp32(line), line.row.gap_at_20_delta
    if difference is None:
        return "", ""
    if interval is None:
        return signed(difference), ""
    # One figure for the interval, its larger half-width, keeps the table narrow.
    return signed(difference), f"±{max(interval.high - interval.value, interval.value - interval.low):.4f}"


def _beside(column: Sequence[Cell]) -> list[str]:
    """Align the figures and the relations of a column."""
    first, second = (max(len(cell[part]) for cell in column) for part in (0, 1))
    if not second:
        return [figure for figure, _ in column]
    return [f"{figure:>{first}} {relation:>{second}}" for figure, relation in column]


def markdown_table(many: Sequence[Results]) -> str:
    """Return the comparison in Markdown, with notes on how it was measured."""
    lines = compare(many)
    devices, settings = devices_of(lines), _settings(lines)
    limits = any(line.row.limit_share is not None for line in lines)
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
