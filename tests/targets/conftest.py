from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback import LoopbackBoard, why_not
from loopback_phone import LoopbackPhone, adbd_command


@pytest.fixture
def make_board(tmp_path: Path) -> Iterator[Callable[..., LoopbackBoard]]:
    """Makes a board on the loopback with the options of `LoopbackBoard`; it has only Python installed."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    started = []

    def make(**options: object) -> LoopbackBoard:
        board = LoopbackBoard(tmp_path / f"board-{len(started)}", **options)  # type: ignore[arg-type]
        started.append(board)
        return board

    yield make
    for board in started:
        board.stop()


@pytest.fixture
def board(make_board: Callable[..., LoopbackBoard]) -> LoopbackBoard:
    """A board with the packages already installed, as after an earlier bench."""
    made = make_board()
    made.give_packages()
    return made


@pytest.fixture(scope="session")
def adbd(pytestconfig: pytest.Config) -> str:
    """Command that starts an adb daemon, downloaded once into pytest's cache."""
    try:
        return adbd_command(Path(pytestconfig.cache.mkdir("adbd")))  # type: ignore[union-attr]
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture
def make_phone(adbd: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LoopbackPhone]]:
    """Makes a phone on the loopback with the options of `LoopbackPhone`; adb in this process sees no other phone."""
    started = []

    def make(**options: object) -> LoopbackPhone:
        phone = LoopbackPhone(adbd, **options)  # type: ignore[arg-type]
        started.append(phone)
        monkeypatch.delenv("ANDROID_SERIAL", raising=False)
        for name in ("ADB_SERVER_SOCKET", "HOME"):
            monkeypatch.setenv(name, phone.environment[name])
        # Benches lock a phone in this folder, and parallel test runs use the same serial numbers.
        monkeypatch.setattr(tempfile, "tempdir", phone.environment["TMPDIR"])
        return phone

    yield make
    for phone in started:
        phone.stop()


@pytest.fixture
def phone(make_phone: Callable[..., LoopbackPhone]) -> LoopbackPhone:
    return make_phone()


@pytest.fixture
def own_exports(exports: Path, tmp_path: Path) -> Path:
    """A private copy of the exports that a test may change."""
    return Path(shutil.copytree(exports, tmp_path / "exports"))
