"""First program on the board: sent there for each connection, and only needs Python 3.11.

It reads requests from standard input and answers on standard output, one JSON object per line. Answers are any number of
`{"say": …}` messages for the user, then `{"done": …}` or `{"error": …, "message": …}`. Empty lines are keepalives. User input
never passes through a shell.

All files are in one folder, `~/.cache/edge-af`:

| path | contents |
|---|---|
| `files/SHA256` | exported files, data and wheels, by content; `.part` during transfer |
| `environments/KEY` | a virtual environment with the packages of a plain install of edge-af |
| `apps/SHA256` | edge-af itself, unpacked from its archive |
| `sessions/KEY` | a running bench: its files by name, and its packed weights |
| `lock` | held while a bench runs or an environment is created |

Entries that have not been used for 30 days are removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from edge_af.cache import home  # `edge_af.targets.ssh` also sends this module.

MARK = "edge-af agent"
"""First line of this program on standard output; the login shell may print lines before it."""

SILENCE_SECONDS = 60.0
"""Work stops after this long without a keepalive; the workstation sends one every few seconds."""

KEEP_SECONDS = 30 * 86400
BLOCK = 1 << 20


class Refused(Exception):
    """The request cannot be fulfilled. `kind` is for programs, the text for the user."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def emit(value: dict[str, Any]) -> None:
    """Send one JSON object to the workstation."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def probe(request: dict[str, Any]) -> dict[str, Any]:
    """Describe this machine before anything is sent."""
    system = {}
    with contextlib.suppress(OSError):
        system = platform.freedesktop_os_release()
    libc, version = platform.libc_ver()
    return {
        "machine": platform.machine(),
        "bits": struct.calcsize("P") * 8,
        "python": list(sys.version_info[:2]),
        "libc": libc,
        "libc_version": version,
        "system": system.get("PRETTY_NAME", platform.system()),
        "venv": has_module("venv"),
        "ensurepip": has_module("ensurepip"),
        "folder": str(home()),
    }


def has_module(name: str) -> bool:
    """Return True if Python finds a module, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # Some finders raise for a missing module.
        return False


def missing(request: dict[str, Any]) -> dict[str, Any]:
    """List missing files by SHA-256, each with the number of bytes that are already here.

    Existing files are hashed again, because a worn memory card loses bits.
    """
    folder = home() / "files"
    prune()
    wanted: dict[str, int] = {}
    for sha256 in request["files"]:
        path, part = folder / sha256, folder / f"{sha256}.part"
        if path.is_file():
            if hash_of(path) == sha256:
                os.utime(path)
                continue
            path.unlink()
        wanted[sha256] = part.stat().st_size if part.is_file() else 0
    return {"missing": wanted}


def put(request: dict[str, Any]) -> dict[str, Any]:
    """Receive files, given as [SHA-256, size, bytes already here], from standard input, one after the other."""
    folder = home() / "files"
    folder.mkdir(exist_ok=True)
    needed = sum(size - offset for _, size, offset in request["files"])
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Refused(
            "disk-full", f"{needed / 1e6:,.0f} MB do not fit into {folder}: {free / 1e6:,.0f} MB are free there"
        )
    for sha256, size, offset in request["files"]:
        part = folder / f"{sha256}.part"
        with part.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            left = size - offset
            while left:
                block = sys.stdin.buffer.read(min(left, BLOCK))
                if not block:
                    raise EOFError
                file.write(block)
                left -= len(block)
            file.truncate(size)
        if hash_of(part) != sha256:
            part.unlink()
            raise Refused("damaged", f"the file {sha256[:12]}… arrived damaged")
        part.replace(folder / sha256)
    return {}


