"""OpenSSH's own client with the user's configuration, and the agent at the other end of it.

One connection is kept for a whole bench; each request runs in it as a session of its own (OpenSSH's multiplexing, its socket in
a private folder). What the remote shell is given is always the same text: everything else goes through standard input.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

from edge_af.console import say
from edge_af.documents import DocumentError, parse_json
from edge_af.errors import EdgeAfError
from edge_af.files import package_data
from edge_af.targets import SshTarget
from edge_af.targets.agent import MARK

T = TypeVar("T")

OPTIONS = (
    *("-T", "-a", "-x"),  # no terminal, and nothing of this machine's offered to the other
    *("-o", "BatchMode=yes"),  # never ask: there may be nobody to answer
    *("-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6"),
    *("-o", "ControlPersist=no", "-o", "ClearAllForwardings=yes"),
    *("-o", "RemoteCommand=none", "-o", "PermitLocalCommand=no", "-o", "LogLevel=ERROR"),
)
BEAT_SECONDS = 5.0
"""A sign of life to the agent as often; see its `SILENCE_SECONDS`."""
RETRY_SECONDS = 300.0
"""For so long a connection that was lost is tried again."""

READY = "edge-af ready"

# The shell at the other end may be any: within single quotes it reads nothing of this but ends of lines, and there are none.
_PYTHON = (
    "for p in python3 python3.11 python3.12 python3.13 python3.14; do "
    '"$p" -c "import sys; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1 </dev/null && '
    'exec "$p" -c "import sys; exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"; '
    'done; v=$(python3 -V 2>&1) || v=none; echo "edge-af-python: $v" >&2; exit 127'
)
START_AGENT = f"exec sh -c '{_PYTHON}'"
HOLD = f"echo {READY}; exec cat >/dev/null"

_REASONS = (
    (
        ("REMOTE HOST IDENTIFICATION HAS CHANGED", "host key has changed"),
        "its key is not the one that is known here. If it was set up anew: ssh-keygen -R HOST, then connect once by hand;\n"
        "if not, somebody may be in between",
    ),
    (("Host key verification failed",), "its key is not known here. Connect once by hand (ssh HOST) and confirm it"),
    (
        ("Permission denied", "Too many authentication failures"),
        "it refuses the login. ssh-copy-id HOST lets your key in",
    ),
    (("Could not resolve hostname",), "there is no host of that name"),
)


class Unreachable(EdgeAfError):
    """There is no connection, or it broke: it may help to try again."""


class RequestRefused(EdgeAfError):
    """The agent said that it cannot do what it was asked to."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def agent_source() -> bytes:
    """Return the program that runs on the board: the agent behind the one module of ours that it imports."""
    cache, agent = (
        package_data(*parts).read_text(encoding="utf-8") for parts in (["cache.py"], ["targets", "agent.py"])
    )
    module = (
        "import sys, types\n"
        "sys.modules['edge_af'] = types.ModuleType('edge_af')\n"
        "sys.modules['edge_af.cache'] = cache = types.ModuleType('edge_af.cache')\n"
        f"exec({cache!r}, cache.__dict__)\n"
    )
    return f"exec({module!r})\nexec({agent!r}, {{'__name__': '__main__'}})\n".encode()


