"""Connections through the OpenSSH client, with the user's configuration, to edge-af's agent on a board.

Each connection has one process on the board, which reads one request per line and answers each. At first this is the agent
(`edge_af.targets.agent`), which needs only Python. Once everything is copied, edge-af itself replaces it
(`edge_af.targets.board`). The command for the remote shell is constant: everything else goes through standard input.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self, TypeVar
from urllib.parse import urlsplit

from edge_af.console import say
from edge_af.documents import DocumentError, parse_json
from edge_af.errors import EdgeAfError
from edge_af.files import package_data
from edge_af.targets.agent import MARK

T = TypeVar("T")

FORM = "ssh://[user@]host[:port]"

# OpenSSH passes user and host to commands in its configuration (ProxyCommand, Match exec), so no character may be special to
# a shell or turn the name into an option.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]*")

OPTIONS = (
    *("-T", "-a", "-x"),  # no terminal, no agent forwarding, no X11
    *("-o", "BatchMode=yes"),  # never prompt
    *("-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6"),
    *("-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ClearAllForwardings=yes"),
    *("-o", "RemoteCommand=none", "-o", "PermitLocalCommand=no", "-o", "LogLevel=ERROR"),
)
BEAT_SECONDS = 5.0
"""Interval between keepalive lines to the board; see `SILENCE_SECONDS` of the agent."""
START_SECONDS = 60.0
"""Longest wait for the agent's first line."""
RETRY_SECONDS = 300.0
"""Duration of retrying a lost connection."""

# Any login shell may read this: it is one line and quoted with single quotes.
_PYTHON = (
    "for p in python3 python3.11 python3.12 python3.13 python3.14; do "
    '"$p" -c "import sys; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1 </dev/null && '
    'exec "$p" -c "import sys; exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"; '
    'done; v=$(python3 -V 2>&1) || v=none; echo "edge-af-python: $v" >&2; exit 127'
)
START_AGENT = f"exec sh -c '{_PYTHON}'"

_REASONS = (
    (
        ("REMOTE HOST IDENTIFICATION HAS CHANGED", "host key has changed"),
        "its host key has changed. If the board was set up again, run ssh-keygen -R HOST and connect once by hand;\n"
        "otherwise somebody may be intercepting the connection",
    ),
    (("Host key verification failed",), "its host key is unknown here. Connect once by hand (ssh HOST) and confirm it"),
    (
        ("Permission denied", "Too many authentication failures"),
        "it refuses the login. ssh-copy-id HOST installs your key",
    ),
    (("Could not resolve hostname",), "its host name cannot be resolved"),
)


class Unreachable(EdgeAfError):
    """The connection failed or broke. Trying again may help."""


class RequestRefused(EdgeAfError):
    """The board cannot fulfill a request."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class SshTarget:
    """A machine and an account on it. For fields that are None, OpenSSH's configuration decides."""

    host: str
    """A name, an alias of `~/.ssh/config`, or an address."""
    user: str | None = None
    port: int | None = None

    @property
    def label(self) -> str:
        """Name in messages: `pi@raspberrypi.local`."""
        host = f"[{self.host}]" if self.port is not None and ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port is not None else "")


def parse_ssh(text: str) -> SshTarget:
    """Parse an address `ssh://[user@]host[:port]`.

    Raises:
        EdgeAfError: it has another form, or a character that is not allowed in a user or host name.
    """
    form = f"expected {FORM}"
    try:
        parts = urlsplit(text)
        port, user, password = parts.port, parts.username, parts.password
    except ValueError as error:
        raise EdgeAfError(f"--target {text!r}: {error}; {form}.") from None
    # urlsplit silently drops line breaks and tabs.
    if parts.scheme != "ssh" or not text.isprintable() or any(character.isspace() for character in text):
        raise EdgeAfError(f"--target {text!r}: {form}.")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise EdgeAfError(f"--target {text!r}: nothing may follow the host; {form}.")
    if password is not None:
        raise EdgeAfError(f"--target: passwords are not supported; log in by key (see ssh-copy-id). {form}.")
    # `hostname` is in lower case; an alias in the configuration may not be.
    host = parts.netloc.rpartition("@")[2]
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif port is not None or host.endswith(":"):
        host = host.rpartition(":")[0]
    for name, value, allowed in (("host", host, _HOST), ("user", user, _USER)):
        if value is not None and not allowed.fullmatch(value):
            raise EdgeAfError(f"--target {text!r}: {value!r} is not a valid {name} name; {form}.")
    return SshTarget(host, user, port)


