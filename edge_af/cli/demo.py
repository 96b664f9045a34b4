"""`edge-af demo`: the verbs in their order, on the small presets."""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import click

from edge_af.console import say
from edge_af.errors import EdgeAfError
from edge_af.models.presets import PRESETS, preset

PRESET = "small"


@dataclass(frozen=True)
class DemoSize:
    """How much of everything the demo does."""

    videos_train: int
    videos_eval: int
    epochs: int
    calibration_videos: int


FULL = DemoSize(videos_train=12_000, videos_eval=2_000, epochs=8, calibration_videos=512)
QUICK = DemoSize(videos_train=3_000, videos_eval=500, epochs=3, calibration_videos=128)


@click.command()
@click.option(
    "--data",
    "source",
    type=click.Path(path_type=Path),
    help="Folder with train/ and eval/, of TFRecords or prepared; the made-up data set when not given.",
)
@click.option("--out", default="demo-out", show_default=True, type=click.Path(path_type=Path), help="Folder for all of it.")
@click.option("--epochs", type=click.IntRange(min=1), help=f"Passes over the training videos.  [default: {FULL.epochs}]")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Threads of each benched runtime.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of everything drawn at random.")
@click.option("--quick", is_flag=True, help="Less of everything: a check that it runs, not figures to quote.")
def command(source: Path | None, out: Path, epochs: int | None, threads: int, seed: int, quick: bool) -> None:
    """The whole way: data, both networks trained, exported to FP32 and INT8 in both formats, benched side by side.

    Ends in a table, a Markdown file and a page. Prepared data is kept from one call to the next; the rest is made anew.
    """
    started = time.monotonic()
    size = QUICK if quick else FULL
    if epochs is not None:
        size = dataclasses.replace(size, epochs=epochs)
    folders = _data(source, out, size, seed)
    artifacts = [_network(model, folders["train"], out, size, seed) for model in reversed(PRESETS)]
    results = _bench(artifacts, folders["eval"], out, threads, quick)
    say(f"\ndone in {time.monotonic() - started:.0f} s")
    for what, path in results.items():
        say(f"{what:<10}{path}")
