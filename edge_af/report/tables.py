"""Render tables for a terminal and for Markdown. Cells may hold untrusted names."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Collection, Iterable, Sequence

GAP = "  "
INDENT = "    "
"""Indentation of a row's further lines."""
LEAST_ROOM = 24
"""Smallest width of a last column of text that is wrapped in place."""


def escape(text: str) -> str:
    """Escape text for a Markdown table."""
    for character in "\\`*_[]|":
        text = text.replace(character, "\\" + character)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())


def table_lines(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """Return the lines of a Markdown table; the first row is the head, the columns `left` are left-aligned."""
    head, *body = rows
    marks = [":--" if column in left else "--:" for column in range(len(head))]
    return ["| " + " | ".join(cells) + " |" for cells in (head, marks, *body)]


def aligned(rows: Sequence[Sequence[str]], left: Collection[int], width: int | None = None) -> list[str]:
    """Return the lines of a table for a terminal, with escape sequences removed; the columns `left` are left-aligned.

    With a `width`, rows that are wider continue on further lines.
    """
    return [line for lines in aligned_rows(rows, left, width) for line in lines]


def aligned_rows(rows: Sequence[Sequence[str]], left: Collection[int], width: int | None = None) -> list[list[str]]:
    """Return the lines of each row of `aligned`.

    If a table is too wide, its last column is wrapped in place if that leaves it room. Otherwise, columns move to further,
    indented lines of each row, and their headings likewise.
    """
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    groups = [list(range(len(widths)))]
    if width is not None and table_width(widths) > width:
        room = width - table_width(widths[:-1]) - len(GAP)
        if len(widths) - 1 in left and room >= LEAST_ROOM:
            widths[-1] = room
        else:
            widths = [min(one, width - len(INDENT)) for one in widths]
            groups = _groups(widths, width)
    return [_row_lines(row, widths, left, groups) for row in shown]


def table_width(widths: Collection[int]) -> int:
    """Return the width of a line with columns of these widths."""
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _groups(widths: Sequence[int], width: int) -> list[list[int]]:
    """Distribute the columns over as many lines as they need."""
    groups: list[list[int]] = [[]]
    for at in range(len(widths)):
        taken = table_width([widths[one] for one in [*groups[-1], at]])
        if groups[-1] and taken > width - (len(INDENT) if len(groups) > 1 else 0):
            groups.append([])
        groups[-1].append(at)
    return groups


def _row_lines(
    row: Sequence[str], widths: Sequence[int], left: Collection[int], groups: Iterable[Sequence[int]]
) -> list[str]:
    lines = []
    for number, group in enumerate(groups):
        cells = [
            textwrap.wrap(row[at], widths[at], break_on_hyphens=False) if len(row[at]) > widths[at] else [row[at]]
            for at in group
        ]
        for parts in itertools.zip_longest(*cells, fillvalue=""):
            line = GAP.join(
                part.ljust(widths[at]) if at in left else part.rjust(widths[at])
                for at, part in zip(group, parts, strict=True)
            )
            lines.append((INDENT if number else "") + line.rstrip())
    return [line for line in lines if line] or [""]


def wrapped(lines: Iterable[str], width: int | None) -> list[str]:
    """Wrap lines of text that are wider than `width`; None for any width."""
    if width is None:
        return list(lines)
    return [
        part
        for line in lines
        for part in (
            textwrap.wrap(line, width, subsequent_indent=INDENT, break_on_hyphens=False)
            if len(line) > width
            else [line]
        )
    ]


def printable(text: str) -> str:
    """Remove escape sequences and other invisible characters."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
