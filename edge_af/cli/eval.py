"""`edge-af eval`: the accuracy of a run, an ONNX or a TFLite file."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edge_af.console import say, tell, warn


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Prepared evaluation data.")
@click.option(
    "--runtime", type=click.Choice(["torch", "onnxruntime", "litert"]), help="The one that fits the file, by default."
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--f1-threshold", type=click.FloatRange(0, 1), help="Instead of the one the artifact was made with.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def command(
    artifact: Path, data: Path, runtime: str | None, threads: int, f1_threshold: float | None, as_json: bool
) -> None:
    """Score evaluation data with ARTIFACT, a run folder or an .onnx or .tflite file, and print its accuracy.

    A file with a manifest beside it is checked against that first.
    """
    from edge_af.bench.subject import check_classes, is_training_data, subject_of
    from edge_af.console import Progress
    from edge_af.data.dataset import open_dataset
    from edge_af.runtime import check_features, load_safely
    from edge_af.runtime.accuracy import accuracy, check_labels

    subject = subject_of(artifact)
    dataset = open_dataset(data)
    check_labels(dataset)
    scorer = load_safely(artifact, runtime=runtime, threads=threads, confirmed=subject is not None)
    check_classes(artifact, scorer.classes, dataset)
    check_features(dataset.visual, dataset.audio, str(data))
    if f1_threshold is None and subject is None:
        warn(f"no manifest beside {artifact}: F1 at the threshold 0.5; pass --f1-threshold for another.")
    threshold = f1_threshold if f1_threshold is not None else subject.f1_threshold if subject is not None else 0.5
    trained_on = is_training_data(subject, dataset) if subject is not None else False
    if trained_on:
        warn(f"{data}: is what {artifact} was trained on, so its accuracy says nothing of other videos.")
    with Progress("eval", dataset.videos, "videos") as progress:
        metrics = accuracy(scorer, artifact, dataset, threshold, on_scored=progress.update)
    about = {
        "model": subject.model if subject else None,
        "preset": subject.preset if subject else None,
        "precision": subject.precision if subject else None,
        "runtime": scorer.runtime,
        "threads": threads,
        "classes": scorer.classes,
        "params": subject.params if subject else None,
        "file": artifact.name,
        "data": data.resolve().name,
        "is_training_data": trained_on,
    }
    if as_json:
        tell(json.dumps({**about, **metrics.as_dict()}, indent=2))
        return
    if subject is not None:
        say(subject.title)
    names = {
        "gap_at_20": "GAP@20",
        "f1_micro": f"F1 at {threshold:.3f}",
        "f1_micro_at_half": "F1 at 0.5",
        "f1_macro": "F1, macro",
        "hit_at_1": "Hit@1",
        "perr": "PERR",
        "map": "mAP",
        "ties_share": "Tied scores",
    }
    for key, name in names.items():
        tell(f"{name:<12} {metrics.as_dict()[key]:.4f}")
    tell(f"{'videos':<12} {metrics.videos:,}")
