"""`edge-af bench`: accuracy, size, latency and memory, side by side."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_af.console import say, tell, warn
from edge_af.errors import EdgeAfError
from edge_af.files import lock_output

if TYPE_CHECKING:
    from edge_af.bench.subject import Subject
    from edge_af.bench.suite import Suite
    from edge_af.data.dataset import Dataset
    from edge_af.records.results import Results
    from edge_af.targets import Board

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH…", type=click.Path(path_type=Path))
@click.option(
    "--data", "data", type=click.Path(path_type=Path), help="Prepared evaluation data; without it no accuracy."
)
@click.option("--threads", type=click.IntRange(1), multiple=True, help="May be repeated.  [default: 1]")
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1),
    multiple=True,
    help="Videos an inference; may be repeated.  [default: 1]",
)
@click.option(
    "--runtime", "runtimes", type=click.Choice(["onnxruntime", "litert"]), multiple=True, help="Only this one."
)
@click.option(
    "--suite", "suite_file", type=FILE, help="What to compare of what PATH holds, and how: see benchmarks/*.yaml."
)
@click.option(
    "--runs", type=click.IntRange(1), help="Timed inferences a row.  [default: 1024, or 10 seconds if sooner]"
)
@click.option(
    "--rounds", type=click.IntRange(1), help="Times that the table is gone through.  [default: 4; 1 with --quick]"
)
@click.option("--quick", is_flag=True, help="200 timed inferences or 2 seconds; marked as such in the results.")
@click.option(
    "--packed/--no-packed", default=True, show_default=True, help="Pack weights for this processor once, and map them."
)
@click.option(
    "--timeout", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds a row's process may take."
)
@click.option(
    "--target",
    "target_text",
    metavar="ssh://[USER@]HOST[:PORT]|adb[:SERIAL]|emulated:BOARD[:MEMORY]",
    help="Measure on that machine or phone, or count as that board would: see docs/targets.md.",
)
@click.option("--target-file", "fleet_file", type=FILE, help="Measure on all machines that this file names, at once.")
@click.option("--offline", is_flag=True, help="With --target: it has no network, so get packages here and copy them.")
@click.option(
    "--benchmark-model",
    type=FILE,
    help="With --target adb: LiteRT's benchmark_model for Android.  [default: on the PATH]",
)
@click.option(
    "--cores", metavar="big|0,1,…", help="With --target adb: measure on these cores alone.  [default: Android chooses]"
)
@click.option("--fresh", is_flag=True, help="Start over where --out holds a bench of the same files.")
@click.option("--overwrite", is_flag=True, help="Replace whatever --out holds.")
@click.option("--out", type=FILE, default=Path("results.json"), show_default=True, help="The results file.")
@click.option("--markdown", type=FILE, help="Write the table as Markdown too.")
@click.option("--html", type=FILE, help="Write the page too.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON instead of the table.")
def command(
    paths: tuple[Path, ...],
    data: Path | None,
    threads: tuple[int, ...],
    batches: tuple[int, ...],
    runtimes: tuple[str, ...],
    suite_file: Path | None,
    runs: int | None,
    rounds: int | None,
    quick: bool,
    packed: bool,
    timeout: float,
    target_text: str | None,
    fleet_file: Path | None,
    offline: bool,
    benchmark_model: Path | None,
    cores: str | None,
    fresh: bool,
    overwrite: bool,
    out: Path,
    markdown: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Measure exported files side by side, each in a process of its own.

    PATH is a folder that `edge-af export` wrote, or an .onnx or .tflite file in one. A file that cannot be run here (no
    runtime, too little memory, a crash, no end) becomes a row that says why, and the others go on. Interrupted, the finished
    rows are kept, and the same command goes on from there.
    """
    from edge_af.bench.run import QUICK, STANDARD
    from edge_af.bench.subject import subjects_of
    from edge_af.bench.suite import read_suite
    from edge_af.data.dataset import open_dataset
    from edge_af.files import check_writable
    from edge_af.records.results import OK, dump_results, write_results
    from edge_af.report import write_reports
    from edge_af.report.text import table
    from edge_af.targets import AdbTarget, Board, SshTarget, parse_target

    if quick and runs is not None:
        raise click.UsageError("--quick and --runs exclude each other.")
    if suite_file is not None and (runtimes or threads or batches):
        raise click.UsageError("--suite says which runtimes, threads and batches: leave the options out.")
    if target_text is not None and fleet_file is not None:
        raise click.UsageError("--target and --target-file exclude each other.")
    target = parse_target(target_text) if target_text is not None else None
    for_phones = _phone_options(benchmark_model, cores)
    if for_phones and fleet_file is None and not isinstance(target, AdbTarget):
        raise click.UsageError(f"{for_phones[0]} is about a --target adb.")
    if offline and not isinstance(target, SshTarget):
        raise click.UsageError("--offline is about a --target ssh://; a --target-file says it of each.")
    method = dataclasses.replace(QUICK if quick else STANDARD, timeout_seconds=timeout, packed=packed)
    suite = read_suite(suite_file) if suite_file is not None else None
    if suite is not None and not quick:
        method = suite.method_from(method)
    if runs is not None:
        method = dataclasses.replace(method, inferences=runs, seconds=None)
    if rounds is not None:
        method = dataclasses.replace(method, rounds=rounds)
    method = dataclasses.replace(method, rounds=min(method.rounds, method.inferences))
    for path in filter(None, (out, markdown, html)):
        check_writable(path)
    subjects = subjects_of(list(paths), runtimes)
    dataset = open_dataset(data) if data is not None else None
    arguments = _options(threads, batches, runs, rounds, quick, packed, timeout)
    if fleet_file is not None:
        named = [("--data", data), ("--suite", suite_file), *(("--runtime", one) for one in runtimes)]
        arguments += [text for name, value in named if value is not None for text in (name, str(value))]
        arguments += [name for name, given in (("--fresh", fresh), ("--overwrite", overwrite)) if given]
        _bench_fleet(fleet_file, [*arguments, "--", *map(str, paths)], for_phones, out, markdown, html, as_json)
        return
    click.get_current_context().with_resource(lock_output(out))
    earlier = _interrupted(out, subjects, fresh, overwrite)
    how: dict[str, Any] = {
        "threads": suite.threads if suite is not None else threads or (1,),
        "batches": suite.batch if suite is not None else batches or (1,),
        "method": method,
        "quick": quick,
    }
    if isinstance(target, Board):
        if runs is not None or rounds is not None:
            say("nothing is timed on a board that is not there: --runs and --rounds are passed over.")
        results = _bench_emulated(
            target, subjects, dataset, threads, batches, timeout, quick, suite, suite_file, fresh, out
        )
    elif isinstance(target, AdbTarget):
        from edge_af.targets.android import bench_on_phone

        results = _bench_kept(
            partial(
                bench_on_phone, target, subjects, dataset,
                benchmark_model=benchmark_model, cores=cores, suite=suite, suite_file=suite_file, **how,
            ),
            earlier, overwrite, out,
        )  # fmt: skip
    elif target is not None:
        from edge_af.targets.bench import Interrupted, bench_on_target

        try:
            results = bench_on_target(
                target, subjects, dataset, arguments,
                suite=suite, suite_file=suite_file, fresh=fresh, offline=offline,
            )  # fmt: skip
            write_results(out, results)
        except Interrupted as interruption:
            if interruption.results is not None:
                write_results(out, interruption.results)
            _say_what_is_kept(interruption.results, out)
            raise
    else:
        from edge_af.bench.run import bench

        if suite is not None and suite_file is not None:
            subjects = suite.choose(subjects, suite_file)
        if dataset is None:
            say("no --data: no accuracy, and latency is measured on random values.")
        name = suite.name if suite is not None else None
        results = _bench_kept(partial(bench, subjects, dataset, suite=name, **how), earlier, overwrite, out)
    if as_json:  # The table has them below it.
        for text in results.warnings:
            warn(text)
    tell(dump_results(results) if as_json else table([results]), nl=not as_json)
    say(f"results: {out}")
    write_reports([results], markdown=markdown, html=html)
    if not any(row.status == OK for row in results.rows):
        raise EdgeAfError(f"nothing could be measured; the reasons stand in the table and in {out}.")


