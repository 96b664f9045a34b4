"""Runs a worker in a fresh process, outlives whatever it does, and says how it ended."""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import edge_af
from edge_af.bench.conditions import Activity
from edge_af.bench.results import CRASHED, DOES_NOT_FIT, FAILED, TIMEOUT
from edge_af.errors import EdgeAfError

if TYPE_CHECKING:  # It needs numpy, and what is told of ends here must be told where numpy is what ends.
    from edge_af.bench.worker import Job

# -P: a file in the working directory must not stand in for a package.
WORKER = (sys.executable, "-P", "-m", "edge_af.bench.worker")

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""numpy's libraries start a thread a core otherwise, which idle beside what is measured. Runtimes have pools of their own."""

EMPTY = {"onnxruntime": "empty.onnx", "litert": "empty.tflite"}
"""A layer from 1,152 features to one class, which shows what a runtime takes by itself and whether it runs at all."""

# What the kernel's signal most often means here; `signal.strsignal` says only what it is.
_MEANING: dict[int, str] = {
    signal.SIGKILL: "most likely stopped by the system for lack of memory",
    signal.SIGILL: "the runtime uses instructions that this processor does not have",
    signal.SIGBUS: "the file was cut short while it was in use, or memory ran out",
}
_MEMORY_WORDS = ("bad_alloc", "memoryerror", "out of memory", "cannot allocate memory", "failed to allocate memory")
_NO_RUNTIME = "failed to create xnnpack runtime"
"""All that LiteRT says when XNNPACK fails, as it does where its copy of the weights finds no room."""


def environment() -> dict[str, str]:
    """This process's, in which the package is found from anywhere and output is UTF-8, as its reader expects."""
    package_folder = str(Path(edge_af.__file__).resolve().parents[1])
    search_path = os.pathsep.join(filter(None, [package_folder, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": search_path, "PYTHONIOENCODING": "utf-8"}


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to end this process with the one that started it: an orphan would go on for minutes.

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


def run_worker(
    job: Job,
    *,
    command: Sequence[str] = WORKER,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Do a job in a fresh process and return the fields of `Row` it found, `status` and `reason` always among them.

    Whatever becomes of the process, what it had found by then is kept. It has `job.method.timeout_seconds` in all, and is
    gone when this returns or raises.
    """
    deadline = time.monotonic() + job.method.timeout_seconds
    killed = Activity.now().killed
    with running(command) as worker:
        worker.send(dataclasses.replace(job, result_fd=worker.result_fd).as_json())
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            worker.process.stdin.close()
        found: dict[str, Any] = {}
        stage = "starting"
        ended = False
        while "status" not in found:
            try:
                fields = worker.next(deadline)
            except TimeoutError:
                break
            if fields is None:
                ended = True
                break
            if "stage" in fields:
                stage = fields["stage"]
                on_stage(stage)
            else:
                found.update(fields)
        if "status" not in found:
            found |= _how_it_ended(worker, stage, ended, deadline, job.method.timeout_seconds)
        return _in_words(found, stage, Activity.now().killed > killed)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the worker and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _how_it_ended(worker: Running, stage: str, ended: bool, deadline: float, timeout: float) -> dict[str, str]:
    """Status and reason of a worker that did not give its own."""
    try:
        # Having closed its results it is about to be gone, unless it hangs on the way out.
        status = worker.process.wait(timeout=max(1.0, deadline - time.monotonic())) if ended else worker.process.poll()
    except subprocess.TimeoutExpired:
        status = None
    if status is None:
        return {
            "status": TIMEOUT,
            "reason": f"no result within {timeout:g} s; stopped while {stage}",
        }
    last = worker.last_line()
    if status < 0:
        name, meaning = signal_in_words(-status, last)
        return {"status": CRASHED, "reason": f"{name} while {stage}: {meaning}"}
    return {"status": FAILED, "reason": f"ended with status {status} while {stage}: {last or 'no message'}"}


def signal_in_words(number: int, last_line: str) -> tuple[str, str]:
    """The name of a signal that ended a process, and what it most likely means; `last_line` is what the process said last."""
    names = {int(known): known.name for known in signal.Signals}
    meaning = _MEANING.get(number) or last_line or signal.strsignal(number) or "no more is known"
    return names.get(number, f"signal {number}"), meaning


def _in_words(found: dict[str, Any], stage: str, killed: bool) -> dict[str, Any]:
    """The same, with an end for lack of memory told as what it is, and the amounts kept for that alone."""
    reason = found["reason"] or ""
    starved = any(word in reason.lower() for word in _MEMORY_WORDS) or (killed and reason.startswith("SIGKILL"))
    needed, available = found.pop("needed_bytes", None), found.pop("available_bytes", None)
    if needed is not None and available is not None and _NO_RUNTIME in reason.lower():
        starved |= available < 2 * needed
    if not starved and found["status"] != DOES_NOT_FIT:
        return found
    amounts = ""
    if needed is not None and available is not None:
        amounts = f": needs at least {needed / 1e6:,.0f} MB, {available / 1e6:,.0f} MB available"
    how = "does not fit" if found["status"] == DOES_NOT_FIT and not starved else f"ran out of memory while {stage}"
    return {
        **found,
        "status": DOES_NOT_FIT,
        "reason": f"{how}{amounts}",
        "needed_bytes": needed,
        "available_bytes": available,
    }


def _last_line(chatter: IO[bytes]) -> str:
    chatter.seek(max(0, chatter.seek(0, os.SEEK_END) - 4096))
    lines = [line.strip() for line in chatter.read().decode(errors="replace").splitlines()]
    # What LiteRT is pleased to say of itself explains no end.
    telling = [line for line in lines if line and not line.startswith("INFO: ")]
    return telling[-1][:200] if telling else ""
