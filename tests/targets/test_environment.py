"""The environment on a board: real packages, from the board's pip or copied. Takes minutes and needs a network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback import LoopbackBoard, Started, wait_for

from edge_af.errors import EdgeAfError
from edge_af.machine.device import this_device
from edge_af.packages import download_wheels, requirement_groups
from edge_af.records.results import read_results

pytestmark = pytest.mark.slow

QUICKLY = ("--runs", 3, "--rounds", 1, "--no-packed")


@pytest.fixture(scope="module", autouse=True)
def packages(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), "click"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot download packages here: {done.stderr.strip().splitlines()[-1:]}")


def test_the_boards_own_pip_makes_it_once_even_over_a_broken_connection(
    make_board: Callable[..., LoopbackBoard], exports: Path, tmp_path: Path
):
    board = make_board()
    arguments = (exports / "attend-fusion", *QUICKLY, "--out", tmp_path / "r.json")
    started = Started(board, *arguments)
    wait_for(lambda: any("Collecting" in line for line in started.lines), started)
    board.drop()
    status, _, news = started.end()
    assert status == 0, news
    assert "setting up an environment" in news and "the connection broke; trying again" in news
    results = read_results(tmp_path / "r.json")
    assert {row.status for row in results.rows} == {"ok"} and len(results.rows) == 4
    assert results.device.versions["edge-af"] and "torch" not in results.device.versions
    here = this_device().versions
    assert all(results.device.versions[name] == here[name] for name in ("numpy", "onnxruntime", "ai-edge-litert"))
    done = board.bench(*arguments, "--overwrite")
    assert done.returncode == 0 and "environment" not in done.stderr, done.stderr
    assert board.is_quiet() and len(list((board.cache / "environments").iterdir())) == 1


def test_offline_a_board_without_network_and_ensurepip_gets_wheels_from_here(
    make_board: Callable[..., LoopbackBoard], exports: Path, tmp_path: Path
):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['ensurepip'] = None\n")
    board = make_board(environment={"PIP_NO_INDEX": "1", "PYTHONPATH": str(hidden)})
    file = exports / "attend-fusion/attend-fusion-int8.tflite"
    done = board.bench(file, *QUICKLY, "--offline", "--out", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    assert "getting wheels for" in done.stderr and "copying to" in done.stderr
    assert [row.status for row in read_results(tmp_path / "r.json").rows] == ["ok"]


@pytest.mark.parametrize("offline", [(), ("--offline",)])
def test_a_version_that_is_not_to_be_had_there_is_told(
    make_board: Callable[..., LoopbackBoard],
    exports: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offline: tuple[str, ...],
):
    """This machine's numpy version is not published, so the board gets another one, and the results say so."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "real = metadata.version\n"
        "metadata.version = lambda name: '99.1' if name == 'numpy' else real(name)\n"
    )
    board = make_board()
    client = board.client_environment()
    client["PYTHONPATH"] = f"{tmp_path}:{client['PYTHONPATH']}"
    monkeypatch.setattr(board, "client_environment", lambda: client)
    file = exports / "attend-fusion/attend-fusion-int8.tflite"
    done = board.bench(file, *QUICKLY, *offline, "--out", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "r.json")
    there = results.device.versions["numpy"]
    assert any(f"numpy {there} (99.1 here)" in text for text in results.warnings) and "99.1 here" in done.stdout


def test_a_board_whose_pip_gets_nothing_is_told_of_offline(
    make_board: Callable[..., LoopbackBoard], exports: Path, tmp_path: Path
):
    board = make_board(environment={"PIP_NO_INDEX": "1"})
    done = board.bench(exports / "attend-fusion", *QUICKLY, "--out", tmp_path / "r.json")
    assert done.returncode == 2 and "No matching distribution" in done.stderr and "pass --offline" in done.stderr
    assert not list((board.cache / "environments").iterdir())


def test_wheels_for_a_raspberry_pi_are_got_on_any_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    held, wheels = download_wheels(requirement_groups(), "aarch64", (3, 11), "2.36")
    names = [path.name for path in wheels]
    assert set(held) == {"base", "onnxruntime", "litert"}
    for package in ("numpy", "onnxruntime", "ai_edge_litert"):
        assert any(name.startswith(f"{package}-") and name.endswith("aarch64.whl") for name in names)
    assert not any("x86_64" in name for name in names)
    monkeypatch.setenv("PATH", "")
    assert download_wheels(requirement_groups(), "aarch64", (3, 11), "2.36") == (held, wheels)
    with pytest.raises(
        EdgeAfError, match=r"pip cannot get the wheels here: No matching distribution found for (numpy|msgspec)"
    ):
        download_wheels(requirement_groups(), "armv7l", (3, 11), "2.36")
