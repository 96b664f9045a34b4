"""An interrupted `data prepare` that is run again gives the same bytes as one uninterrupted run."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_af.data.journal import JOURNAL
from edge_af.data.prepare import PrepareOptions, prepare
from edge_af.data.writer import DatasetWriter
from edge_af.errors import EdgeAfError

# Runs the real command and kills itself at the point named by the first argument.
KILLED = """
import os, signal, sys
moment = sys.argv.pop(1)
from edge_af.data import prepare, writer

def die():
    os.kill(os.getpid(), signal.SIGKILL)

append, finish = writer.DatasetWriter.append, writer.DatasetWriter.finish

def appended(self, **videos):
    append(self, **videos)
    if moment == "mid-source" and self.videos > 200:
        for file in self._files.values():
            file.flush()
        die()

def finished(self):
    finish(self)
    if moment == "before-index":
        die()

writer.DatasetWriter.append, writer.DatasetWriter.finish = appended, finished
if moment == "before-rename":
    prepare.Path.rename = lambda self, target: die()
from edge_af.cli import main
main()
"""


@pytest.fixture
def sources(tmp_path: Path, records: Any) -> Path:
    """Four files of 150 videos, with one damaged record in the first."""
    for number in range(4):
        videos = [records.video(f"{number}-{i}", [i % 50, number]) for i in range(150)]
        if number == 0:
            videos[7] = records.video("bad", [-1])
        records.write(tmp_path / "in" / f"{number}.tfrecord", videos, packed=number == 2)
    return tmp_path / "in"


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["mid-source", "before-index", "before-rename"])
def test_killed_and_run_again(tmp_path: Path, sources: Path, run: Callable[..., Any], moment: str) -> None:
    out = tmp_path / "out"
    command = ["data", "prepare", str(sources), "--out", str(out), "--skip-bad"]
    repository = Path(__file__).resolve().parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, moment, *command], cwd=repository, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    partial = tmp_path / ".out.partial"
    if moment == "mid-source":
        journal = (partial / "journal.jsonl").read_text().splitlines()
        assert len(journal) == 2  # The plan and the first source.
        assert (partial / "ids.npy").stat().st_size > 128 + 16 * 149
        # A kill may also truncate the journal's last line.
        with (partial / "journal.jsonl").open("a") as file:
            file.write('{"videos": 150, "lab')
    again = run(*command)
    assert again.status == 0, again.err
    if moment == "mid-source":
        assert "continuing after 1 of 4" in again.err
    assert not partial.exists()
    prepare([str(sources)], tmp_path / "whole", PrepareOptions(skip_bad=True))
    assert _hashes(out) == _hashes(tmp_path / "whole")
    index = json.loads((out / "index.json").read_text())
    assert (index["videos"], index["left_out_records"]) == (599, 1)


def _interrupt_in_second_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send Ctrl-C while the second source is read; it takes effect at the next batch, in the third."""
    append = DatasetWriter.append

    def appended(self: DatasetWriter, **arrays: Any) -> None:
        if self.videos > 200:
            os.kill(os.getpid(), signal.SIGINT)
        append(self, **arrays)

    monkeypatch.setattr(DatasetWriter, "append", appended)