def agent_source() -> bytes:
    """Return the source of the first program on the board: the agent, after the one module that it imports."""
    cache, agent = (
        package_data(*parts).read_text(encoding="utf-8") for parts in (("cache.py",), ("targets", "agent.py"))
    )
    module = (
        "import sys, types\n"
        "sys.modules['edge_af'] = types.ModuleType('edge_af')\n"
        "sys.modules['edge_af.cache'] = cache = types.ModuleType('edge_af.cache')\n"
        f"exec({cache!r}, cache.__dict__)\n"
    )
    return f"exec({module!r})\nexec({agent!r}, {{'__name__': '__main__'}})\n".encode()


def send(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Write to a process. Ignore a closed pipe: the end of the process is reported elsewhere."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ValueError):
        process.stdin.write(data)
        process.stdin.flush()


def read_answer(line: bytes) -> dict[str, Any]:
    """Parse a line from the board: `say`, `done`, or `error` with its `message`.

    Raises:
        Unreachable: it is none of these, so something else answers or the answer is garbled.
    """
    try:
        value = parse_json(line)
    except DocumentError as error:
        raise Unreachable(f"cannot read an answer from the board ({error}).") from None
    form = {"say": str, "error": str, "message": str, "done": dict}
    if not isinstance(value, dict) or not all(isinstance(value.get(name), form.get(name, object)) for name in value):
        raise Unreachable(f"cannot read an answer from the board ({line!r:.80}).")
    if not {"say", "done"} & set(value) and not {"error", "message"} <= set(value):
        raise Unreachable(f"cannot read an answer from the board ({line!r:.80}).")
    return value


class Connection:
    """A connection to one target and the process on it. Use it as a context manager, which ends both."""

    def __init__(self, target: SshTarget) -> None:
        self.target = target
        self.on_open: Callable[[], object] = lambda: None
        """Called after each reconnection, to bring the board back to the state that requests expect."""
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._rest = b""

    def __enter__(self) -> Self:
        if shutil.which("ssh") is None:
            raise EdgeAfError("--target ssh:// needs OpenSSH's client `ssh`, which is not installed here.")
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _open(self) -> None:
        """Connect and start the agent.

        Raises:
            Unreachable, EdgeAfError: that is impossible; says why and how to fix it.
        """
        self._close()
        target, source = self.target, agent_source()
        line = ["ssh", *OPTIONS]
        line += ["-p", str(target.port)] if target.port is not None else []
        line += ["-l", target.user] if target.user is not None else []
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [*line, "--", target.host, START_AGENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # Only this process gets Ctrl-C; it then ends the others in order.
            start_new_session=True,
        )
        try:
            send(self._process, b"%d\n%s" % (len(source), source))
            # Skip the login shell's output before the mark.
            deadline = time.monotonic() + START_SECONDS
            while (found := self._line(deadline)) != MARK.encode():
                if found is None:
                    raise self._ended()
        except BaseException:
            self._close()
            raise

    def persist(self, action: Callable[[], T]) -> T:
        """Run a repeatable action; if the connection breaks, reconnect and run it again.

        Raises:
            Unreachable: the target could not be reached for `RETRY_SECONDS`, or the connection keeps breaking immediately.
        """
        soon = 0
        while True:
            begun = time.monotonic()
            try:
                if self._process is None:
                    self._reopen()
                return action()
            except Unreachable:
                self._close()
                soon = soon + 1 if time.monotonic() - begun < 30 else 0
                if soon == 5:
                    raise
                say(f"{self.target.label}: the connection broke; trying again.")

    def _reopen(self) -> None:
        deadline, pause = time.monotonic() + RETRY_SECONDS, 1.0
        while True:
            try:
                self._open()
                self.on_open()
                return
            except Unreachable as error:
                if time.monotonic() + pause > deadline:
                    raise EdgeAfError(
                        f"{self.target.label}: the connection broke and could not be restored within "
                        f"{RETRY_SECONDS:g} s.\nThe same command continues from there."
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, 15.0)

    def call(
        self,
        request: dict[str, Any],
        payload: Iterable[bytes] = (),
        on_line: Callable[[str], None] = lambda line: None,
    ) -> dict[str, Any]:
        """Send a request and return its answer; pass progress messages to `on_line`.

        On KeyboardInterrupt the board stops its work and the connection is closed.

        Raises:
            Unreachable: the connection broke.
            RequestRefused: the board cannot fulfill the request.
        """
        if self._process is None:
            raise Unreachable(f"{self.target.label}: not connected.")
        try:
            send(self._process, json.dumps(request).encode() + b"\n")
            for block in payload:
                send(self._process, block)
            answer = self._last_answer(on_line)
        except KeyboardInterrupt:
            say(f"{self.target.label}: stopping.")
            self._close(patience=20.0)
            raise
        if "error" in answer:
            raise RequestRefused(answer["error"], f"{self.target.label}: {answer['message']}.")
        done: dict[str, Any] = answer["done"]
        return done

    def _last_answer(self, on_line: Callable[[str], None]) -> dict[str, Any]:
        while (line := self._line()) is not None:
            answer = read_answer(line)
            if "say" not in answer:
                return answer
            on_line(answer["say"])
        raise self._ended()

    def _line(self, deadline: float | None = None) -> bytes | None:
        """Return the next line from the board; None once it has disconnected. Send keepalive lines meanwhile."""
        assert self._process is not None and self._process.stdout is not None
        stream, beat = self._process.stdout.fileno(), time.monotonic()
        while b"\n" not in self._rest:
            ready = select.select([stream], [], [], BEAT_SECONDS)[0]
            now = time.monotonic()
            if deadline is not None and now > deadline:
                raise Unreachable(f"{self.target.label}: no answer within {START_SECONDS:g} s.")
            if deadline is None and now - beat >= BEAT_SECONDS:
                beat = now
                send(self._process, b"\n")
            if ready:
                part = os.read(stream, 1 << 20)
                if not part:
                    return None
                self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line.strip()

    def _ended(self) -> EdgeAfError:
        """Explain why the process ended, from the last message of ssh."""
        assert self._process is not None and self._errors is not None
        status = self._process.wait()
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        label, host = self.target.label, dataclasses.replace(self.target, port=None).label
        python = next((line.partition(": ")[2] for line in lines if line.startswith("edge-af-python: ")), None)
        if python is not None:
            found = "has no python3" if "none" in (python, "") or "not found" in python else f"has {python}"
            return EdgeAfError(f"{label}: {found}; edge-af needs Python 3.11 or newer there.")
        for marks, reason in _REASONS:
            if any(mark in text for mark in marks):
                return EdgeAfError(f"{label}: {reason.replace('HOST', host)}.")
        last = lines[-1] if lines else "the connection ended without a message"
        # 255 is the exit code of ssh itself. A signal means that the connection broke, or that a later one replaced it.
        if status == 255 or status < 0 or status > 128:
            return Unreachable(f"{label}: cannot be reached ({last}).")
        return EdgeAfError(f"{label}: {last}")

    def _close(self, patience: float = 2.0) -> None:
        """Disconnect, and end ssh once the board has cleaned up, or after `patience` seconds."""
        process, self._process, self._rest = self._process, None, b""
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)
        if process.poll() is None:
            process.terminate()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None