def send(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Write to a process. If it has hung up nothing happens: it has said why, or the connection's end says it."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ValueError):
        process.stdin.write(data)
        process.stdin.flush()


def _answer(line: bytes) -> dict[str, Any]:
    """A line of the agent's: `say`, `done`, or `error` with its `message`.

    Raises:
        Unreachable: it is none of these, so something else answers or garbles it.
    """
    try:
        value = parse_json(line)
    except DocumentError as error:
        raise Unreachable(f"an answer of the agent cannot be read ({error}).") from None
    form = {"say": str, "error": str, "message": str, "done": dict}
    if not isinstance(value, dict) or not all(isinstance(value.get(name), form.get(name, object)) for name in value):
        raise Unreachable(f"an answer of the agent cannot be read ({line!r:.80}).")
    if not {"say", "done"} & set(value) and not {"error", "message"} <= set(value):
        raise Unreachable(f"an answer of the agent cannot be read ({line!r:.80}).")
    return value


class _Replies:
    """What the agent says, from its mark on; what stands before that is the login shell's."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._rest = b""
        self._begun = False

    def last(self, on_line: Callable[[str], None]) -> dict[str, Any] | None:
        """Its last word, once it comes; None if the connection ends before it. Meanwhile it gets signs of life."""
        assert self._process.stdout is not None
        stream, beat = self._process.stdout.fileno(), time.monotonic()
        while True:
            ready = select.select([stream], [], [], BEAT_SECONDS)[0]
            if time.monotonic() - beat >= BEAT_SECONDS:
                beat = time.monotonic()
                send(self._process, b".")
            if not ready:
                continue
            part = os.read(stream, 1 << 16)
            if not part:
                return None
            *lines, self._rest = (self._rest + part).split(b"\n")
            for line in lines:
                if not self._begun:
                    self._begun = line.strip() == MARK.encode()
                    continue
                value = _answer(line)
                if "say" not in value:
                    return value
                on_line(value["say"])


class Connection:
    """A connection to one target. A context manager: nothing of it is left when the block ends."""

    def __init__(self, target: SshTarget) -> None:
        self.target = target
        self._master: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None

    def __enter__(self) -> Connection:
        if shutil.which("ssh") is None:
            raise EdgeAfError("--target needs OpenSSH's client `ssh`, which is not installed here.")
        # A socket's path may have some hundred characters, and OpenSSH adds to it while it connects.
        base = tempfile.gettempdir() if len(tempfile.gettempdir()) < 50 else "/tmp"
        self._folder = Path(tempfile.mkdtemp(prefix="edge-af-ssh-", dir=base))
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect.

        Raises:
            Unreachable, EdgeAfError: it cannot be; says why and what to do.
        """
        self._end_master()
        with tempfile.TemporaryFile() as errors:
            # The connection lasts as long as its standard input, and so no longer than this process, however that ends.
            self._master = self._start(["-o", "ControlMaster=yes"], HOLD, errors)
            assert self._master.stdout is not None
            said, deadline = b"", time.monotonic() + 60
            while READY.encode() not in said:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self._master.stdout], [], [], left)[0]:
                    self._end_master()
                    raise Unreachable(f"{self.target.label}: no answer within a minute.")
                part = os.read(self._master.stdout.fileno(), 65536)
                if not part:
                    self._master.wait()
                    raise self._explained(errors)
                said += part

    def close(self) -> None:
        """End the connection and remove what belonged to it."""
        self._end_master()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def persist(self, action: Callable[[], T]) -> T:
        """Do something that can be done again; where the connection breaks, connect and do it again.

        Raises:
            Unreachable: the target could not be reached for `RETRY_SECONDS`, or the connection breaks again and again at once.
        """
        soon = 0
        while True:
            begun = time.monotonic()
            try:
                return action()
            except Unreachable as error:
                soon = soon + 1 if time.monotonic() - begun < 30 else 0
                if soon == 5:
                    raise
                say(f"{self.target.label}: the connection broke; trying again.")
                self._reopen(error)

    def _reopen(self, error: Unreachable) -> None:
        deadline, pause = time.monotonic() + RETRY_SECONDS, 1.0
        while True:
            try:
                self.open()
                return
            except Unreachable:
                if time.monotonic() + pause > deadline:
                    raise Unreachable(
                        f"{self.target.label}: the connection broke and could not be made again for "
                        f"{RETRY_SECONDS:g} s.\nThe same command goes on from there."
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, 15.0)

    def call(
        self,
        request: dict[str, Any],
        payload: Iterable[bytes] = (),
        on_line: Callable[[str], None] = lambda line: None,
    ) -> dict[str, Any]:
        """Have the agent do something; `on_line` hears what it says meanwhile.

        On KeyboardInterrupt the agent is told to stop, and the interruption is raised with what it answered as its argument.

        Raises:
            Unreachable: the connection broke.
            RequestRefused: the agent cannot do it.
            EdgeAfError: there is no Python at the other end, or something else than the agent answers.
        """
        source = agent_source()
        with tempfile.TemporaryFile() as errors:
            process = self._start(["-o", "ControlMaster=no"], START_AGENT, errors)
            replies = _Replies(process)
            try:
                try:
                    opening = b"%d\n%s%s\n" % (len(source), source, json.dumps(request).encode())
                    send(process, opening)
                    for block in payload:
                        send(process, block)
                    answer = replies.last(on_line)
                except KeyboardInterrupt:
                    say(f"{self.target.label}: stopping.")
                    # Without standard input the agent stops what it does and tells what came of it.
                    self._hang_up(process)
                    raise KeyboardInterrupt(replies.last(lambda line: None)) from None
                if answer is None:
                    process.wait()
                    raise self._explained(errors, process.returncode)
            finally:
                self._end(process)
        if "error" in answer:
            if answer["error"] == "cut-off":
                raise Unreachable(f"{self.target.label}: {answer['message']}.")
            raise RequestRefused(answer["error"], f"{self.target.label}: {answer['message']}.")
        done: dict[str, Any] = answer["done"]
        return done

    @staticmethod
    def _hang_up(process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(BrokenPipeError):
            if process.stdin is not None:
                process.stdin.close()

    def _start(self, options: list[str], command: str, errors: IO[bytes]) -> subprocess.Popen[bytes]:
        target = self.target
        line = ["ssh", *OPTIONS, *options, "-S", str((self._folder or Path()) / "s")]
        line += ["-p", str(target.port)] if target.port is not None else []
        line += ["-l", target.user] if target.user is not None else []
        return subprocess.Popen(
            [*line, "--", target.host, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            # Ctrl-C is for this process, which then ends the others in order.
            start_new_session=True,
        )

    def _explained(self, errors: IO[bytes], status: int = 255) -> EdgeAfError:
        """What ssh said last, as an error that says what to do."""
        errors.seek(0)
        text = errors.read().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        label, host = self.target.label, dataclasses.replace(self.target, port=None).label
        python = next((line.partition(": ")[2] for line in lines if line.startswith("edge-af-python: ")), None)
        if python is not None:
            found = "has no python3" if "none" in (python, "") or "not found" in python else f"has {python}"
            return EdgeAfError(f"{label}: {found}; edge-af needs Python 3.11 or newer there.")
        for marks, reason in _REASONS:
            if any(mark in text for mark in marks):
                return EdgeAfError(f"{label}: {reason.replace('HOST', host)}.")
        last = lines[-1] if lines else "the connection ended without a word"
        if status == 255:  # ssh's own, whatever it or the remote shell said
            return Unreachable(f"{label}: cannot be reached ({last}).")
        return EdgeAfError(f"{label}: {last}")

    def _end_master(self) -> None:
        if self._master is not None:
            self._hang_up(self._master)
            self._end(self._master)
            self._master = None
        if self._folder is not None:
            (self._folder / "s").unlink(missing_ok=True)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2)
        if process.poll() is None:
            process.terminate()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
