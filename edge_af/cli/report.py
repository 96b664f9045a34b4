"""`edge-af report`: show results, or a history of comparisons, as a table and a page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click

from edge_af.cli.build import verb
from edge_af.console import line_width, tell
from edge_af.errors import EdgeAfError
from edge_af.options import option


@dataclass(frozen=True)
class ReportOptions:
    """The options of `edge-af report`."""

    history: tuple[Path, ...] = option(
        "History file of `edge-af compare`, instead of RESULTS. Repeatable.", default=(), is_file=True
    )
    html: Path | None = option(
        "HTML file to write the page to. It opens without a network.", default=None, is_file=True
    )
    markdown: Path | None = option("Markdown file to write the table to.", default=None, is_file=True)
    model_card: tuple[Path, ...] = option(
        "Export folder whose model card gets the figures of its files. Repeatable.", default=()
    )
    require: tuple[str, ...] = option(
        "Requirement on the row to choose, such as 'gap_at_20>=0.68'. Repeatable.",
        default=(),
        metavar="'NAME>=NUMBER'",
    )
    choose: str | None = option(
        "Figure by which to choose the row to ship, such as p50 or size_mb.", default=None, metavar="NAME"
    )
    json: bool = option("Print the table's figures as JSON instead of the table.", default=False)


@verb(
    ReportOptions,
    files=click.Argument(["files"], nargs=-1, metavar="[RESULTS…]", type=click.Path(path_type=Path)),
    example="edge-af report laptop.json raspberry-pi.json --html results.html\n"
    "edge-af report results.json --require 'gap_at_20>=0.68' --require 'size_mb<=10' --choose p50",
)
def command(files: tuple[Path, ...], options: ReportOptions) -> None:
    """Show one or more results files of `edge-af bench` in one table.

    With --choose, name the artifact to ship instead: the best of those that meet all --require. With
    --model-card, put the figures into the README.md of an export folder too. With --history, show past
    comparisons of `edge-af compare`.
    """
    if bool(files) == bool(options.history):
        raise EdgeAfError("name results files of `edge-af bench`, or --history FILE of `edge-af compare`.")
    if twice := next((file for at, file in enumerate(files) if file in files[:at]), None):
        raise EdgeAfError(f"{twice}: is named twice.")
    if options.require and options.choose is None:
        raise EdgeAfError("--require needs --choose, the figure by which to choose, such as --choose p50.")
    if options.history and options.choose is not None:
        raise EdgeAfError("--choose needs results files of `edge-af bench`, not --history.")
    if options.choose is not None and (options.html or options.markdown or options.model_card):
        raise EdgeAfError("--choose writes no page, table or card: leave --html, --markdown and --model-card out.")
    if options.history and options.model_card:
        raise EdgeAfError("--model-card needs results files of `edge-af bench`, not --history.")
    if options.history:
        from edge_af.records.history import read_history
        from edge_af.report import write_history
        from edge_af.report.history import summary as entries
        from edge_af.report.history import table as history_table

        found = read_history(options.history)
        tell(
            json.dumps(entries(found), indent=2, ensure_ascii=False)
            if options.json
            else history_table(found, line_width())
        )
        write_history(found, markdown=options.markdown, html=options.html)
        return
    from edge_af.records.results import read_results
    from edge_af.report import write_reports
    from edge_af.report.notes import caveats
    from edge_af.report.rows import compare, summary
    from edge_af.report.text import table

    many = [read_results(file) for file in files]
    if options.choose is not None:
        from edge_af.report.choice import choice_summary, choice_text, choose, parse_name, parse_requirement

        requirements = [parse_requirement(text) for text in options.require]
        choice = choose(compare(many), requirements, parse_name(options.choose))
        tell(
            json.dumps(choice_summary(choice), indent=2, ensure_ascii=False)
            if options.json
            else choice_text(choice, line_width())
        )
        return
    if options.model_card:
        from edge_af.report.model_card import write_measured_cards

        write_measured_cards(options.model_card, many)
    if options.json:
        value = {"rows": [summary(line) for line in compare(many)], "caveats": caveats(many)}
        tell(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        tell(table(many, line_width()))
    write_reports(many, markdown=options.markdown, html=options.html)
