"""`edge-af report`: the table and the page from results, or from a history of comparisons."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edge_af.console import tell

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("files", nargs=-1, metavar="[RESULTS…]", type=click.Path(path_type=Path))
@click.option(
    "--history",
    "histories",
    type=FILE,
    multiple=True,
    help="A file of `edge-af compare --history`, in place of RESULTS: past comparisons over time.",
)
@click.option("--html", type=FILE, help="Write the page: one file, opens without a network.")
@click.option("--markdown", type=FILE, help="Write the table as Markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print what the table is made of as JSON instead of the table.")
def command(
    files: tuple[Path, ...], histories: tuple[Path, ...], html: Path | None, markdown: Path | None, as_json: bool
) -> None:
    """Put one or more results files of `edge-af bench` into one table; several devices stand side by side.

    With --history, past comparisons of `edge-af compare`, to be looked at: nothing is judged by them.
    """
    if bool(files) == bool(histories):
        raise click.UsageError("name results files of `edge-af bench`, or --history FILE of `edge-af compare`.")
    if histories:
        from edge_af.records.history import read_history
        from edge_af.report import write_history
        from edge_af.report.history import summary as entries
        from edge_af.report.history import table as history_table

        found = read_history(histories)
        tell(json.dumps(entries(found), indent=2, ensure_ascii=False) if as_json else history_table(found))
        write_history(found, markdown=markdown, html=html)
        return
    from edge_af.records.results import read_results
    from edge_af.report import write_reports
    from edge_af.report.rows import caveats, compare, summary
    from edge_af.report.text import table

    many = [read_results(file) for file in files]
    if as_json:
        value = {"rows": [summary(line) for line in compare(many)], "caveats": caveats(many)}
        tell(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        tell(table(many))
    write_reports(many, markdown=markdown, html=html)