def _bench_kept(measure: Callable[..., Results], earlier: Results | None, overwrite: bool, out: Path) -> Results:
    """Bench from this machine, going on with the interrupted bench `earlier` and the folder beside `out`.

    `measure` takes `earlier`, `scratch` and `save` as `edge_af.bench.run.bench` does.
    """
    from edge_af.bench.run import OtherBench
    from edge_af.records.results import write_results

    scratch = out.parent / f".{out.name}.bench"
    if earlier is None:
        shutil.rmtree(scratch, ignore_errors=True)
    kept: Results | None = None

    def save(results: Results) -> None:
        nonlocal kept
        write_results(out, results)
        kept = results

    try:
        return measure(earlier=earlier, scratch=scratch, save=save)
    except OtherBench as error:
        if not overwrite:
            raise EdgeAfError(f"{out}: {error}") from None
        return _bench_kept(measure, None, overwrite, out)
    except KeyboardInterrupt:
        _say_what_is_kept(kept, out)
        raise


def _bench_emulated(
    board: Board,
    subjects: list[Subject],
    dataset: Dataset | None,
    threads: tuple[int, ...],
    batches: tuple[int, ...],
    timeout: float,
    quick: bool,
    suite: Suite | None,
    suite_file: Path | None,
    fresh: bool,
    out: Path,
) -> Results:
    """Score and count as a board would that is not there."""
    from edge_af.emulation.bench import bench_emulated
    from edge_af.records.results import write_results

    if set(threads) - {1} or set(batches) - {1}:
        raise click.UsageError(
            "--target emulated:… counts one video on one thread: counts of several cannot be repeated."
        )
    if suite is not None and suite_file is not None:
        subjects = suite.choose(subjects, suite_file, machine="aarch64")
    results = bench_emulated(
        board,
        subjects,
        dataset,
        timeout_seconds=timeout,
        quick=quick,
        suite=suite.name if suite is not None else None,
        fresh=fresh,
        out=out,
    )
    write_results(out, results)
    return results


