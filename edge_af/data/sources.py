"""Find the source files for `data prepare` and `data info`, and report everything that is skipped.

Folders are searched recursively, following links. A TFRecord file is recognized by its name (`*.tfrecord`, `*.tfrecords`,
`NAME-00000-of-00002`, each with or without `.gz`) or by its first bytes. Arrays (.npz, and .npy in a folder with
`visual.npy` or `audio.npy`) and Parquet files are recognized by their names; a CSV file must be named itself.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_af.console import say, warn
from edge_af.data.arrays import files_of
from edge_af.data.dataset import is_dataset
from edge_af.data.sidecar import SIDECAR
from edge_af.data.tfrecord import GZIP_MAGIC, is_gzip, is_tfrecord, unpacked_bytes
from edge_af.errors import EdgeAfError

NAMED_LIKE_ONE = re.compile(r"(\.(tfrecords?|tfrec)|-\d{5}-of-\d{5})(\.gz)?$", re.IGNORECASE)

SPLITS = {
    "training": "train", "train": "train", "evaluation": "eval", "eval": "eval", "validation": "eval", "validate": "eval",
    "val": "eval", "dev": "eval", "test": "test",
}  # fmt: skip
"""Prefixes of file and folder names, and the part of a dataset that they belong to."""
SPLIT = re.compile(rf"({'|'.join(SPLITS)})(?![a-z]{{3}})")
"""YouTube-8M's shards have names such as `train0a` and `validateZ_`, so two characters may follow."""


@dataclass
class _Search:
    """State of a search for TFRecord files."""

    files: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    """Files that are not TFRecord files."""
    lost: list[str] = field(default_factory=list)
    """Unreadable places that may hold TFRecord files, with the reason."""
    entered: set[tuple[int, int]] = field(default_factory=set)
    """Device and inode of every searched folder, so that link cycles end."""


def find_sources(patterns: Sequence[str], *, skip_bad: bool = False) -> list[Path]:
    """Find the source files named by files, folders and globs, sorted and unique.

    Other files in the folders are counted on standard error. A shard that is both plain and compressed in one folder is
    read once, with a warning.

    Args:
        patterns: files, folders and globs.
        skip_bad: skip unreadable folders and broken links with a warning.

    Raises:
        EdgeAfError: a pattern matches nothing, or something is unreadable and `skip_bad` is not set.
    """
    search = _Search()
    for pattern in patterns:
        try:
            _look_for(pattern, search)
        except OSError as error:
            raise EdgeAfError(f"{pattern}: cannot be read ({error.strerror}).") from None
    _name_lost(search.lost, skip_bad)
    found: dict[Path, Path] = {}
    for file in search.files:
        found.setdefault(file.resolve(), file)
    if not found:
        raise EdgeAfError(f"{patterns[0]}: no source files that can be read.")
    if again := len(search.files) - len(found):
        say(f"{again} file(s) are named more than once, directly or by links; each is taken once.")
    parts = {part for file in search.files for part in files_of(file)}
    search.others = [path for path in search.others if path not in parts]
    if search.others:
        say(f"passed over {len(search.others)} other file(s): {_some(path.name for path in search.others)}")
    files = _without_twins(sorted(found.values(), key=str))
    _name_splits(files)
    return files


