"""Read class names from a CSV file: YouTube-8M's `vocabulary.csv`, or any with the columns `index` and `name`."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edge_af.data import MOST_CLASSES
from edge_af.errors import EdgeAfError


@dataclass(frozen=True)
class Vocabulary:
    """Class names by index."""

    path: Path
    sha256: str
    names: list[str]
    """One per class, blank if the file has none."""


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary with the columns `index` and `name`, in any case; names may be blank.

    Raises:
        EdgeAfError: the file is missing or invalid, or an index is not a class number or occurs twice.
    """
    try:
        data = path.read_bytes()
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    except FileNotFoundError:
        raise EdgeAfError(f"{path}: no such vocabulary.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EdgeAfError(f"{path}: cannot be read as a vocabulary (CSV in UTF-8): {error}.") from None
    header = [column.strip().lower() for column in rows[0]] if rows else []
    if "index" not in header or "name" not in header:
        raise EdgeAfError(
            f"{path}: not a vocabulary: its first line must name the columns 'index' and 'name'; "
            f"it reads {', '.join(header)[:80] or 'nothing'}."
        )
    index_at, name_at = header.index("index"), header.index("name")
    named: dict[int, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(row):
            continue
        text = row[index_at].strip() if index_at < len(row) else ""
        if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) >= MOST_CLASSES:
            raise EdgeAfError(
                f"{path}: line {number}: index {text!r:.20} is not a class number from 0 to {MOST_CLASSES - 1}."
            )
        if int(text) in named:
            raise EdgeAfError(f"{path}: line {number}: index {text} occurs twice.")
        named[int(text)] = row[name_at].strip() if name_at < len(row) else ""
    if not named:
        raise EdgeAfError(f"{path}: names no classes.")
    names = [named.get(index, "") for index in range(max(named) + 1)]
    return Vocabulary(path, hashlib.sha256(data).hexdigest(), names)


def named(path: Path, names: list[str]) -> Vocabulary:
    """Return class names that come from elsewhere, such as a dataset, as a vocabulary."""
    return Vocabulary(path, hashlib.sha256("\n".join(names).encode(errors="surrogatepass")).hexdigest(), names)


def find_vocabulary(folder: Path, year: int) -> Vocabulary | None:
    """Return the vocabulary nearest to the source files in `folder`.

    It may be `vocabulary.csv` in the folder or its parent, or `vocabulary_YEAR.csv` there or one level up.
    """
    folder = folder.absolute()
    for path in _candidates([folder, *folder.parents][:3], year):
        if path.is_file():
            return read_vocabulary(path)
    return None


def _candidates(folders: list[Path], year: int) -> Iterable[Path]:
    for depth, folder in enumerate(folders):
        if depth < 2:
            yield folder / "vocabulary.csv"
        yield folder / f"vocabulary_{year}.csv"
