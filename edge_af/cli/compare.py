"""`edge-af compare`: compare the speed, size and accuracy of a candidate with its base."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_af.cli.build import paths, verb
from edge_af.compare.options import CompareOptions
from edge_af.console import duration, line_width, say, tell, warn

if TYPE_CHECKING:
    from edge_af.compare.dry_run import CompareDryRun


@verb(
    CompareOptions,
    words=click.Argument(
        ["words"], nargs=-1, required=True, metavar="BASE CANDIDATE | -- COMMAND…", shell_complete=paths
    ),
    example="edge-af compare released/attend-fusion artifacts/attend-fusion --data prepared/eval\n"
    "edge-af compare --base-ref HEAD~1 -- make export",
)
def command(words: tuple[str, ...], options: CompareOptions) -> None:
    """Measure CANDIDATE and BASE side by side, and fail if CANDIDATE is slower, larger or less accurate.

    BASE and CANDIDATE are two .onnx or .tflite files, or two export folders. With --base-ref, COMMAND makes both.

    Exit codes: 0 not worse; 1 slower, larger, less accurate or broken; 2 the base or the command line is at fault; 3
    inconclusive, for example on a busy runner.
    """
    from edge_af.compare.checkout import built
    from edge_af.compare.dry_run import dry_run
    from edge_af.compare.limits import read_budget_file
    from edge_af.compare.match import match
    from edge_af.compare.run import Settings, compare
    from edge_af.data.dataset import open_dataset
    from edge_af.errors import EdgeAfError
    from edge_af.files import check_writable, write_atomic
    from edge_af.git import commit_at
    from edge_af.records.comparison import dump, write
    from edge_af.records.history import append_history
    from edge_af.report.verdict import annotate, junit_xml, markdown_table, step_summary, table

    limits = read_budget_file(options.budget_file) if options.budget_file is not None else None
    if not options.dry_run:  # The check creates missing parent folders.
        for target in filter(None, (options.out, options.markdown, options.junit, options.history)):
            check_writable(target)
    if options.base_ref is None and len(words) != 2:
        raise EdgeAfError("name BASE and CANDIDATE, or --base-ref and a command after `--`.")
    dataset = open_dataset(options.data) if options.data is not None else None
    if dataset is None:
        say("no --data: accuracy is not compared, and the timed inputs are random.")
    stack = contextlib.ExitStack()
    click.get_current_context().call_on_close(stack.close)
    folders = Path(words[0]), Path(words[-1])
    settings = Settings(
        relative=options.relative(limits),
        budget_seconds=options.budget,
        threads=options.threads,
        seed=options.seed,
        timeout_seconds=options.timeout,
        budget_file=limits,
    )
    if options.dry_run and options.base_ref is not None:
        say(f"--base-ref {options.base_ref}: the pairs are known once the command has made both.")
        _show_plan(dry_run(None, dataset, settings), options)
        return
    if options.base_ref is not None:
        folders = stack.enter_context(built(options.base_ref, words))
    matched = match(*folders, options.runtime)
    if limits is not None and options.budget_file is not None:
        limits.check_use(
            [pair.candidate.path.name for pair in matched.pairs], options.data is not None, options.budget_file
        )
    if options.dry_run:
        _show_plan(dry_run(matched, dataset, settings), options)
        return
    found = compare(matched, dataset, settings)
    commit = options.commit
    if commit is None and options.history is not None:
        beside = folders[1] if folders[1].is_dir() else folders[1].parent
        commit = commit_at(Path.cwd() if options.base_ref is not None else beside, trusted=options.base_ref is not None)
    files: list[tuple[str, Path | None, Callable[[Path], None]]] = [
        ("comparison", options.out, lambda path: write(path, found)),
        ("table", options.markdown, lambda path: write_atomic(path, markdown_table(found))),
        ("JUnit", options.junit, lambda path: write_atomic(path, junit_xml(found))),
        ("history", options.history, lambda path: append_history(path, found, commit)),
    ]
    # Write files before printing, because the terminal's reader may be gone. A file that cannot be written must not
    # hide a failed gate.
    status = found.exit_code
    for name, path, write_to in files:
        if path is None:
            continue
        try:
            write_to(path)
            say(f"{name + ':':<11} {path}")
        except EdgeAfError as error:
            warn(str(error))
            status = status or error.exit_code
    step_summary(found)
    tell(dump(found) if options.json else table(found, line_width()), nl=False)
    annotate(found)
    click.get_current_context().exit(status)


def _show_plan(plan: CompareDryRun, options: CompareOptions) -> None:
    """Print the table or the JSON of a dry run."""
    from edge_af.report.tables import aligned

    if options.json:
        tell(json.dumps(dataclasses.asdict(plan), indent=2, ensure_ascii=False))
        return
    if plan.pairs is not None:
        rows = [["pair", "base", "candidate", "timed"]]
        for pair in plan.pairs:
            timed = "yes" if pair.is_timed else f"no: {pair.problem or 'the same bytes'}"
            rows.append([pair.name, pair.base, pair.candidate, timed])
        tell("\n".join([*aligned(rows, range(4), line_width()), ""]))
    for where, names in (("base", plan.only_base), ("candidate", plan.only_candidate)):
        if names:
            tell(f"not compared, only in the {where}: {', '.join(names)}")
    rows = [["gate", "limit"], *([name.replace("_", " "), f"{limit:g}"] for name, limit in plan.gates.items())]
    rows += [
        [f"{pattern}: {name.replace('_', ' ')}", f"{limit:g}" if isinstance(limit, int | float) else str(limit)]
        for pattern, limits in plan.limits.items()
        for name, limit in limits.items()
    ]
    tell("\n".join([*aligned(rows, (0,), line_width()), ""]))
    if plan.accuracy_videos:
        tell(f"accuracy: {plan.accuracy_videos:,} videos in all")
    tell(f"at most {duration(plan.seconds_at_most)}, plus loading and scoring")
    say("dry run: nothing was measured or written.")
