"""Score with a model file in a separate process, so that a file without a manifest can only crash its own runtime.

One flipped byte in a TFLite file can make LiteRT read or write anywhere. No check of the file's structure prevents that, so
such a file is never loaded in the user's process. A child process gets features and answers with scores:

    to the child:    a JSON line {"videos": n}, then visual and audio as float32
    from the child:  a JSON line {"runtime": …} or {"videos": n} or {"error": …}, then, with "videos", the scores as float32
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_af.data import MOST_CLASSES, Features, Widths
from edge_af.documents import parse_json
from edge_af.errors import EdgeAfError
from edge_af.runtime import MissingRuntime
from edge_af.subprocesses import die_with_parent, environment
from edge_af.typed import built

SECONDS = 120.0
"""Timeout of each answer: a damaged file may also make a runtime run forever."""
SLOWEST_READ = 5e6
"""Bytes per second that the slowest memory card reads, used to extend the loading timeout."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Loaded:
    runtime: str
    classes: int
    widths: Widths
    max_batch: int | None


@dataclass(frozen=True)
class _Scored:
    videos: int


@dataclass(frozen=True)
class _Refused:
    error: str
    missing: bool = False
    """True if the runtime is missing."""


class ApartScorer:
    """A model file, ready to score in a separate process. See `edge_af.runtime.Scorer`."""

    def __init__(self, path: Path, threads: int, packed: Path | None = None) -> None:
        self._path = path
        self._chatter = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = _start([str(path), str(threads), *([str(packed)] if packed else [])], self._chatter)
        self._end = weakref.finalize(self, _stop, self._process, self._chatter)
        self._step = "loading"
        loaded = self._answer(_Loaded, SECONDS + path.stat().st_size / SLOWEST_READ)
        if not 1 <= loaded.classes <= MOST_CLASSES:
            raise EdgeAfError(f"{path}: scores {loaded.classes} classes; expected 1 to {MOST_CLASSES}.")
        self.runtime, self.classes, self.max_batch = loaded.runtime, loaded.classes, loaded.max_batch
        self.widths = loaded.widths
        self._step = "running"

    def score(self, features: Features) -> NDArray[np.float32]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"videos": features.videos}).encode() + b"\n")
            for array in features:
                self._process.stdin.write(np.ascontiguousarray(array, np.float32).data)
            self._process.stdin.flush()
        deadline = time.monotonic() + SECONDS
        if self._answer(_Scored, SECONDS).videos != features.videos:
            raise EdgeAfError(f"{self._path}: returns scores of a different number of videos. Export it again.")
        data = self._read(4 * features.videos * self.classes, deadline)
        return np.frombuffer(data, np.float32).reshape(features.videos, self.classes).copy()

    def _answer(self, kind: type[T], seconds: float) -> T:
        """Return the child's next line, which must be of this kind."""
        deadline = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n") and len(line) < 1 << 16:
            line += self._read(1, deadline)
        try:
            value = parse_json(line)
            if isinstance(value, dict) and "error" in value:
                refused = built(_Refused, value)
                raise (MissingRuntime if refused.missing else EdgeAfError)(refused.error)
            return built(kind, value)
        except ValueError as error:
            raise EdgeAfError(
                f"{self._path}: garbled answer while {self._step} it ({error}). Export it again."
            ) from None

    def _read(self, count: int, deadline: float) -> bytes:
        assert self._process.stdout is not None
        stream, found = self._process.stdout.fileno(), bytearray()
        while len(found) < count:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stream], [], [], left)[0]:
                self._end()
                raise EdgeAfError(f"{self._path}: timed out while {self._step} it. Export it again.")
            part = os.read(stream, min(count - len(found), 1 << 20))
            if not part:
                raise self._died()
            found += part
        return bytes(found)

    def _died(self) -> EdgeAfError:
        status = self._process.wait()
        named = {number.value: number.name for number in signal.Signals}
        how = f"by {named.get(-status, f'signal {-status}')}" if status < 0 else f"with status {status}"
        if status == -signal.SIGKILL:
            return EdgeAfError(
                f"{self._path}: its process was killed while {self._step} it, by the user or because it ran out of memory. "
                "Free some memory, or choose a smaller file."
            )
        self._chatter.seek(0)
        said = self._chatter.read().decode(errors="replace").strip().rpartition("\n")[2][:200]
        return EdgeAfError(
            f"{self._path}: its runtime crashed while {self._step} it (its process ended {how}). The file is damaged or made "
            f"for another machine. Export it again.{f' Last output: {said}' if said else ''}"
        )


def _start(arguments: list[str], chatter: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "edge_af.runtime.apart", *arguments]
    try:
        return subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=chatter, bufsize=0
        )
    except OSError as error:
        raise EdgeAfError(f"cannot start a process to load a file in ({error.strerror}).") from None


def _stop(process: subprocess.Popen[bytes], chatter: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, chatter):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def main() -> None:
    """Load the file named on the command line and score videos until the input ends."""
    from edge_af.runtime import load

    die_with_parent()
    # Ctrl-C also reaches this process; its parent ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Keep libraries' output separate from the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    features = sys.stdin.buffer

    def tell(**value: Any) -> None:
        answers.write(json.dumps(value).encode() + b"\n")

    try:
        path, threads, *packed = sys.argv[1:]
        scorer = load(path, threads=int(threads), packed=packed[0] if packed else None)
        widths = dataclasses.asdict(scorer.widths)
        tell(runtime=scorer.runtime, classes=scorer.classes, widths=widths, max_batch=scorer.max_batch)
        answers.flush()
        while line := features.readline():
            videos = json.loads(line)["videos"]
            arrays = (
                np.frombuffer(features.read(4 * videos * width), np.float32).reshape(videos, width)
                for width in widths.values()
            )
            scores = np.ascontiguousarray(scorer.score(Features(*arrays)), np.float32)
            if scores.shape != (videos, scorer.classes):
                raise EdgeAfError(
                    f"{path}: returns scores of the shape {scores.shape} for {videos} videos. Export it again."
                )
            tell(videos=videos)
            answers.write(scores.data)
            answers.flush()
    except EdgeAfError as error:
        tell(error=str(error), missing=isinstance(error, MissingRuntime))
    except Exception as error:  # With a damaged file, a runtime's Python code can raise any exception.
        reason = " ".join(str(error).split())[:200]
        tell(error=f"{sys.argv[1]}: cannot be run ({type(error).__name__}: {reason}). Export it again.")
    with contextlib.suppress(BrokenPipeError):
        answers.flush()
    # Skip the destructors of a runtime that a damaged file may have corrupted.
    os._exit(0)


if __name__ == "__main__":
    main()
