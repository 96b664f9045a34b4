"""`edge-af bench`: accuracy, size, latency and memory of exported files, side by side."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_af.bench.options import BenchOptions
from edge_af.cli.build import path_argument, verb
from edge_af.cli.next_step import suggest, unused
from edge_af.console import duration, line_width, say, tell, warn
from edge_af.errors import EdgeAfError

if TYPE_CHECKING:
    from edge_af.bench.dry_run import BenchDryRun
    from edge_af.bench.subject import Subject
    from edge_af.records.results import ExtractionCost, Results
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
    members = read_fleet(options.target_file, options.for_target) if options.target_file is not None else None
    if options.with_features is not None and not options.dry_run:
        request = dataclasses.replace(request, extraction=_extraction(subjects, options))
    if options.dry_run:
        from edge_af.bench.dry_run import dry_run

        if members is not None:
            plans = [
                dry_run(
                    subjects,
                    dataclasses.replace(request, out=member.out(options.out)),
                    open_backend(member.address, member.options),
                    is_here=False,
                )
                for member in members
            ]
        elif options.target is not None:
            plans = [dry_run(subjects, request, open_backend(options.target, options.for_target), is_here=False)]
        else:
            plans = [dry_run(subjects, request, LocalBackend(), is_here=True)]
        _show_plans(plans, options)
        return
    if members is not None:
        _suggest(_show(bench_fleet(subjects, request, members), options), subjects, options)
        return
    backend = open_backend(options.target, options.for_target) if options.target is not None else LocalBackend()
    bench(subjects, request, backend)
    _suggest(_show([Outcome(backend.label, options.out)], options), subjects, options)


def _extraction(subjects: Sequence[Subject], options: BenchOptions) -> ExtractionCost:
    """Measure or count what turning the video into features costs, at the frame rate of the training data."""
    from edge_af.emulation.boards import SCHEME, parse_emulated
    from edge_af.video_cost import cost_here, cost_on

    assert options.with_features is not None
    every = next((subject.extractor.get("every", 1.0) for subject in subjects if subject.extractor), 1.0)
    if options.target is None:
        return cost_here(options.with_features, str(options.extractor), every)
    if options.target.startswith(SCHEME):
        return cost_on(parse_emulated(options.target), options.with_features, str(options.extractor), every)
    raise EdgeAfError("--with-features: only here and on emulated boards. On a board, run edge-af bench there.")


def _show(outcomes: list[Outcome], options: BenchOptions) -> dict[Path, Results]:
    """Print the table or the JSON of the results, and write the reports; return the results by file.

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
        tell(table(list(results.values()), line_width()))
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
    return {outcome.out: results[outcome.label] for outcome in outcomes}


def _suggest(found: dict[Path, Results], subjects: Sequence[Subject], options: BenchOptions) -> None:
    """Suggest making the page, or labeling videos with the fastest file if the page was made."""
    from edge_af.records.results import OK

    if options.json or not all(out.is_file() for out in found):  # `--out /dev/stdout` leaves no file.
        return
    if options.html is None:
        suggest("report", *found, "--html", unused(options.out.with_suffix(".html")))
    elif options.data is not None:
        paths = {f"{subject.artifact}/{subject.path.name}": subject.path for subject in subjects}
        rows = [row for one in found.values() for row in one.rows if row.status == OK and row.key in paths]
        fastest = min(rows, key=lambda row: row.latency_ms.p50 if row.latency_ms is not None else math.inf)
        suggest("predict", paths[fastest.key], options.data, "--videos", 3)


def _show_plans(plans: Sequence[BenchDryRun], options: BenchOptions) -> None:
    """Print the table or the JSON of a dry run."""
    if options.json:
        found = [dataclasses.asdict(one) for one in plans]
        tell(json.dumps({"targets": found} if options.target_file else found[0], indent=2, ensure_ascii=False))
        return
    for plan in plans:
        tell("\n".join(_plan_lines(plan)))
    say("dry run: nothing was measured or written.")


def _plan_lines(plan: BenchDryRun) -> list[str]:
    from edge_af.report.tables import aligned, wrapped

    rows = [["file", "runtime", "threads", "batch", "status"]]
    for row in plan.rows:
        rows.append([row.file, row.runtime, str(row.threads), str(row.batch), row.status or "to measure"])
    width, limit = line_width(), f" or {plan.seconds:g} s" if plan.seconds is not None else ""
    lines = [
        f"{plan.target}: {len(plan.rows)} rows, {plan.rounds} round{'s' if plan.rounds > 1 else ''}",
        *aligned(rows, (0, 1, 4), width),
        *(
            f"! {row.file} in {row.runtime}, {row.threads} threads, batch {row.batch}: {row.reason}"
            for row in plan.rows
            if row.reason is not None
        ),
        f"{plan.measurements} measurements, each up to {plan.warm_up_seconds:g} s of warm-up, then up to "
        f"{plan.inferences:,} inference{'s' if plan.inferences > 1 else ''}{limit}",
    ]
    if plan.accuracy_files:
        lines.append(f"accuracy: {plan.accuracy_files} files, {plan.accuracy_videos:,} videos in all")
    else:
        lines.append("accuracy: not measured")
    if plan.seconds_at_most is not None:
        lines.append(f"at most {duration(plan.seconds_at_most)}, plus loading and scoring")
    else:
        lines.append("no time limit: the duration depends on the files")
    return wrapped(lines, width)
