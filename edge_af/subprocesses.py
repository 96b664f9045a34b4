"""Child processes: their environment, their lifetime, and how one ended.

Nothing here imports numpy or a runtime, so that this can report their failures.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from edge_af.errors import EdgeAfError

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Keep numpy's libraries from starting a thread per core, idle during measurements. Runtimes have their own pools."""


# The most likely cause; `signal.strsignal` only names the signal.
_MEANING: dict[int, str] = {
    signal.SIGKILL: "most likely stopped by the system for lack of memory",
    signal.SIGILL: "the runtime uses instructions that this processor does not have",
    signal.SIGBUS: "the file was cut short while it was in use, or memory ran out",
}


def environment() -> dict[str, str]:
    """Return this process's environment with edge_af importable from any folder, and output in UTF-8."""
    package_folder = str(Path(__file__).resolve().parents[1])
    search_path = os.pathsep.join(filter(None, [package_folder, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": search_path, "PYTHONIOENCODING": "utf-8"}


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to end this process when its parent ends, so that no orphan runs on for minutes.

    Args:
        parent: the parent's process ID; if it has ended already, this process ends now.
    """
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


class Running:
    """A running worker. It reads lines from standard input and answers with one JSON object per line."""

    def __init__(self, process: subprocess.Popen[bytes], reader: int, result_fd: int, chatter: IO[bytes]) -> None:
        self.process, self.result_fd = process, result_fd
        self._reader, self._chatter = reader, chatter
        self._buffer = b""

    def send(self, text: str) -> None:
        """Send a line. Nothing happens if the worker has ended; `next` then reports it."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()

    def next(self, deadline: float) -> dict[str, Any] | None:
        """Return the next object; None at the end of its output.

        Args:
            deadline: a time of `time.monotonic`.

        Raises:
            TimeoutError: nothing arrived before the deadline.
        """
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._reader], [], [], left)[0]:
                raise TimeoutError
            part = os.read(self._reader, 1 << 16)
            if not part:
                return None
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def last_line(self) -> str:
        """Return the last line that the worker, or a library in it, printed."""
        return _last_line(self._chatter)


@contextlib.contextmanager
def running(command: Sequence[str], extra_environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Start a worker; it and its child processes are ended with the block.

    Raises:
        EdgeAfError: the process cannot be started.
    """
    with tempfile.TemporaryFile() as chatter, contextlib.ExitStack() as cleanup:
        reader, writer = os.pipe()
        cleanup.callback(os.close, reader)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=chatter,
                stderr=chatter,
                pass_fds=(writer,),
                env={**environment(), **ONE_THREAD, **(extra_environment or {})},
                # Ctrl-C reaches the bench, which ends the worker.
                start_new_session=True,
            )
        except OSError as error:
            raise EdgeAfError(f"cannot start a process to measure in: {error}.") from None
        finally:
            os.close(writer)
        cleanup.callback(_end, process)
        yield Running(process, reader, writer, chatter)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the worker and its child processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def signal_in_words(number: int, last_line: str) -> tuple[str, str]:
    """Name the signal that ended a process and its likely cause; `last_line` is the process's last output."""
    names = {int(known): known.name for known in signal.Signals}
    meaning = _MEANING.get(number) or last_line or signal.strsignal(number) or "no more is known"
    return names.get(number, f"signal {number}"), meaning


def _last_line(chatter: IO[bytes]) -> str:
    chatter.seek(max(0, chatter.seek(0, os.SEEK_END) - 4096))
    lines = [line.strip() for line in chatter.read().decode(errors="replace").splitlines()]
    # Skip LiteRT's INFO lines; they never explain a crash.
    telling = [line for line in lines if line and not line.startswith("INFO: ")]
    return telling[-1][:200] if telling else ""
