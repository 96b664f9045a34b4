"""Make the table of recipes: every recipe in both formats, for each trained network given.

    python -m benchmarks.recipes RUN… --calibration-data DIR --data DIR --out benchmarks/results/recipes

exports each run with every recipe, scores all evaluation videos with each file, times each file against FP32 in the same
runtime, and writes `recipes.json` and `recipes.md`. The two files are timed in turns within one process, a few inferences
at a time, and the order is swapped after each round, so that other load on the machine affects both alike.

An interrupted run continues when started again: a file already recorded with the same bytes is not measured again.
"""

from __future__ import annotations

import gc
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edge_af.artifacts import MANIFEST, ArtifactFile, Manifest, read_manifest
from edge_af.console import say
from edge_af.data.dataset import Dataset, open_dataset
from edge_af.files import read_json, write_atomic, write_json
from edge_af.machine.device import this_device
from edge_af.runtime import RUNTIME_OF_SUFFIX, Scorer, load, score_all
from edge_af.runtime.accuracy import accuracy

SCHEMA_VERSION = 2
TURN = 10
"""Timed inferences per turn."""
WARM_UP = 3
"""Untimed inferences at the start of a turn, when the caches still hold the other network's weights."""
VIDEOS = 64
"""Number of different videos used for timing."""
COMPARED = 1000
"""Number of videos whose scores are compared with PyTorch's."""


@dataclass(frozen=True)
class Row:
    """Measurements of one file."""

    model: str
    preset: str
    params: int
    runtime: str
    precision: str
    recipe: str | None
    file: str
    sha256: str
    size_bytes: int
    size_share: float
    """Size relative to FP32 in the same format."""
    gap_at_20: float
    gap_at_20_change: float
    """Difference to FP32 in the same format."""
    f1_micro: float
    max_difference: float
    """Largest difference of a score from the run's in PyTorch, over the first `COMPARED` videos."""
    integer_share: float | None
    latency_ms_p50: float
    fp32_latency_ms_p50: float
    """Latency of FP32, measured in turns with this file."""
    speedup: float
    """FP32's time divided by this file's: the median over pairs of neighboring turns."""


@dataclass(frozen=True)
class Setting:
    """Settings for measuring every file."""

    dataset: Dataset
    threads: int
    rounds: int
    known: dict[str, Row]
    """Rows recorded earlier, by the file's SHA-256."""
    save: Callable[[Row], None]
    """Called with each new row."""


def measure(run: Path, folder: Path, setting: Setting) -> None:
    """Measure every file exported from a run."""
    manifest = read_manifest(folder)
    todo = [file for file in manifest.files if file.sha256 not in setting.known]
    expected = _compared(load(run, threads=2), setting.dataset) if todo else None
    gc.collect()
    for suffix in RUNTIME_OF_SUFFIX:
        files = [file for file in manifest.files if Path(file.path).suffix == suffix]
        (reference,) = (file for file in files if file.recipe is None)
        reference_gap = None
        for file in (reference, *(file for file in files if file is not reference)):
            row = setting.known.get(file.sha256)
            if row is None:
                assert expected is not None
                row = _row(manifest, folder, file, reference, reference_gap, expected, setting)
                setting.save(row)
            reference_gap = row.gap_at_20 if file is reference else reference_gap


def _compared(scorer: Scorer, dataset: Dataset) -> NDArray[np.float32]:
    rows = slice(COMPARED)
    return score_all(scorer, dataset.stored.take(rows))


def _row(
    manifest: Manifest,
    folder: Path,
    file: ArtifactFile,
    reference: ArtifactFile,
    reference_gap: float | None,
    expected: NDArray[np.float32],
    setting: Setting,
) -> Row:
    dataset = setting.dataset
    scorer = load(folder / file.path, threads=setting.threads)
    found = accuracy(scorer, folder / file.path, dataset, manifest.f1_threshold).as_dict()
    gap = float(found["gap_at_20"])
    difference = float(np.abs(_compared(scorer, dataset) - expected).max())
    # FP32 is timed against a second load of itself, which shows the noise.
    other = load(folder / reference.path, threads=setting.threads)
    own, fp32, speedup = in_turns(scorer, other, dataset, setting.rounds)
    del scorer, other
    gc.collect()
    say(f"{file.path}: GAP {gap:.4f}, {own:.3f} ms, {speedup:.1f} times as fast as FP32, off by {difference:.1e}")
    return Row(
        model=manifest.model,
        preset=manifest.preset,
        params=manifest.params,
        runtime=RUNTIME_OF_SUFFIX[Path(file.path).suffix],
        precision=file.precision,
        recipe=file.recipe,
        file=file.path,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        size_share=file.size_bytes / reference.size_bytes,
        gap_at_20=gap,
        gap_at_20_change=gap - (reference_gap if reference_gap is not None else gap),
        f1_micro=float(found["f1_micro"]),
        max_difference=difference,
        integer_share=file.integer_share,
        latency_ms_p50=own,
        fp32_latency_ms_p50=fp32,
        speedup=speedup,
    )


