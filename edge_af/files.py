"""Files that are either whole or not there: atomic writes, staged folders, hashes."""

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
"""In an output folder, while a process writes to it."""


def package_data(*parts: str) -> Path:
    """Return the path of a file or folder that ships inside the package, as in `package_data("calibration")`."""
    return Path(__file__).resolve().parent.joinpath(*parts)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hash a JSON value's text with sorted keys: SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def unchanged(path: Path, sha256: str | None) -> Iterator[None]:
    """Hold that `path` names one and the same file, of this SHA-256, from the beginning of the block to its end.

    Raises:
        EdgeAfError: it has another SHA-256, or it was replaced or written to in between. None allows any file.
    """
    if sha256 is None:
        yield
        return
    before, ctime = _identity(path)
    if sha256_file(path) != sha256:
        raise EdgeAfError(f"{path}: was replaced or changed meanwhile (its SHA-256 is another). Start again.")
    yield
    after, ctime_after = _identity(path)
    # Links and chmod change ctime too, for example in backups. In that case the checksum decides.
    if after != before or (ctime_after != ctime and sha256_file(path) != sha256):
        raise EdgeAfError(f"{path}: was replaced or changed while it was in use. Start again.")


def _identity(path: Path) -> tuple[tuple[int, ...], int]:
    """(device, inode, bytes, mtime in ns), which differ for another file or after a write; and ctime in ns."""
    with explain_os_errors(path):
        found = path.stat()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns), found.st_ctime_ns


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path` to write to; it replaces `path` when the block ends well and vanishes when not.

    A reader, or a kill at any moment, sees the old bytes or the new ones, never a part. A link stays a link. A pipe or a device
    (`/dev/stdout`) cannot be replaced: it is written to when the block ends well.

    Raises:
        EdgeAfError: it is a folder, the disk is full, or the folder cannot be written.
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
    """An unused hidden name beside `path`. Callers know it before they create it, so a signal cannot leave it behind."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def check_utf8_name(path: Path) -> None:
    """Refuse a path whose bytes are not UTF-8: the runtimes and safetensors open no other.

    Raises:
        EdgeAfError: naming the path.
    """
    if os.fsencode(path) != str(path).encode(errors="surrogatepass"):
        raise EdgeAfError(f"{path}: the name is not UTF-8, so its file cannot be loaded. Rename it.")


def is_stream(path: Path) -> bool:
    """Return True if a path cannot hold a file of its own: a pipe, a device, or another name of an open file."""
    place = path.absolute()
    open_file = str(place) in ("/dev/stdout", "/dev/stderr") or place.is_relative_to("/dev/fd")
    return open_file or (path.exists() and not path.is_file())


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file; see `atomic_path`. Text becomes UTF-8.

    A file name that is not UTF-8 holds lone surrogates, which become escapes (`\\udce9`): JSON reads them back as they were.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode(errors="backslashreplace") if isinstance(data, str) else data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically. NaN and infinities are refused."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file.

    Raises:
        EdgeAfError: it is missing, unreadable or not JSON (see `parse_json`); `what` names its role in the message.
    """
    return _read_document(path, what, "JSON", parse_json)


def read_yaml(path: Path, what: str) -> Any:
    """Read a YAML file of plain values; a tag that would make an object is refused.

    Raises:
        EdgeAfError: it is missing, unreadable or not YAML (see `parse_yaml`); `what` names its role in the message.
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
    except OSError as error:
        raise EdgeAfError(f"{path}: cannot read this {what}: {error.strerror}.") from None
    except DocumentError as error:
        raise EdgeAfError(f"{path}: cannot read this {what}: {error}.") from None


@contextlib.contextmanager
def locked(path: Path, busy: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` until the block ends or this process does, however it ends.

    The file is made where there is none, never written to, never followed if it is a link, and removed at the end. One that
    a kill left behind locks nothing.

    Args:
        path: the lock file.
        busy: what to say when another process holds it.
        wait: say so and wait for it, instead of raising.

    Raises:
        EdgeAfError: another process holds it, or it cannot be made.
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
        # The holder before may have removed the file between the opening and the lock: then another one counts by now.
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
    """Hold the output `out`, a file or an existing folder, for this process alone; see `locked`.

    Two processes that write to one place would undo each other's work without a word. The lock lies in the folder, or
    beside the file; a pipe or a device is not locked.

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
    """Turn what the operating system refuses into an error that names the path and the reason.

    A broken pipe is no matter of `path` and comes through, and so does an OSError that carries no reason (no errno).
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
    """Find out before an hour of measuring, not after it, that a file cannot be written.

    Raises:
        EdgeAfError: names the path and why.
    """
    if path.is_dir():
        raise EdgeAfError(f"{path}: is a folder; name a file.")
    if is_stream(path):
        return
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()


def check_replaceable(out: Path, ours: Iterable[str], overwrite: bool) -> None:
    """Refuse an output folder that holds anything, unless it is to be overwritten and holds nothing but our own output.

    Args:
        out: the folder.
        ours: patterns of the paths of our own files, relative to the folder, `fnmatch` for each part between slashes.
            Files in folders below are looked at as well: `train` alone allows no file `train/a`.
        overwrite: whether that may be replaced.

    Raises:
        EdgeAfError: it is a file or a mount point, holds something and `overwrite` is not set, or holds files other than
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
            f"{out}: holds {foreign[0]!r}, which --overwrite would delete and this verb did not write. Choose another folder."
        )


def files_below(folder: Path) -> list[str]:
    """Paths relative to `folder`, with slashes, of everything below it that is not a folder. Links are not followed."""
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
    """Rename the folder `new`, which lies beside `out`, to `out`. What `out` held is moved aside first and deleted last.

    A kill in between leaves both: `new` under its name or as `out`, and the old one as `.NAME.old.…` beside it.

    Args:
        new: the folder to put in place.
        out: where to.
        replaced: what may be deleted, as `files_below` gave it when the work began. What came to `out` since then is
            somebody else's and is moved along; where `new` has a file of its name, the old folder is kept.

    Raises:
        OSError: it cannot be done; `new` and `out` are as they were.
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
        warn(f"{out}: files came into it meanwhile that have the names of new ones. They are kept in {aside}.")
        return
    shutil.rmtree(aside, ignore_errors=True)
    if aside.exists():
        warn(f"{aside}: what was replaced could not all be deleted; delete it by hand.")


@contextlib.contextmanager
def staged_folder(out: Path, ours: Iterable[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `out`; it becomes `out` when the block ends well and vanishes when it does not.

    One process at a time makes `out`; what others put there meanwhile is kept.

    Args:
        out: the folder to make. If it is a link to a folder, that folder is replaced and the link stays.
        ours: patterns of the names that may be replaced in it, see `check_replaceable`.
        overwrite: replace what it holds.

    Raises:
        EdgeAfError: `out` is taken, another process is making it, or it cannot be written.
    """
    check_replaceable(out, ours, overwrite)
    target = out.resolve()
    with locked(target.with_name(f".{target.name}.lock"), _busy(out)):
        # The one before may have made it just now.
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
    """The process's umask, which can only be read by setting it."""
    umask = os.umask(0)
    os.umask(umask)
    return umask
