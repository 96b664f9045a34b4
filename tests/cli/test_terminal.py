"""Output on a terminal: tables and progress fit it, and plain terminals get plain lines."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from edge_af.data.dataset import Dataset

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks/results/paper-comparison-vnni.json"
NOTE = "a long name of a network in onnxruntime, 4 threads, batch 32, round 3: timing inferences, and more"
BARS = f"""
from edge_af.console import Progress, say
say("begun")
Progress.PLAIN_SECONDS = 0
for total in (30, None):
    with Progress("bench", total, "measurements") as progress:
        progress.update(0, {NOTE!r})
        for _ in range(30):
            progress.update(1, {NOTE!r})
"""


def environment(**more: str) -> dict[str, str]:
    found = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    return {**found, "TERM": "xterm", **more}


def on_terminal(arguments: list[object], columns: int = 80, **more: str) -> str:
    """Run Python on a pseudo-terminal and return all that it prints there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**more)
    )
    os.close(theirs)
    found = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux reports the end of a pseudo-terminal as an error.
            break
        if not part:
            break
        found += part
    os.close(ours)
    assert process.wait(60) == 0, found.decode()
    return found.decode().replace("\r\n", "\n")


def in_pipe(*arguments: object, **more: str) -> str:
    command = [sys.executable, "-m", "edge_af", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(**more))
    assert done.returncode == 0, done.stderr
    return done.stdout


def widest(text: str) -> int:
    """Return the length of the longest line, or part of a line that a progress bar overwrites."""
    return max(map(len, re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text))))


@pytest.mark.slow
def test_a_table_fits_the_terminal_or_columns_and_nothing_else_changes_it():
    wide = in_pipe("report", RESULTS)
    assert widest(wide) > 120
    narrow = in_pipe("report", RESULTS, COLUMNS="80")
    assert widest(narrow) <= 80 and narrow.startswith("runtime")
    assert on_terminal(["-m", "edge_af", "report", RESULTS]) == narrow
    assert on_terminal(["-m", "edge_af", "report", RESULTS], 400) == wide
    assert on_terminal(["-m", "edge_af", "report", RESULTS], 400, COLUMNS="80") == narrow
    for odd in ("0", "-1", "wide", ""):
        assert in_pipe("report", RESULTS, COLUMNS=odd) == wide
    assert in_pipe("report", RESULTS, COLUMNS="7") == in_pipe("report", RESULTS, COLUMNS="40")
    assert json.loads(in_pipe("report", RESULTS, "--json", COLUMNS="80"))["rows"]


@pytest.mark.slow
def test_every_table_has_headings_and_fits_80_columns(
    exports: Path, eval_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    artifact, data = exports / "attend-fusion/attend-fusion-int8.onnx", eval_dataset.folder
    monkeypatch.chdir(tmp_path)
    in_pipe("data", "synth", "records", "--videos-train", 20, "--videos-eval", 5, "--classes", 10)
    for headings, command in (
        (["model", "preset", "parameters"], ("models",)),
        (["model", "preset", "parameters"], ("models", "--model", "attend-fusion", "--preset", "small")),
        (["metric", "value"], ("eval", artifact, "--data", data)),
        (["videos", "class"], ("data", "info", data)),
        (["file", "videos", "MB"], ("data", "info", "records/train")),
        (["file", "runtime", "threads"], ("bench", exports, "--dry-run", "--out", tmp_path / "r.json")),
        (["gate", "limit"], ("compare", exports, exports, "--dry-run")),
        (["check", "base", "candidate"], ("compare", artifact, artifact)),
    ):
        text = in_pipe(*command, COLUMNS="80")
        assert headings in [line.split()[: len(headings)] for line in text.splitlines()], text
        if data not in command or "info" not in command:  # Its title holds the path.
            assert widest(text) <= 80, text


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_progress_bar_does_not_wrap(columns: int):
    text = on_terminal(["-c", BARS], columns)
    assert "\r" in text and widest(text) <= columns
    assert "bench: 30 measurements in" in text


@pytest.mark.parametrize("plain", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_a_plain_terminal_gets_plain_lines(plain: dict[str, str]):
    text = on_terminal(["-c", BARS], **plain)
    assert not re.search(r"[\r\x08\x1b]|%\|", text) and widest(text) <= 80
    lines = text.splitlines()
    assert lines[0] == "begun" and lines[1].startswith("bench: 1/30 measurements  a long name") and lines[1][-1] == "…"
    assert sum(line.startswith("bench: 30 measurements in") for line in lines) == 2


def test_plain_lines_are_whole_where_no_width_is_known():
    done = subprocess.run([sys.executable, "-c", BARS], capture_output=True, text=True, env=environment())
    assert done.stdout == "" and f"bench: 1/30 measurements  {NOTE}\n" in done.stderr
    done = subprocess.run([sys.executable, "-c", BARS], capture_output=True, text=True, env=environment(COLUMNS="80"))
    assert widest(done.stderr) == 80


@pytest.mark.parametrize(("plain", "colored"), [({}, True), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, False)])
def test_colors_are_for_terminals_that_show_them(plain: dict[str, str], colored: bool):
    code = ["-c", "from edge_af.console import warn; warn('odd')"]
    text = on_terminal(code, **plain)
    assert ("\x1b[33m" in text) == colored and "warning: " in text