def test_ctrl_c_keeps_what_is_done(
    tmp_path: Path, sources: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("data", "prepare", sources, "--out", tmp_path / "out", "--skip-bad")
    with monkeypatch.context() as patch:
        _interrupt_in_second_source(patch)
        stopped = run(*command)
    assert stopped.status == 130
    assert "The same command continues" in stopped.err
    assert not (tmp_path / "out").exists()
    # With another option or a changed source, it does not continue.
    other = run(*command, "--dtype", "float32")
    assert other.status == 2
    assert "--overwrite" in other.err
    times = (sources / "3.tfrecord").stat()
    os.utime(sources / "3.tfrecord", ns=(1, 1))
    changed = run(*command)
    assert changed.status == 2
    assert "--overwrite" in changed.err
    os.utime(sources / "3.tfrecord", ns=(times.st_atime_ns, times.st_mtime_ns))
    again = run(*command)
    assert again.status == 0
    assert "continuing after 2 of 4" in again.err
    prepare([str(sources)], tmp_path / "whole", PrepareOptions(skip_bad=True))
    assert _hashes(tmp_path / "out") == _hashes(tmp_path / "whole")


def test_overwrite_starts_an_interrupted_one_over(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = PrepareOptions(skip_bad=True)
    with monkeypatch.context() as patch:
        _interrupt_in_second_source(patch)
        with pytest.raises(KeyboardInterrupt):
            prepare([str(sources)], tmp_path / "out", options)
    one = PrepareOptions(dtype="float32")
    done = prepare([str(sources / "1.tfrecord")], tmp_path / "out", one, overwrite=True)
    assert done.index["videos"] == 150
    prepare([str(sources / "1.tfrecord")], tmp_path / "whole", one)
    assert _hashes(tmp_path / "out") == _hashes(tmp_path / "whole")


def test_no_space_keeps_what_is_done(tmp_path: Path, sources: Path, run: Callable[..., Any]) -> None:
    command = ("data", "prepare", sources, "--out", tmp_path / "out", "--skip-bad")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # visual.npy takes 2 kB per video: there is room for one and a half sources.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048 * 225, hard))
    try:
        stopped = run(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stopped.status == 2
    assert "run the same command again" in stopped.err
    assert not (tmp_path / "out").exists()
    again = run(*command)
    assert again.status == 0, again.err
    assert "continuing after 1 of 4" in again.err
    prepare([str(sources)], tmp_path / "whole", PrepareOptions(skip_bad=True))
    assert _hashes(tmp_path / "out") == _hashes(tmp_path / "whole")


def test_two_at_once_are_refused(tmp_path: Path, sources: Path) -> None:
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    with (partial / JOURNAL).open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(EdgeAfError, match="another process"):
            prepare([str(sources)], tmp_path / "out", overwrite=True)


def test_a_partial_folder_that_lost_its_arrays(tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = PrepareOptions(skip_bad=True)
    with monkeypatch.context() as patch:
        _interrupt_in_second_source(patch)
        with pytest.raises(KeyboardInterrupt):
            prepare([str(sources)], tmp_path / "out", options)
    (tmp_path / ".out.partial" / "visual.npy").write_bytes(b"short")
    with pytest.raises(EdgeAfError, match=r"shorter than was recorded\. Pass --overwrite"):
        prepare([str(sources)], tmp_path / "out", options)


def test_a_vocabulary_that_came_in_between_is_not_mixed_in(
    tmp_path: Path, sources: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("data", "prepare", sources, "--out", tmp_path / "out", "--skip-bad", "--classes", 60)
    with monkeypatch.context() as patch:
        _interrupt_in_second_source(patch)
        assert run(*command).status == 130
    (sources / "vocabulary.csv").write_text("index,name\n59,last\n")
    changed = run(*command)
    assert changed.status == 2
    assert "other vocabulary" in changed.err
    (sources / "vocabulary.csv").unlink()
    assert "continuing after 2 of 4" in run(*command).err


def test_an_output_that_cannot_be_replaced_loses_no_work(
    tmp_path: Path, sources: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("data", "prepare", sources, "--out", tmp_path / "out", "--skip-bad")
    (tmp_path / "out").mkdir()

    def busy(path: Path, target: Path) -> Path:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", busy)
        failed = run(*command)
    assert failed.status == 2
    assert "busy" in failed.err
    assert "What is done is kept" in failed.err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".out.partial", "in", "out"]
    again = run(*command)
    assert again.status == 0, again.err
    assert "continuing after 4 of 4" in again.err
    prepare([str(sources)], tmp_path / "whole", PrepareOptions(skip_bad=True))
    assert _hashes(tmp_path / "out") == _hashes(tmp_path / "whole")


def test_killed_after_the_renaming(tmp_path: Path, sources: Path, run: Callable[..., Any]) -> None:
    command = ("data", "prepare", sources, "--out", tmp_path / "out", "--skip-bad")
    assert run(*command).status == 0
    journal = tmp_path / "out" / JOURNAL
    journal.write_text("left behind")
    assert "already prepared" in run(*command).err
    assert not journal.exists()
    journal.write_text("left behind")
    assert run(*command, "--overwrite").status == 0
    assert not journal.exists()
