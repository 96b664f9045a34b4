"""A download continues after an interruption; a failing server gives one clear line."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_af.errors import EdgeAfError
from edge_af.features import download as module
from edge_af.features.download import download

CONTENT = bytes(range(256)) * 9000
"""More than two blocks."""


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every path, with the faults that a test asks for."""

    daemon_threads = True
    faults: list[str]
    """One fault for each request, then none: a status, `cut`, or `stall`."""
    tag: str | None = '"first"'
    ranges = True
    asked: list[str | None]
    """The range of each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        server, fault = self.server, self.server.faults.pop(0) if self.server.faults else ""
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range") == server.tag:
            found = re.fullmatch(r"bytes=(\d+)-", wanted)
            assert found is not None
            start = int(found[1])
        if fault.isdigit():
            self.send_error(int(fault))
            return
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        if server.tag is not None:
            self.send_header("ETag", server.tag)
        self.end_headers()
        rest = CONTENT[start:]
        self.wfile.write(rest[: 2 * len(rest) // 3] if fault else rest)
        if fault == "stall":
            time.sleep(3)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(module, "STALL_SECONDS", 0.3)
    made = Server(("127.0.0.1", 0), Handler)
    made.faults, made.asked = [], []
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.mark.parametrize("faults", [[], ["500"], ["503", "cut"], ["cut", "cut", "cut"], ["stall"]])
def test_faults_that_pass(server: Server, tmp_path: Path, faults: list[str]):
    server.faults = list(faults)
    download(server.url, tmp_path / "file.bin", sha256=hashlib.sha256(CONTENT).hexdigest())
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert {path.name for path in tmp_path.iterdir()} == {"file.bin", "file.bin.url"}
    assert len(server.asked) == len(faults) + 1
    # After a cut, only the rest is asked for.
    assert (server.asked[-1] is not None) == any(fault in ("cut", "stall") for fault in faults)


@pytest.mark.parametrize(
    "fault, message",
    [
        ("404", "the server answers 404 Not Found"),
        ("403", "the server answers 403"),
        ("500", "the server answers 500"),
        ("cut", "the connection was cut off. 2.3 MB are kept in .*; the same command continues"),
        ("stall", "the server sent nothing for 0 s. 2.3 MB are kept"),
    ],
)
def test_faults_that_last(server: Server, tmp_path: Path, fault: str, message: str):
    server.faults = [fault] * module.TRIES
    with pytest.raises(EdgeAfError, match=message) as error:
        download(server.url, tmp_path / "file.bin")
    assert str(error.value).startswith(server.url) and "\n" not in str(error.value)
    assert not (tmp_path / "file.bin").exists()
    assert len(server.asked) == (1 if fault.startswith("4") else module.TRIES)
    server.faults = []
    download(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("change", ["other file", "no ranges", "no tag"])
def test_a_part_that_no_longer_fits_is_downloaded_again(server: Server, tmp_path: Path, change: str):
    server.tag = None if change == "no tag" else server.tag
    server.faults = ["cut"] * module.TRIES
    with pytest.raises(EdgeAfError):
        download(server.url, tmp_path / "file.bin")
    server.tag = '"second"' if change == "other file" else server.tag
    server.ranges = change != "no ranges"
    download(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_part_longer_than_the_file(server: Server, tmp_path: Path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    (tmp_path / "file.bin.tag").write_text('"first"')
    (tmp_path / "file.bin.url").write_text(server.url)
    download(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_another_hash(server: Server, tmp_path: Path):
    with pytest.raises(EdgeAfError, match=f"SHA-256 {hashlib.sha256(CONTENT).hexdigest()} instead of 00"):
        download(server.url, tmp_path / "file.bin", sha256="00" * 32)
    assert not (tmp_path / "file.bin").exists()


def test_no_server_and_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    with pytest.raises(EdgeAfError, match=r"Connection refused\. Try again later"):
        download("http://127.0.0.1:1/file.bin", tmp_path / "file.bin")
    with pytest.raises(EdgeAfError, match="is not an address"):
        download("://nowhere", tmp_path / "file.bin")


def test_a_file_from_another_address_is_not_kept(server: Server, tmp_path: Path):
    path = tmp_path / "file.bin"
    download(server.url, path)
    download(server.url, path)
    assert len(server.asked) == 1
    server.faults = ["404"]
    with pytest.raises(EdgeAfError, match="404"):
        download(f"{server.url}?other", path)
    assert not path.exists()
