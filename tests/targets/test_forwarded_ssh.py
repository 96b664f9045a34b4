"""Accuracy on a phone with an OpenSSH server, reached over USB with `adb forward`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import LoopbackBoard, why_not
from loopback_phone import PORT
from small_dataset import REPOSITORY

from edge_af.data.dataset import Dataset
from edge_af.records.results import read_results

FORWARDED, SERVER = 8022, 15037


def inside(adbd: str, folder: Path, file: str, data: str) -> None:
    """Run the adb daemon, the SSH server and a bench through both, in an isolated network namespace."""
    environment = {**os.environ, "ADBD_PORT": str(PORT), "HOME": str(folder), "ANDROID_ADB_SERVER_PORT": str(SERVER)}
    daemon = subprocess.Popen(["sh", "-c", adbd], env=environment, stderr=subprocess.DEVNULL)
    board = LoopbackBoard(folder / "board")
    try:
        board.give_packages()
        for _ in range(100):
            command = ["adb", "connect", f"127.0.0.1:{PORT}"]
            if "connected" in subprocess.run(command, env=environment, capture_output=True, text=True).stdout:
                break
        command = ["adb", "forward", f"tcp:{FORWARDED}", f"tcp:{board.port}"]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        board.port = FORWARDED
        board.know((folder / "board/host.pub").read_text())
        where = ("--target", f"ssh://127.0.0.1:{FORWARDED}", "--out", folder / "results.json")
        command = board.command(file, "--data", data, "--runs", 3, "--rounds", 1, "--no-packed", where=where)
        subprocess.run(command, env=board.client_environment(), check=True, timeout=600)
    finally:
        board.stop()
        subprocess.run(["adb", "kill-server"], env=environment)
        daemon.kill()


@pytest.mark.slow
def test_a_phones_debian_gives_accuracy(adbd: str, exports: Path, eval_dataset: Dataset, tmp_path: Path):
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    # In a user namespace, an OpenSSH server cannot switch to its client's account.
    if os.geteuid() or subprocess.run(["unshare", "-n", "true"]).returncode:
        pytest.skip("only root can start both servers in a network namespace")
    lines = "import sys, pathlib; sys.path[:0] = sys.argv[5].split(':'); from test_forwarded_ssh import inside; "
    lines += "inside(sys.argv[1], pathlib.Path(sys.argv[2]), *sys.argv[3:5])"
    folders = f"{Path(__file__).parent}:{REPOSITORY / 'tests'}:{REPOSITORY}"
    arguments = [adbd, tmp_path, exports / "attend-fusion/attend-fusion-int8.tflite", eval_dataset.folder, folders]
    command = f'ip link set lo up && exec "{sys.executable}" -c "$0" "$@"'
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", command, lines, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    (row,) = read_results(tmp_path / "results.json").rows
    assert row.status == "ok" and row.gap_at_20 is not None and row.videos == eval_dataset.videos
