"""Atomic writes, staged folders, locks and hashes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from edge_af.console import say, warn
from edge_af.documents import MOST_BYTES, DocumentError, parse_json, parse_yaml
from edge_af.errors import EdgeAfError

LOCK = ".lock"
"""Lock file in an output folder while a process writes to it."""


def package_data(*parts: str) -> Path:
    """Return the path of a file or folder that ships inside the package, as in `package_data("calibration")`."""
    return Path(__file__).resolve().parent.joinpath(*parts)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a value's JSON text with sorted keys, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def unchanged(path: Path, sha256: str | None) -> Iterator[None]:
    """Check that `path` is the same file, with this SHA-256, at the beginning and the end of the block.

    Raises:
        EdgeAfError: its SHA-256 differs (None allows any), or it was replaced or written to meanwhile.
    """
    if sha256 is None:
        yield
        return
    before, ctime = _identity(path)
    if sha256_file(path) != sha256:
        raise EdgeAfError(f"{path}: was replaced or changed meanwhile (its SHA-256 differs). Start again.")
    yield
    after, ctime_after = _identity(path)
    # Links and chmod change ctime too, for example in backups. In that case the checksum decides.
    if after != before or (ctime_after != ctime and sha256_file(path) != sha256):
        raise EdgeAfError(f"{path}: was replaced or changed while it was in use. Start again.")


def _identity(path: Path) -> tuple[tuple[int, ...], int]:
    """Return (device, inode, bytes, mtime in ns), which change with any write or replacement, and ctime in ns."""
    with explain_os_errors(path):
        found = path.stat()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns), found.st_ctime_ns


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path`; it replaces `path` if the block succeeds and is deleted otherwise.

    After a kill at any moment, readers see the old bytes or the new ones, never a part. A link stays a link. A pipe or a
    device (`/dev/stdout`) cannot be replaced, so it is written to when the block succeeds.

    Raises:
        EdgeAfError: `path` is a folder or cannot be written, or the disk is full.
    """
    if path.is_dir():
        raise EdgeAfError(f"{path}: is a folder; name a file.")
    with explain_os_errors(path):
        if is_stream(path):
            with tempfile.TemporaryDirectory(prefix="edge-af-") as folder:
                yield Path(folder, "stream")
                with Path(folder, "stream").open("rb") as written, path.open("ab") as stream:
                    shutil.copyfileobj(written, stream)
            return
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _beside(path: Path) -> Path:
    """Return an unused hidden name beside `path`. Callers know it before creating a file, so they can always delete it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def check_utf8_name(path: Path) -> None:
    """Refuse a path that is not UTF-8: the runtimes and safetensors cannot open one.

    Raises:
        EdgeAfError: the path is not UTF-8.
    """
    if os.fsencode(path) != str(path).encode(errors="surrogatepass"):
        raise EdgeAfError(f"{path}: the name is not UTF-8, so its file cannot be loaded. Rename it.")


def is_stream(path: Path) -> bool:
    """Return True if a path is a pipe, a device, or another name of an open file, which cannot be replaced."""
    place = path.absolute()
    open_file = str(place) in ("/dev/stdout", "/dev/stderr") or place.is_relative_to("/dev/fd")
    return open_file or (path.exists() and not path.is_file())


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file atomically; see `atomic_path`. Text is written as UTF-8.

    Lone surrogates, from file names that are not UTF-8, become escapes (`\\udce9`), which JSON reads back unchanged.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode(errors="backslashreplace") if isinstance(data, str) else data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically. NaN and infinities are refused."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file.

    Raises:
        EdgeAfError: the file is missing, unreadable or not JSON (see `parse_json`). `what` names its role.
    """
    return _read_document(path, what, "JSON", parse_json)


def read_yaml(path: Path, what: str) -> Any:
    """Read a YAML file of plain values.

    Raises:
        EdgeAfError: the file is missing, unreadable or not YAML (see `parse_yaml`). `what` names its role.
    """
    return _read_document(path, what, "YAML", parse_yaml)


def _read_document(path: Path, what: str, language: str, parse: Callable[[bytes], Any]) -> Any:
    most = MOST_BYTES[language]
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise DocumentError(f"larger than {most >> 20} MB")
        return parse(data)
    except FileNotFoundError:
        raise EdgeAfError(f"{path}: no such {what}.") from None
    except IsADirectoryError:
        raise EdgeAfError(f"{path}: is a folder, not a {what}.") from None
    except OSError as error:
        raise EdgeAfError(f"{path}: cannot read this {what}: {error.strerror}.") from None
    except DocumentError as error:
        raise EdgeAfError(f"{path}: cannot read this {what}: {error}.") from None


