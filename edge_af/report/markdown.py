"""Tables in Markdown, and on a terminal, of text that others may have written."""

from __future__ import annotations

from collections.abc import Sequence


def escape(text: str) -> str:
    """Text that stays text in a Markdown table."""
    for character in "\\`*_[]|":
        text = text.replace(character, "\\" + character)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())


def table_lines(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """A table's lines: the first row is its head, the first `left` columns stand left and the others right."""
    head, *body = rows
    marks = [*[":--"] * left, *["--:"] * (len(head) - left)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, marks, *body)]


def aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """The same for a terminal, of columns of equal width; no escape sequence in a cell reaches it."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]


def printable(text: str) -> str:
    """Without escape sequences and other characters that only a terminal would see."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
