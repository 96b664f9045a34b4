"""`edge-af bench --target emulated:BOARD`: accuracy and instruction counts of exported files as on the board.

Scoring goes in parts of a minute, each in a process of its own whose scores are kept, and so are counts: what was
interrupted goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.bench.accuracy import Judge
from edge_af.bench.process import run_worker
from edge_af.bench.run import baseline_of, check_data, data_of
from edge_af.bench.subject import Subject, training_warnings
from edge_af.console import Progress
from edge_af.data.dataset import Dataset
from edge_af.emulation.boards import Board
from edge_af.emulation.counts import GUEST, build_plugin, count, guest_job
from edge_af.emulation.latency_model import modelled_latency
from edge_af.emulation.setup import System, find_system
from edge_af.errors import EdgeAfError
from edge_af.files import read_json, sha256_json, unchanged, write_json
from edge_af.machine.conditions import conditions
from edge_af.machine.device import Device, project_commit
from edge_af.metrics import evaluate
from edge_af.metrics.bootstrap import outcomes, save_outcomes
from edge_af.records.results import (
    OK,
    Instructions,
    Method,
    Results,
    Row,
    row_from_dict,
    write_results,
)  # fmt: skip
from edge_af.runtime.kernels import kernels
from edge_af.runtime.multiply_adds import multiply_adds
from edge_af.runtime.probe import weight_bytes

NO_LATENCY = (
    "Emulated: nothing was timed, and memory was not measured. Counts and scores are the board's; latency is modelled."
)


def bench_emulated(
    board: Board,
    subjects: Sequence[Subject],
    dataset: Dataset | None,
    *,
    timeout_seconds: float,
    quick: bool,
    suite: str | None,
    fresh: bool,
    out: Path,
) -> Results:
    """Count the instructions of one inference of each file, and score the evaluation set with it, as the board would.

    Args:
        board: to be emulated.
        subjects: exported files.
        dataset: the evaluation set; without it there is no accuracy.
        timeout_seconds: of a process.
        quick: recorded in the results.
        suite: likewise.
        fresh: start over, and do not go on with what was interrupted.
        out: the results file, written after each file; the folder beside it keeps parts until all is done.

    Raises:
        EdgeAfError: emulation is not set up, the plugin cannot be built, or the data does not fit the files.
    """
    check_data(subjects, dataset)
    system = find_system()
    build_plugin()  # Before anything is scored.
    scratch = out.parent / f".{out.name}.emulated"
    if fresh:
        shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    state = conditions()
    results = Results(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device_of(board, system),
        quick=quick,
        inputs="random" if dataset is None else "videos",
        data=data_of(dataset),
        baseline=baseline_of(subjects),
        method=Method(inferences=1, seconds=None, warm_up=2, batch=1, timeout_seconds=timeout_seconds),
        rows_planned=len(subjects),
        rows=[],
        commit=project_commit(),
        suite=suite,
        conditions={"before": state, "after": state},
        warnings=[NO_LATENCY, *training_warnings(subjects, dataset)],
    )
    judge = Judge(dataset, scratch)
    with Progress("bench", len(subjects), "files") as progress:
        for subject in subjects:

            def on_stage(stage: str, title: str = subject.title) -> None:
                progress.update(0, f"{title}: {stage}")

            row = _row(subject, board, system, dataset, timeout_seconds, scratch, judge, on_stage)
            results = dataclasses.replace(results, rows=[*results.rows, row])
            write_results(out, results)
            progress.update(1, "")
    results = dataclasses.replace(
        results,
        rows=judge.judged(results.rows),
        gallery=judge.gallery(results.rows),
        conditions={"before": state, "after": conditions()},
    )
    shutil.rmtree(scratch, ignore_errors=True)
    return results


def device_of(board: Board, system: System) -> Device:
    """The board, as its results describe it."""
    return Device(
        machine="aarch64",
        cpu=f"{board.profile.name}, emulated",
        cores=board.profile.cores,
        memory_bytes=board.memory_bytes,
        kernel=f"qemu-user {system.qemu}",
        python=system.python,
        governor=None,
        versions=system.versions,
        features=board.profile.features,
        last_level_cache_bytes=board.profile.last_level_cache_bytes,
        emulator=f"qemu-user {system.qemu} as {board.cpu}",
    )


def _row(
    subject: Subject,
    board: Board,
    system: System,
    dataset: Dataset | None,
    timeout_seconds: float,
    scratch: Path,
    judge: Judge,
    on_stage: Callable[[str], None],
) -> Row:
    key = f"{subject.artifact}/{subject.path.name}"
    # What is kept is of these bytes, this board, these packages and this plugin.
    identity = [
        key,
        subject.sha256,
        board.label,
        board.cpu,
        system.folder.name,
        build_plugin().stem,
    ]
    place = scratch / sha256_json(identity)[:16]
    place.mkdir(exist_ok=True)
    kept = place / "counts.json"
    if kept.is_file():
        found = read_json(kept, "counts")
    else:
        with unchanged(subject.path, subject.sha256):
            found = count(guest_job(subject.path, subject.runtime, timeout_seconds), board, system, on_stage)
        write_json(kept, found)
    if found["status"] == OK and dataset is not None:
        scored = _scores(subject, board, system, dataset, timeout_seconds, place, on_stage)
        if isinstance(scored, dict):
            found = {**found, **scored}
        else:
            labels = dataset.labels(slice(None))
            save_outcomes(
                judge.path(subject.sha256, subject.f1_threshold), outcomes(scored, labels, subject.f1_threshold)
            )
            found = {**found, **evaluate(scored, labels, subject.f1_threshold).as_dict()}
    counted = found.get("instructions")
    modelled = modelled_latency(Instructions(**counted), board.profile) if counted else None
    return row_from_dict(
        {
            "artifact": subject.artifact,
            "file": subject.path.name,
            "model": subject.model,
            "preset": subject.preset,
            "runtime": subject.runtime,
            "precision": subject.precision,
            "recipe": subject.recipe,
            "cpu": subject.cpu,
            "threads": 1,
            "params": subject.params,
            "classes": subject.classes,
            "size_bytes": subject.path.stat().st_size,
            "sha256": subject.sha256,
            "integer_share": subject.integer_share,
            "kernels": kernels(
                subject.runtime,
                subject.precision,
                integer=bool(subject.integer_share),
                features=board.profile.features,
            ),
            "weight_bytes": weight_bytes(subject.path),
            "multiply_adds": multiply_adds(subject.path, timeout_seconds),
            **found,
            "modelled_latency_ms": dataclasses.asdict(modelled) if modelled else None,
        }
    )


def _scores(
    subject: Subject,
    board: Board,
    system: System,
    dataset: Dataset,
    timeout_seconds: float,
    place: Path,
    on_stage: Callable[[str], None],
) -> NDArray[np.float32] | dict[str, Any]:
    """Scores (videos, classes), part by part; or `status` and `reason` of a part that ended otherwise."""
    folder = place / dataset.fingerprint()[:16]
    folder.mkdir(exist_ok=True)
    command = system.command(board, GUEST)
    parts: list[NDArray[np.float32]] = []
    while (done := sum(map(len, parts))) < dataset.videos:
        path = folder / f"{done}.npy"
        if not path.is_file():
            on_stage(f"scoring videos, {done} of {dataset.videos} so far")
            job = guest_job(
                subject.path, subject.runtime, timeout_seconds,
                data=str(dataset.folder.resolve()), start=done, scores=str(path.resolve()),
            )  # fmt: skip
            try:
                with unchanged(subject.path, subject.sha256):
                    ended = run_worker(job, command=command)
            except EdgeAfError:
                path.unlink(missing_ok=True)
                raise
            if ended["status"] != OK:
                return ended
        parts.append(np.load(path))
    return np.concatenate(parts)
