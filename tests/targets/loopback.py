"""A board to bench on: a real OpenSSH server on the loopback, with keys, configuration and home in one folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from small_dataset import REPOSITORY

from edge_af.packages import requirement_groups
from edge_af.targets import agent

SSHD = shutil.which("sshd") or next((path for path in ("/usr/sbin/sshd",) if Path(path).is_file()), None)


def why_not() -> str | None:
    """Return the reason why no server can be started here, or None."""
    if SSHD is None or shutil.which("ssh") is None:
        return "no OpenSSH server and client here (Debian: apt install openssh-server)"
    privileges = Path("/run/sshd")
    if os.geteuid() == 0 and not privileges.is_dir():
        try:
            privileges.mkdir()  # Debian's start script does this.
        except OSError:
            return "root's sshd needs the folder /run/sshd"
    return None


class LoopbackBoard:
    """The server, its account's home, and the configuration of a client."""

    def __init__(self, folder: Path, *, path: str | None = None, environment: dict[str, str] | None = None) -> None:
        self.folder, self.home = folder, folder / "home"
        self.cache = self.home / ".cache/edge-af"
        self.home.mkdir(parents=True)
        # Shells that print a greeting break naive protocols.
        (self.home / ".bashrc").write_text('echo "Welcome to the board"\nprintf "no end of line"\n')
        for name in ("host", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        python = folder / "python"
        python.mkdir()
        (python / "python3").symlink_to(sys.executable)
        variables = {"HOME": str(self.home), "PATH": path or f"{python}:/usr/bin:/bin", **(environment or {})}
        setting = " ".join(f'"{name}={value}"' for name, value in variables.items())
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/key.pub\n"
            f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\nPermitRootLogin yes\nSetEnv {setting}\n"
        )
        (folder / "ssh_config").write_text(
            f"Host *\n  IdentityFile {folder}/key\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n"
        )
        self.know((folder / "host.pub").read_text())
        wrapper = folder / "bin/ssh"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
        wrapper.chmod(0o755)
        self.target = f"ssh://127.0.0.1:{self.port}"
        self.server = self.start()

    def give_packages(self) -> None:
        """Make it look as after an earlier bench, with this interpreter's packages instead of downloaded ones."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("HOME", str(self.home))
            patched.delenv("XDG_CACHE_HOME", raising=False)
            environment = agent.environment_folder(requirement_groups(pinned=True))
        python = environment / "bin/python"
        python.parent.mkdir(parents=True)
        # With little memory, as on a board, memory bandwidth is measured quickly.
        python.write_text(f'#!/bin/sh\nulimit -v 900000\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        (environment / "complete.json").write_text('{"left_out": []}')

    def know(self, public_key: str) -> None:
        """Make the client trust this server key."""
        (self.folder / "known").write_text(f"[127.0.0.1]:{self.port} {' '.join(public_key.split()[:2])}\n")

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server, and wait until it listens."""
        assert SSHD is not None
        log: IO[bytes] = (self.folder / "log").open("ab")
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")], stderr=log)
        log.close()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and server.poll() is None:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return server
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """Stop the server and all connections."""
        self.drop()
        self.server.kill()
        self.server.wait()

    def drop(self) -> None:
        """Break all connections."""
        for pid in _children(self.server.pid):
            with contextlib.suppress(ProcessLookupError):  # It may end by itself just now.
                os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[str]:
        """Return the command lines of the account's processes."""
        home, found = f"HOME={self.home}".encode(), []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if home in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        return found

    def is_quiet(self, seconds: float = 60) -> bool:
        """Wait for the account's processes to end; return False if some are left after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.2)
        return not self.processes()

    def client_environment(self) -> dict[str, str]:
        """Return the environment for `edge-af` on the client: ssh to the board, and temporary folders."""
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        return {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "TMPDIR": str(temporary),
            "XDG_CACHE_HOME": str(self.folder / "client-cache"),
        }

    def command(self, *arguments: object, where: tuple[object, ...] = ()) -> list[str]:
        """Return the command of a bench on this board, or on the target in `where`."""
        where = where or ("--target", self.target)
        return [sys.executable, "-m", "edge_af", "bench", *map(str, (*arguments, *where))]

    def bench(self, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run `edge-af bench` with this board as `--target`."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.client_environment(),
            capture_output=True,
            text=True,
            timeout=600,
            cwd=cwd,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done


class Started:
    """A running bench whose messages are collected."""

    def __init__(self, board: LoopbackBoard, *arguments: object, where: tuple[object, ...] = ()) -> None:
        self.process = subprocess.Popen(
            board.command(*arguments, where=where),
            env=board.client_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; return exit code, standard output and standard error."""
        assert self.process.stdout is not None
        said = self.process.stdout.read()
        status = self.process.wait()
        self._reader.join()
        return status, said, "\n".join(self.lines)


def wait_for(condition: Callable[[], object], started: Started) -> None:
    pause = threading.Event()
    while not condition():
        assert started.process.poll() is None, started.lines
        pause.wait(0.05)


def _children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(status.parent.name))
    return found
