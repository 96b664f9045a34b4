"""Files that are either whole or not there: atomic writes, staged folders, hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from edge_af.errors import EdgeAfError


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path` to write to; it replaces `path` when the block ends well and vanishes when not.

    A reader, or a kill at any moment, sees the old bytes or the new ones, never a part.

    Raises:
        EdgeAfError: the disk is full or the folder cannot be written.
    """
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(descriptor)
        try:
            yield Path(name)
            with Path(name).open("rb") as file:
                os.fsync(file.fileno())
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file; see `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically. NaN and infinities are refused."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file.

    Raises:
        EdgeAfError: it is missing, unreadable or not JSON; `what` names its role in the message.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise EdgeAfError(f"{path}: no such {what}.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise EdgeAfError(f"{path}: cannot read this {what}: {error}.") from None


@contextlib.contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a forbidden folder into an error that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EdgeAfError(
                f"{path}: no space left to write this file. Free some, or choose another folder."
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            raise EdgeAfError(f"{path}: cannot write here ({error.strerror}).") from None
        raise


def check_replaceable(out: Path, ours: Iterable[str], overwrite: bool) -> None:
    """Refuse an output folder that holds anything, unless it is to be overwritten and holds nothing but our own output.

    Args:
        out: the folder.
        ours: patterns (`fnmatch`) of the names of our own output.
        overwrite: whether that may be replaced.

    Raises:
        EdgeAfError: it is a file, holds something and `overwrite` is not set, or holds names other than `ours`.
    """
    if out.exists() and not out.is_dir():
        raise EdgeAfError(f"{out}: is a file; name a folder for the output.")
    names = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    if names and not overwrite:
        raise EdgeAfError(f"{out}: already exists and is not empty. Choose another folder, or pass --overwrite.")
    patterns = list(ours)
    foreign = sorted(name for name in names if not any(fnmatch(name, pattern) for pattern in patterns))
    if foreign:
        raise EdgeAfError(
            f"{out}: holds {foreign[0]!r}, which --overwrite would delete and this verb did not write. Choose another folder."
        )


@contextlib.contextmanager
def staged_folder(out: Path, ours: Iterable[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `out`; it becomes `out` when the block ends well and vanishes when it does not.

    Args:
        out: the folder to make.
        ours: patterns of the names that may be replaced in it, see `check_replaceable`.
        overwrite: replace what it holds.

    Raises:
        EdgeAfError: `out` is taken, or cannot be written.
    """
    check_replaceable(out, ours, overwrite)
    with explain_os_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        with explain_os_errors(out):
            yield stage
            stage.chmod(0o777 & ~_umask())
            if out.is_dir():
                shutil.rmtree(out)
            stage.replace(out)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    umask = os.umask(0)
    os.umask(umask)
    return umask