def _look_for(pattern: str, search: _Search) -> None:
    """Search one file, folder or glob."""
    path = Path(pattern)
    before = len(search.files) + len(search.lost)
    if path.is_dir():
        if _identity(path) in search.entered:
            return
        _walk(path, search)
        if len(search.files) + len(search.lost) == before:
            if is_dataset(path):
                raise EdgeAfError(f"{path}: is prepared already; name the folder of its TFRecord files.")
            raise EdgeAfError(
                f"{path}: no TFRecord files in this folder, by their names (such as *.tfrecord) or by their first bytes, and "
                "no .npz, .npy or Parquet files."
            )
    elif path.is_file():
        search.files.append(path)
    elif path.exists():
        raise EdgeAfError(f"{path}: not a regular file. Name files or folders.")
    elif glob.has_magic(pattern):
        _expand(pattern, search)
        if len(search.files) + len(search.lost) == before:
            raise EdgeAfError(f"{pattern}: matches no TFRecord files.")
    elif path.is_symlink():
        raise EdgeAfError(f"{path}: a link that leads nowhere. Mend it, or name another file.")
    else:
        raise EdgeAfError(f"{path}: no such file or folder.")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _walk(folder: Path, search: _Search) -> None:
    """Search a folder recursively, real folders before links, so that files are found under their real names."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            if (identity := _identity(here)) in search.entered:
                continue
            search.entered.add(identity)
            with os.scandir(here) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError as error:
            search.lost.append(f"{here} ({error.strerror})")
            continue
        folders: list[Path] = []
        for path in (here / name for name in names):
            try:
                if path.is_dir():
                    folders.append(path)
                else:
                    _take(path, search)
            except OSError as error:
                search.lost.append(f"{path} ({error.strerror})")
        # Links go to the bottom of the stack, so they are searched after all real folders.
        folders.reverse()
        links = [path for path in folders if path.is_symlink()]
        waiting = links + waiting + [path for path in folders if not path.is_symlink()]


def _take(path: Path, search: _Search) -> None:
    """Classify an entry of a folder that is not a folder."""
    if path.is_symlink() and not path.exists():
        search.lost.append(f"{path} (a link that leads nowhere)")
    elif path.is_file() and _is_source(path):
        search.files.append(path)
    elif not (path.name.startswith("vocabulary") and path.suffix == ".csv") and path.name != SIDECAR:
        search.others.append(path)


def _is_source(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if NAMED_LIKE_ONE.search(path.name) or path.suffix.lower() in (".npz", ".parquet"):
        return True
    if path.suffix == ".npy":
        # The arrays of a folder are one source, named after the first.
        first = path.name == "visual.npy" or (path.name == "audio.npy" and not path.with_name("visual.npy").exists())
        return first and not is_dataset(path.parent)
    return _is_packed(path) if path.suffix == ".gz" else is_tfrecord(path)


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC


def _expand(pattern: str, search: _Search) -> None:
    """Search the matches of a glob. `glob` skips unreadable folders silently, so they are checked here."""
    for parent in Path(pattern).parents:
        names = glob.glob(str(parent), recursive=True) if glob.has_magic(str(parent)) else [str(parent)]  # noqa: PTH207
        for folder in sorted(names):
            try:
                os.scandir(folder).close()
            except PermissionError as error:
                search.lost.append(f"{folder} ({error.strerror})")
            except OSError:
                continue
    for name in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute pattern
        path = Path(name)
        try:
            if path.is_dir():
                _walk(path, search)
            elif path.is_file():
                search.files.append(path)
            else:
                _take(path, search)
        except OSError as error:
            search.lost.append(f"{path} ({error.strerror})")


def _name_lost(lost: list[str], skip_bad: bool) -> None:
    if not lost:
        return
    what = f"{len(lost)} folder(s), file(s) or link(s) cannot be read: {_some(lost)}"
    if not skip_bad:
        raise EdgeAfError(f"{what}.\nMake them readable or remove them, or pass --skip-bad to continue without them.")
    warn(f"{what}; continuing without them.")


def _some(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _without_twins(files: list[Path]) -> list[Path]:
    """Drop the compressed copy of each shard that lies beside it uncompressed.

    Raises:
        EdgeAfError: the two differ.
    """
    plain = {path.resolve(): path for path in files}
    twins: list[Path] = []
    for path in files:
        beside = plain.get(path.resolve().with_suffix("")) if path.suffix == ".gz" else None
        if beside is None or not is_gzip(path) or is_gzip(beside):
            continue
        if unpacked_bytes(path, beside.stat().st_size) != beside.stat().st_size:
            raise EdgeAfError(f"{beside}: not what {path.name} beside it unpacks to. Remove the one that is not whole.")
        twins.append(path)
    if twins:
        warn(
            f"{len(twins)} packed file(s) left out, because the same shard lies beside it unpacked: "
            f"{_some(path.name for path in twins)}."
        )
    return [path for path in files if path not in twins]


def _name_splits(files: list[Path]) -> None:
    """Warn about sources from several parts of a dataset: after training on both, neither can be used for evaluation."""
    shared = os.path.commonpath([file.absolute().parent for file in files])
    counts = Counter(split_of(file.absolute().relative_to(shared)) for file in files)
    counts.pop(None, None)
    if len(counts) > 1:
        parts = ", ".join(f"{split} ({count} file(s))" for split, count in sorted(counts.items()))
        warn(f"these sources are of more than one part of a dataset: {parts}. Prepare each part into its own folder.")


def split_of(path: Path) -> str | None:
    """Return the part of a dataset that a file's name, or its nearest folder's, indicates."""
    for name in reversed(path.parts):
        if match := SPLIT.match(name.lower()):
            return SPLITS[match[1]]
    return None
