"""`edge-af bench`: accuracy, size, latency and memory of exported files, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edge_af.bench.options import BenchOptions
from edge_af.cli.build import path_argument, verb
from edge_af.console import say, tell, warn
from edge_af.errors import EdgeAfError

if TYPE_CHECKING:
    from edge_af.targets.fleet import Outcome


@verb(
    BenchOptions,
    paths=path_argument("PATH…", several=True),
    example="edge-af bench artifacts/attend-fusion artifacts/fc-late-fusion --data eval --html results.html\n"
    "edge-af bench artifacts/attend-fusion --data eval --target ssh://pi@raspberrypi.local",
)
def command(paths: tuple[Path, ...], options: BenchOptions) -> None:
    """Measure exported files side by side, each in its own process.

    PATH is a folder that `edge-af export` wrote, or an .onnx or .tflite file in one. A file that cannot run (no runtime, out of
    memory, a crash, a timeout) becomes a row with the reason, and the bench continues. After an interruption, the same command
    continues where it stopped.
    """
    from edge_af.bench.local import LocalBackend
    from edge_af.bench.session import bench
    from edge_af.bench.subject import subjects_of
    from edge_af.targets import open_backend
    from edge_af.targets.fleet import Outcome, bench_fleet, read_fleet

    request = options.request()
    subjects = subjects_of(paths, options.runtime)
    if options.target_file is not None:
        members = read_fleet(options.target_file, options.for_target)
        _show(bench_fleet(subjects, request, members), options)
        return
    backend = open_backend(options.target, options.for_target) if options.target is not None else LocalBackend()
    bench(subjects, request, backend)
    _show([Outcome(backend.label, options.out)], options)


def _show(outcomes: list[Outcome], options: BenchOptions) -> None:
    """Print the table or the JSON of the results, and write the reports.

    Raises:
        EdgeAfError: a target gave no results.
    """
    from edge_af.records.results import OK, dump_results, read_results
    from edge_af.report import write_reports
    from edge_af.report.text import table

    results = {outcome.label: read_results(outcome.out) for outcome in outcomes if outcome.reason is None}
    failed = [outcome for outcome in outcomes if outcome.reason is not None]
    if options.json:
        for one in results.values():  # The table has them below it.
            for text in one.warnings:
                warn(text)
        if options.target_file is None:
            tell(dump_results(*results.values()), nl=False)
        else:
            found = [
                {
                    "target": outcome.label,
                    "results": results[outcome.label].as_dict() if outcome.reason is None else None,
                    "reason": outcome.reason,
                }
                for outcome in outcomes
            ]
            tell(json.dumps({"targets": found}, indent=2, ensure_ascii=False))
    elif results:
        tell(table(list(results.values())))
    for outcome in failed if not options.json else []:
        tell(f"{outcome.label}: not measured: {outcome.reason}")
    for outcome in outcomes:
        if outcome.reason is None:
            say(f"results: {outcome.out}")
    if results:
        write_reports(list(results.values()), markdown=options.markdown, html=options.html)
    if failed:
        raise EdgeAfError(f"{len(failed)} of {len(outcomes)} targets gave no results.")
    if not any(row.status == OK for one in results.values() for row in one.rows):
        raise EdgeAfError(f"nothing could be measured; the reasons are in the table and in {options.out}.")
