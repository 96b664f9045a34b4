"""Subjects of a measurement: exported files or runs, with the facts from their manifests."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_af.artifacts import MANIFEST, ArtifactFile, Manifest, checked_files, read_manifest
from edge_af.console import warn
from edge_af.data import Widths, largest_accepted
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.files import read_json
from edge_af.records.results import Data, Sensitivity
from edge_af.runtime import RUNTIME_OF_SUFFIX, check_features, runtime_of
from edge_af.runtime.accuracy import check_labels
from edge_af.runtime.probe import check_model_file, input_widths
from edge_af.typed import Mismatch, built

SENSITIVITY = "sensitivity.json"


@dataclass(frozen=True)
class Subject:
    """A network in a form that a runtime opens."""

    path: Path
    runtime: str
    artifact: str
    """Name of its folder, with enough parent folders to distinguish it from the other measured folders."""
    model: str
    preset: str
    precision: str
    recipe: str | None
    cpu: str | None
    """Processor type the file is meant for, `x86-64` or `arm64`; None for any."""
    params: int
    classes: int
    class_names: list[str]
    widths: Widths
    """Lengths of the feature vectors that it takes."""
    f1_threshold: float
    """Chosen on the held-out part of the training data."""
    sha256: str | None = None
    trained_on: str | None = None
    """Fingerprint of the training data, if recorded."""
    largest: float | None = None
    """Largest magnitude of a feature in the training data, if recorded."""
    extractor: dict[str, Any] | None = None
    """The extractor that made the training data from video files; None if unknown."""
    integer_share: float | None = None
    """Share of the multiplications, or of the fully connected layers, that runs in integers; None for FP32."""

    @property
    def title(self) -> str:
        """A short name for messages and progress."""
        return f"{self.model} {self.preset} {self.precision} in {self.runtime}"


def subject_of(path: Path) -> Subject | None:
    """Describe a run folder or an exported file, checked against its manifest; None if no manifest lists the file.

    Raises:
        EdgeAfError: the path is missing, is not a model or a run, or its bytes differ from the manifest's.
    """
    return _subject_of_run(path) if runtime_of(path) == "torch" else _subject_of_file(path)


def _subject_of_file(path: Path) -> Subject | None:
    known = next(checked_files(path.parent, name=path.name), None)
    if known is None:
        check_model_file(path)
        return None
    return _subject(path, *known)


def subjects_of(paths: Sequence[Path], runtimes: Sequence[str] = ()) -> list[Subject]:
    """Return the exported files in `paths`, each once and in the given order, after checking all of them.

    Args:
        paths: folders with a manifest, folders of such folders, or exported files with their manifest beside them.
        runtimes: only files that these open; all when empty.

    Raises:
        EdgeAfError: a path holds nothing to measure, a file is not a model, or its bytes differ from the manifest's.
    """
    found: dict[Path, Subject] = {}
    for path in paths:
        for subject in _subjects_in(path, runtimes):
            # Identify a symlink by its own location: its target may be in a store of nameless files.
            found.setdefault(subject.path.parent.resolve() / subject.path.name, subject)
    if not found:
        raise EdgeAfError(f"nothing to measure: none of the files opens in {' or '.join(runtimes)}.")
    names = _folder_names({path.parent for path in found})
    return [replace(subject, artifact=names[path.parent]) for path, subject in found.items()]


def is_training_data(subject: Subject, dataset: Dataset) -> bool:
    """Return True if a network is recorded as trained on this dataset or on the one it was sampled from."""
    return subject.trained_on is not None and subject.trained_on in (dataset.fingerprint(), dataset.sampled_from)


def training_warnings(subjects: Sequence[Subject], dataset: Dataset | None) -> list[str]:
    """Warn if accuracy is measured on training videos."""
    if dataset is None:
        return []
    names = dict.fromkeys(subject.artifact for subject in subjects if is_training_data(subject, dataset))
    if not names:
        return []
    return [
        f"{dataset.folder.resolve().name} is what {', '.join(names)} was trained on, so its accuracy says nothing about others."
    ]


def sensitivity_of(subjects: Sequence[Subject]) -> list[Sensitivity]:
    """Read `sensitivity.json` from the export folders that have one.

    Raises:
        EdgeAfError: the file was not written by edge-af; names the faulty field.
    """
    found = []
    for folder, subject in {subject.path.parent: subject for subject in subjects}.items():
        path = folder / SENSITIVITY
        if not path.is_file():
            continue
        value = read_json(path, "sensitivity file")
        rows = value.get("rows") if isinstance(value, dict) and value.get("schema_version") == 1 else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise EdgeAfError(
                f"{path}: not an edge-af sensitivity file of schema_version 1. Create it again, or remove it."
            )
        about = {"artifact": subject.artifact, "model": subject.model, "preset": subject.preset}
        try:
            found += [built(Sensitivity, {**row, **about}, unknown=True) for row in rows]
        except Mismatch as error:
            raise EdgeAfError(f"{path}: not an edge-af sensitivity file: rows: {error}.") from None
    return found


def _folder_names(folders: set[Path]) -> dict[Path, str]:
    """Map each folder to a unique name: the shortest ending of its path that no other folder shares."""

    def name(folder: Path) -> str:
        endings = (folder.parts[-count:] for count in range(1, len(folder.parts) + 1))
        return str(
            next(
                Path(*ending)
                for ending in endings
                if [other.parts[-len(ending) :] for other in folders].count(ending) == 1
            )
        )

    return {folder: name(folder) for folder in folders}


def extractor_warnings(subjects: Sequence[Subject], dataset: Dataset | None) -> list[str]:
    """Warn if the evaluation features come from another extractor, or at another frame rate, than the training data."""
    found = dataset.index.get("extractor") if dataset is not None else None
    if dataset is None or found is None:
        return []
    others = {subject.artifact: subject.extractor for subject in subjects if subject.extractor not in (None, found)}
    return [
        f"{dataset.folder.resolve().name} was made by {_extractor(found)}, the training data of {name} by {_extractor(other)}."
        for name, other in others.items()
    ]


def _extractor(about: dict[str, Any] | None) -> str:
    about = about or {}
    every = f", a frame every {about['every']:g} s" if "every" in about else ""
    return f"the extractor {about.get('name')} {str(about.get('sha256'))[:8]}{every}"


def check_classes(path: Path, classes: int, dataset: Dataset, names: Sequence[str] = ()) -> None:
    """Refuse data with a different number of classes than the network at `path`, or with other names.

    Raises:
        EdgeAfError: the numbers or the names differ.
    """
    if classes != dataset.classes:
        raise EdgeAfError(
            f"{path}: scores {classes:,} classes, but {dataset.folder} has {dataset.classes:,}.\n"
            "Use evaluation data with the classes that the network was trained on."
        )
    # Unknown names are blank in the data, and may be missing in the network.
    known = dataset.index.get("class_names") or []
    for index, (own, other) in enumerate(zip(names, known, strict=False)):
        if own and other and own not in (other, f"class {index}"):
            raise EdgeAfError(
                f"{path}: class {index} is {own!r:.60}, but {other!r:.60} in {dataset.folder}.\n"
                "Prepare the data with --vocabulary and the training data's folder."
            )


def check_data(subjects: Sequence[Subject], dataset: Dataset | None) -> None:
    """Refuse an evaluation set that accuracy cannot be measured on.

    Raises:
        EdgeAfError: its classes differ from a subject's, or it has no labels or a NaN feature.
    """
    if dataset is None:
        return
    for subject in subjects:
        check_classes(subject.path, subject.classes, dataset, subject.class_names)
    check_labels(dataset)
    for widths, largest in {(subject.widths, largest_accepted(subject.largest)) for subject in subjects}:
        check_features(dataset.stored, str(dataset.folder), widths=widths, largest=largest)


def data_of(dataset: Dataset | None) -> Data | None:
    """Describe the evaluation set for the results."""
    if dataset is None:
        return None
    return Data(dataset.folder.resolve().name, dataset.videos, dataset.classes, dataset.fingerprint())


def _subjects_in(path: Path, runtimes: Container[str]) -> list[Subject]:
    if not path.is_dir():
        runtime = runtime_of(path)
        subject = _subject_of_file(path)
        if subject is None:
            raise EdgeAfError(
                f"{path}: no {MANIFEST} beside it lists this file, so its network is unknown.\n"
                "Copy the whole folder that `edge-af export` wrote."
            )
        return [subject] if not runtimes or runtime in runtimes else []
    wanted = [suffix for suffix, runtime in RUNTIME_OF_SUFFIX.items() if not runtimes or runtime in runtimes]
    files = list(checked_files(path, wanted))
    if files:
        _warn_of_others(path, files[0][0])
        return [_subject(path / file.path, manifest, file) for manifest, file in files]
    if os.path.lexists(path / MANIFEST):
        if runtimes:
            return []
        raise EdgeAfError(f"{path / MANIFEST}: lists no .onnx or .tflite file. Export again.")
    inner = [folder for folder in _entries(path) if os.path.lexists(folder / MANIFEST)]
    if not inner:
        raise EdgeAfError(f"{path}: no {MANIFEST} here. Name a folder that `edge-af export` wrote, or a file in one.")
    return [subject for folder in inner for subject in _subjects_in(folder, runtimes)]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise EdgeAfError(f"{folder}: cannot be read ({error.strerror}).") from None


def _warn_of_others(folder: Path, manifest: Manifest) -> None:
    """Warn about files that look exported but are not measured."""
    for file in manifest.files:
        if Path(file.path).suffix not in RUNTIME_OF_SUFFIX:
            warn(f"{folder / MANIFEST}: {file.path!r} is neither an .onnx nor a .tflite file; skipping it.")
    listed = {file.path for file in manifest.files}
    unlisted = [path.name for path in _entries(folder) if path.suffix in RUNTIME_OF_SUFFIX]
    if unlisted := [name for name in unlisted if name not in listed]:
        warn(f"{folder}: skipping {len(unlisted)} file(s) not listed in {MANIFEST}: {', '.join(unlisted[:3])}.")


def _subject(path: Path, manifest: Manifest, file: ArtifactFile) -> Subject:
    check_model_file(path)
    return Subject(
        path=path,
        runtime=RUNTIME_OF_SUFFIX[path.suffix],
        artifact=path.parent.resolve().name,
        model=manifest.model,
        preset=manifest.preset,
        precision=file.precision,
        recipe=file.recipe,
        cpu=file.cpu,
        params=manifest.params,
        classes=manifest.classes,
        class_names=manifest.class_names,
        widths=input_widths(path),
        f1_threshold=manifest.f1_threshold,
        sha256=file.sha256,
        trained_on=manifest.training_data.fingerprint if manifest.training_data is not None else None,
        largest=manifest.training_data.largest if manifest.training_data is not None else None,
        extractor=manifest.training_data.extractor if manifest.training_data is not None else None,
        integer_share=file.integer_share,
    )


def _subject_of_run(folder: Path) -> Subject:
    if (folder / MANIFEST).is_file():
        names = ", ".join(file.path for file in read_manifest(folder).files)
        raise EdgeAfError(f"{folder}: this is a folder of exported files. Name one of them: {names}.")
    from edge_af.models.run import load_run

    run = load_run(folder)
    return Subject(
        path=folder,
        runtime="torch",
        artifact=folder.resolve().name,
        model=run.model,
        preset=run.preset,
        precision="fp32",
        recipe=None,
        cpu=None,
        params=run.params,
        classes=run.classes,
        class_names=run.class_names,
        f1_threshold=run.f1_threshold,
        trained_on=run.data.fingerprint,
        largest=run.data.largest,
        extractor=run.data.extractor,
        widths=run.config.features,
    )