def _bench_fleet(
    fleet_file: Path,
    arguments: list[str],
    for_phones: list[str],
    out: Path,
    markdown: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Bench every machine of a fleet, and put what was measured into one table; those that failed stand below it."""
    from edge_af.report import write_reports
    from edge_af.report.text import table
    from edge_af.targets.fleet import bench_fleet, read_fleet

    members = read_fleet(fleet_file)
    outcomes = bench_fleet(members, arguments, out, for_phones=for_phones)
    measured = [outcome.results for outcome in outcomes if outcome.results is not None]
    failed = [outcome for outcome in outcomes if outcome.results is None]
    if as_json:
        value = [
            {
                "target": outcome.member.target.label,
                "results": outcome.results.as_dict() if outcome.results is not None else None,
                "reason": outcome.reason,
            }
            for outcome in outcomes
        ]
        tell(json.dumps({"targets": value}, indent=2, ensure_ascii=False))
    else:
        if measured:
            tell(table(measured))
        for outcome in failed:
            tell(f"{outcome.member.target.label}: not measured: {outcome.reason}")
    for outcome in outcomes:
        if outcome.results is not None:
            say(f"results: {outcome.member.out(out)}")
    if measured:
        write_reports(measured, markdown=markdown, html=html)
    if failed:
        raise EdgeAfError(f"{len(failed)} of {len(outcomes)} targets gave no results.")


def _say_what_is_kept(results: Results | None, out: Path) -> None:
    say(
        f"interrupted: {len(results.rows)} finished rows are kept in {out}. The same command goes on from there."
        if results is not None and results.rows
        else "interrupted before the first row."
    )


def _options(
    threads: tuple[int, ...],
    batches: tuple[int, ...],
    runs: int | None,
    rounds: int | None,
    quick: bool,
    packed: bool,
    timeout: float,
) -> list[str]:
    """The options that say how to measure, as the command line of a bench elsewhere."""
    named = [("--threads", value) for value in threads] + [("--batch", value) for value in batches]
    named += [(name, value) for name, value in (("--runs", runs), ("--rounds", rounds)) if value is not None]
    found = [text for name, value in named for text in (name, str(value))]
    found += ["--quick"] if quick else []
    return [*found, "--packed" if packed else "--no-packed", "--timeout", str(timeout)]


def _phone_options(benchmark_model: Path | None, cores: str | None) -> list[str]:
    """The options that only a phone takes, as a command line."""
    named = (("--benchmark-model", benchmark_model), ("--cores", cores))
    return [text for name, value in named if value is not None for text in (name, str(value))]


def _interrupted(out: Path, subjects: list[Subject], fresh: bool, overwrite: bool) -> Results | None:
    """The interrupted bench that `out` holds, to be gone on with; None if there is nothing, or it may be replaced.

    Raises:
        EdgeAfError: it holds something else, and `overwrite` is not set.
    """
    from edge_af.records.results import OK, read_results

    if not out.is_file() or out.stat().st_size == 0:
        return None
    try:
        found = read_results(out)
    except EdgeAfError:
        if overwrite:
            return None
        raise EdgeAfError(
            f"{out}: holds something else than results that can be read. Choose another --out, or pass --overwrite."
        ) from None
    if not any(row.status == OK for row in found.rows):
        return None
    same = not {subject.sha256 for subject in subjects}.isdisjoint(row.sha256 for row in found.rows)
    if same and not found.is_complete:
        return None if fresh else found
    if overwrite or (same and fresh):
        return None
    what = f"the {'finished' if found.is_complete else 'interrupted'} bench of {found.created}, {len(found.rows)} rows"
    if not same:
        what += " of other files"
    how = "--fresh to start over" if same else "--overwrite to replace it"
    raise EdgeAfError(f"{out}: holds {what}. Choose another --out, or pass {how}.")
