"""Download a file over HTTP, and continue after an interruption."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path

from edge_af.__version__ import __version__
from edge_af.console import Progress
from edge_af.errors import EdgeAfError
from edge_af.files import sha256_file, write_atomic

STALL_SECONDS = 30.0
"""A server that sends nothing for so long has stalled."""
TRIES, PAUSE_SECONDS = 4, 1.0
BLOCK = 1 << 20


def download(url: str, path: Path, *, sha256: str | None = None) -> None:
    """Download a file to `path`, unless it is there.

    What arrives is kept in PATH.part, with the server's version of the file in PATH.tag. If the server still has that
    version, a later call continues from there. A file from another address is downloaded again.

    Raises:
        EdgeAfError: the server refuses, fails or stalls `TRIES` times, or the file has another SHA-256.
        OSError: the disk is full, or the folder cannot be written to.
    """
    part, origin = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.url")
    if not origin.exists() or origin.read_text(encoding="utf-8") != url:
        for stale in (path, part, _tag(part)):
            stale.unlink(missing_ok=True)
        write_atomic(origin, url)
    if not path.exists():
        for number in range(TRIES):
            try:
                _fetch(url, part, path.name)
                break
            except urllib.error.HTTPError as error:
                if error.code == 416:  # The part is longer than the file.
                    part.unlink(missing_ok=True)
                elif error.code < 500 or number == TRIES - 1:
                    raise EdgeAfError(f"{url}: the server answers {error.code} {error.reason}.") from None
            except ValueError as error:
                raise EdgeAfError(f"{url}: is not an address ({error}).") from None
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                if number == TRIES - 1:
                    raise EdgeAfError(f"{url}: {_reason(error)}. {_kept(part)}") from None
            time.sleep(number * PAUSE_SECONDS)
        else:
            raise EdgeAfError(f"{url}: the server does not send the file.")
        part.replace(path)
        _tag(part).unlink(missing_ok=True)
    if sha256 is not None and (found := sha256_file(path)) != sha256:
        path.unlink()
        raise EdgeAfError(
            f"{url}: has the SHA-256 {found} instead of {sha256}. It was damaged on the way, or has changed. "
            "The same command downloads it again."
        )


def _fetch(url: str, part: Path, name: str) -> None:
    """Download what is missing of a file to `part`."""
    headers = {"User-Agent": f"edge-af/{__version__}", "Accept-Encoding": "identity"}
    tag = _tag(part)
    if part.exists() and part.stat().st_size and tag.exists():
        # A server whose file has another tag sends all of it.
        headers |= {"Range": f"bytes={part.stat().st_size}-", "If-Range": tag.read_text(encoding="ascii")}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=STALL_SECONDS) as answer:
        start = part.stat().st_size if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        size = start + int(length) if length is not None else None
        if answer.status != 206:
            part.unlink(missing_ok=True)
            tag.unlink(missing_ok=True)
            if version := answer.headers.get("ETag") or answer.headers.get("Last-Modified"):
                write_atomic(tag, version)
        with part.open("ab") as file, Progress(name, size, "bytes") as progress:
            progress.update(start)
            while block := answer.read1(BLOCK):
                file.write(block)
                progress.update(len(block))
    if size is not None and part.stat().st_size < size:
        raise ConnectionError("the connection was cut off")


def _tag(part: Path) -> Path:
    return part.with_suffix(".tag")


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"the server sent nothing for {STALL_SECONDS:.0f} s"
    return str(getattr(cause, "strerror", None) or cause or type(cause).__name__)


def _kept(part: Path) -> str:
    if not part.exists() or not part.stat().st_size:
        return "Try again later, or get the file elsewhere and name its folder with --from."
    return f"{part.stat().st_size / 1e6:,.1f} MB are kept in {part.parent}; the same command continues."
