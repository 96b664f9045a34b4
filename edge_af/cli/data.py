"""`edge-af data`: make, convert, describe and sample datasets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edge_af.cli.build import path_argument, paths, verb
from edge_af.cli.next_step import suggest, unused
from edge_af.console import line_width, say, tell, warn
from edge_af.data.prepare import PrepareOptions
from edge_af.data.synth import SynthOptions
from edge_af.features.clips import ClipOptions
from edge_af.options import option, part
from edge_af.report.tables import aligned

JSON = "Print the figures as JSON."


@click.group()
def command() -> None:
    """Make, convert, describe and sample datasets."""


@dataclass(frozen=True)
class SynthCommand(SynthOptions):
    """The options of `edge-af data synth`."""

    overwrite: bool = option("Replace what an earlier run wrote to OUT.", default=False)
    json: bool = option(JSON, default=False)


@verb(
    SynthCommand, out=path_argument("OUT"), example="edge-af data synth tfrecords --videos-train 3000 --videos-eval 500"
)
def synth(out: Path, options: SynthCommand) -> None:
    """Make a synthetic dataset: TFRecords in OUT/train and OUT/eval, in YouTube-8M's 2018 layout, and OUT/vocabulary.csv.

    The same options give the same bytes on every machine.
    """
    from edge_af.data.synth import synthesize

    made = synthesize(out, part(options, SynthOptions), overwrite=options.overwrite)
    if options.json:
        _print_json(made)
        return
    counts = f"{options.videos_train:,} videos to train on, {options.videos_eval:,} to evaluate on"
    tell(f"{out}: {counts}, {options.classes} classes")


@dataclass(frozen=True, kw_only=True)
class PrepareCommand(PrepareOptions):
    """The options of `edge-af data prepare`."""

    out: Path = option("Folder of the prepared dataset.")
    overwrite: bool = option("Start over, and replace a dataset that is already there.", default=False)
    json: bool = option(JSON, default=False)


@verb(
    PrepareCommand,
    sources=click.Argument(["sources"], nargs=-1, required=True, metavar="SRC…", shell_complete=paths),
    example="edge-af data prepare yt8m/train --out prepared/train",
)
def prepare(sources: tuple[str, ...], options: PrepareCommand) -> None:
    """Convert YouTube-8M TFRecords into a prepared dataset.

    SRC names files, folders (searched, following links) or globs. TFRecords may be plain or GZIP, video-level or
    frame-level, of 2018 or 2017. After an interruption, the same command continues where it stopped.
    """
    from edge_af.data.prepare import prepare as run
    from edge_af.data.sources import split_of

    out = options.out
    done = run(sources, out, part(options, PrepareOptions), overwrite=options.overwrite)
    index = done.index
    if done.already:
        say(f"{out}: already prepared from these sources with these options; nothing to do.")
    left_out = index["left_out"]
    if left_out:
        warn(f"{len(left_out)} record(s) left out, listed in {out / 'index.json'}:")
        for entry in left_out[:5]:
            say(f"  {entry['file']}: record {entry['record']}: {entry['reason']}")
        if len(left_out) > 5:
            say(f"  and {len(left_out) - 5} more")
    if options.json:
        figures = {name: value for name, value in index.items() if name != "class_names"}
        rate = round(done.videos_read / done.seconds, 1) if done.seconds else None
        _print_json({"path": str(out), "already_prepared": done.already, "videos_per_second": rate, **figures})
    else:
        labels = f"{index['labels_per_video']:.2f} labels per video"
        counts = f"{index['videos']:,} videos, {index['classes']:,} classes, {labels}"
        tell(f"{out}: {counts}, layout {index['layout']}, {index['dtype']}")
        if (split_of(Path(out.resolve().name)) or split_of(Path(sources[0]).resolve())) in (None, "train"):
            run_folder = unused(Path("runs/attend-fusion"))
            suggest("train", "--model", "attend-fusion", "--preset", "small", "--data", out, "--out", run_folder)
        else:
            suggest("data", "info", out)


@dataclass(frozen=True)
class InfoOptions:
    """The options of `edge-af data info`."""

    json: bool = option(JSON, default=False)


@verb(
    InfoOptions,
    path=click.Argument(["path"], metavar="PATH", shell_complete=paths),
    example="edge-af data info prepared/eval",
)
def info(path: str, options: InfoOptions) -> None:
    """Describe PATH: a prepared dataset, or TFRecord files (a file, a folder or a glob)."""
    from edge_af.data.dataset import is_dataset, open_dataset
    from edge_af.data.describe import describe_dataset, describe_tfrecords

    if is_dataset(Path(path)):
        found = describe_dataset(open_dataset(path))
    else:
        from edge_af.data.sources import find_sources

        found = describe_tfrecords(find_sources([path], skip_bad=True))
    if options.json:
        _print_json(found)
    elif found["kind"] == "dataset":
        _print_dataset(found)
    else:
        _print_tfrecords(found)


@dataclass(frozen=True)
class SampleOptions:
    """The options of `edge-af data sample`."""

    videos: int = option("Number of videos to keep.")
    out: Path = option("Folder of the smaller dataset.")
    seed: int = option("Random seed that chooses the videos.", default=0, at_least=0)
    overwrite: bool = option("Replace a dataset that is already there.", default=False)
    json: bool = option(JSON, default=False)


@verb(
    SampleOptions,
    dataset=path_argument("DIR"),
    example="edge-af data sample prepared/eval --videos 500 --out small-eval",
)
def sample(dataset: Path, options: SampleOptions) -> None:
    """Sample a smaller prepared dataset from the prepared dataset DIR."""
    from edge_af.data.dataset import open_dataset
    from edge_af.data.writer import sample as cut

    out, seed = options.out, options.seed
    index = cut(open_dataset(dataset), out, videos=options.videos, seed=seed, overwrite=options.overwrite)
    if options.json:
        _print_json({"path": str(out), **{name: value for name, value in index.items() if name != "class_names"}})
    else:
        tell(f"{out}: {options.videos:,} of {index['sampled_from']['videos']:,} videos (seed {seed})")


@dataclass(frozen=True)
class ClipsCommand(ClipOptions):
    """The options of `edge-af data clips`."""

    overwrite: bool = option("Replace what an earlier run wrote to OUT.", default=False)


@verb(ClipsCommand, out=path_argument("OUT"), example="edge-af data clips clips/train --clips 12")
def clips(out: Path, options: ClipsCommand) -> None:
    """Make video clips of six classes for trying edge-af: OUT/CLASS-NUMBER.mp4, and OUT/labels.csv.

    Three classes differ in the picture, three only in the sound. Needs PyAV.
    """
    from edge_af.features.clips import LABELS, make_clips

    count = make_clips(out, part(options, ClipOptions), overwrite=options.overwrite)
    tell(f"{out}: {count:,} clips of 6 classes")
    suggest("features", out, "--labels", out / LABELS, "--out", unused(Path("prepared")))


for one in (synth, clips, prepare, info, sample):
    command.add_command(one)


def _print_json(value: dict[str, Any]) -> None:
    tell(json.dumps(value, indent=2, ensure_ascii=False))


def _print_dataset(found: dict[str, Any]) -> None:
    lines = {
        "videos": f"{found['videos']:,}",
        "classes": f"{found['classes']:,}, of which {found['classes_that_occur']:,} occur",
        "labels": f"{found['labels']:,}, {found['labels_per_video']:.2f} per video",
        "without labels": f"{found['videos_without_labels']:,} videos",
        "layout": found["layout"],
        "features": found["dtype"],
        "on disk": f"{found['size_bytes'] / 1e6:,.1f} MB",
        "left out": f"{found['left_out_records']:,} records",
    }
    tell(f"{found['path']}: prepared dataset")
    for name, text in lines.items():
        tell(f"  {name:<16}{text}")
    tell("  most frequent classes")
    rows = [[f"{entry['videos']:,}", f"{entry['name']} ({entry['class']})"] for entry in found["most_frequent"]]
    width = line_width()
    for line in aligned([["videos", "class"], *rows], (1,), width - 4 if width is not None else None):
        tell(f"    {line}")


def _print_tfrecords(found: dict[str, Any]) -> None:
    rows = [["file", "videos", "MB", "packed", "layout"]]
    for file in found["files"]:
        what = f"{file['layout']} ({', '.join(file['fields'])})" if file["layout"] else "no records"
        size, packed = f"{file['size_bytes'] / 1e6:,.1f}", "GZIP" if file["gzip"] else "no"
        rows.append([file["path"], f"{file['videos']:,}", size, packed, what])
    for line in aligned(rows, (0, 3, 4), line_width()):
        tell(line)
    tell(f"{len(found['files'])} file(s): {found['videos']:,} videos, {found['size_bytes'] / 1e6:,.1f} MB")