def environment(request: dict[str, Any]) -> dict[str, Any]:
    """Return the environment with the requested packages, and create it if needed.

    `requirements` has a group `base`, which must be installed, and one per runtime, of which at least one must be.
    `wheels` is None (only look), `"pip"` (install with this machine's pip), or [[name, SHA-256], …] of files that are here.
    """
    groups, wheels = request["requirements"], request["wheels"]
    folder = environment_folder(groups)
    done = folder / "complete.json"
    if wheels is None and not done.is_file():
        return {"python": None}
    lock = take_lock(request["client"])
    try:
        if not done.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(exist_ok=True)
            try:
                left_out = make_environment(folder, groups, wheels)
                done.write_text(json.dumps({"left_out": left_out}), encoding="utf-8")
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        os.utime(folder)
    finally:
        os.close(lock)
    return {"python": str(folder / "bin/python"), **json.loads(done.read_text(encoding="utf-8"))}


def environment_folder(groups: dict[str, list[str]]) -> Path:
    """Return the folder of the environment with these packages, which also depends on the Python."""
    identity = [groups, os.path.realpath(sys.executable), list(sys.version_info[:2])]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return home() / "environments" / key


def make_environment(folder: Path, groups: dict[str, list[str]], wheels: Any) -> list[str]:
    """Create the environment; return the runtimes without a package for this machine."""
    offline = wheels != "pip"
    command = [sys.executable, "-m", "venv", *(["--without-pip"] if offline else []), str(folder)]
    status, last = told(command, "")
    if status:
        raise Refused("venv", f"`{' '.join(command[:3])}` fails: {last}")
    python = str(folder / "bin/python")
    if offline:
        store = folder / "wheels"
        store.mkdir()
        for name, sha256 in wheels:
            link(home() / "files" / sha256, store / name)
        pip = next(name for name, _ in wheels if name.startswith("pip-"))
        # Python can run pip directly from its wheel, so pip need not be installed.
        install = [python, str(store / pip / "pip"), "install", "--no-index", "--find-links", str(store)]
    else:
        install = [python, "-m", "pip", "install"]
    install += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--only-binary", ":all:"]
    left_out = []
    for name, requirements in groups.items():
        status, last = told([*install, *requirements], f"{name}: ")
        if not status:
            continue
        if "no space left" in last.lower():
            raise Refused("disk-full", f"{folder}: {last}")
        if name == "base" or "No matching distribution" not in last:
            raise Refused("packages", last)
        left_out.append(name)
    if len(left_out) == len(groups) - 1:
        raise Refused("packages", f"there is no package of {' or '.join(left_out)} for this machine")
    if offline:
        shutil.rmtree(store)
    return left_out


def told(command: list[str], label: str) -> tuple[int, str]:
    """Run a command, relay its output, and return its exit code and its last error line, or else its last line."""
    environment = {**os.environ, "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    said: list[str] = []
    try:
        for line in relayed(process):
            if line.strip():
                said.append(line.strip())
                if line.startswith(("Collecting", "Downloading", "  Downloading", "Installing", "ERROR", "WARNING")):
                    emit({"say": label + line.strip()})
        status = process.wait()
    finally:
        stop(process)
    errors = [line for line in said if line.startswith("ERROR")]
    return status, (errors or said or ["no message"])[-1].removeprefix("ERROR: ")


def unpacked(sha256: str) -> Path:
    """Return the folder with edge-af's unpacked archive; unpack it if needed."""
    folder = home() / "apps" / sha256
    if not folder.is_dir():
        folder.parent.mkdir(exist_ok=True)
        stage = folder.with_name(f".{sha256}.{os.getpid()}")
        try:
            with zipfile.ZipFile(home() / "files" / sha256) as wheel:
                wheel.extractall(stage)
            stage.rename(folder)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    os.utime(folder)
    return folder


def relayed(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield the output lines of a process while the workstation is connected; raise EOFError once it is not."""
    stream = process.stderr or process.stdout
    assert stream is not None
    heard, rest, said = time.monotonic(), b"", stream.fileno()
    while True:
        ready = select.select([0, said], [], [], 1.0)[0]
        if 0 in ready:
            if not os.read(0, 4096):
                raise EOFError
            heard = time.monotonic()
        if time.monotonic() - heard > SILENCE_SECONDS:
            raise EOFError
        if said in ready:
            part = os.read(said, 65536)
            *lines, rest = (rest + part).split(b"\n")
            if not part:
                lines.append(rest)
            for line in lines:
                if line:
                    yield line.decode(errors="replace").rstrip("\r")
            if not part:
                return


def end_with_parent() -> None:
    """Set up a child process: end it with its parent, and let it receive SIGINT even if the parent ignores it."""
    import ctypes

    signal.signal(signal.SIGINT, signal.default_int_handler)
    PR_SET_PDEATHSIG = 1
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process so that it can clean up; kill it and its children if it takes too long."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def take_lock(client: str) -> int:
    """Lock the board for one client while this process lives. End a leftover process of the same client.

    Returns:
        the lock file's descriptor.

    Raises:
        Refused: another client holds the lock.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(home() / "lock", flags, 0o600)
    deadline = time.monotonic() + 30
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            with contextlib.suppress(ValueError, ProcessLookupError):
                holder = json.loads(os.pread(descriptor, 1 << 12, 0))
                if holder["client"] != client or time.monotonic() > deadline:
                    raise Refused("busy", f"a bench has been running here since {holder['since']} (UTC)") from None
                os.kill(holder["pid"], signal.SIGTERM)
            if time.monotonic() > deadline:
                raise Refused("busy", "a bench is already running here") from None
            time.sleep(0.5)
    since = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "client": client, "since": since}).encode(), 0)
    return descriptor


