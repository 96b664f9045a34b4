"""The table renderer, for a terminal and for Markdown; names in cells may come from files that others wrote."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def escape(text: str) -> str:
    """Text that stays text in a Markdown table."""
    for character in "\\`*_[]|":
        text = text.replace(character, "\\" + character)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())


def table_lines(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """Lines of a Markdown table; the first row is the head, the columns `left` are left-aligned."""
    head, *body = rows
    marks = [":--" if column in left else "--:" for column in range(len(head))]
    return ["| " + " | ".join(cells) + " |" for cells in (head, marks, *body)]


def aligned(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """Lines of a terminal's table, without escape sequences; the columns `left` are left-aligned."""
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
    """Without escape sequences and other characters that only a terminal would see."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
