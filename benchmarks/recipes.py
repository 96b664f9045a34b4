"""The table of recipes: every recipe in both formats, for each of some trained networks.

    python -m benchmarks.recipes RUN… --calibration-data DIR --data DIR --out benchmarks/results/recipes

exports each run by every recipe, scores all evaluation videos with each file, times each file against FP32 in the same
runtime, and writes `recipes.json` and `recipes.md`. The two are timed in turns within one process, a few inferences at a
time, and whoever went first goes second in the next round: what else the machine does meets both alike.
"""

from __future__ import annotations

import gc
import json
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np

from edge_af.artifacts import MANIFEST, ArtifactFile, Manifest, read_manifest
from edge_af.bench.device import this_device
from edge_af.console import say
from edge_af.data.dataset import Dataset, open_dataset
from edge_af.files import write_atomic, write_json
from edge_af.runtime import RUNTIME_OF_SUFFIX, Scorer, load
from edge_af.runtime.accuracy import accuracy

TURN = 10
"""Timed inferences before it is the other one's turn."""
WARM_UP = 3
"""Inferences at the start of a turn that do not count: they find the other network's weights in the caches."""
VIDEOS = 64
"""Different videos that are timed."""


@dataclass(frozen=True)
class Row:
    """One file."""

    model: str
    preset: str
    params: int
    runtime: str
    precision: str
    recipe: str | None
    file: str
    size_bytes: int
    size_share: float
    """Of FP32's bytes in the same format."""
    gap_at_20: float
    gap_at_20_change: float
    """From FP32 in the same format."""
    f1_micro: float
    integer_share: float | None
    latency_ms_p50: float
    fp32_latency_ms_p50: float
    """Of FP32, measured in turns with this file."""
    speedup: float
    """Median, over pairs of neighbouring turns, of FP32's time by this file's."""


def rows_of(folder: Path, dataset: Dataset, threads: int, rounds: int) -> list[Row]:
    """Measure every file of an export's folder."""
    manifest = read_manifest(folder)
    rows = []
    for suffix in RUNTIME_OF_SUFFIX:
        files = [file for file in manifest.files if Path(file.path).suffix == suffix]
        (reference,) = (file for file in files if file.recipe is None)
        reference_gap = None
        for file in (reference, *(file for file in files if file is not reference)):
            scorer = load(folder / file.path, threads=threads)
            found = accuracy(scorer, folder / file.path, dataset, manifest.f1_threshold).as_dict()
            gap = float(found["gap_at_20"])
            reference_gap = gap if reference_gap is None else reference_gap
            # Where the file is FP32 itself, it is timed against a second one, which shows how far noise goes.
            other = load(folder / reference.path, threads=threads)
            own, fp32, speedup = in_turns(scorer, other, dataset, rounds)
            del scorer, other
            gc.collect()
            rows.append(
                _row(manifest, file, reference, gap, gap - reference_gap, float(found["f1_micro"]), own, fp32, speedup)
            )
            say(f"{file.path}: GAP {gap:.4f}, {own:.3f} ms, {speedup:.1f} times as fast as FP32")
    return rows


def _row(
    manifest: Manifest,
    file: ArtifactFile,
    reference: ArtifactFile,
    gap: float,
    change: float,
    f1: float,
    own: float,
    fp32: float,
    speedup: float,
) -> Row:
    return Row(
        model=manifest.model,
        preset=manifest.preset,
        params=manifest.params,
        runtime=RUNTIME_OF_SUFFIX[Path(file.path).suffix],
        precision=file.precision,
        recipe=file.recipe,
        file=file.path,
        size_bytes=file.size_bytes,
        size_share=file.size_bytes / reference.size_bytes,
        gap_at_20=gap,
        gap_at_20_change=change,
        f1_micro=f1,
        integer_share=file.integer_share,
        latency_ms_p50=own,
        fp32_latency_ms_p50=fp32,
        speedup=speedup,
    )


