"""`edge-af demo`: run the main path on the small presets, and show each command."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import click

from edge_af.cli import EXTRA_OF, cli, ended_by
from edge_af.cli.build import verb
from edge_af.cli.next_step import WITHOUT
from edge_af.console import say, styled
from edge_af.data.dataset import is_dataset
from edge_af.errors import EdgeAfError, GateFailed, Stopped
from edge_af.files import read_json, write_atomic
from edge_af.models.presets import PRESETS
from edge_af.options import option
from edge_af.packages import install_command, is_installed

PRESET = "small"
MARK = "DEMO"
"""Marker file of a demo folder."""


@dataclass(frozen=True)
class DemoSize:
    """Size of the demo."""

    videos_train: int
    """Synthetic training videos."""
    videos_eval: int
    """Synthetic evaluation videos."""
    epochs: int
    calibration_videos: int


FULL = DemoSize(videos_train=12_000, videos_eval=2_000, epochs=6, calibration_videos=512)
QUICK = DemoSize(videos_train=3_000, videos_eval=500, epochs=2, calibration_videos=128)


@dataclass(frozen=True)
class DemoOptions:
    """The options of `edge-af demo`."""

    data: Path | None = option(
        "Folder with train/ and eval/, TFRecords or prepared.", default=None, shown_default="synthetic data"
    )
    out: Path = option("Output folder.", default=Path("demo-out"))
    epochs: int | None = option(
        "Passes over the training videos.", default=None, at_least=1, shown_default=str(FULL.epochs)
    )
    threads: int = option("Threads of each runtime in the bench.", default=1, at_least=1)
    seed: int = option("Random seed.", default=0, at_least=0)
    quick: bool = option("Run with little data, to show that everything works. Not for publication.", default=False)


@verb(DemoOptions, example="edge-af demo --quick --out demo-quick")
def command(options: DemoOptions) -> None:
    """Prepare data, train both networks, export them to FP32 and INT8 in both formats, and bench them.

    Print a table, and write a Markdown file and a page. A second run reuses the prepared data and repeats the rest.
    """
    started = time.monotonic()
    size, source, out = QUICK if options.quick else FULL, options.data, options.out
    if options.epochs is not None:
        size = dataclasses.replace(size, epochs=options.epochs)
    if source is not None and (missing := [part for part in ("train", "eval") if not (source / part).is_dir()]):
        raise EdgeAfError(f"{source}: the demo needs the folders train/ and eval/ in it; there is no {missing[0]}/.")
    _check_packages(prepares=source is None or not all(is_dataset(source / part) for part in ("train", "eval")))
    _claim(out)
    train, evaluation = _prepared(source, out, size, options.seed)
    artifacts = []
    for model in PRESETS:
        run, exported = out / "runs" / model, out / "artifacts" / model
        if run.exists():
            shutil.rmtree(run)
        _verb(
            *("train", "--model", model, "--preset", PRESET, "--data", train, "--out", run),
            *("--epochs", size.epochs, "--seed", options.seed),
        )
        _verb(
            *("export", run, "--out", exported, "--int8", "--calibration-data", train),
            *("--calibration-videos", size.calibration_videos, "--overwrite"),
        )
        artifacts.append(exported)
    table, page = out / "results.md", out / "results.html"
    _verb(
        *("bench", *artifacts, "--data", evaluation, "--threads", options.threads, "--out", out / "results.json"),
        "--overwrite",
        *("--markdown", table, "--html", page, *(["--quick"] if options.quick else [])),
    )
    rows = read_json(out / "results.json", "results file")["rows"]
    if bad := [f"{row['file']} ({row['status']})" for row in rows if row["status"] != "ok"]:
        raise GateFailed(f"the demo went through, but not every row could be measured: {', '.join(bad)}.")
    say(f"\nDone in {time.monotonic() - started:.0f} s.\n  table  {table}\n  page   {page}")


def _check_packages(*, prepares: bool) -> None:
    """Check the packages of all steps at the start; only preparing data needs TensorFlow.

    Raises:
        EdgeAfError: names those that are missing, and how to install them.
    """
    needed = {package: extra for package, extra in EXTRA_OF.items() if prepares or package != "tensorflow"}
    missing = {package: extra for package, extra in needed.items() if not is_installed(package)}
    if missing:
        commands = " && ".join(install_command(extra) for extra in dict.fromkeys(missing.values()))
        raise EdgeAfError(
            f"the demo needs packages that are not installed: {', '.join(missing)}.\nInstall them: {commands}"
        )


def _claim(out: Path) -> None:
    """Mark the folder as the demo's. Refuse another folder with contents, because the demo replaces files."""
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).exists():
        raise EdgeAfError(f"{out}: is not empty, and no demo made it. Choose another folder with --out.")
    write_atomic(out / MARK, "edge-af demo made this folder and replaces its runs and artifacts.\n")


def _prepared(source: Path | None, out: Path, size: DemoSize, seed: int) -> tuple[Path, Path]:
    """Return the prepared training and evaluation data of `source`, or of the synthetic dataset; prepare them if missing."""
    if source is None:
        source = out / "data" / f"made-up-{size.videos_train}-{size.videos_eval}-{seed}"
        if not source.exists():
            counts = ("--videos-train", size.videos_train, "--videos-eval", size.videos_eval)
            _verb("data", "synth", source, *counts, "--seed", seed)
    prepared = []
    for part in ("train", "eval"):
        if is_dataset(source / part):
            prepared.append(source / part)
            continue
        # One folder per source, so that sources do not replace each other.
        prepared.append(out / "prepared" / source.resolve().name / part)
        _verb("data", "prepare", source / part, "--out", prepared[-1])
    return prepared[0], prepared[1]


def _verb(*arguments: object) -> None:
    """Show a command and run it."""
    words = [str(argument) for argument in arguments]
    say(styled(f"\n$ edge-af {shlex.join(words)}", bold=True))
    try:
        cli.main(words, standalone_mode=False, obj=WITHOUT)
    except (Stopped, KeyboardInterrupt, click.Abort) as stopped:
        number = stopped.number if isinstance(stopped, Stopped) else (*ended_by, signal.SIGINT)[0]
        message = "the demo was stopped. Run it again: it keeps the prepared data and repeats the rest."
        raise Stopped(message, number) from None
