"""`edge-af bench`: accuracy, size, latency and memory, side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from edge_af.console import say

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH…", type=click.Path(path_type=Path))
@click.option(
    "--data", "data", type=click.Path(path_type=Path), help="Prepared evaluation data; without it no accuracy."
)
@click.option(
    "--threads", type=click.IntRange(1), multiple=True, default=(1,), show_default=True, help="May be repeated."
)
@click.option(
    "--runtime", "runtimes", type=click.Choice(["onnxruntime", "litert"]), multiple=True, help="Only this one."
)
@click.option("--runs", type=click.IntRange(1), help="Timed inferences a row. [default: 1024, or 10 seconds if sooner]")
@click.option("--quick", is_flag=True, help="200 timed inferences or 2 seconds; marked as such in the results.")
@click.option("--timeout", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds a row may take.")
@click.option("--out", type=FILE, default=Path("results.json"), show_default=True, help="The results file.")
@click.option("--markdown", type=FILE, help="Write the table as Markdown too.")
@click.option("--html", type=FILE, help="Write the page too.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON instead of the table.")
def command(
    paths: tuple[Path, ...],
    data: Path | None,
    threads: tuple[int, ...],
    runtimes: tuple[str, ...],
    runs: int | None,
    quick: bool,
    timeout: float,
    out: Path,
    markdown: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Measure exported files side by side, each in a process of its own.

    PATH is a folder that `edge-af export` wrote, or an .onnx or .tflite file in one. A file that cannot be run here (no
    runtime, too little memory, a crash, no end) becomes a row that says why, and the others go on.
    """
    from edge_af.bench.results import OK, Method, Results, dump_results, write_results
    from edge_af.bench.run import QUICK, bench
    from edge_af.bench.subject import subjects_of
    from edge_af.data.dataset import open_dataset
    from edge_af.errors import EdgeAfError
    from edge_af.report import check_writable, write_reports
    from edge_af.report.text import table

    if quick and runs is not None:
        raise click.UsageError("--quick and --runs exclude each other.")
    method = dataclasses.replace(QUICK if quick else Method(), timeout_seconds=timeout)
    if runs is not None:
        method = dataclasses.replace(method, inferences=runs, seconds=None)
    for target in filter(None, (out, markdown, html)):
        check_writable(target)
    subjects = subjects_of(list(paths), runtimes)
    dataset = open_dataset(data) if data is not None else None
    if dataset is None:
        say("no --data: no accuracy, and latency is measured on random values.")
    kept = 0

    def save(results: Results) -> None:
        nonlocal kept
        write_results(out, results)
        kept = len(results.rows)

    try:
        results = bench(subjects, dataset, threads=threads, method=method, quick=quick, save=save)
    except KeyboardInterrupt:
        say(f"interrupted: {kept} finished rows are kept in {out}." if kept else "interrupted before the first row.")
        raise
    click.echo(dump_results(results) if as_json else table([results]), nl=not as_json)
    say(f"results: {out}")
    write_reports([results], markdown=markdown, html=html)
    if not any(row.status == OK for row in results.rows):
        raise EdgeAfError(f"nothing could be measured; the reasons stand in the table and in {out}.")
