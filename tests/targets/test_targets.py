"""Targets: their names, messages about unusable ones, and the files that are copied to them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback import LoopbackBoard

import edge_af
from edge_af.bench.backend import TargetOptions
from edge_af.errors import EdgeAfError
from edge_af.packages import app_archive, requirement_groups
from edge_af.targets import agent, open_backend, ssh
from edge_af.targets.ssh import RequestRefused, SshTarget, parse_ssh
from edge_af.targets.ssh_backend import RemoteBoard, Upload


@pytest.mark.parametrize(
    "text, target",
    [
        ("ssh://pi@raspberrypi.local", SshTarget("raspberrypi.local", "pi")),
        ("ssh://Alias", SshTarget("Alias")),
        ("ssh://me.too@10.0.0.7:2222/", SshTarget("10.0.0.7", "me.too", 2222)),
        ("ssh://pi@[fe80::1%eth0]:22", SshTarget("fe80::1%eth0", "pi", 22)),
        ("ssh://[::1]", SshTarget("::1")),
    ],
)
def test_targets(text: str, target: SshTarget):
    assert parse_ssh(text) == target


@pytest.mark.parametrize(
    "text",
    [
        "pi@raspberrypi", "http://pi", "ssh://", "ssh://pi@", "ssh://-oProxyCommand=touch%20pwned", "ssh://-l@host",
        "ssh://host:port", "ssh://host:99999", "ssh://pi:secret@host", "ssh://host/folder", "ssh://ho st", "ssh://ho\nst",
        "ssh://$(touch pwned)", "ssh://a@`id`", "ssh://host;id", "ssh://h'ost", "ssh://host?x", "ssh://host#x", "ssh://[::1",
    ],
)  # fmt: skip
def test_what_is_no_target(text: str):
    with pytest.raises(EdgeAfError) as caught:
        open_backend(text, TargetOptions())
    assert "ssh://[user@]host[:port]" in str(caught.value) and "secret" not in str(caught.value)


def sha256_of_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def refused(board: LoopbackBoard, exports: Path, out: Path) -> str:
    """Run a bench that must fail without results and leftover files, and return its message."""
    done = board.bench(exports / "attend-fusion/attend-fusion-int8.tflite", "--out", out)
    assert done.returncode == 2 and done.stdout == "" and not out.exists()
    assert not list((board.folder / "tmp").iterdir())
    return done.stderr


@pytest.mark.slow
def test_who_cannot_be_reached_is_named_with_what_to_do(board: LoopbackBoard, exports: Path, tmp_path: Path):
    out = tmp_path / "r.json"
    key = (board.folder / "host.pub").read_text()
    other = (board.folder / "key.pub").read_text()
    board.know(other)
    said = refused(board, exports, out)
    assert "its host key has changed" in said and "ssh-keygen -R 127.0.0.1" in said
    (board.folder / "known").write_text("")
    assert "its host key is unknown here. Connect once by hand (ssh 127.0.0.1)" in refused(board, exports, out)
    board.know(key)
    config = board.folder / "ssh_config"
    config.write_text(config.read_text().replace(f"{board.folder}/key", f"{board.folder}/host"))
    assert "it refuses the login. ssh-copy-id 127.0.0.1" in refused(board, exports, out)
    board.stop()
    said = refused(board, exports, out)
    assert f"127.0.0.1:{board.port}: cannot be reached" in said and "Connection refused" in said
    board.target = "ssh://no-such-host.invalid"
    assert "its host name cannot be resolved" in refused(board, exports, out)


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.mark.slow
def test_a_board_without_a_fitting_python_is_told_so(
    make_board: Callable[..., LoopbackBoard], exports: Path, tmp_path: Path
):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cat"):
        (tools / name).symlink_to(shutil.which(name) or "")
    board = make_board(path=str(tools))
    assert "has no python3; edge-af needs Python 3.11 or newer there" in refused(board, exports, tmp_path / "r.json")
    script(tools / "python3", '[ "$1" = -V ] || exit 1; echo Python 3.9.2')
    assert "has Python 3.9.2; edge-af needs Python 3.11" in refused(board, exports, tmp_path / "r.json")
    # A newer Python is found next to it, but it cannot create environments.
    (tools / "python3.12").symlink_to(sys.executable)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    blocker = (
        "import sys, importlib.machinery\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'ensurepip': raise ModuleNotFoundError(name)\n"
    )
    (hidden / "sitecustomize.py").write_text(blocker + "sys.meta_path.insert(0, Blocker())\n")
    board = make_board(path=str(tools), environment={"PYTHONPATH": str(hidden)})
    said = refused(board, exports, tmp_path / "r.json")
    assert "no `ensurepip` module" in said and "sudo apt install python3-venv" in said and "--offline" in said


def test_a_full_disk_is_seen_before_anything_is_sent(board: LoopbackBoard, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", board.client_environment()["PATH"])
    with RemoteBoard(parse_ssh(board.target), offline=False) as there, pytest.raises(RequestRefused) as caught:
        there.copy([Upload("0" * 64, 1 << 60, b"")])
    assert caught.value.kind == "disk-full" and "MB do not fit into" in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_up_meanwhile_is_named(make_board: Callable[..., LoopbackBoard], tmp_path: Path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        board = make_board(environment={"XDG_CACHE_HOME": str(small)})
        content = os.urandom(1_500_000)
        liar = Upload(sha256_of_bytes(content), len(content), content)
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("PATH", board.client_environment()["PATH"])
            with RemoteBoard(parse_ssh(board.target), offline=False) as there:
                there.copy([liar])
                more = os.urandom(1_500_000)
                with pytest.raises(RequestRefused, match="MB are free there"):
                    there.copy([Upload(sha256_of_bytes(more), len(more), more)])
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_a_copy_that_was_cut_off_goes_on_where_it_was(board: LoopbackBoard, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", board.client_environment()["PATH"])
    content = os.urandom(5_000_000)
    upload = Upload(sha256_of_bytes(content), len(content), content)
    part = board.cache / "files" / f"{upload.sha256}.part"
    part.parent.mkdir()
    part.write_bytes(content[:4_000_000])
    sent = []

    send = ssh.send
    monkeypatch.setattr(ssh, "send", lambda process, data: (sent.append(len(data)), send(process, data)))
    with RemoteBoard(parse_ssh(board.target), offline=False) as there:
        there.copy([upload])
        assert 1_000_000 < sum(sent) < 1_200_000
        assert (board.cache / "files" / upload.sha256).read_bytes() == content and not part.exists()
        # If the partial file has other content, the hash reveals it and the next attempt starts over.
        (board.cache / "files" / upload.sha256).unlink()
        part.write_bytes(bytes(4_000_000))
        with pytest.raises(RequestRefused, match="arrived damaged"):
            there.copy([upload])
        there.copy([upload])
    assert (board.cache / "files" / upload.sha256).read_bytes() == content


def test_the_archive_is_this_installation(tmp_path: Path):
    data = app_archive()
    assert data == app_archive()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    package = Path(edge_af.__file__).parent
    assert "edge_af/targets/agent.py" in names and "edge_af/bench/empty.tflite" in names
    assert (
        "edge_af/calibration/int8-dynamic.yaml" in names
        and "edge_af/devices/raspberry-pi-5.yaml" in names
        and not [name for name in names if "pycache" in name]
    )
    assert (tmp_path / "edge_af/__init__.py").read_bytes() == (package / "__init__.py").read_bytes()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "edge_af", "--version"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"edge-af, version {edge_af.__version__}\n"
    exact = [f"{name}=={importlib.metadata.version(name)}" for name in ("numpy", "onnxruntime", "ai-edge-litert")]
    pinned = requirement_groups(pinned=True)
    assert {exact[0]} < set(pinned["base"]) and [pinned["onnxruntime"], pinned["litert"]] == [[exact[1]], [exact[2]]]
    groups = requirement_groups()
    assert set(groups) == {"base", "onnxruntime", "litert"}
    assert not any(one.startswith(("torch", "tensorflow", "onnx>", "pytest")) for one in groups["base"])


def test_without_account_and_home_the_folder_is_a_private_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    folder = agent.home()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700 and agent.home() == folder
    # A folder that others could have created is refused.
    folder.chmod(0o755)
    with pytest.raises(PermissionError):
        agent.home()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to("elsewhere")
    with pytest.raises(PermissionError):
        agent.home()


def test_a_home_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    assert agent.home().parent == tmp_path
