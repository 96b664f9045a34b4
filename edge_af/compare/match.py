"""Pairs of files to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_af.artifacts import MANIFEST, read_manifest
from edge_af.bench.subject import Subject, subject_of, subjects_of
from edge_af.errors import EdgeAfError
from edge_af.runtime import runtime_of


@dataclass(frozen=True)
class Side:
    """One file of a pair."""

    role: str
    """`base` or `candidate`."""
    path: Path
    runtime: str
    subject: Subject | None
    """Facts from its manifest; None if no manifest lists it."""
    problem: str | None = None
    """Reason why the file cannot run, if known beforehand."""


@dataclass(frozen=True)
class Pair:
    """A candidate and the base it is to replace."""

    name: str
    base: Side
    candidate: Side


@dataclass(frozen=True)
class Matched:
    """Pairs found in two folders."""

    pairs: list[Pair]
    only_base: list[str]
    """Base files without a partner."""
    only_candidate: list[str]


def match(base: Path, candidate: Path, runtimes: tuple[str, ...] = ()) -> Matched:
    """Pair two files, or the files of two folders that `edge-af export` wrote (or of two folders of such folders).

    Files in folders are partners if they have the same name (and the same folder name, if there are several folders).
    The remaining files are partners if each is the only one left of its network, runtime, precision and processor.

    Args:
        base: the current file or folder.
        candidate: the file or folder that is to replace it.
        runtimes: only files that these open; all when empty.

    Raises:
        EdgeAfError: one is a file and the other a folder, one is missing or not a model, or no file has a partner.
    """
    for path in (base, candidate):
        if not path.exists():
            raise EdgeAfError(f"{path}: no such file or folder.")
        if path.suffix == ".json":
            raise EdgeAfError(
                f"{path}: compare measures .onnx or .tflite files, or export folders. `edge-af report` shows results files."
            )
    if base.is_dir() != candidate.is_dir():
        raise EdgeAfError(
            f"{base} and {candidate}: one is a file and the other a folder. Name two files or two folders."
        )
    if not base.is_dir():
        sides = _file(base, "base"), _file(candidate, "candidate")
        if runtimes and any(side.runtime not in runtimes for side in sides):
            raise EdgeAfError(f"{base} and {candidate} do not both open in {' or '.join(runtimes)}.")
        name = base.name if base.name == candidate.name else f"{base.name} → {candidate.name}"
        return Matched([Pair(name, *sides)], [], [])
    left, right = subjects_of([base], runtimes), subjects_of([candidate], runtimes)
    several = len({subject.path.parent for subject in left}) > 1 or len({one.path.parent for one in right}) > 1

    def name_of(subject: Subject) -> str:
        return f"{subject.path.parent.name}/{subject.path.name}" if several else subject.path.name

    partners: list[tuple[Subject, Subject]] = []
    for same in (name_of, _kind):
        for one in list(left):
            key = same(one)
            fitting = [other for other in right if same(other) == key]
            if len(fitting) == 1 and [same(other) for other in left].count(key) == 1:
                partners.append((one, fitting[0]))
                left.remove(one)
                right.remove(fitting[0])
    if not partners:
        raise EdgeAfError(
            f"{base} and {candidate}: no file of one has a partner in the other: {', '.join(map(name_of, left))} against "
            f"{', '.join(map(name_of, right))}."
        )
    pairs = []
    for one, other in partners:
        names = (name_of(one), name_of(other))
        name = names[0] if names[0] == names[1] else " → ".join(names)
        pairs.append(Pair(name, _side(one, "base"), _side(other, "candidate")))
    return Matched(pairs, [name_of(one) for one in left], [name_of(one) for one in right])


def version_changes(pairs: Sequence[Pair]) -> list[str]:
    """Report packages whose versions differ between the exports, by the manifests: one sentence per pair of folders."""
    found = []
    for base, candidate in dict.fromkeys((pair.base.path.parent, pair.candidate.path.parent) for pair in pairs):
        if not all((folder / MANIFEST).is_file() for folder in (base, candidate)):
            continue
        before, after = read_manifest(base).versions, read_manifest(candidate).versions
        changes = [
            f"{name} {before.get(name, 'none')} → {after.get(name, 'none')}"
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        ]
        if changes:
            found.append(f"{candidate.name} was exported with other packages than its base: {', '.join(changes)}.")
    return found


def _kind(subject: Subject) -> tuple[object, ...]:
    return (subject.model, subject.preset, subject.runtime, subject.precision, subject.cpu)


def _file(path: Path, role: str) -> Side:
    runtime = runtime_of(path)
    try:
        return Side(role, path, runtime, subject_of(path))
    except EdgeAfError as error:
        # A file that will not load is a result of the comparison, not an error.
        return Side(role, path, runtime, None, " ".join(str(error).splitlines()))


def _side(subject: Subject, role: str) -> Side:
    return Side(role, subject.path, subject.runtime, subject)
