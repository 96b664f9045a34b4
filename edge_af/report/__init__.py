"""Show results as a table on the terminal, in Markdown, and as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_af.console import say
from edge_af.files import write_atomic

if TYPE_CHECKING:
    from edge_af.records.history import History
    from edge_af.records.results import Results


def write_reports(results: Sequence[Results], *, markdown: Path | None = None, html: Path | None = None) -> None:
    """Write the Markdown table and the page to the given paths, and report them."""
    from edge_af.report.page import page
    from edge_af.report.text import markdown_table

    _write(markdown, html, lambda: markdown_table(results), lambda: page(results))


def write_history(history: History, *, markdown: Path | None = None, html: Path | None = None) -> None:
    """Write the same for past comparisons."""
    from edge_af.report.history import markdown_table, page

    _write(markdown, html, lambda: markdown_table(history), lambda: page(history))


def _write(markdown: Path | None, html: Path | None, table: Callable[[], str], page: Callable[[], str]) -> None:
    for path, what, make in ((markdown, "table:  ", table), (html, "page:   ", page)):
        if path is not None:
            write_atomic(path, make())
            say(f"{what} {path}")
    if html is not None:
        from edge_af.packages import install_command, is_installed

        if not is_installed("vl_convert"):
            say(f"The page has no charts. To add them: {install_command('report')}")
