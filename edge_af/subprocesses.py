"""Child processes: their environment, their lifetime, and how one ended.

Nothing here imports numpy or a runtime: when one of those is what fails, this still reports it.
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
"""numpy's libraries start a thread a core otherwise, which idle beside what is measured. Runtimes have pools of their own."""


# What the kernel's signal most often means here; `signal.strsignal` says only what it is.
_MEANING: dict[int, str] = {
    signal.SIGKILL: "most likely stopped by the system for lack of memory",
    signal.SIGILL: "the runtime uses instructions that this processor does not have",
    signal.SIGBUS: "the file was cut short while it was in use, or memory ran out",
}


def environment() -> dict[str, str]:
    """This process's, in which the package is found from anywhere and output is UTF-8, as its reader expects."""
    package_folder = str(Path(__file__).resolve().parents[1])
    search_path = os.pathsep.join(filter(None, [package_folder, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": search_path, "PYTHONIOENCODING": "utf-8"}


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to end this process with the one that started it: an orphan would continue for minutes.

    Args:
        parent: that one's number; where it is gone already, so is this process.
    """
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


class Running:
    """A worker under way: it is told things on its standard input, and answers with a JSON object a line."""

    def __init__(self, process: subprocess.Popen[bytes], reader: int, result_fd: int, chatter: IO[bytes]) -> None:
        self.process, self.result_fd = process, result_fd
        self._reader, self._chatter = reader, chatter
        self._buffer = b""

    def send(self, text: str) -> None:
        """Say something. One that is gone hears nothing, and `next` then says so."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()

    def next(self, deadline: float) -> dict[str, Any] | None:
        """The next object that it told; None once it has closed its results.

        Args:
            deadline: of `time.monotonic`.

        Raises:
            TimeoutError: it said nothing until the deadline.
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
        """The last line that it, or a library in it, printed."""
        return _last_line(self._chatter)


@contextlib.contextmanager
def running(command: Sequence[str], extra_environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Start a worker; it and whatever it started are gone when the block ends.

    Raises:
        EdgeAfError: no process can be started.
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
                # Ctrl-C is for the bench, which then ends the worker; the worker has nothing to say about it.
                start_new_session=True,
            )
        except OSError as error:
            raise EdgeAfError(f"cannot start a process to measure in: {error}.") from None
        finally:
            os.close(writer)
        cleanup.callback(_end, process)
        yield Running(process, reader, writer, chatter)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the worker and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def signal_in_words(number: int, last_line: str) -> tuple[str, str]:
    """The name of a signal that ended a process, and what it most likely means; `last_line` is what the process said last."""
    names = {int(known): known.name for known in signal.Signals}
    meaning = _MEANING.get(number) or last_line or signal.strsignal(number) or "no more is known"
    return names.get(number, f"signal {number}"), meaning


def _last_line(chatter: IO[bytes]) -> str:
    chatter.seek(max(0, chatter.seek(0, os.SEEK_END) - 4096))
    lines = [line.strip() for line in chatter.read().decode(errors="replace").splitlines()]
    # What LiteRT is pleased to say of itself explains no end.
    telling = [line for line in lines if line and not line.startswith("INFO: ")]
    return telling[-1][:200] if telling else ""
