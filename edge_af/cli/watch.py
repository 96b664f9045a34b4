"""`edge-af watch`: label a video while it is decoded."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_af.cli.build import path_argument, paths, verb
from edge_af.console import tell, warn
from edge_af.options import option, parse_seconds

if TYPE_CHECKING:
    from edge_af.features.stream import Labels


@dataclass(frozen=True)
class WatchOptions:
    """The options of `edge-af watch`."""

    every: float | None = option(
        "Time between two frames.",
        default=None,
        metavar="TIME",
        parse=parse_seconds,
        at_most=3600,
        shown_default="as in the training data",
    )
    top: int = option("Labels at a time.", default=3, at_least=1)
    extractor: Path | None = option(
        "Folder of the extractor.", default=None, shown_default="the one that the network was trained with"
    )
    threads: int = option("Threads. With more than one, decoding and inference overlap.", default=1, at_least=1)
    json: bool = option("Print one JSON object per line.", default=False)


@verb(
    WatchOptions,
    artifact=path_argument("ARTIFACT"),
    video=click.Argument(["video"], metavar="VIDEO", shell_complete=paths),
    example="edge-af watch artifacts/attend-fusion/attend-fusion-int8.tflite clip.mp4 --top 1",
)
def command(artifact: Path, video: str, options: WatchOptions) -> None:
    """Print the best labels that ARTIFACT gives VIDEO, while it is decoded.

    Each line has the labels of everything so far. The last line has those of the whole video. VIDEO is a file, - for
    standard input, an address such as rtsp://…, or a camera such as /dev/video0.
    """
    # Small products are slower with several threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from edge_af.api import load
    from edge_af.features.stream import VideoStream

    network = load(artifact, threads=options.threads)
    # A camera never ends, so Ctrl-C is the usual end.
    with contextlib.suppress(KeyboardInterrupt):
        stream = VideoStream(
            video,
            network,
            extractor=options.extractor,
            every=options.every,
            top=options.top,
            threads=options.threads,
        )
        for labels in stream:
            tell(_json(labels) if options.json else _line(labels))
        decoded = stream.extraction.decoded
        if decoded.fault:
            warn(f"{video}: damaged in {decoded.faults:,} place(s) ({decoded.fault}).")


def _json(labels: Labels) -> str:
    found = [{"class": one.class_index, "name": one.name, "score": round(one.score, 6)} for one in labels.predictions]
    return json.dumps({"time": round(labels.time, 3), "labels": found}, ensure_ascii=False)


def _line(labels: Labels) -> str:
    minutes, seconds = divmod(labels.time, 60)
    best = "   ".join(f"{one.name} {one.score:.3f}" for one in labels.predictions)
    return f"{int(minutes):>3}:{seconds:04.1f}  {best}"
