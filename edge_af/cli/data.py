"""`edge-af data`: make, convert, describe and cut data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edge_af.console import say, tell, warn

FOLDER = click.Path(path_type=Path, file_okay=True)


@click.group()
def command() -> None:
    """Make, convert and describe data sets."""


@command.command()
@click.argument("out", type=FOLDER)
@click.option("--videos-train", default=12000, show_default=True, type=click.IntRange(1), help="Videos in OUT/train.")
@click.option("--videos-eval", default=2000, show_default=True, type=click.IntRange(1), help="Videos in OUT/eval.")
@click.option("--classes", default=400, show_default=True, type=click.IntRange(10, 65536), help="Number of classes.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Another seed is another world.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote to OUT.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON on standard output.")
def synth(
    out: Path, videos_train: int, videos_eval: int, classes: int, seed: int, overwrite: bool, as_json: bool
) -> None:
    """Make up a data set: TFRecords in OUT/train and OUT/eval, in YouTube-8M's 2018 layout, and OUT/vocabulary.csv.

    The same options give the same bytes, on any machine.
    """
    from edge_af.data.synth import SynthOptions, synthesise

    options = SynthOptions(videos_train=videos_train, videos_eval=videos_eval, classes=classes, seed=seed)
    made = synthesise(out, options, overwrite=overwrite)
    if as_json:
        _print_json(made)
    else:
        tell(f"{out}: {videos_train:,} videos to train on, {videos_eval:,} to evaluate on, {classes} classes")


@command.command()
@click.argument("sources", nargs=-1, required=True, metavar="SRC...")
@click.option("--out", required=True, type=FOLDER, help="Folder for the prepared dataset.")
@click.option("--classes", type=int, help="Number of classes. Default: from the vocabulary, else from the layout.")
@click.option("--vocabulary", type=click.Path(path_type=Path), help="CSV with the columns index and name.")
@click.option("--dtype", default="float16", show_default=True, type=click.Choice(["float16", "float32"]))
@click.option("--skip-bad", is_flag=True, help="Leave out what cannot be read, and name it, instead of stopping.")
@click.option("--overwrite", is_flag=True, help="Start over, and replace a dataset that is there already.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON on standard output.")
def prepare(
    sources: tuple[str, ...],
    out: Path,
    classes: int | None,
    vocabulary: Path | None,
    dtype: str,
    skip_bad: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Convert YouTube-8M TFRecords into a prepared dataset.

    SRC are files, folders (searched through, links followed) and globs; plain or GZIP; video-level or frame-level; of 2018
    or 2017. Interrupted and run again, it goes on where it stopped.
    """
    from edge_af.data.prepare import PrepareOptions
    from edge_af.data.prepare import prepare as run

    options = PrepareOptions(classes=classes, vocabulary=vocabulary, dtype=dtype, skip_bad=skip_bad)
    done = run(sources, out, options, overwrite=overwrite)
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
    if as_json:
        figures = {name: value for name, value in index.items() if name != "class_names"}
        rate = round(done.videos_read / done.seconds, 1) if done.seconds else None
        _print_json({"path": str(out), "already_prepared": done.already, "videos_per_second": rate, **figures})
    else:
        tell(
            f"{out}: {index['videos']:,} videos, {index['classes']:,} classes, {index['labels_per_video']:.2f} labels a video, "
            f"layout {index['layout']}, {index['dtype']}"
        )


@command.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON on standard output.")
def info(path: str, as_json: bool) -> None:
    """Describe PATH: a prepared dataset, or TFRecord files (a file, a folder or a glob)."""
    from edge_af.data.dataset import is_dataset, open_dataset
    from edge_af.data.describe import describe_dataset, describe_tfrecords

    if is_dataset(Path(path)):
        found = describe_dataset(open_dataset(path))
    else:
        from edge_af.data.sources import find_sources

        found = describe_tfrecords(find_sources([path], skip_bad=True))
    if as_json:
        _print_json(found)
    elif found["kind"] == "dataset":
        _print_dataset(found)
    else:
        _print_tfrecords(found)


@command.command()
@click.argument("dataset", type=FOLDER, metavar="DIR")
@click.option("--videos", required=True, type=int, help="How many videos to keep.")
@click.option("--out", required=True, type=FOLDER, help="Folder for the smaller dataset.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Decides which videos.")
@click.option("--overwrite", is_flag=True, help="Replace a dataset that is there already.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON on standard output.")
def sample(dataset: Path, videos: int, out: Path, seed: int, overwrite: bool, as_json: bool) -> None:
    """Cut a smaller prepared dataset out of the prepared dataset DIR."""
    from edge_af.data.dataset import open_dataset
    from edge_af.data.writer import sample as cut

    index = cut(open_dataset(dataset), out, videos=videos, seed=seed, overwrite=overwrite)
    if as_json:
        _print_json({"path": str(out), **{name: value for name, value in index.items() if name != "class_names"}})
    else:
        tell(f"{out}: {videos:,} videos out of {index['sampled_from']['videos']:,} (seed {seed})")


def _print_json(value: dict[str, Any]) -> None:
    tell(json.dumps(value, indent=2, ensure_ascii=False))


def _print_dataset(found: dict[str, Any]) -> None:
    lines = {
        "videos": f"{found['videos']:,}",
        "classes": f"{found['classes']:,}, of which {found['classes_that_occur']:,} occur",
        "labels": f"{found['labels']:,}, {found['labels_per_video']:.2f} a video",
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
    for entry in found["most_frequent"]:
        tell(f"    {entry['videos']:>10,}  {entry['name']} ({entry['class']})")


def _print_tfrecords(found: dict[str, Any]) -> None:
    for file in found["files"]:
        packed = ", GZIP" if file["gzip"] else ""
        what = f"{file['layout']} ({', '.join(file['fields'])})" if file["layout"] else "no records"
        tell(f"{file['path']}: {file['videos']:,} videos, {file['size_bytes'] / 1e6:,.1f} MB{packed}, {what}")
    tell(f"{len(found['files'])} file(s): {found['videos']:,} videos, {found['size_bytes'] / 1e6:,.1f} MB")