def in_turns(one: Scorer, two: Scorer, dataset: Dataset, rounds: int) -> tuple[float, float, float]:
    """Median milliseconds of single inferences of two networks that take turns, and how many times as fast `one` is.

    The last is the median over the rounds of the two turns' ratio, so that a slow spell of the machine's, which meets both
    turns of a round, does not count.
    """
    visual, audio = dataset.features(slice(VIDEOS))
    videos = [(visual[at : at + 1].copy(), audio[at : at + 1].copy()) for at in range(len(visual))]
    taken = np.empty((rounds, 2, WARM_UP + TURN), np.int64)
    gc.disable()
    try:
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                score = (one, two)[which].score
                for at in range(WARM_UP + TURN):
                    video = videos[(turn * TURN + at) % len(videos)]
                    started = time.perf_counter_ns()
                    score(*video)
                    taken[turn, which, at] = time.perf_counter_ns() - started
    finally:
        gc.enable()
    counted = taken[:, :, WARM_UP:]
    first, second = (float(value) / 1e6 for value in np.median(counted, axis=(0, 2)))
    turns = np.median(counted, axis=2)
    return first, second, float(np.median(turns[:, 1] / turns[:, 0]))


def markdown(rows: list[Row], note: str) -> str:
    """The table, a part for each network."""
    lines = ["# Recipes", "", note]
    head = "| runtime | recipe | bytes | of FP32 | GAP@20 | change | F1 | p50, ms | FP32's | times as fast | integer share |"
    for model, preset in dict.fromkeys((row.model, row.preset) for row in rows):
        own = [row for row in rows if (row.model, row.preset) == (model, preset)]
        lines += ["", f"## {model}, {preset}, {own[0].params:,} parameters", "", head]
        lines.append("|---|---|" + "---:|" * 9)
        for row in own:
            share = "" if row.integer_share is None else f"{row.integer_share:.1%}"
            lines.append(
                f"| {row.runtime} | {row.recipe or 'FP32'} | {row.size_bytes:,} | {row.size_share:.1%} | {row.gap_at_20:.4f} "
                f"| {row.gap_at_20_change:+.4f} | {row.f1_micro:.4f} | {row.latency_ms_p50:.3f} "
                f"| {row.fp32_latency_ms_p50:.3f} | {row.speedup:.1f} | {share} |"
            )
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--calibration-data", required=True, type=click.Path(path_type=Path), help="The runs' training data.")
@click.option("--any-calibration-data", is_flag=True, help="As for `edge-af export`.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Evaluation data.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Written with .json and with .md behind it."
)
@click.option("--artifacts", required=True, type=click.Path(path_type=Path), help="Folder for the exports, kept.")
@click.option("--recipe", "recipes", multiple=True, help="Only these.  [default: all in calibration/]")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--rounds", default=20, show_default=True, type=click.IntRange(min=1), help=f"Turns of {TURN} inferences."
)
def main(
    runs: tuple[Path, ...],
    calibration_data: Path,
    any_calibration_data: bool,
    data: Path,
    out: Path,
    artifacts: Path,
    recipes: tuple[str, ...],
    threads: int,
    rounds: int,
) -> None:
    """Export RUNS by every recipe and measure all files. Exports that the folder --artifacts holds are taken as they are."""
    from edge_af.export.recipes import known_recipes

    dataset = open_dataset(data)
    rows: list[Row] = []
    for run in runs:
        folder = artifacts / run.name
        if not (folder / MANIFEST).is_file():
            words = ["export", run, "--out", folder, "--calibration-data", calibration_data]
            words += ["--any-calibration-data"] if any_calibration_data else []
            words += [word for name in recipes or known_recipes() for word in ("--recipe", name)]
            # In a process of its own, so that its memory is free again before anything is measured.
            subprocess.run([sys.executable, "-m", "edge_af", *map(str, words)], check=True)
        rows += rows_of(folder, dataset, threads, rounds)
    device = this_device()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    command = "python -m benchmarks.recipes " + shlex.join(sys.argv[1:])
    note = (
        f"Made by `{command}` at commit {commit} on {device.label}, {threads} thread{'s' if threads > 1 else ''}; "
        f"{dataset.videos:,} videos of {dataset.folder.resolve().name}. "
        "Each file is timed in turns with FP32 in the same runtime."
    )
    created = datetime.now(UTC).isoformat(timespec="seconds")
    value = {
        "schema_version": 1,
        "created": created,
        "command": command,
        "commit": commit,
        "device": asdict(device),
        "threads": threads,
        "videos": dataset.videos,
        "rows": [asdict(row) for row in rows],
    }
    write_json(out.with_suffix(".json"), value)
    write_atomic(out.with_suffix(".md"), markdown(rows, note))
    click.echo(json.dumps({"json": str(out.with_suffix(".json")), "markdown": str(out.with_suffix(".md"))}))


if __name__ == "__main__":
    main()
