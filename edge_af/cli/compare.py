"""`edge-af compare`: is the candidate slower, larger or worse than its base?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

FILE = click.Path(path_type=Path, dir_okay=False)


class Parsed(click.ParamType):
    """An option's text through a function that raises ValueError."""

    def __init__(self, name: str, parser: str) -> None:
        self.name, self._parser = name, parser

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        from edge_af.compare import limits as parsers

        if isinstance(value, float):
            return value
        parse: Callable[[str], float] = getattr(parsers, self._parser)
        try:
            return parse(value)
        except ValueError as error:
            self.fail(f"{error}.", parameter, context)


SHARE, SECONDS = Parsed("percent", "parse_share"), Parsed("duration", "parse_seconds")


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="BASE CANDIDATE | -- COMMAND…")
@click.option(
    "--base-ref",
    metavar="COMMIT",
    help="Run COMMAND in a checkout of this commit, and here, and compare what it wrote to $EDGE_AF_OUT.",
)
@click.option("--max-slowdown", type=SHARE, help="What the candidate may take longer.  [default: 5%]")
@click.option(
    "--budget", type=SECONDS, default="100s", show_default=True, help="Time for timing, shared out over all pairs."
)
@click.option("--data", type=click.Path(path_type=Path), help="Prepared evaluation data; without it no accuracy.")
@click.option("--max-gap-drop", type=click.FloatRange(0), help="What GAP@20 may fall by.  [default: 0.002]")
@click.option("--max-growth", type=SHARE, help="Of file bytes, weight bytes and multiply-adds.  [default: 1%]")
@click.option("--max-memory-growth", type=SHARE, help="Of the process's peak memory.  [default: 10%]")
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    help="Correlation of the two files' scores on the same videos.  [default: 0.5 with --data, 0.25 on random values]",
)
@click.option("--budget-file", type=FILE, help="YAML with absolute limits, and these options: see docs/compare.md.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--runtime", "runtimes", type=click.Choice(["onnxruntime", "litert"]), multiple=True, help="Only this one."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order in which the processes take turns.")
@click.option(
    "--timeout",
    type=click.FloatRange(1),
    default=300.0,
    show_default=True,
    help="Seconds a step of a process may take.",
)
@click.option("--out", type=FILE, help="Write the comparison as JSON.")
@click.option("--markdown", type=FILE, help="Write the table as Markdown.")
@click.option("--junit", type=FILE, help="Write the checks as JUnit XML.")
@click.option(
    "--history",
    type=FILE,
    help="Append a line of JSON for each pair, which `edge-af report --history` plots; nothing is judged by it.",
)
@click.option(
    "--commit",
    metavar="NAME",
    help="Of the candidate, in the history.  [default: what git has checked out where it lies]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON instead of the table.")
def command(
    words: tuple[str, ...],
    base_ref: str | None,
    max_slowdown: float | None,
    budget: float,
    data: Path | None,
    max_gap_drop: float | None,
    max_growth: float | None,
    max_memory_growth: float | None,
    min_agreement: float | None,
    budget_file: Path | None,
    threads: int,
    runtimes: tuple[str, ...],
    seed: int,
    timeout: float,
    out: Path | None,
    markdown: Path | None,
    junit: Path | None,
    history: Path | None,
    commit: str | None,
    as_json: bool,
) -> None:
    """Find out whether CANDIDATE is slower, larger or worse than BASE, both measured side by side, now, on this machine.

    BASE and CANDIDATE are two .onnx or .tflite files, or two folders that `edge-af export` wrote. With --base-ref, COMMAND
    makes both.

    Exit status: 0 no worse; 1 slower, larger, worse or broken; 2 the base or the command line is at fault; 3 cannot tell.
    """
    from edge_af.compare.checkout import built
    from edge_af.compare.limits import read_budget_file, with_overrides
    from edge_af.compare.match import match
    from edge_af.compare.run import Settings, compare
    from edge_af.console import say, tell, warn
    from edge_af.data.dataset import open_dataset
    from edge_af.errors import EdgeAfError
    from edge_af.files import check_writable, write_atomic
    from edge_af.git import commit_at
    from edge_af.records.comparison import dump, write
    from edge_af.records.history import append_history
    from edge_af.report.verdict import annotate, junit_xml, markdown_table, step_summary, table

    limits = read_budget_file(budget_file) if budget_file is not None else None
    relative = with_overrides(
        limits,
        {
            "max_slowdown": max_slowdown,
            "max_growth": max_growth,
            "max_memory_growth": max_memory_growth,
            "max_gap_drop": max_gap_drop,
            "min_agreement": min_agreement,
        },
    )
    for target in filter(None, (out, markdown, junit, history)):
        check_writable(target)
    if base_ref is None and len(words) != 2:
        raise click.UsageError("name BASE and CANDIDATE, or --base-ref and a command behind `--`.")
    dataset = open_dataset(data) if data is not None else None
    if dataset is None:
        say("no --data: no accuracy, and random values are scored.")
    stack = contextlib.ExitStack()
    click.get_current_context().call_on_close(stack.close)
    folders = stack.enter_context(built(base_ref, words)) if base_ref is not None else (Path(words[0]), Path(words[1]))
    matched = match(*folders, runtimes)
    if limits is not None and budget_file is not None:
        limits.check_use([pair.candidate.path.name for pair in matched.pairs], data is not None, budget_file)
    found = compare(
        matched,
        dataset,
        Settings(
            relative=relative,
            budget_seconds=budget,
            threads=threads,
            seed=seed,
            timeout_seconds=timeout,
            budget_file=limits,
        ),
    )
    place = Path.cwd() if base_ref is not None else folders[1] if folders[1].is_dir() else folders[1].parent
    if commit is None and history is not None:
        commit = commit_at(place, trusted=base_ref is not None)
    files: list[tuple[str, Path | None, Callable[[Path], None]]] = [
        ("comparison", out, lambda path: write(path, found)),
        ("table", markdown, lambda path: write_atomic(path, markdown_table(found))),
        ("JUnit", junit, lambda path: write_atomic(path, junit_xml(found))),
        ("history", history, lambda path: append_history(path, found, commit)),
    ]
    # Files first: the terminal's reader may be gone. And no file that cannot be written hides that a gate failed.
    status = found.exit_status
    for name, path, write_to in files:
        if path is None:
            continue
        try:
            write_to(path)
            say(f"{name + ':':<11} {path}")
        except EdgeAfError as error:
            warn(str(error))
            status = status or error.exit_status
    step_summary(found)
    tell(dump(found) if as_json else table(found), nl=False)
    annotate(found)
    click.get_current_context().exit(status)
