"""`edge-af eval`: measure the accuracy of a run, an ONNX or a TFLite file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edge_af.cli.build import path_argument, verb
from edge_af.console import say, tell, warn
from edge_af.options import option


@dataclass(frozen=True)
class EvalOptions:
    """The options of `edge-af eval`."""

    data: Path = option("Prepared evaluation data.")
    runtime: str | None = option(
        "Runtime.", default=None, choices=("torch", "onnxruntime", "litert"), shown_default="the one that fits the file"
    )
    threads: int = option("Threads of the runtime.", default=1, at_least=1)
    f1_threshold: float | None = option(
        "Score threshold for F1.", default=None, at_least=0, at_most=1, shown_default="the artifact's"
    )
    json: bool = option("Print JSON instead of the table.", default=False)


@verb(
    EvalOptions,
    artifact=path_argument("ARTIFACT"),
    example="edge-af eval artifacts/attend-fusion/attend-fusion-int8.onnx --data prepared/eval",
)
def command(artifact: Path, options: EvalOptions) -> None:
    """Measure the accuracy of ARTIFACT: a run folder, or an .onnx or .tflite file.

    If a manifest lies beside the file, the file is checked against it first.
    """
    from edge_af.bench.subject import check_classes, extractor_warnings, is_training_data, subject_of
    from edge_af.console import Progress
    from edge_af.data import largest_accepted
    from edge_af.data.dataset import open_dataset
    from edge_af.runtime import check_features, load_safely
    from edge_af.runtime.accuracy import accuracy, check_labels

    subject = subject_of(artifact)
    dataset = open_dataset(options.data)
    check_labels(dataset)
    for text in extractor_warnings([subject] if subject is not None else [], dataset):
        warn(text)
    scorer = load_safely(artifact, runtime=options.runtime, threads=options.threads, confirmed=subject is not None)
    check_classes(artifact, scorer.classes, dataset, subject.class_names if subject is not None else ())
    largest = largest_accepted(subject.largest if subject is not None else dataset.largest)
    check_features(dataset.stored, str(options.data), widths=scorer.widths, largest=largest)
    if options.f1_threshold is None and subject is None:
        warn(f"no manifest beside {artifact}: F1 uses the threshold 0.5; set another with --f1-threshold.")
    threshold = (
        options.f1_threshold
        if options.f1_threshold is not None
        else subject.f1_threshold
        if subject is not None
        else 0.5
    )
    trained_on = is_training_data(subject, dataset) if subject is not None else False
    if trained_on:
        warn(f"{options.data}: {artifact} was trained on it, so its accuracy says nothing about other videos.")
    with Progress("eval", dataset.videos, "videos") as progress:
        metrics = accuracy(scorer, artifact, dataset, threshold, on_scored=progress.update)
    about = {
        "model": subject.model if subject else None,
        "preset": subject.preset if subject else None,
        "precision": subject.precision if subject else None,
        "runtime": scorer.runtime,
        "threads": options.threads,
        "classes": scorer.classes,
        "params": subject.params if subject else None,
        "file": artifact.name,
        "data": options.data.resolve().name,
        "is_training_data": trained_on,
    }
    if options.json:
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
    tell(f"{'metric':<12} value")
    for key, name in names.items():
        tell(f"{name:<12} {metrics.as_dict()[key]:.4f}")
    tell(f"{'videos':<12} {metrics.videos:,}")
