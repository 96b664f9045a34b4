"""Table of the instruction counts of emulated rows, and the latency modeled from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_af.records.results import Instructions, Row
from edge_af.report.columns import Column, megabytes, quantity
from edge_af.report.rows import Line
from edge_af.report.tables import aligned, wrapped

MODELED = "Modeled latency"


def _counted(pick: Callable[[Instructions], float]) -> Callable[[Row], float | None]:
    return lambda row: pick(row.instructions) if row.instructions is not None else None


def _millions(value: float) -> str:
    return "0" if not value else f"{value / 1e6:.3g}"


def _dot_share(row: Row) -> float | None:
    if row.instructions is None or not row.multiply_adds:
        return None
    return row.instructions.dot_product_macs / row.multiply_adds


COUNTED_COLUMNS = (
    Column(
        "modelled_latency_ms",
        MODELED,
        "ms",
        lambda row: row.modelled_latency_ms.value if row.modelled_latency_ms is not None else None,
        quantity,
        True,
    ),
    Column("instructions", "Instructions", "M", _counted(lambda n: n.instructions), _millions, True),
    Column("dot_product", "Dot products", "M", _counted(lambda n: n.dot_product), _millions, True),
    Column("dot_share", "By dot product", "of multiply-adds", _dot_share, lambda share: f"{share:.1%}", False),
    Column("integer_multiply", "Integer multiply", "M", _counted(lambda n: n.integer_multiply), _millions, True),
    Column("float_multiply_add", "Float multiply-add", "M", _counted(lambda n: n.float_multiply_add), _millions, True),
    Column("loads", "Loads", "M", _counted(lambda n: n.loads), _millions, True),
    Column("stores", "Stores", "M", _counted(lambda n: n.stores), _millions, True),
    Column("memory_read_bytes", "From memory", "MB", _counted(lambda n: n.memory_read_bytes), megabytes, True),
)
"""Columns; the latency comes first, because a narrow screen hides the right side."""
EXPLAINED = (
    "One inference on one thread, counted under emulation. From memory: bytes read by a cache of the board's last-level size. "
    "Modeled latency: from these counts and the board's published figures, with its band; not measured "
    "(docs/explanation/emulation.md)."
)


def is_counted(lines: Sequence[Line]) -> bool:
    """Return True if any row was counted under emulation."""
    return any(line.row.instructions is not None for line in lines)


def counted_cells(line: Line) -> list[str]:
    """Return a counted row's figures and its modeled latency with its band."""
    cells = [column.text(line.row) or "–" for column in COUNTED_COLUMNS]
    if (modeled := line.row.modelled_latency_ms) is not None:
        cells[0] += f" [{quantity(modeled.low)}, {quantity(modeled.high)}]"
    return cells


def counted_titles() -> list[str]:
    """Return the column titles with units."""
    return [f"{column.title}, {column.unit}" for column in COUNTED_COLUMNS]


def counted_text(lines: Sequence[Line], width: int | None = None) -> list[str]:
    """Return the table's lines for a terminal; empty without counted rows."""
    counted = [line for line in lines if line.row.instructions is not None]
    if not counted:
        return []
    units = [f"{column.title.lower()} {column.unit}" for column in COUNTED_COLUMNS]
    rows = [["counted", *units]]
    several = len({line.device for line in lines}) > 1
    for line in counted:
        name = f"{line.network}, {line.runtime} {line.weights}" + (f", {line.device}" if several else "")
        rows.append([name, *counted_cells(line)])
    return ["", *aligned(rows, (0,), width), "", *wrapped([EXPLAINED], width)]