def prune() -> None:
    """Remove entries that have not been used for a month."""
    for kind in ("files", "environments", "apps", "sessions"):
        folder = home() / kind
        for path in folder.iterdir() if folder.is_dir() else ():
            if time.time() - path.stat().st_mtime > KEEP_SECONDS:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def link(source: Path, place: Path) -> None:
    """Create a hard link, or a copy where the file system does not support links."""
    try:
        os.link(source, place)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise
        shutil.copyfile(source, place)


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def doctor(request: dict[str, Any]) -> dict[str, Any]:
    """Run `edge_af doctor` and return its exit code and output."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [request["python"], "-P", "-m", "edge_af", "doctor", *request["arguments"]],
            cwd=home(),
            env=app_environment(request["app"]),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        try:
            for line in relayed(process):
                emit({"say": line})
            process.wait()
        finally:
            stop(process)
        output.seek(0)
        return {"status": process.returncode, "output": output.read().decode(errors="replace")}


def serve(request: dict[str, Any]) -> NoReturn:
    """Link the files of a bench by name and replace this process with edge-af itself; see `edge_af.targets.board`.

    The same files give the same session, so an interrupted bench finds its packed weights again.
    """
    descriptor = take_lock(request["client"])
    session = home() / "sessions" / request["session"]
    files = session / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir(parents=True)
    for name, sha256 in request["layout"]:
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        link(home() / "files" / sha256, files / name)
    os.utime(session)
    os.set_inheritable(descriptor, True)
    os.chdir(files)
    python = request["python"]
    os.execve(python, [python, "-P", "-m", "edge_af.targets.board"], app_environment(request["app"]))


def app_environment(sha256: str) -> dict[str, str]:
    """Return environment variables with which Python finds edge-af, without other `PYTHON*` variables."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**variables, "PYTHONPATH": str(unpacked(sha256)), "PYTHONUTF8": "1"}


def main() -> None:
    """Serve requests until standard input ends."""
    operations = {operation.__name__: operation for operation in (probe, missing, put, environment, doctor, serve)}
    sys.stdout.write(f"\n{MARK}\n")
    sys.stdout.flush()
    try:
        while line := sys.stdin.buffer.readline():
            if not line.strip():
                continue
            request = json.loads(line)
            try:
                emit({"done": operations[request["do"]](request)})
            except Refused as error:
                emit({"error": error.kind, "message": str(error)})
            except OSError as error:
                if isinstance(error, BrokenPipeError):
                    raise
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                where = f"{error.filename}: " if error.filename else ""
                emit({"error": "disk-full" if full else "system", "message": f"{where}{error.strerror or error}"})
    except (EOFError, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    main()
