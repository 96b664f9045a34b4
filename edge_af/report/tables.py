"""Render tables for a terminal and for Markdown. Cells may hold untrusted names."""

from __future__ import annotations

from collections.abc import Collection, Sequence


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


def aligned(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """Return the lines of a table for a terminal, with escape sequences removed; the columns `left` are left-aligned."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]


def printable(text: str) -> str:
    """Remove escape sequences and other invisible characters."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
