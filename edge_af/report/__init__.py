"""The comparison for people: a table on the terminal, in Markdown, and one HTML page that opens without a network."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from edge_af.bench.results import Results
from edge_af.console import say
from edge_af.files import explain_os_errors, write_atomic


def write_reports(results: Sequence[Results], *, markdown: Path | None = None, html: Path | None = None) -> None:
    """Write the Markdown table and the page, where a path is given, and say so."""
    from edge_af.report.page import page
    from edge_af.report.text import markdown_table

    if markdown is not None:
        write_atomic(markdown, markdown_table(results))
        say(f"table:   {markdown}")
    if html is not None:
        write_atomic(html, page(results))
        say(f"page:    {html}")


def check_writable(path: Path) -> None:
    """Find out before an hour of measuring, not after it, that a file cannot be written.

    Raises:
        EdgeAfError: names the path and why.
    """
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
