"""Classes of a dataset that is being prepared: their number and names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_af.data import MOST_CLASSES
from edge_af.data.dataset import open_dataset
from edge_af.data.examples import Layout
from edge_af.data.vocabulary import Vocabulary, find_vocabulary, named, read_vocabulary
from edge_af.errors import EdgeAfError


@dataclass(frozen=True)
class Classes:
    """Classes of a source."""

    classes: int
    names: list[str]
    """Class names; empty if unknown."""
    origin: str
    """Origin of the number of classes, for messages."""
    vocabulary_sha256: str | None
    """SHA-256 of the vocabulary; None without one."""


def classes_of_layout(wanted: int | None, given: Vocabulary | None, folder: Path, layout: Layout) -> Classes:
    """Return the classes of the sources in `folder` with this layout."""
    vocabulary = given or find_vocabulary(folder, layout.year)
    if wanted is None:
        if vocabulary is None:
            return Classes(layout.classes, [], f"YouTube-8M {layout.year}", None)
        return Classes(len(vocabulary.names), vocabulary.names, vocabulary.path.name, vocabulary.sha256)
    if vocabulary is None or (vocabulary is not given and len(vocabulary.names) != wanted):
        return Classes(wanted, [], "--classes", None)
    if len(vocabulary.names) > wanted:
        raise EdgeAfError(f"{vocabulary.path}: names {len(vocabulary.names)} classes where --classes says {wanted}.")
    return Classes(wanted, vocabulary.names, "--classes", vocabulary.sha256)


def classes_of_labels(
    wanted: int | None, given: Vocabulary | None, path: Path, found: Callable[[], tuple[list[str], int]]
) -> Classes:
    """Return the classes of videos with names or numbers as labels: the vocabulary's, or those that occur.

    Args:
        wanted: number of classes; None for as many as there are.
        given: vocabulary; None without one.
        path: the source, for messages.
        found: returns the names that occur, or the highest number; see `edge_af.data.arrays.names_in`.
    """
    if given is not None:
        if wanted is not None and wanted != len(given.names):
            raise EdgeAfError(f"{given.path}: names {len(given.names)} classes where --classes says {wanted}.")
        return Classes(len(given.names), given.names, given.path.name, given.sha256)
    names, highest = found()
    classes = wanted or max(len(names), highest + 1)
    if not 1 <= classes <= MOST_CLASSES or len(names) > classes:
        raise EdgeAfError(
            f"{path}: has {max(len(names), highest + 1):,} classes; expected 1 to {classes or MOST_CLASSES:,}."
        )
    return Classes(classes, names, "the labels", named(path, names).sha256 if names else None)


def layout_named(name: str) -> Layout:
    """Return the layout with this name."""
    return Layout(int(name[:4]), frames=name.endswith("frame"))


def given_vocabulary(path: Path | None) -> Vocabulary | None:
    """Return the class names of a CSV file or of a prepared dataset."""
    if path is None or not path.is_dir():
        return read_vocabulary(path) if path is not None else None
    names = open_dataset(path, verify=False).index.get("class_names") or []
    if not names:
        raise EdgeAfError(f"{path}: its classes have no names. Name a CSV file with --vocabulary.")
    return named(path, names)