def in_turns(one: Scorer, two: Scorer, dataset: Dataset, rounds: int) -> tuple[float, float, float]:
    """Time two networks in turns: the median milliseconds of an inference of each, and how many times as fast `one` is.

    The last is the median of the ratios within each round. A slow period of the machine affects both turns of a round and
    cancels out.
    """
    features = dataset.features(slice(VIDEOS))
    videos = [features.take([at]) for at in range(features.videos)]
    taken = np.empty((rounds, 2, WARM_UP + TURN), np.int64)
    gc.disable()
    try:
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                score = (one, two)[which].score
                for at in range(WARM_UP + TURN):
                    video = videos[(turn * TURN + at) % len(videos)]
                    started = time.perf_counter_ns()
                    score(video)
                    taken[turn, which, at] = time.perf_counter_ns() - started
    finally:
        gc.enable()
    counted = taken[:, :, WARM_UP:]
    first, second = (float(value) / 1e6 for value in np.median(counted, axis=(0, 2)))
    turns = np.median(counted, axis=2)
    return first, second, float(np.median(turns[:, 1] / turns[:, 0]))


def markdown(rows: list[Row], note: str) -> str:
    """Return one table per network."""
    lines = ["# Recipes", "", note]
    head = "| runtime | recipe | bytes | of FP32 | GAP@20 | change | F1 | p50, ms | FP32's | times as fast | integer share "
    head += "| largest score difference |"
    for model, preset in dict.fromkeys((row.model, row.preset) for row in rows):
        own = [row for row in rows if (row.model, row.preset) == (model, preset)]
        lines += ["", f"## {model}, {preset}, {own[0].params:,} parameters", "", head]
        lines.append("|---|---|" + "---:|" * 10)
        for row in own:
            share = "" if row.integer_share is None else f"{row.integer_share:.1%}"
            lines.append(
                f"| {row.runtime} | {row.recipe or 'FP32'} | {row.size_bytes:,} | {row.size_share:.1%} | {row.gap_at_20:.4f} "
                f"| {row.gap_at_20_change:+.4f} | {row.f1_micro:.4f} | {row.latency_ms_p50:.3f} "
                f"| {row.fp32_latency_ms_p50:.3f} | {row.speedup:.1f} | {share} | {row.max_difference:.1e} |"
            )
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--calibration-data", required=True, type=click.Path(path_type=Path), help="The runs' training data.")
@click.option("--any-calibration-data", is_flag=True, help="As for `edge-af export`.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Evaluation data.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Writes OUT.json and OUT.md.")
@click.option("--artifacts", required=True, type=click.Path(path_type=Path), help="Folder for the exports; it is kept.")
@click.option("--recipe", "recipes", multiple=True, help="Use only these recipes.  [default: all in calibration/]")
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
    """Export RUNS with every recipe and measure all files. Existing exports in --artifacts are reused."""
    from edge_af.export.recipes import known_recipes, load_recipe

    dataset = open_dataset(data)
    device = this_device()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, encoding="utf-8", errors="replace"
    ).stdout.strip()
    command = "python -m benchmarks.recipes " + shlex.join(sys.argv[1:])
    note = (
        f"Made by `{command}` at commit {commit} on {device.label}, {threads} thread{'s' if threads > 1 else ''}; "
        f"{dataset.videos:,} videos of {dataset.folder.resolve().name}. Each file is timed in turns with FP32 in the same "
        f"runtime. Score differences are relative to PyTorch, over {min(COMPARED, dataset.videos):,} videos."
    )
    about = {"schema_version": SCHEMA_VERSION, "command": command, "commit": commit, "device": asdict(device)}
    about |= {"threads": threads, "videos": dataset.videos}
    path = out.with_suffix(".json")
    rows = _earlier(path, about) if path.exists() else []

    def save(row: Row) -> None:
        rows.append(row)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(path, {**about, "created": created, "rows": [asdict(row) for row in rows]})
        write_atomic(out.with_suffix(".md"), markdown(rows, note))

    for run in runs:
        folder = artifacts / run.name
        if not (folder / MANIFEST).is_file():
            words = ["export", run, "--out", folder, "--calibration-data", calibration_data, "--sensitivity-videos", 0]
            words += ["--any-calibration-data"] if any_calibration_data else []
            for name in recipes or known_recipes():
                two_bits = any(form.weights == "int2" for form in load_recipe(name).forms)
                words += ["--recipe", f"onnx={name}" if two_bits else name]  # TFLite has no INT2.
            # A separate process frees its memory before the measurements start.
            subprocess.run([sys.executable, "-m", "edge_af", *map(str, words)], check=True)
        measure(run, folder, Setting(dataset, threads, rounds, {row.sha256: row for row in rows}, save))
    click.echo(json.dumps({"json": str(path), "markdown": str(out.with_suffix(".md"))}))


def _earlier(path: Path, about: dict[str, Any]) -> list[Row]:
    """Return the rows recorded earlier with the same options, commit and machine."""
    value = read_json(path, "file of results")
    if any(value.get(name) != about[name] for name in about):
        return []
    return [Row(**row) for row in value["rows"]]


if __name__ == "__main__":
    main()
