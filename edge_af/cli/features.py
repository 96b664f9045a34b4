"""`edge-af features`: extract the features of video files."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from edge_af.cli.build import OneOf, path_argument, verb
from edge_af.cli.next_step import suggest, unused
from edge_af.console import say, tell, warn
from edge_af.errors import EdgeAfError
from edge_af.features.collect import FeaturesOptions, LabelOptions, OutputOptions
from edge_af.features.youtube8m import LICENSE, NAME, FetchOptions
from edge_af.options import option, part


@dataclass(frozen=True, kw_only=True)
class FeaturesCommand(OutputOptions, LabelOptions, FeaturesOptions):
    """The options of `edge-af features`."""

    out: Path = option("Folder to write.")
    json: bool = option("Print the figures as JSON.", default=False)


@verb(
    FeaturesCommand,
    videos=path_argument("VIDEO…", several=True),
    example="edge-af features clips --labels labels.csv --out prepared/train",
)
def command(videos: tuple[Path, ...], options: FeaturesCommand) -> None:
    """Extract the features of videos into a prepared dataset.

    VIDEO names files or folders, which are searched. A video that cannot be read is named and left out. After an
    interruption, the same command continues where it stopped.
    """
    # Small products are slower with several threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from edge_af.data.sources import split_of
    from edge_af.features.collect import collect

    out = options.out
    try:
        done = collect(
            videos, out, part(options, FeaturesOptions), part(options, LabelOptions), part(options, OutputOptions)
        )
    except KeyboardInterrupt:
        say(f"{out}: interrupted. The same command continues after the videos that are finished.")
        raise
    index = done.index
    if left_out := index["left_out"]:
        warn(f"{len(left_out):,} video(s) left out; the lines above say why.")
    if options.json:
        figures = {name: value for name, value in index.items() if name not in ("class_names", "arrays")}
        tell(json.dumps({"path": str(out), "seconds": done.seconds, "cost": done.cost, **figures}, indent=2))
        return
    classes = f"{index['classes']:,} class{'es' if index['classes'] != 1 else ''}"
    tell(f"{out}: {index['videos']:,} videos, {classes}, {done.seconds:,.0f} s of video")
    if done.seconds:
        costs = ", ".join(f"{stage} {1e3 * value / done.seconds:.1f} ms" for stage, value in done.cost.items())
        tell(f"processor time per second of video: {costs}")
    if options.format != "dataset":
        suggest("data", "prepare", out, "--out", unused(Path("prepared")))
    elif index["labels_per_video"] and split_of(Path(out.resolve().name)) in (None, "train"):
        run = unused(Path("runs/attend-fusion"))
        suggest("train", "--model", "attend-fusion", "--preset", "1m", "--data", out, "--out", run)
    else:
        suggest("data", "info", out)


@dataclass(frozen=True, kw_only=True)
class FetchCommand(FetchOptions):
    """The options of `edge-af features fetch`."""

    out: Path = option("Folder to write.")
    overwrite: bool = option("Replace what is already there.", default=False)
    yes: bool = option("Answer the question about the license with yes.", default=False)
    json: bool = option("Print the figures as JSON.", default=False)


@verb(
    FetchCommand,
    extractor=click.Argument(["unnamed"], type=OneOf([NAME]), metavar="EXTRACTOR"),
    example="edge-af features fetch youtube-8m --out extractors/youtube-8m\n"
    "edge-af features clips --extractor extractors/youtube-8m/int8 --out prepared/clips",
)
def fetch(extractor: str, options: FetchCommand) -> None:
    """Download and convert the networks of an extractor.

    EXTRACTOR is youtube-8m: Inception and VGGish with their PCA (0.4 GB), as TFLite files in INT8 and FP32. Each converted
    network is compared with its float graph. An interrupted download continues when the command is repeated.
    """
    from edge_af.features.youtube8m import OURS, check
    from edge_af.features.youtube8m import fetch as run
    from edge_af.files import check_replaceable

    check(options)
    check_replaceable(options.out, OURS, options.overwrite)
    say(LICENSE)
    if not options.yes:
        try:
            agreed = click.confirm("Download and use them?", err=True)
        except click.Abort:
            if sys.stdin.isatty():
                raise
            raise EdgeAfError("nobody answered. Pass --yes to download and use them.") from None
        if not agreed:
            raise EdgeAfError("nothing was downloaded.")
    out = options.out
    found = run(out, part(options, FetchOptions), overwrite=options.overwrite)
    if options.json:
        tell(json.dumps({"path": str(out), **found}, indent=2))
        return
    for precision, halves in found["cosine_to_float_graph"].items():
        figures = ", ".join(f"{name} {one['features']:.4f} ({one['whitened']:.4f})" for name, one in halves.items())
        tell(f"{out / precision}: least cosine similarity to the float graph (after whitening): {figures}")
    if options.calibration_videos:
        own = ("--extractor", out / "int8", "--out", unused(Path("prepared")))
        suggest("features", *options.calibration_videos, *own)


command.commands["fetch"] = fetch