@contextlib.contextmanager
def locked(path: Path, busy: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` until the block or this process ends.

    The file is created if needed, stays empty, and is removed at the end. A link is not followed. A lock file left behind
    by a kill locks nothing.

    Args:
        path: the lock file.
        busy: message when another process holds the lock.
        wait: print the message and wait, instead of raising.

    Raises:
        EdgeAfError: another process holds the lock, or the file cannot be created.
    """
    held = None
    while held is None:
        with explain_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            held = _open_lock(path)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                os.close(held)
                raise EdgeAfError(busy) from None
            say(busy)
            fcntl.flock(held, fcntl.LOCK_EX)
        # The previous holder may have removed the file after this process opened it; then the lock is void.
        if not path.exists() or not os.path.samestat(path.lstat(), os.fstat(held)):
            os.close(held)
            held = None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(held)


def _open_lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise EdgeAfError(f"{path}: cannot be locked, because it is not a regular file. Remove it.")
    return descriptor


def lock_output(out: Path) -> contextlib.AbstractContextManager[None]:
    """Lock the output `out`, a file or an existing folder, for this process; see `locked`.

    Two processes that write to one place would silently undo each other's work. The lock file lies in the folder, or
    beside the file. Pipes and devices are not locked.

    Raises:
        EdgeAfError: another process writes there.
    """
    if not out.is_dir() and is_stream(out):
        return contextlib.nullcontext()
    target = out.resolve()
    place = target / LOCK if out.is_dir() else target.with_name(f".{target.name}.lock")
    return locked(place, _busy(out))


def _busy(out: Path) -> str:
    return f"{out}: another edge-af process is writing here. Wait for it, or choose another --out."


@contextlib.contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into an EdgeAfError that names the path and the reason.

    `BrokenPipeError`, and an OSError without errno, are re-raised unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EdgeAfError(
                f"{path}: no space left to write this file. Free some, or choose another folder."
            ) from None
        if error.errno is None or isinstance(error, BrokenPipeError):
            raise
        raise EdgeAfError(f"{path}: cannot write here ({error.strerror}).") from None


def check_writable(path: Path) -> None:
    """Raise an error now, before hours of measuring, if a file cannot be written.

    Raises:
        EdgeAfError: the file cannot be written.
    """
    if path.is_dir():
        raise EdgeAfError(f"{path}: is a folder; name a file.")
    if is_stream(path):
        return
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()


def check_replaceable(out: Path, ours: Iterable[str], overwrite: bool) -> None:
    """Refuse an output folder with contents, unless `overwrite` is set and all contents are our own output.

    Args:
        out: output folder.
        ours: patterns of our own files' relative paths, matched part by part with `fnmatch`. A folder's name does
            not cover the files in it.
        overwrite: allow replacing our own files.

    Raises:
        EdgeAfError: `out` is a file or a mount point, has contents without `overwrite`, or holds files other than
            `ours`.
    """
    if out.exists() and not out.is_dir():
        raise EdgeAfError(f"{out}: is a file; name a folder for the output.")
    if out.resolve().is_mount():
        raise EdgeAfError(f"{out}: is a mount point, which cannot be replaced. Name a folder inside it.")
    with explain_os_errors(out):
        if out.is_dir() and any(out.iterdir()) and not overwrite:
            raise EdgeAfError(f"{out}: already exists and is not empty. Choose another folder, or pass --overwrite.")
        found = files_below(out)
    patterns = [PurePosixPath(pattern).parts for pattern in ours]
    foreign = [path for path in found if not any(_matches(PurePosixPath(path).parts, parts) for parts in patterns)]
    if foreign:
        raise EdgeAfError(
            f"{out}: holds {foreign[0]!r}, which --overwrite would delete and this command did not write. "
            "Choose another folder."
        )


def files_below(folder: Path) -> list[str]:
    """Return the relative paths, with slashes, of all files below `folder`. Links are not followed."""
    return sorted(_below(folder)) if folder.is_dir() else []


def _below(folder: Path) -> Iterator[str]:

    def refuse(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=refuse):
        for name in names + [name for name in folders if Path(root, name).is_symlink()]:
            yield Path(root, name).relative_to(folder).as_posix()


def _matches(parts: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    return len(parts) == len(patterns) and all(map(fnmatch, parts, patterns))


def replace_folder(new: Path, out: Path, replaced: Collection[str]) -> None:
    """Rename the folder `new`, which lies beside `out`, to `out`. The old `out` is moved aside first and deleted last.

    A kill in between leaves both: `new` under either name, and the old folder as `.NAME.old.…` beside it.

    Args:
        new: folder to put in place.
        out: its destination.
        replaced: files that may be deleted, from `files_below` when the work began. Files that others have added to
            `out` since then are kept in the new folder; if a name is taken there, the old folder is kept.

    Raises:
        OSError: renaming failed; `new` and `out` are unchanged.
    """
    if not out.is_dir():
        new.rename(out)
        return
    aside = out.with_name(f".{out.name}.old.{secrets.token_hex(4)}")
    try:
        out.rename(aside)
        new.rename(out)
    except BaseException:
        if not out.is_dir():
            aside.rename(out)
        raise
    kept = False
    for path in sorted(set(files_below(aside)) - set(replaced)):
        place = out / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(place):
            kept = True
        else:
            (aside / path).rename(place)
    if kept:
        warn(f"{out}: files added meanwhile have the same names as new ones. They are kept in {aside}.")
        return
    shutil.rmtree(aside, ignore_errors=True)
    if aside.exists():
        warn(f"{aside}: the old folder could not be completely deleted; delete it by hand.")


@contextlib.contextmanager
def staged_folder(out: Path, ours: Iterable[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `out`; it becomes `out` if the block succeeds and is deleted otherwise.

    `out` is locked meanwhile; files that others put there are kept.

    Args:
        out: folder to create. If it is a link to a folder, that folder is replaced and the link stays.
        ours: patterns of the files that may be replaced, see `check_replaceable`.
        overwrite: replace its contents.

    Raises:
        EdgeAfError: `out` has contents, another process is writing to it, or it cannot be written.
    """
    check_replaceable(out, ours, overwrite)
    target = out.resolve()
    with locked(target.with_name(f".{target.name}.lock"), _busy(out)):
        # The previous lock holder may have created it just now.
        check_replaceable(out, ours, overwrite)
        with explain_os_errors(out):
            replaced = files_below(target)
        stage = _beside(target)
        try:
            with explain_os_errors(out):
                stage.mkdir(mode=0o700)
                yield stage
                stage.chmod(0o777 & ~_umask())
                replace_folder(stage, target, replaced)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    umask = os.umask(0)
    os.umask(umask)
    return umask
